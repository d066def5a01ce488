//! The thread that owns the model: it takes jobs, puts rows of all of them into one batch after another, and
//! hands out what comes of it.
//!
//! **When a batch fails**, by a panic or because of the device, nobody knows whose rows did it. Every timeline in
//! it forgets what the failed pass left, and each job of it goes alone until it is past that point. The one
//! that fails alone is ended; the others go on as if nothing had happened.

use super::Settings;
use super::fetch::{Answer, Fetched, Fetcher, Query, Recall, WORTH_LOADING};
use super::homes::Homes;
use super::inbox::{Fetch, Inbox, Waiting};
use super::job::{JobError, SlotError};
use super::ledger::Ledger;
use super::queue::due;
use super::running::{End, Running, tell};
use super::share::{Want, share};
use super::slots::{Command, Conversation, Done, Slot, What, choose};
use super::status::{CacheStatus, SlotStatus, Status, Totals};
use super::stops::{STOP_SLACK, stops};
use crate::cache::{Cache, Evicted, Found, TailKind};
use crate::drafts::{MOST_GUESSING, Stakes, learn};
use crate::fetch_logits::{Fetched as FetchedLogits, Logits, Row, fetch_logits};
use crate::generate::{Finish, Part, ReplyError, Stats, Writer};
use crate::loaded::LoadedModel;
use crate::miss::CacheSource;
use crate::pace::Pace;
use crate::rate::Rate;
use crate::store::{PageStore, Saved};
use model::{BatchError, Ops, PageKey, Tap, foresee, forward, go_on};
use std::any::Any;
use std::iter::repeat_n;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
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

/// Logits of a step, where they are computed, and the job of each row, if it still goes on.
struct Made<B: Ops> {
    jobs: Vec<Option<u64>>,
    logits: B::Array,
    /// Of a step that was asked for ahead, one row for each job.
    streams: Option<Arc<B::Array>>,
}

impl<B: Ops> Made<B> {
    fn has(&self, job: &Running<'_, B>) -> bool {
        self.jobs.contains(&Some(job.job.id))
    }
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

    /// Does what somebody wants to be done with places.
    fn do_commands(&mut self) {
        for command in self.inbox.take_commands() {
            let done = match command.what {
                What::Save => self.save_slot(command.slot),
                What::Erase => self.erase_slot(command.slot),
                What::Restore(key) => match self.restore_slot(command, key) {
                    Ok(()) => continue, // the answer comes later
                    Err((command, error)) => {
                        let _ = command.answer.send(Err(error));
                        continue;
                    }
                },
            };
            // Who does not listen any more does not want to know.
            let _ = command.answer.send(done);
        }
    }

    /// The last conversation of a place in which nobody is.
    fn last_of(&self, slot: usize) -> Result<Conversation, SlotError> {
        let last = self.slots.len() - 1;
        let place = self.slots.get(slot).ok_or(SlotError::NoSuchSlot { slot, last })?;
        if place.job.is_some() {
            return Err(SlotError::Busy(slot));
        }
        place.last.clone().ok_or(SlotError::Empty(slot))
    }

    /// Hands the last conversation of a place to the page store.
    fn save_slot(&mut self, slot: usize) -> Result<Done, SlotError> {
        let last = self.last_of(slot)?;
        let Some((store, _)) = &self.store else { return Err(SlotError::NoStore) };
        let root = self.cache.root();
        let (mut before, mut dropped) = (root, false);
        for (index, key) in last.keys.iter().enumerate() {
            match self.cache.page(key) {
                Some(page) => dropped |= store.save_page(&before, index, &page) == Saved::Dropped,
                None if store.entry(key).is_some() => {}
                None => return Err(SlotError::Forgotten(slot)),
            }
            before = *key;
        }
        let mut key = last.key(root);
        match self.cache.tail(&before, last.tail()) {
            Some(tail) => {
                dropped |= store.save_tail(&before, &tail) == Saved::Dropped;
                key = before.child(tail.tokens()); // another reply may have said the same and a little more
            }
            // The end of a page goes with the page.
            None if last.tail().is_empty() && !last.keys.is_empty() => {}
            None if store.entry(&key).is_some() => {}
            None => return Err(SlotError::Forgotten(slot)),
        }
        Ok(Done { key, tokens: last.tokens.len(), dropped })
    }

