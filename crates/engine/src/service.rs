//! A model in service: many conversations at once, and nothing read twice.
//!
//! Start at [`Engine`]: [`Engine::submit`] takes a [`Job`] and returns a [`Ticket`], on which the reply arrives.
//! One thread owns the model ([`worker`]); everybody else talks to it through the [`inbox`] and the ticket's
//! channel. Who is begun next is in [`queue`], and how a batch is shared out among conversations in [`share`].

mod fetch;
mod homes;
mod inbox;
mod job;
mod ledger;
mod outbox;
mod queue;
mod running;
mod share;
mod slots;
mod status;
mod stops;
mod worker;

pub use job::{
    Invalid, Job, JobError, JobEvent, JobPrompt, Priority, Refusal, SlotAction, SlotDone, SlotError, Ticket,
};
pub use status::{ActiveJob, CacheStatus, ModelInfo, Phase, SlotStatus, Status, Totals};

use crate::cache::Spelling;
use crate::cancel::Cancel;
use crate::constraint::Constraints;
use crate::drafts::Drafts;
use crate::loaded::LoadedModel;
use crate::store::PageStore;
use fetch::Fetcher;
use inbox::{Fetch, Inbox, Waiting};
use ledger::Ledger;
use model::kv::KvFormatError;
use model::{Codec, KvFormat, NoTap, Ops, PageKey, Tap};
use outbox::outbox;
use slots::{Command, Done, What};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use text::Tokenizer;
use worker::Worker;

/// A model in service. Copies are the same engine; when the last one is dropped, it stops.
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

struct Handle {
    inbox: Arc<Inbox>,
    board: Arc<Mutex<Status>>,
    tokenizer: Arc<Tokenizer>,
    constraints: Constraints,
    info: ModelInfo,
    ledger: Ledger,
    store: Option<PageStore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How an engine works.
#[derive(Clone)]
pub struct EngineOptions {
    /// How cached rows are stored; `None` for what suits the model best.
    pub kv: Option<KvFormat>,
    /// The most tokens of one conversation; `None` for as many as the model knows.
    pub context: Option<usize>,
    /// Conversations that are worked on at once.
    pub sessions: usize,
    /// Jobs that may wait for their turn.
    pub queue: usize,
    /// Bytes for cached rows: those in use and those kept for later. `None` for a part of what is free.
    pub memory: Option<u64>,
    /// Rows of prompts in one batch; `None` for as many as the device reads in a short time. Results do not
    /// depend on it.
    pub rows: Option<usize>,
    /// Tokens to guess ahead where the model has a block for that. Replies do not depend on it.
    pub drafts: Drafts,
    /// Where pages and tails are kept beyond memory and restarts.
    pub store: Option<PageStore>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            kv: None,
            context: None,
            sessions: 16,
            queue: 64,
            memory: None,
            rows: None,
            drafts: Drafts::default(),
            store: None,
        }
    }
}

