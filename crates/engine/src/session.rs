//! One conversation with a model: what it has read, and what it would say next.
//!
//! Start at [`Session::sync`]: the caller always hands over the *whole* prompt, and the session finds out
//! how much of it is already in its timeline and reads only the rest. Replies are written by
//! [`crate::generate`].
//!
//! **Invariant:** `next`, if there, is what the model says after exactly the timeline's tokens, and after those before the
//! guesses that these may end with.

use crate::cancel::Cancel;
use crate::drafts::{Drafter, Drafts, Lesson, Stakes, Streams, learn};
use crate::fetch_logits::fetch_logits;
use crate::generate::{Event, ReplyError, Stats, Step, Writer};
use crate::loaded::LoadedModel;
use crate::pace::Pace;
use crate::store::PageStore;
use model::ops::DeviceError;
use model::snapshot::SnapshotError;
use model::{
    BatchError, Entry, KvFormat, NoTap, Ops, Output, PAGE, PageKey, SLACK, Timeline, Wanted, foresee,
    forward, go_on,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a batch of a prompt should take, when nobody else waits.
const PACE: Duration = Duration::from_secs(2);

/// One conversation.
pub struct Session<B: Ops> {
    loaded: Arc<LoadedModel<B>>,
    timeline: Timeline<B>,
    next: Option<Next<B>>,
    context: usize,
    pace: Pace,
    drafter: Drafter<B>,
    stakes: Stakes,
    /// When the last step was asked for.
    asked: Option<Instant>,
}

/// What a pass left for the next choice.
struct Next<B: Ops> {
    /// `[1 + guesses, vocab]`
    logits: B::Array,
    /// Of the last so many tokens of the pass, for the MTP block.
    streams: Arc<B::Array>,
    /// Position of the first of these.
    first: usize,
    /// Tokens at the end of the timeline that were not chosen.
    guesses: Vec<u32>,
}

/// What reading a prompt came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Tokens that were in the timeline already.
    pub cached: usize,
    /// Tokens that were read now.
    pub computed: usize,
    /// How long that took.
    pub elapsed: Duration,
}