    /// Forgets the last conversation of a place, as far as no other one needs it.
    fn erase_slot(&mut self, slot: usize) -> Result<Done, SlotError> {
        let last = self.last_of(slot)?;
        self.cache.erase(&last.keys, &last.tokens);
        self.slots[slot] = Slot::default();
        Ok(Done { key: last.key(self.cache.root()), tokens: last.tokens.len(), dropped: false })
    }

    /// Has a conversation brought back for a place.
    fn restore_slot(&mut self, command: Command, key: PageKey) -> Result<(), (Command, SlotError)> {
        match self.last_of(command.slot) {
            Ok(_) | Err(SlotError::Empty(_)) => {}
            Err(error) => return Err((command, error)),
        }
        let Some((_, fetcher)) = &self.store else { return Err((command, SlotError::NoStore)) };
        let recall = Recall { key, command };
        fetcher.recall(recall).map_err(|recall| (recall.command, SlotError::Unknown(key)))
    }

    /// Puts a conversation that was brought back into its place.
    fn restored(&mut self, recall: &Recall, found: Option<Fetched<B>>) -> Result<Done, SlotError> {
        let slot = recall.command.slot;
        if self.slots[slot].job.is_some() {
            return Err(SlotError::Busy(slot)); // somebody was quicker
        }
        let Some(Fetched { pages, tail: Some((before, tail)), .. }) = found else {
            return Err(SlotError::Unknown(recall.key));
        };
        let mut last = Conversation { keys: Vec::new(), tokens: Vec::new() };
        for (before, page) in pages {
            last.tokens.extend_from_slice(page.tokens());
            last.keys.push(self.cache.put_page(before, page).0);
        }
        last.tokens.extend_from_slice(tail.tokens());
        self.cache.put_tail(before, tail, TailKind::End);
        self.make_room();
        let is_there = last.keys.iter().all(|key| self.cache.has(key))
            && (last.tail().is_empty() || self.cache.tail(&before, last.tail()).is_some());
        if !is_there {
            return Err(SlotError::NoMemory);
        }
        let tokens = last.tokens.len();
        self.slots[slot] = Slot { job: None, last: Some(last), affinity: None, used: Some(Instant::now()) };
        Ok(Done { key: recall.key, tokens, dropped: false })
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

    /// One forward pass over so many rows of each job, and what the MTP block guesses after it.
    fn step(&mut self, rows: &[usize]) {
        let is_ahead = |job| usize::from(self.ahead.as_ref().is_some_and(|ahead| ahead.has(job)));
        let before: Vec<usize> = self.active.iter().map(|job| job.timeline.len() - is_ahead(job)).collect();
        let start = Instant::now();
        let guesses = self.stake(rows);
        let passed = self.pass(rows, guesses);
        let took = start.elapsed();
        self.last_step = Some(SystemTime::now());
        match passed {
            Ok(logits) => {
                self.device_error = None;
                self.keep_pace(rows, took);
                let writing = self.all_write(rows).then(|| (self.writers(rows), self.guessed()));
                let written = self.hand_out(rows, logits);
                self.guess(guesses);
                if let Some((writers, guessed)) = writing {
                    self.decode_rate.add(written, start.elapsed());
                    let at = writers.checked_sub(1).filter(|_| guessed == guesses);
                    if let Some(stakes) = at.and_then(|at| self.stakes.get_mut(at)) {
                        stakes.took(guessed, written, start.elapsed());
                    }
                }
                self.make_room();
            }
            Err(error) => self.recover(rows, &before, error),
        }
    }

    /// Jobs that choose a token after a batch of so many rows.
    fn writers(&self, rows: &[usize]) -> usize {
        self.active.iter().zip(rows).filter(|(job, n)| job.chooses(**n)).count()
    }

    /// Whether all jobs of a batch have read their prompts, and read no more than a token and their guesses.
    fn all_write(&self, rows: &[usize]) -> bool {
        let writes = |job: &Running<'_, B>, n: usize| job.has_read() && n == 1 + job.guessed();
        rows.iter().any(|&n| n > 0) && self.active.iter().zip(rows).all(|(job, &n)| n == 0 || writes(job, n))
    }

    /// The most guesses of a job in the batch to come.
    fn guessed(&self) -> usize {
        self.active.iter().map(Running::guessed).max().unwrap_or(0)
    }

    /// How many tokens to guess after a batch of so many rows.
    fn stake(&mut self, rows: &[usize]) -> usize {
        let writers = self.writers(rows);
        if self.loaded.model.mtp.is_none() || !(1..=MOST_GUESSING).contains(&writers) {
            return 0;
        }
        let jobs = || self.active.iter().zip(rows).filter(|(job, n)| job.chooses(**n)).map(|(job, _)| job);
        let (begins, can_begin) = (jobs().any(|job| !job.has_read()), jobs().all(|job| !job.is_behind()));
        let stakes = &mut self.stakes[writers - 1];
        if begins {
            stakes.begin();
        }
        stakes.next(can_begin)
    }

    /// Shows the MTP block what was read, and lets it guess so many tokens of each job that writes.
    fn guess(&mut self, count: usize) {
        let (kv, context) = (self.settings.kv, self.settings.context);
        let lessons = self.active.iter_mut().filter(|job| job.may_guess()).filter_map(Running::lesson);
        if count == 0 {
            lessons.for_each(|lesson| lesson.drafter.keep(lesson.streams));
            return;
        }
        let lessons: Vec<_> = lessons.collect();
        let Some(streams) = lessons.first().map(|lesson| lesson.streams.all.clone()) else { return };
        match sheltered(|| Ok(learn(self.loaded, kv, &streams, lessons, count)?)) {
            Ok(()) => self.active.iter_mut().for_each(|job| job.take_guesses(context)),
            Err(_) => {
                // If it was the device, the next pass will say so.
                self.totals.failed_steps += 1;
                self.active.iter_mut().for_each(Running::stop_guessing);
            }
        }
    }

    /// Rows of the next batch for each job; none at all if everybody waits for a caller.
    fn rows(&mut self) -> Vec<usize> {
        if let Some(ahead) = &self.ahead {
            let rows: Vec<usize> = self.active.iter().map(|job| usize::from(ahead.has(job))).collect();
            if rows.contains(&1) {
                return rows;
            }
            self.ahead = None; // all of its jobs have ended
        }
        let wants: Vec<Want> = self.active.iter().map(Running::want).collect();
        let budget = self.pace(&wants).rows();
        let suspect = |(job, want): (&Running<'_, B>, &Want)| job.suspect.is_some() && want.pending > 0;
        if let Some(suspect) = self.active.iter().zip(&wants).position(suspect) {
            let mut rows = vec![0; wants.len()];
            rows[suspect] = share(&wants[suspect..=suspect], budget)[0];
            return rows;
        }
        share(&wants, budget)
    }

    fn pace(&self, wants: &[Want]) -> &Pace {
        if wants.iter().any(|want| want.pending == 1) { &self.beside } else { &self.alone }
    }

    fn keep_pace(&mut self, rows: &[usize], took: Duration) {
        self.totals.steps += 1;
        let jobs = || self.active.iter().zip(rows).filter(|(_, n)| **n > 0);
        let reading: usize = jobs().filter(|(job, n)| **n > 1 + job.guessed()).map(|(_, &n)| n).sum();
        let writing = jobs().any(|(job, n)| *n == 1 + job.guessed());
        match (writing, reading) {
            (_, 0) => self.writing = took,
            (false, _) => self.alone.took(reading, took),
            (true, _) => self.beside.took(reading, took.saturating_sub(self.writing)),
        }
        if reading > 0 {
            self.prefill_rate.add(reading, took);
        }
    }

    /// The forward pass, and of the logits of those rows that jobs asked for what they need. The next pass is asked for
    /// before these are there, if that can be done; not if tokens are to be guessed first.
    fn pass(&mut self, rows: &[usize], guesses: usize) -> Result<Option<Logits>, JobError> {
        let Some(made) = sheltered(|| self.ask(rows))? else { return Ok(None) };
        let next = if guesses > 0 { None } else { sheltered(|| Ok(self.foresee(rows)))? };
        let fetched = sheltered(|| self.fetch(rows, &made));
        match fetched {
            Ok(_) => self.ahead = next,
            Err(_) => self.go_on(|_| true),
        }
        fetched.map(Some)
    }

    /// Has the batch computed, or takes what is computed already: the logits, if any are wanted.
    fn ask(&mut self, rows: &[usize]) -> Result<Option<Made<B>>, JobError> {
        let LoadedModel { ops, model, .. } = self.loaded;
        let streams = if self.may_guess() { model.config.window } else { 0 };
        let jobs = self.active.iter_mut().zip(rows).filter(|(_, n)| **n > 0).map(|(job, &n)| (job, n));
        if let Some(made) = self.ahead.take() {
            for (job, _) in jobs {
                let row =
                    made.jobs.iter().position(|id| *id == Some(job.job.id)).expect("it is in that step");
                job.was_foreseen(made.streams.clone().map(|all| (all, row..row + 1)));
            }
            return Ok(Some(made));
        }
        let mut batch: Vec<_> = jobs.map(|(job, n)| job.entry(n, streams)).collect();
        let kept: Vec<usize> = batch.iter().map(|entry| entry.wanted.kept(entry.tokens.len())).collect();
        let output = forward(model, ops, &mut batch, self.tap)
            .map_err(|error: BatchError| JobError::Internal(error.to_string()))?;
        let jobs = || self.active.iter().zip(rows).filter(|(_, n)| **n > 0);
        let ids = jobs().flat_map(|(job, _)| repeat_n(Some(job.job.id), job.asked())).collect();
        if let Some(all) = output.streams.filter(|_| streams > 0).map(Arc::new) {
            let mut first = 0;
            let jobs = self.active.iter_mut().zip(rows).filter(|(_, n)| **n > 0);
            for ((job, _), kept) in jobs.zip(kept) {
                job.left(&all, first..first + kept);
                first += kept;
            }
        }
        Ok(output.logits.map(|logits| Made { jobs: ids, logits, streams: None }))
    }

    /// Whether any tokens may be guessed.
    fn may_guess(&self) -> bool {
        self.loaded.model.mtp.is_some() && self.stakes[0].may_guess()
    }

    /// Asks for the step after this one, if nothing but tokens that are about to be chosen comes next.
    fn foresee(&mut self, rows: &[usize]) -> Option<Made<B>> {
        let LoadedModel { ops, model, .. } = self.loaded;
        let all_write = self.active.iter().zip(rows).all(|(job, &n)| n == 1 && job.is_writing());
        if !all_write || self.inbox.len() > 0 {
            return None;
        }
        let jobs = self.active.iter().map(|job| Some(job.job.id)).collect();
        let mut timelines: Vec<_> = self.active.iter_mut().map(|job| &mut job.timeline).collect();
        let output = foresee(model, ops, &mut timelines)?;
        self.active.iter_mut().for_each(Running::foresee);
        let streams = output.streams.filter(|_| self.may_guess()).map(Arc::new);
        Some(Made { jobs, logits: output.logits?, streams })
    }

    /// Brings the tokens of the step that was foreseen; jobs that `ended` have none.
    fn go_on(&mut self, ended: impl Fn(usize) -> bool) {
        let foreseen = self.active.iter_mut().enumerate().filter_map(|(at, job)| job.go_on(ended(at)));
        let (mut timelines, tokens): (Vec<_>, Vec<_>) = foreseen.unzip();
        if !timelines.is_empty() {
            go_on(&self.loaded.ops, &mut timelines, &tokens);
        }
    }

    /// Of the logits of rows that jobs asked for what they need; all of them if some of the jobs have ended.
    fn fetch(&mut self, rows: &[usize], made: &Made<B>) -> Result<Logits, JobError> {
        let (ops, logits) = (&self.loaded.ops, &made.logits);
        let goes_on = |id: &Option<u64>| self.active.iter().any(|job| Some(job.job.id) == *id);
        if !made.jobs.iter().all(goes_on) {
            let all = ops.read(logits)?;
            let rows = all.chunks_exact(self.loaded.model.config.vocab).zip(&made.jobs);
            let kept = rows.filter(|(_, id)| goes_on(id)).flat_map(|(row, _)| row).copied().collect();
            return Ok(Logits { fetched: FetchedLogits::Whole(kept), fell_back: false });
        }
        let asking = self.active.iter_mut().zip(rows).filter(|(job, n)| **n > 0 && job.asked() > 0);
        let mut choosers: Vec<_> = asking.map(|(job, _)| job.chooser()).collect();
        Ok(fetch_logits(ops, logits, &mut choosers)?)
    }

    /// Lets each job choose its next tokens; says how many were written.
    fn hand_out(&mut self, rows: &[usize], logits: Option<Logits>) -> usize {
        self.totals.whole_logits += u64::from(logits.as_ref().is_some_and(|logits| logits.fell_back));
        let mut fetched = logits.map(|logits| logits.fetched);
        let vocab = self.loaded.model.config.vocab;
        let mut logits = fetched.iter_mut().flat_map(|fetched| fetched.rows(vocab));
        let written_before = self.totals.written_tokens;
        let mut ends = Vec::new();
        for (at, (job, &n)) in self.active.iter_mut().zip(rows).enumerate().filter(|(_, (_, n))| **n > 0) {
            let mine: Vec<Row<'_>> = logits.by_ref().take(job.asked()).collect();
            let written =
                |job: &Running<'_, B>| [Part::Reasoning, Part::Call].map(|part| job.written_of(part));
            let (before, parts_before, guesses_before) = (job.written(), written(job), job.drafted());
            let done = job.done();
            let read = done.min(job.prompt) - (done - n).min(job.prompt);
            self.totals.computed_tokens += read as u64;
            let end = catch_unwind(AssertUnwindSafe(|| job.advance(&self.loaded.ops, n, mine)))
                .unwrap_or_else(|panic| Some(End::Failed(JobError::Internal(words(&*panic)))));
            self.totals.written_tokens += (job.written() - before) as u64;
            let parts = written(job);
            self.totals.reasoning_tokens += (parts[0] - parts_before[0]) as u64;
            self.totals.call_tokens += (parts[1] - parts_before[1]) as u64;
            let guesses = job.drafted();
            self.totals.drafted_tokens += (guesses[0] - guesses_before[0]) as u64;
            self.totals.accepted_tokens += (guesses[1] - guesses_before[1]) as u64;
            ends.extend(end.map(|end| (at, end)));
            keep(&mut self.cache, self.store.as_ref().map(|(store, _)| store), job);
        }
        drop(logits);
        let ended = |at| ends.iter().any(|&(ended, _)| ended == at);
        if let Some(ahead) = &mut self.ahead {
            let jobs = ahead.jobs.iter_mut().enumerate();
            jobs.filter(|&(at, _)| ended(at)).for_each(|(_, id)| *id = None);
        }
        self.go_on(ended);
        for (at, end) in ends.into_iter().rev() {
            self.end(at, end);
        }
        (self.totals.written_tokens - written_before) as usize
    }

    /// After a failed pass: see the top of this file.
    fn recover(&mut self, rows: &[usize], before: &[usize], error: JobError) {
        self.totals.failed_steps += 1;
        let ops = &self.loaded.ops;
        let mut in_batch: Vec<usize> = (0..rows.len()).filter(|&at| rows[at] > 0).collect();
        for &at in &in_batch {
            let job = &mut self.active[at];
            job.suspect = Some(before[at] + rows[at]);
            job.timeline.undo(ops);
            // A device that fails at the end has taken note of the tokens already.
            job.timeline.cut_back(ops, before[at]);
            job.stop_guessing();
        }
        if let (1, Some(at)) = (in_batch.len(), in_batch.pop()) {
            if let JobError::Device(error) = &error {
                self.device_error = Some(error.to_string());
            }
            self.end(at, End::Failed(error));
        }
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

/// Does something in which a panic is an error as others are.
fn sheltered<T>(work: impl FnOnce() -> Result<T, JobError>) -> Result<T, JobError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(JobError::Internal(words(&*panic))))
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
