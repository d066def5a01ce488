//! The thread that owns the model: it takes jobs, puts rows of all of them into one batch after another (`steps`), hands out
//! what comes of it, and sees to what callers ask of slots (`commands`).

mod commands;
mod steps;

use super::Settings;
use super::fetch::{Answer, Fetched, Fetcher, Query, WORTH_LOADING};
use super::homes::Homes;
use super::inbox::{Fetch, Inbox, Waiting};
use super::job::JobError;
use super::ledger::Ledger;
use super::queue::due;
use super::running::{End, Running, tell};
use super::slots::{Conversation, Slot, choose};
use super::status::{CacheStatus, SlotStatus, Status, Totals};
use super::stops::{STOP_SLACK, stops};
use crate::cache::{Cache, Evicted, Found, TailKind};
use crate::drafts::{MOST_GUESSING, Stakes};
use crate::generate::{Finish, ReplyError, Stats, Writer};
use crate::loaded::LoadedModel;
use crate::miss::CacheSource;
use crate::pace::Pace;
use crate::rate::Rate;
use crate::store::{PageStore, Saved};
use model::{Ops, PageKey, Tap};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use steps::Made;
use text::Marker;

/// How long a step that only reads prompts should take: newcomers and cancellations wait for its end.
const ALONE: Duration = Duration::from_millis(1000);

/// How much longer reading prompts may make a step for those who write.
const BESIDE: Duration = Duration::from_millis(250);

/// By how much the end of a reply can be cut back: the client may have dropped its last words.
const END_SLACK: usize = 16;

/// How long an engine that is shut down waits for the page store.
const PATIENCE: Duration = Duration::from_secs(30);

/// From how many tokens on it is better to wait for somebody who reads them than to read them too.
const WORTH_WAITING: usize = 16;

/// The worker's state.
pub(super) struct Worker<'m, B: Ops> {
    loaded: &'m LoadedModel<B>,
    settings: &'m Settings,
    inbox: &'m Inbox,
    board: &'m Mutex<Status>,
    tap: &'m mut dyn Tap<B>,
    /// What is beneath the cache.
    store: Option<(PageStore, Fetcher<B>)>,
    active: Vec<Running<'m, B>>,
    /// The step that the device does already.
    ahead: Option<Made<B>>,
    /// How many guesses are worth it with one conversation that writes, with two, and so on.
    stakes: [Stakes; MOST_GUESSING],
    cache: Cache<B>,
    ledger: &'m Ledger,
    totals: Totals,
    /// Rows of prompts in a step without and with others that write.
    alone: Pace,
    beside: Pace,
    /// What a step takes that only writes.
    writing: Duration,
    prefill_rate: Rate,
    decode_rate: Rate,
    /// Tokens of replies that ended lately, and how many replies.
    replies: (f64, f64),
    slots: Vec<Slot>,
    homes: Homes,
    last_step: Option<SystemTime>,
    /// What the device said, if it failed and has not worked since.
    device_error: Option<String>,
}