/// Why a prompt was not read to its end. The session holds what was read, and can be used again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is nothing to reply to.
    #[error("the prompt is empty")]
    Empty,
    /// The prompt does not fit.
    #[error("the prompt has {prompt} tokens, but the context ends at {context}")]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that the session can hold.
        context: usize,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Cancelled,
    /// The model cannot take these tokens.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl<B: Ops> Session<B> {
    /// A conversation of no tokens.
    ///
    /// - `context`: how many tokens it may hold; more than the model's own limit is cut to that
    ///
    /// # Panics
    ///
    /// If `format` does not suit the model; see [`KvFormat::check`].
    pub fn new(loaded: Arc<LoadedModel<B>>, format: KvFormat, context: Option<usize>) -> Self {
        let timeline = Timeline::new(&loaded.ops, &loaded.model.config, format);
        let most = loaded.model.config.context;
        let context = context.map_or(most, |wanted| wanted.min(most));
        let pace = Pace::new(PACE, loaded.ops.worthwhile_rows()..=loaded.ops.most_rows());
        let stakes = Stakes::new(Drafts::default(), 1);
        Session { loaded, timeline, next: None, context, pace, drafter: Drafter::new(), stakes, asked: None }
    }

    /// The same session, with so many tokens guessed ahead where the model has a block for that. Replies do not depend on it.
    pub fn with_drafts(mut self, drafts: Drafts) -> Self {
        self.stakes = Stakes::new(drafts, 1);
        self
    }

    /// The same session, reading `chunk` tokens in one batch instead of as many as its pace allows. Results do
    /// not depend on it.
    pub fn with_chunk(mut self, chunk: usize) -> Self {
        self.pace = Pace::fixed(chunk);
        self
    }

    /// The model it talks to.
    pub fn loaded(&self) -> &Arc<LoadedModel<B>> {
        &self.loaded
    }

    /// Tokens that are in the timeline.
    pub fn tokens(&self) -> &[u32] {
        self.timeline.tokens()
    }

    /// How many tokens it may hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How rows of its timeline are stored.
    pub fn kv_format(&self) -> KvFormat {
        self.timeline.format()
    }

    /// Memory of its timeline on the device, in bytes.
    pub fn memory(&self) -> usize {
        self.timeline.tail_memory() + self.timeline.pages().iter().map(|page| page.memory()).sum::<usize>()
    }

    /// Makes the timeline exactly `tokens`, doing as little work as possible: what it begins with already
    /// is kept, what follows is cut off, and the rest is read in chunks. After each of them `progress` is
    /// told how many of the tokens are done.
    ///
    /// # Errors
    ///
    /// If the tokens do not fit, or `cancel` was used between two chunks. What was read until then stays:
    /// the next call goes on from there.
    pub fn sync(
        &mut self,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize, usize),
        cancel: &Cancel,
    ) -> Result<Synced, SessionError> {
        let start = Instant::now();
        let context = self.context;
        if tokens.is_empty() {
            return Err(SessionError::Empty);
        }
        if tokens.len() > context {
            return Err(SessionError::Context { prompt: tokens.len(), context });
        }
        let cached = self.cut_to(tokens);
        progress(cached, tokens.len());
        while self.timeline.len() < tokens.len() {
            if cancel.is_stopped() {
                return Err(SessionError::Cancelled);
            }
            let rest = &tokens[self.timeline.len()..];
            let len = rest.len().min(self.pace.rows());
            let is_last = len == rest.len();
            let wanted = match is_last {
                true if self.may_guess() => Wanted::LastAndStreams(self.loaded.model.config.window),
                true => Wanted::Last,
                false => Wanted::None,
            };
            let chunk_start = Instant::now();
            self.feed(&rest[..len], wanted)?;
            if is_last {
                self.loaded.ops.wait()?; // so that the time is that of the whole prompt
            }
            self.pace.took(len, chunk_start.elapsed());
            progress(self.timeline.len(), tokens.len());
        }
        Ok(Synced { cached, computed: tokens.len() - cached, elapsed: start.elapsed() })
    }

    /// Cuts the timeline back to what it has in common with `tokens`, and further if there would be nothing
    /// left to compute the next logits from. Returns how many tokens are left.
    fn cut_to(&mut self, tokens: &[u32]) -> usize {
        let old = self.timeline.tokens();
        let common = old.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        if common == tokens.len() && common == old.len() && self.next.is_some() {
            return common;
        }
        self.next = None;
        self.timeline.cut_back(&self.loaded.ops, common.min(tokens.len() - 1))
    }

    /// Extends the timeline by some tokens.
    pub(crate) fn feed(&mut self, tokens: &[u32], wanted: Wanted) -> Result<(), SessionError> {
        self.next = None;
        let LoadedModel { ops, model, .. } = &*self.loaded;
        let mut batch = [Entry { timeline: &mut self.timeline, tokens, wanted }];
        let output = forward(model, ops, &mut batch, &mut NoTap)?;
        let guesses = if wanted == Wanted::All { tokens[1..].to_vec() } else { Vec::new() };
        self.next = Next::of(output, self.timeline.len() - wanted.kept(tokens.len()), guesses);
        Ok(())
    }

    /// Whether tokens may be guessed.
    fn may_guess(&self) -> bool {
        self.loaded.model.mtp.is_some() && self.stakes.may_guess()
    }

    /// Lets the MTP block see what was read, and guess what comes after the token `next`.
    fn guess(
        &mut self,
        streams: Streams<B>,
        next: u32,
        count: usize,
        left: usize,
    ) -> Result<Vec<u32>, SessionError> {
        let all = streams.all.clone();
        let lesson = Lesson { drafter: &mut self.drafter, streams, tokens: self.timeline.tokens(), next };
        learn(&self.loaded, self.timeline.format(), &all, vec![lesson], count)?;
        Ok(self.drafter.take_guesses(&self.timeline, self.context, left))
    }

    /// A reply is about to be written.
    pub(crate) fn begin_reply(&mut self) {
        self.drafter = Drafter::new();
        self.asked = None;
        self.stakes.begin();
    }

    /// Gets ready for choosing the next token. The step after it is asked for already, if the device can be asked ahead, and
    /// the reply `goes_on`.
    ///
    /// # Panics
    ///
    /// If the last token was read without asking for its logits.
    pub(crate) fn choosing(&mut self, goes_on: bool) -> Choosing<'_, B> {
        let next = self.next.take().expect("the last token was read for its logits");
        let count = if self.may_guess() { self.stakes.next(!self.drafter.is_behind) } else { 0 };
        let LoadedModel { ops, model, .. } = &*self.loaded;
        let ahead = goes_on && count == 0 && next.guesses.is_empty() && self.timeline.len() < self.context;
        let foreseen = ahead.then(|| foresee(model, ops, &mut [&mut self.timeline])).flatten();
        Choosing { foreseen, next, used: 0, count, session: self }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.next = None;
        self.timeline.cut_back(&self.loaded.ops, 0);
    }

    /// The conversation as bytes, for [`Session::load`].
    pub fn save(&self) -> Vec<u8> {
        self.timeline.to_bytes(&self.loaded.model.fingerprint)
    }

    /// Goes on with a conversation that was saved with the same model and KV format.
    ///
    /// # Errors
    ///
    /// If the bytes are anything else; then the session stays as it is.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let LoadedModel { ops, model, .. } = &*self.loaded;
        let format = self.timeline.format();
        self.timeline = Timeline::from_bytes(ops, &model.config, format, &model.fingerprint, bytes)?;
        self.next = None;
        Ok(())
    }
}

impl<B: Ops> Next<B> {
    fn of(output: Output<B::Array>, first: usize, guesses: Vec<u32>) -> Option<Self> {
        let streams = Arc::new(output.streams?);
        Some(Next { logits: output.logits?, streams, first, guesses })
    }
}

