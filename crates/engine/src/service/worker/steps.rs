//! Steps: one batch after another, what jobs make of its logits, and what is guessed and asked for ahead.
//!
//! **When a batch fails**, by a panic or because of the device, nobody knows whose rows did it. Every timeline in
//! it forgets what the failed pass left, and each job of it goes alone until it is past that point. The one
//! that fails alone is ended; the others go on as if nothing had happened.

use super::{Worker, keep, words};
use crate::drafts::{MOST_GUESSING, learn};
use crate::fetch_logits::{Fetched as FetchedLogits, Logits, Row, fetch_logits};
use crate::generate::Part;
use crate::loaded::LoadedModel;
use crate::pace::Pace;
use crate::service::job::JobError;
use crate::service::running::{End, Running};
use crate::service::share::{Want, share};
use model::{BatchError, Ops, foresee, forward, go_on};
use std::iter::repeat_n;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Logits of a step, where they are computed, and the job of each row, if it still goes on.
pub(super) struct Made<B: Ops> {
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
    /// One forward pass over so many rows of each job, and what the MTP block guesses after it.
    pub(super) fn step(&mut self, rows: &[usize]) {
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
    pub(super) fn rows(&mut self) -> Vec<usize> {
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
}

/// Does something in which a panic is an error as others are.
fn sheltered<T>(work: impl FnOnce() -> Result<T, JobError>) -> Result<T, JobError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(JobError::Internal(words(&*panic))))
}