impl<'m, B: Ops + 'static> Worker<'m, B> {
    pub(super) fn new(
        loaded: &'m LoadedModel<B>,
        settings: &'m Settings,
        inbox: &'m Inbox,
        board: &'m Mutex<Status>,
        store: Option<(PageStore, Fetcher<B>)>,
        tap: &'m mut dyn Tap<B>,
    ) -> Self {
        let root = PageKey::root(&loaded.model.fingerprint, settings.kv);
        let most = loaded.ops.most_rows();
        let pace = |target, least| settings.rows.map_or(Pace::new(target, least..=most), Pace::fixed);
        Worker {
            loaded,
            settings,
            inbox,
            board,
            tap,
            store,
            active: Vec::new(),
            ahead: None,
            stakes: std::array::from_fn(|at| Stakes::new(settings.drafts, at + 1)),
            cache: Cache::new(loaded.tokenizer.clone(), root),
            ledger: &settings.ledger,
            totals: Totals::default(),
            alone: pace(ALONE, loaded.ops.worthwhile_rows()),
            beside: pace(BESIDE, 1),
            writing: Duration::ZERO,
            prefill_rate: Rate::default(),
            decode_rate: Rate::default(),
            replies: (0.0, 0.0),
            slots: std::iter::repeat_with(Slot::default).take(settings.sessions).collect(),
            homes: Homes::default(),
            last_step: None,
            device_error: None,
        }
    }

    /// Works until the inbox is closed and everything is finished.
    pub(super) fn run(&mut self) {
        loop {
            self.mark(Some(Instant::now()));
            self.look_around();
            self.do_commands();
            self.take_fetched();
            self.admit();
            self.report();
            let rows = self.rows();
            if rows.iter().any(|&n| n > 0) {
                self.step(&rows);
                continue;
            }
            self.mark(None);
            if self.active.is_empty() && self.inbox.closing().is_some() && self.inbox.len() == 0 {
                return self.save_all();
            }
            self.inbox.sleep(self.active.iter().filter_map(|job| job.job.deadline).min());
        }
    }

    /// Says since when something is being done, for whoever watches that it does not take too long.
    fn mark(&self, busy_since: Option<Instant>) {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).busy_since = busy_since;
    }

    /// Ends jobs that should not go on: cancelled, late, or the engine is shutting down.
    fn look_around(&mut self) {
        let (now, closing) = (Instant::now(), self.inbox.closing());
        for job in self.inbox.take_all(|job| closing.is_some() || job.is_cancelled() || job.is_late(now)) {
            let end = if job.is_cancelled() {
                End::Done(Finish::Cancelled)
            } else if job.is_late(now) {
                End::Failed(JobError::Deadline)
            } else {
                End::Failed(JobError::ShutDown)
            };
            self.count(&end);
            self.report();
            if let Some(writer) = self.writer(&job, job.prompt.tokens()) {
                let stats = Stats { queued: now - job.submitted, ..Stats::default() };
                tell(&job, writer, stats, end);
            }
        }
        for at in (0..self.active.len()).rev() {
            let over = closing.is_some_and(|when| when <= now).then_some(End::Done(Finish::Cancelled));
            if let Some(end) = self.active[at].interrupted(now).or(over) {
                self.end(at, end);
            }
        }
    }

    /// Starts waiting jobs while there is room.
    fn admit(&mut self) {
        while self.active.len() < self.settings.sessions {
            let Some((job, mut found)) = self.next_job() else { return };
            let Some(writer) = self.writer(&job, &found.tokens) else { continue };
            self.cache.touch(&found);
            if let Some(home) = job.affinity.and_then(|name| self.homes.visit(name)) {
                self.cache.visit(&home.keys, &home.tail, self.ledger.limit() / 2);
            }
            self.totals.count(found.miss);
            self.totals.prompt_tokens += found.tokens.len() as u64;
            self.totals.cached_tokens += found.cached as u64;
            self.totals.fetched_tokens += job.fetched(found.cached) as u64;
            if job.fetched(found.cached) > 0 {
                let is_remote = self.store.as_ref().is_some_and(|(store, _)| store.is_remote());
                found.source = if is_remote { CacheSource::Remote } else { CacheSource::Disk };
            }
            let LoadedModel { ops, model, .. } = self.loaded;
            let timeline = found.timeline(ops, &model.config, self.settings.kv);
            let user = self.loaded.tokenizer.marker_id(Marker::User);
            let stops = stops(&found.tokens, found.cached, user);
            let reserved = self.ledger.tokens(found.tokens.len(), job.request.max_tokens);
            let slot = choose(&self.slots, &found.tokens, job.affinity);
            let place = &mut self.slots[slot];
            (place.job, place.used) = (Some(job.id), Some(Instant::now()));
            place.affinity = job.affinity;
            self.active.push(Running::start(job, timeline, found, stops, reserved, writer, slot));
        }
    }

    /// The next job that can start, and where.
    fn next_job(&mut self) -> Option<(Waiting, Found<B>)> {
        let (cache, active, ledger, store) = (&self.cache, &self.active, &self.ledger, &self.store);
        let committed = self.committed();
        let (mut start, mut full) = (None, false);
        let rate = self.prefill_rate.per_second();
        let due = |job: &Waiting| {
            let known = store.as_ref().map_or(0, |(store, _)| job.known_to(store));
            let unread = cache.unread(&job.prompt, job.any_spelling).min(job.prompt.len() - known);
            due(job.submitted, job.priority, unread, rate)
        };
        let mut coming = false;
        let job = self.inbox.take(due, |job| {
            if full || coming {
                return false; // who is due later does not overtake one that waits for memory, or for a disk
            }
            let found = cache.find(&job.prompt, job.any_spelling);
            if active.iter().any(|other| is_worth_waiting_for(other, job, &found)) {
                return false;
            }
            if let Some((store, fetcher)) = store
                && is_being_fetched(fetcher, job, &found)
            {
                coming = !store.is_remote() && job.known_to(store) >= found.next + WORTH_LOADING;
                return false;
            }
            let tokens = ledger.tokens(found.tokens.len(), job.request.max_tokens);
            full =
                !active.is_empty() && committed + ledger.need(tokens, found.pages_in_use()) > ledger.limit();
            if !full {
                start = Some(found);
            }
            !full
        })?;
        Some((job, start.expect("a job is taken where it can start")))
    }

    /// Memory that is in use, or promised to jobs that are being worked on.
    fn committed(&self) -> u64 {
        let promised = |job: &Running<'_, B>| {
            let tokens = job.reserved.max(job.timeline.len());
            self.ledger.need(tokens, job.timeline.pages().len())
        };
        self.cache.memory().shared + self.active.iter().map(promised).sum::<u64>()
    }

    /// A writer for a job. Its request was checked, so `None`, of which the caller is told, is our fault.
    fn writer(&mut self, job: &Waiting, prompt: &[u32]) -> Option<Writer<'m>> {
        let (tokenizer, context) = (&*self.loaded.tokenizer, self.settings.context);
        let made =
            catch_unwind(AssertUnwindSafe(|| Writer::new(tokenizer, job.request.clone(), prompt, context)));
        let error = match made {
            Ok(Ok(writer)) => return Some(writer),
            Ok(Err(ReplyError::Constraint(error))) => JobError::Constraint(error),
            Ok(Err(error)) => JobError::Internal(error.to_string()),
            Err(panic) => JobError::Internal(words(&*panic)),
        };
        self.totals.failed += 1;
        job.events.send(super::JobEvent::Failed(error));
        None
    }

    /// Ends a job; what it has read stays known, unless nobody knows what it is worth.
    fn end(&mut self, at: usize, end: End) {
        self.count(&end);
        let mut job = self.active.remove(at);
        let slot = job.slot;
        (self.slots[slot].job, self.slots[slot].used) = (None, Some(Instant::now()));
        if matches!(&end, End::Done(finish) if *finish != Finish::Cancelled) {
            const FADE: f64 = 0.9;
            self.replies = (self.replies.0 * FADE + job.written() as f64, self.replies.1 * FADE + 1.0);
        }
        if !matches!(end, End::Failed(JobError::Internal(_) | JobError::Device(_))) {
            keep(&mut self.cache, self.store.as_ref().map(|(store, _)| store), &mut job);
            let last = job.keys.last().copied().unwrap_or(self.cache.root());
            let tail = job.timeline.tail(END_SLACK);
            let pages = job.timeline.pages().iter().flat_map(|page| page.tokens());
            let tokens = pages.chain(tail.tokens()).copied().collect();
            self.cache.put_tail(last, tail, TailKind::End);
            let last = Conversation { keys: job.keys.clone(), tokens };
            if let Some(name) = job.job.affinity {
                self.homes.ended(name, &last);
            }
            self.slots[slot].last = Some(last);
        }
        self.report(); // before the caller hears of it
        job.end(end);
    }

    /// Puts what came from the page store into the cache.
    fn take_fetched(&mut self) {
        while let Some((_, fetcher)) = &self.store
            && let Ok(answer) = fetcher.answers.try_recv()
        {
            let Fetched { id, pages, tail } = match answer {
                Answer::Prompt(fetched) => fetched,
                Answer::Conversation(recall, found) => {
                    let done = self.restored(&recall, found);
                    let _ = recall.command.answer.send(done);
                    continue;
                }
            };
            // Memory may have forgotten a page meanwhile that what follows it needs.
            for (before, page) in pages {
                if self.cache.has(&before) {
                    self.cache.put_page(before, page);
                }
            }
            if let Some((before, tail)) = tail
                && self.cache.has(&before)
            {
                self.cache.put_tail(before, tail, TailKind::End);
            }
            self.inbox.fetched(id);
        }
    }

    /// Hands something to the page store, without waiting.
    fn save(&self, evicted: &Evicted<B>) -> Saved {
        let Some((store, _)) = &self.store else { return Saved::Dropped };
        match evicted {
            Evicted::Page { parent, index, page } => store.save_page(parent, *index, page),
            Evicted::Tail { kind: TailKind::Inside, .. } => Saved::Dropped,
            Evicted::Tail { parent, tail, .. } => store.save_tail(parent, tail),
        }
    }

    /// At the end: everything goes to the page store, as far as that takes no longer than [`PATIENCE`].
    fn save_all(&self) {
        let Some((store, _)) = &self.store else { return };
        let end = Instant::now() + PATIENCE;
        let left = || end.saturating_duration_since(Instant::now());
        for evicted in self.cache.all() {
            if self.save(&evicted) == Saved::Dropped && !left().is_zero() {
                store.settle(left()); // too much waits
                self.save(&evicted);
            }
        }
        store.settle(left());
    }

    /// Forgets what was read before, as far as memory is short.
    fn make_room(&mut self) {
        let used = self.cache.memory().all() + self.active.iter().map(Running::tail_memory).sum::<u64>();
        let excess = used.saturating_sub(self.ledger.limit());
        if excess > 0 {
            let evicted = self.cache.free(excess);
            for evicted in &evicted {
                self.save(evicted); // or it is lost: a miss later
            }
            self.end_one_that_outgrew();
        }
    }

    /// If memory is still short, the job that was promised least for what it has ends where it is.
    fn end_one_that_outgrew(&mut self) {
        let used = self.cache.memory().all() + self.active.iter().map(Running::tail_memory).sum::<u64>();
        let beyond = |job: &Running<'_, B>| job.timeline.len().saturating_sub(job.reserved);
        let most = (0..self.active.len()).max_by_key(|&at| beyond(&self.active[at]));
        if let Some(at) = most.filter(|&at| used > self.ledger.limit() && beyond(&self.active[at]) > 0) {
            self.end(at, End::Done(Finish::MemoryFull));
        }
    }

    fn count(&mut self, end: &End) {
        match end {
            End::Failed(_) => self.totals.failed += 1,
            End::Done(finish) => {
                self.totals.finished += 1;
                self.totals.cancelled += u64::from(*finish == Finish::Cancelled);
            }
        }
    }

    /// Shows how it is going.
    fn report(&self) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let Totals { accepted, refused, .. } = board.totals;
        board.totals = Totals { accepted, refused, ..self.totals.clone() };
        board.active = self.active.iter().map(Running::status).collect();
        let memory = self.cache.memory();
        let tails: u64 = self.active.iter().map(Running::tail_memory).sum();
        board.cache = CacheStatus {
            pages: self.cache.pages(),
            tails: self.cache.tails(),
            bytes: memory.all() + tails,
            page_bytes: memory.pages,
            tail_bytes: memory.tails,
            in_use: memory.shared + tails,
            reserved: self.committed().saturating_sub(memory.shared + tails),
            limit: self.ledger.limit(),
            evicted: self.cache.evicted(),
        };
        let slots = self.slots.iter().map(|slot| SlotStatus {
            job: slot.job,
            tokens: slot.last.as_ref().map_or(0, |last| last.tokens.len()),
            affinity: slot.affinity,
            last_used: slot.used,
        });
        board.slots = slots.collect();
        board.reply_tokens = if self.replies.1 > 0.0 { self.replies.0 / self.replies.1 } else { 0.0 };
        board.scratch = self.loaded.ops.scratch();
        board.last_step = self.last_step;
        board.device_error.clone_from(&self.device_error);
        board.prefill_rate = self.prefill_rate.per_second();
        board.decode_rate = self.decode_rate.per_second();
    }
}