/// A token that is about to be chosen, and those after it for which there are guesses. If none is, whatever the reason, the
/// session is as it was.
pub(crate) struct Choosing<'s, B: Ops> {
    session: &'s mut Session<B>,
    /// The step that was asked for ahead.
    foreseen: Option<Output<B::Array>>,
    next: Next<B>,
    /// Rows of logits from which was chosen.
    used: usize,
    /// How many tokens to guess for the step after this.
    count: usize,
}

impl<B: Ops> Choosing<'_, B> {
    /// Lets a writer choose.
    pub(crate) fn choose(
        &mut self,
        writer: &mut Writer<'_>,
        stats: &mut Stats,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Step, ReplyError> {
        let LoadedModel { ops, model, .. } = &*self.session.loaded;
        let rows = 1 + self.next.guesses.len();
        let mut logits =
            fetch_logits(ops, &self.next.logits, &mut [(&mut *writer, rows)]).map_err(SessionError::from)?;
        stats.whole_logits += usize::from(logits.fell_back);
        let rows = logits.fetched.rows(model.config.vocab);
        let step = writer.follow(rows, &self.next.guesses, &mut self.used, on_event);
        stats.accepted += self.used.saturating_sub(1);
        Ok(step?)
    }

    /// Reads the token that was chosen last for its logits, and guesses after it; says how many.
    ///
    /// - `left`: tokens that the reply may still have, that one not counted
    ///
    /// # Errors
    ///
    /// If the device failed.
    pub(crate) fn go_on(mut self, token: u32, left: usize) -> Result<usize, SessionError> {
        let before = self.next.guesses.len();
        self.forget_guesses();
        let session = &mut *self.session;
        let read = session.timeline.len() - usize::from(self.foreseen.is_some());
        let first = self.next.first;
        let streams = Streams { all: self.next.streams.clone(), rows: 0..read - first, start: first };
        let mut guesses = Vec::new();
        if self.count > 0 {
            guesses = session.guess(streams, token, self.count, left)?;
        } else if session.may_guess() {
            session.drafter.keep(streams);
        }
        if let Some(output) = self.foreseen.take() {
            go_on(&session.loaded.ops, &mut [&mut session.timeline], &[Some(token)]);
            session.next = Next::of(output, read, Vec::new());
        } else {
            let wanted = if guesses.is_empty() { Wanted::Last } else { Wanted::All };
            session.feed(&[&[token], &guesses[..]].concat(), wanted)?;
        }
        let now = Instant::now();
        if let Some(asked) = session.asked.replace(now)
            && before == self.count
        {
            session.stakes.took(before, self.used, now - asked);
        }
        Ok(guesses.len())
    }

    /// Cuts off what was guessed and not chosen.
    fn forget_guesses(&mut self) {
        let right = self.used.max(1) - 1;
        let wrong = self.next.guesses.len() - right;
        self.next.guesses.truncate(right);
        if wrong > 0 {
            let Session { timeline, loaded, .. } = &mut *self.session;
            timeline.cut_back(&loaded.ops, timeline.len() - wrong);
        }
    }
}

impl<B: Ops> Drop for Choosing<'_, B> {
    /// Others wait until a step that was asked for ahead goes on: so it must, even in a panic.
    fn drop(&mut self) {
        if self.foreseen.take().is_some() {
            go_on(&self.session.loaded.ops, &mut [&mut self.session.timeline], &[None]);
        } else if self.session.next.is_none() {
            self.forget_guesses();
        }
    }
}

impl<B: Ops + 'static> Session<B> {
    /// Goes on from what a page store has, if that is more of `tokens` than the session has. [`Session::sync`] reads
    /// the rest.
    ///
    /// # Panics
    ///
    /// If the store is of another model or KV format.
    pub fn recall(&mut self, store: &PageStore, tokens: &[u32]) {
        self.check_store(store);
        let old = self.timeline.tokens();
        let common = old.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // Further back than that it can be cut to the end of a page only.
        let here = if old.len() - common <= SLACK { common } else { common / PAGE * PAGE };
        let most = tokens.len().saturating_sub(1); // the last one is read for its logits
        let Some((end, known)) = store.resume_from(&tokens[..most]) else { return };
        if known > here
            && let Some(timeline) = store.load(&self.loaded.ops, &end.key)
        {
            (self.timeline, self.next) = (timeline, None);
        }
    }

    /// Puts the conversation into a page store, which writes what it does not have, and waits until that is done.
    /// Returns whether it is.
    ///
    /// # Panics
    ///
    /// If the store is of another model or KV format.
    pub fn keep(&self, store: &PageStore, patience: Duration) -> bool {
        self.check_store(store);
        store.save(&self.timeline, patience).is_some()
    }

    fn check_store(&self, store: &PageStore) {
        let root = PageKey::root(&self.loaded.model.fingerprint, self.timeline.format());
        assert_eq!(store.root(), root, "the page store is of this model and KV format");
    }
}