/// Why an engine could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The KV format does not suit the model.
    #[error(transparent)]
    Kv(#[from] KvFormatError),
    /// Nothing could ever be done.
    #[error("at least one session is needed")]
    NoSessions,
    /// The page store is of another model or KV format.
    #[error("the page store was opened for another model or another KV format")]
    Store,
    /// The system gave no thread.
    #[error("starting the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What the worker has to keep to.
struct Settings {
    kv: KvFormat,
    context: usize,
    sessions: usize,
    rows: Option<usize>,
    drafts: Drafts,
    ledger: Ledger,
}

impl Engine {
    /// Puts a model into service.
    ///
    /// # Errors
    ///
    /// If the options do not suit the model.
    pub fn start<B: Ops + 'static>(
        loaded: Arc<LoadedModel<B>>,
        options: EngineOptions,
    ) -> Result<Engine, StartError> {
        Engine::start_watched(loaded, options, NoTap)
    }

    /// As [`Engine::start`], with somebody looking at every forward pass.
    ///
    /// # Errors
    ///
    /// As [`Engine::start`].
    pub fn start_watched<B: Ops + 'static>(
        loaded: Arc<LoadedModel<B>>,
        options: EngineOptions,
        mut tap: impl Tap<B> + Send + 'static,
    ) -> Result<Engine, StartError> {
        let config = &loaded.model.config;
        let kv = options.kv.unwrap_or_else(|| loaded.usual_kv());
        kv.check(config)?;
        if options.sessions == 0 {
            return Err(StartError::NoSessions);
        }
        if options
            .store
            .as_ref()
            .is_some_and(|store| store.root() != PageKey::root(&loaded.model.fingerprint, kv))
        {
            return Err(StartError::Store);
        }
        let context = options.context.map_or(config.context, |wanted| wanted.min(config.context));
        let limit = options.memory.unwrap_or_else(|| ledger::usual_limit(loaded.bytes));
        let codec = Codec::new(config, kv, loaded.model.fingerprint);
        let ledger = Ledger::new(&codec, context, limit);
        let info = ModelInfo {
            name: loaded.name.clone(),
            fingerprint: loaded.model.fingerprint,
            vocab: config.vocab,
            context,
            trained_context: config.context,
            profile: loaded.profile,
            kv,
            memory: ledger.limit(),
            kv_tokens: ledger.capacity(),
            quant: loaded.quant.clone(),
            bytes: loaded.bytes,
            parameters: loaded.parameters,
            warnings: loaded.warnings.clone(),
        };
        let EngineOptions { sessions, rows, drafts, .. } = options;
        let settings = Settings { kv, context, sessions, rows, drafts, ledger: ledger.clone() };
        let inbox = Arc::new(Inbox::new(options.queue));
        let board = Arc::new(Mutex::new(Status {
            queue_limit: options.queue,
            active_limit: options.sessions,
            ..Status::default()
        }));
        let store = options.store;
        let shown = store.clone();
        let fetcher =
            store.as_ref().map(|store| Fetcher::start(store.clone(), loaded.clone(), inbox.clone()));
        let fetcher = fetcher.transpose()?;
        let tokenizer = loaded.tokenizer.clone();
        let constraints = loaded.constraints.clone();
        let thread = std::thread::Builder::new().name("ds4-engine".to_owned());
        let thread = {
            let (inbox, board) = (inbox.clone(), board.clone());
            thread.spawn(move || {
                let mut closing = Closing { inbox: &inbox, board: &board, broke: true };
                let beneath = store.zip(fetcher);
                Worker::new(&loaded, &settings, &inbox, &board, beneath, &mut tap).run();
                closing.broke = false;
            })?
        };
        let thread = Mutex::new(Some(thread));
        let handle = Handle { inbox, board, tokenizer, constraints, info, ledger, store: shown, thread };
        Ok(Engine { handle: Arc::new(handle) })
    }

    /// Takes a job, or says why not: everything that can be checked early is checked here, before any work.
    /// Does not wait for others; encoding a rendered prompt takes about a second for a million tokens.
    ///
    /// # Errors
    ///
    /// If the job makes no sense or cannot be done, or too many wait already.
    pub fn submit(&self, job: Job) -> Result<Ticket, Refusal> {
        let taken = self.try_submit(job);
        let mut board = self.board();
        match taken {
            Ok(_) => board.totals.accepted += 1,
            Err(_) => board.totals.refused += 1,
        }
        taken
    }

    fn try_submit(&self, job: Job) -> Result<Ticket, Refusal> {
        let Handle { inbox, tokenizer, info, ledger, .. } = &*self.handle;
        let retry_after = self.retry_after();
        inbox.check_room(retry_after)?;
        job.request.sampling.check(tokenizer.len()).map_err(Invalid::from)?;
        let any_spelling = matches!(job.prompt, JobPrompt::Rendered(_));
        let prompt = match job.prompt {
            JobPrompt::Tokens(tokens) => tokens,
            JobPrompt::Rendered(prompt) => tokenizer.encode_prompt(&prompt).map_err(Invalid::from)?,
        };
        if prompt.is_empty() {
            return Err(Invalid::Empty.into());
        }
        if let Some(&token) = prompt.iter().find(|&&token| token as usize >= info.vocab) {
            return Err(Invalid::Token { token, vocab: info.vocab }.into());
        }
        let (prompt_tokens, limit) = (prompt.len(), info.context);
        if prompt_tokens > limit {
            return Err(Refusal::Context { prompt: prompt_tokens, limit });
        }
        let need = ledger.need(ledger.tokens(prompt_tokens, job.request.max_tokens), 0);
        if need > ledger.limit() {
            let reply = ledger.tokens(prompt_tokens, job.request.max_tokens) - prompt_tokens;
            let limit = ledger.capacity().saturating_sub(reply).min(prompt_tokens - 1);
            return Err(Refusal::Memory { prompt: prompt_tokens, limit, need, free: ledger.limit() });
        }
        let prompt = Arc::new(Spelling::new(tokenizer, prompt));
        let (sender, events) = outbox();
        let cancel = Cancel::new();
        let id = inbox.put(retry_after, |id| Waiting {
            id,
            prompt,
            any_spelling,
            request: job.request,
            priority: job.priority,
            deadline: job.deadline,
            affinity: job.affinity,
            submitted: Instant::now(),
            events: sender,
            cancel: cancel.clone(),
            fetch: Fetch::NotYet,
            known: 0,
        })?;
        Ok(Ticket { id, prompt_tokens, events, cancel, inbox: Arc::downgrade(inbox) })
    }

    /// When a place in the queue will probably be free: when the first of all jobs has ended.
    fn retry_after(&self) -> Duration {
        let status = self.status();
        status.first_end(status.queued + status.active.len())
    }

    /// Does something with the last conversation of a place (see [`Status::slots`]), and returns when it is done; that
    /// may be a step of the engine later, or as long as the page store takes.
    ///
    /// # Errors
    ///
    /// If there is nothing to do it with, or the page store cannot.
    pub fn slot(&self, slot: usize, action: SlotAction) -> Result<SlotDone, SlotError> {
        let what = match action {
            SlotAction::Save => return self.save_slot(slot),
            SlotAction::Restore(key) => What::Restore(key),
            SlotAction::Erase => What::Erase,
        };
        self.command(slot, what).map(|Done { key, tokens, .. }| SlotDone { key, tokens })
    }

    fn save_slot(&self, slot: usize) -> Result<SlotDone, SlotError> {
        /// How long a disk may take.
        const PATIENCE: Duration = Duration::from_secs(60);
        let Some(store) = &self.handle.store else { return Err(SlotError::NoStore) };
        let end = Instant::now() + PATIENCE;
        let left = || end.saturating_duration_since(Instant::now());
        loop {
            let Done { key, tokens, dropped } = self.command(slot, What::Save)?;
            let settled = store.settle(left());
            if store.entry(&key).is_some_and(|entry| store.path(&entry).is_some()) {
                return Ok(SlotDone { key, tokens });
            }
            // Unless too much waited, trying again does not help.
            if !dropped || !settled || left().is_zero() || store.stats().failed > 0 {
                return Err(SlotError::NotSaved);
            }
        }
    }

    fn command(&self, slot: usize, what: What) -> Result<Done, SlotError> {
        let (answer, answered) = std::sync::mpsc::channel();
        self.handle.inbox.command(Command { slot, what, answer });
        answered.recv().unwrap_or(Err(SlotError::ShuttingDown))
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.handle.tokenizer
    }

    /// Makes constraints for [`Request::constraint`](crate::Request::constraint).
    pub fn constraints(&self) -> &Constraints {
        &self.handle.constraints
    }

    /// What is served.
    pub fn info(&self) -> &ModelInfo {
        &self.handle.info
    }

    /// How it is going, as of the last step.
    pub fn status(&self) -> Status {
        let (queued, queued_tokens) = (self.handle.inbox.len(), self.handle.inbox.tokens());
        let store = self.handle.store.as_ref().map(PageStore::stats);
        Status { queued, queued_tokens, store, ..self.board().clone() }
    }

    fn board(&self) -> std::sync::MutexGuard<'_, Status> {
        self.handle.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no new jobs, fails those that wait, lets the others go on for `grace`, cancels them then, and
    /// returns when the worker has stopped.
    pub fn shutdown(&self, grace: Duration) {
        self.handle.stop(grace);
    }
}

impl Handle {
    fn stop(&self, grace: Duration) {
        self.inbox.close(Instant::now() + grace);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A worker that panicked has told nobody; its tickets end with `None`.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Lets nobody wait for a worker that is gone.
struct Closing<'a> {
    inbox: &'a Inbox,
    board: &'a Mutex<Status>,
    /// Whether it is gone because it panicked.
    broke: bool,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.inbox.close(Instant::now());
        self.inbox.take_all(|_| true);
        self.inbox.take_commands();
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        (board.is_gone, board.busy_since) = (self.broke, None);
    }
}