/// Puts what a job has read into the cache: finished pages, and its state where it is to be kept.
fn keep<B: Ops + 'static>(cache: &mut Cache<B>, store: Option<&PageStore>, job: &mut Running<'_, B>) {
    job.keys.truncate(job.timeline.pages().len()); // it may have lost some
    while let Some(page) = job.timeline.pages().get(job.keys.len()) {
        let index = job.keys.len();
        let before = job.keys.last().copied().unwrap_or(cache.root());
        let (key, page) = cache.put_page(before, page.clone());
        if let Some(store) = store {
            store.save_page(&before, index, &page); // also what is known when the power goes
        }
        job.timeline.share_page(index, page);
        if let Some(before) = index.checked_sub(1) {
            // Only the last page's end can be needed by the job itself.
            let slim = job.timeline.pages()[before].without_end();
            job.timeline.share_page(before, slim.into());
        }
        job.keys.push(key);
    }
    if let Some(kind) = job.stop_here() {
        let last = job.keys.last().copied().unwrap_or(cache.root());
        cache.put_tail(last, job.timeline.tail(STOP_SLACK), kind);
    }
}

/// Whether the page store may know more of a job than memory, and has not answered yet.
fn is_being_fetched<B: Ops + 'static>(fetcher: &Fetcher<B>, job: &mut Waiting, found: &Found<B>) -> bool {
    if job.fetch == Fetch::NotYet {
        let query = Query {
            id: job.id,
            prompt: job.prompt.clone(),
            any_spelling: job.any_spelling,
            have: found.keys.clone(),
            known: found.next,
        };
        job.known = found.cached;
        job.fetch = if fetcher.ask(query) { Fetch::Asked } else { Fetch::Done };
    }
    job.fetch == Fetch::Asked
}

/// Whether `other` is reading what `job` has to read too, so far that it is better to wait and start there.
fn is_worth_waiting_for<B: Ops>(other: &Running<'_, B>, job: &Waiting, found: &Found<B>) -> bool {
    if other.is_paused() {
        return false; // nobody knows for how long
    }
    let common = other.tokens.iter().zip(job.prompt.tokens()).take_while(|(a, b)| a == b).count();
    let common = common.min(other.prompt).min(job.prompt.len() - 1);
    let meeting = other.meeting(common);
    meeting > other.timeline.len() && meeting >= found.cached + WORTH_WAITING
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}
