//! A job that is being worked on.

use super::inbox::Waiting;
use super::job::{JobError, JobEvent};
use super::share::Want;
use super::status::{ActiveJob, Phase};
use super::stops::{STOP_SLACK, Stop};
use crate::cache::{Found, TailKind};
use crate::drafts::{Drafter, Lesson, Streams};
use crate::fetch_logits::{Chooser, Row};
use crate::generate::{Event, Finish, Part, Stats, Step, Writer};
use model::{Entry, Ops, PAGE, PageKey, Timeline, Wanted};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A job that is being worked on.
///
/// There are no phases: what is in `tokens` and not yet in the timeline has to be read, and when nothing is
/// left the writer chooses one more token. So a timeline that lost its end needs no special care.
pub(super) struct Running<'m, B: Ops> {
    pub(super) job: Waiting,
    pub(super) timeline: Timeline<B>,
    /// The prompt, and what was written or will be in any case.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    /// Keys of the timeline's pages, as far as they are in the cache.
    pub(super) keys: Vec<PageKey>,
    /// Where the state is to be kept, in order, and what for.
    stops: VecDeque<Stop>,
    /// Tokens for which there is memory.
    pub(super) reserved: usize,
    writer: Writer<'m>,
    stats: Stats,
    started: Instant,
    /// When the prompt was read.
    decoding: Option<Instant>,
    /// A batch with this job in it failed: until its timeline has so many tokens, it goes alone.
    pub(super) suspect: Option<usize>,
    /// Rows of the last batch whose logits were asked for.
    asked: usize,
    /// Whether the timeline ends with a token that is yet to be chosen.
    foreseen: bool,
    drafter: Drafter<B>,
    /// Guesses at what comes after `tokens`; of those in the last batch only the right ones stay in the timeline.
    guesses: Vec<u32>,
    /// What is fed to the model.
    batch: Vec<u32>,
    /// What the last batch left for the MTP block.
    streams: Option<Streams<B>>,
    /// The place that it is in.
    pub(super) slot: usize,
}

/// The most rows of one job whose logits are asked for in one batch: a row of logits is as long as the vocabulary.
const MOST_LOGITS: usize = 32;

/// How a job ends.
pub(super) enum End {
    Done(Finish),
    Failed(JobError),
}

impl<'m, B: Ops> Running<'m, B> {
    /// A job of which `timeline` is known already, as it was found.
    pub(super) fn start(
        job: Waiting,
        timeline: Timeline<B>,
        found: Found<B>,
        stops: VecDeque<Stop>,
        reserved: usize,
        writer: Writer<'m>,
        slot: usize,
    ) -> Self {
        let Found { tokens, keys, source, miss, .. } = found;
        let (cached, started) = (timeline.len(), Instant::now());
        let mut stats = Stats { source, miss, queued: started - job.submitted, ..Stats::default() };
        (stats.prompt.cached, stats.prompt.computed) = (cached, tokens.len() - cached);
        let prompt = tokens.len();
        stats.fetched = job.fetched(cached);
        let tokens = [&tokens, writer.forced()].concat();
        let running = Running {
            job,
            timeline,
            tokens,
            prompt,
            keys,
            stops,
            reserved,
            writer,
            stats,
            started,
            decoding: None,
            suspect: None,
            asked: 0,
            foreseen: false,
            drafter: Drafter::new(),
            guesses: Vec::new(),
            batch: Vec::new(),
            streams: None,
            slot,
        };
        running.send(JobEvent::Started { cached, miss });
        running.say(Event::Prefill { done: cached, total: prompt });
        running
    }

    fn send(&self, event: JobEvent) {
        // Nobody listening is a cancellation, which is seen to before the next step.
        self.job.events.send(event);
    }

    fn say(&self, event: Event) {
        self.send(JobEvent::Event(event));
    }

    /// What it could use of the next batch: nothing while its caller has much to read.
    pub(super) fn want(&self) -> Want {
        let pending = self.tokens.len() - self.timeline.len();
        Want {
            pending: if self.is_paused() { 0 } else { pending },
            guesses: self.guesses.len(),
            room: self.to_next_stop().min(self.to_first_choice()),
            priority: self.job.priority,
        }
    }

    /// Whether it waits for its caller, who has much to read.
    pub(super) fn is_paused(&self) -> bool {
        self.job.events.is_full()
    }

    /// The position whose logits the writer wants next.
    fn next_choice(&self) -> usize {
        self.prompt - 1 + self.written()
    }

    /// A batch has rows before the one whose logits are wanted first, or from there on, if there are several.
    fn to_first_choice(&self) -> usize {
        let (done, choice) = (self.timeline.len(), self.next_choice());
        if choice + 1 >= self.tokens.len() {
            usize::MAX
        } else if done < choice {
            choice - done
        } else {
            MOST_LOGITS
        }
    }

    /// Tokens to read until the state is to be kept.
    fn to_next_stop(&self) -> usize {
        let ahead = self.stops.iter().find(|stop| stop.at > self.timeline.len());
        ahead.map_or(usize::MAX, |stop| stop.at - self.timeline.len())
    }

    /// What the state is to be kept for, if it is to be kept here.
    pub(super) fn stop_here(&mut self) -> Option<TailKind> {
        let done = self.timeline.len();
        let passed = self.stops.iter().take_while(|stop| stop.at <= done).count();
        let last = self.stops.drain(..passed).next_back()?;
        (last.at == done).then_some(last.kind)
    }

    /// The last place where somebody else with the first `common` tokens of this prompt could start, once this
    /// job has read so far.
    pub(super) fn meeting(&self, common: usize) -> usize {
        let stop = self.stops.iter().rev().find(|stop| stop.at <= common + STOP_SLACK);
        stop.map_or(0, |stop| stop.at.min(common)).max(common / PAGE * PAGE)
    }

    /// Its part of a batch: the next `rows` tokens that it has to read, guesses included.
    ///
    /// - `streams`: of how many tokens at the end of a prompt the MTP block is to see the streams
    pub(super) fn entry(&mut self, rows: usize, streams: usize) -> Entry<'_, B> {
        let rest = &self.tokens[self.timeline.len()..];
        self.batch.clear();
        self.batch.extend(rest.iter().chain(&self.guesses).take(rows));
        let wanted = if self.timeline.len() + rows <= self.next_choice() {
            Wanted::None
        } else if self.timeline.len() < self.next_choice() {
            if streams > 0 { Wanted::LastAndStreams(streams) } else { Wanted::Last }
        } else {
            Wanted::All
        };
        self.asked = wanted.logits(rows);
        Entry { timeline: &mut self.timeline, tokens: &self.batch, wanted }
    }

    /// Takes note of the streams that a batch left of its last tokens.
    pub(super) fn left(&mut self, all: &Arc<B::Array>, rows: Range<usize>) {
        let start = self.timeline.len() - rows.len();
        self.streams = (!rows.is_empty()).then(|| Streams { all: all.clone(), rows, start });
    }

    /// Whether it chooses a token after `rows` more tokens.
    pub(super) fn chooses(&self, rows: usize) -> bool {
        rows > 0 && self.timeline.len() + rows > self.next_choice()
    }

    /// Whether it has read its prompt.
    pub(super) fn has_read(&self) -> bool {
        self.decoding.is_some()
    }

    /// Tokens that were read, without one that is yet to be chosen.
    pub(super) fn done(&self) -> usize {
        self.timeline.len() - usize::from(self.foreseen)
    }

    /// Whether it writes, so that nothing but a token to be chosen comes next.
    pub(super) fn is_writing(&self) -> bool {
        let all_read =
            self.timeline.len() == self.tokens.len() && self.tokens.len() == self.next_choice() + 1;
        all_read && self.writer.goes_on() && self.guesses.is_empty() && self.may_guess() && !self.is_paused()
    }

    /// Whether what comes after the next token may be guessed.
    pub(super) fn may_guess(&self) -> bool {
        self.suspect.is_none() && self.stops.is_empty()
    }

    /// Takes note that its timeline ends with a token that is yet to be chosen.
    pub(super) fn foresee(&mut self) {
        self.foreseen = true;
    }

    /// Its timeline if it was extended so, and the token if one was chosen; that is read then.
    pub(super) fn go_on(&mut self, ended: bool) -> Option<(&mut Timeline<B>, Option<u32>)> {
        let token = self.tokens.last().copied().filter(|_| !ended);
        std::mem::take(&mut self.foreseen).then_some((&mut self.timeline, token))
    }

    /// Takes note that the logits of its last token, and its streams, are there without a batch.
    pub(super) fn was_foreseen(&mut self, streams: Option<(Arc<B::Array>, Range<usize>)>) {
        self.asked = 1;
        if let Some((all, row)) = streams {
            self.left(&all, row);
        }
    }

    /// Who chooses from the logits, and from how many rows.
    pub(super) fn chooser(&mut self) -> Chooser<'_, 'm> {
        (&mut self.writer, self.asked)
    }

    /// Rows of the last batch whose logits were asked for.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// Why it should not go on, if so.
    pub(super) fn interrupted(&self, now: Instant) -> Option<End> {
        if self.job.is_cancelled() {
            Some(End::Done(Finish::Cancelled))
        } else if self.job.is_late(now) && self.written() == 0 {
            Some(End::Failed(JobError::Deadline))
        } else {
            self.job.is_late(now).then_some(End::Done(Finish::Deadline))
        }
    }

    /// Takes note that `rows` tokens were read; with the logits of the last of them, those that were asked for,
    /// chooses what comes next.
    pub(super) fn advance(&mut self, ops: &B, rows: usize, logits: Vec<Row<'_>>) -> Option<End> {
        let done = self.done();
        if self.suspect.is_some_and(|until| done >= until) {
            self.suspect = None;
        }
        if done - rows < self.prompt {
            self.say(Event::Prefill { done: done.min(self.prompt), total: self.prompt });
        }
        if self.decoding.is_none() && done >= self.prompt {
            self.stats.prompt.elapsed = self.started.elapsed();
            self.decoding = Some(Instant::now());
        } else if self.decoding.is_some() {
            self.stats.steps += 1;
        }
        if logits.is_empty() { None } else { self.choose(ops, logits) }
    }

    /// Chooses the tokens after those that were written.
    fn choose(&mut self, ops: &B, logits: Vec<Row<'_>>) -> Option<End> {
        let events = &self.job.events;
        let mut listen = |event| events.send(JobEvent::Event(event));
        // What is written in any case stands there already, and then what was guessed.
        let guesses = std::mem::take(&mut self.guesses);
        let known = [&self.tokens[self.prompt + self.writer.tokens().len()..], &guesses].concat();
        let mut used = 0;
        let step = self.writer.follow(logits.into_iter(), &known, &mut used, &mut listen);
        let written = self.writer.tokens();
        self.tokens.extend_from_slice(written.get(self.tokens.len() - self.prompt..).unwrap_or_default());
        if self.asked > used {
            self.timeline.cut_back(ops, self.timeline.len() - (self.asked - used));
        }
        if !guesses.is_empty() {
            self.stats.drafted += guesses.len();
            self.stats.accepted += used.saturating_sub(1);
        }
        if self.stats.first_token.is_zero() {
            self.stats.first_token = self.job.submitted.elapsed();
        }
        self.stats.decode = self.decoding.map_or(Duration::ZERO, |start| start.elapsed());
        match step {
            Ok(Step::Next(_)) => None,
            Ok(Step::Done(finish)) => Some(End::Done(finish)),
            Err(error) => Some(End::Failed(error.into())),
        }
    }

    /// What the MTP block is to see of the last batch; once.
    pub(super) fn lesson(&mut self) -> Option<Lesson<'_, B>> {
        let mut streams = self.streams.take()?;
        let read = self.done().min(self.tokens.len() - 1); // the next one may be asked for already
        streams.rows.end = streams.rows.start + (read - streams.start);
        let next = *self.tokens.get(read)?;
        Some(Lesson { drafter: &mut self.drafter, streams, tokens: &self.tokens[..read], next })
    }

    /// Takes the guesses of the MTP block.
    pub(super) fn take_guesses(&mut self, context: usize) {
        self.guesses = self.drafter.take_guesses(&self.timeline, context, self.writer.left());
    }

    /// Forgets whatever was guessed, and what was to be guessed from.
    pub(super) fn stop_guessing(&mut self) {
        self.guesses.clear();
        self.drafter = Drafter::new();
        self.streams = None;
    }

    /// Whether the MTP block has not seen the last tokens.
    pub(super) fn is_behind(&self) -> bool {
        self.drafter.is_behind
    }

    /// Tokens of the last batch that nobody had chosen before.
    pub(super) fn guessed(&self) -> usize {
        self.guesses.len()
    }

    /// Tokens that were guessed so far, and those of them that were right.
    pub(super) fn drafted(&self) -> [usize; 2] {
        [self.stats.drafted, self.stats.accepted]
    }

    /// Memory of what is not shared, in bytes.
    pub(super) fn tail_memory(&self) -> u64 {
        self.timeline.tail_memory() as u64
    }

    /// Tokens written so far.
    pub(super) fn written(&self) -> usize {
        self.writer.tokens().len()
    }

    /// How many of them are of a kind.
    pub(super) fn written_of(&self, part: Part) -> usize {
        self.writer.written_of(part)
    }

    /// Tells the caller the end; what was read remains.
    pub(super) fn end(self, end: End) -> Timeline<B> {
        let Running { job, writer, stats, timeline, .. } = self;
        tell(&job, writer, stats, end);
        timeline
    }

    pub(super) fn status(&self) -> ActiveJob {
        ActiveJob {
            id: self.job.id,
            phase: if self.decoding.is_none() { Phase::Prefill } else { Phase::Decode },
            prompt: self.prompt,
            cached: self.stats.prompt.cached,
            tokens: self.timeline.len(),
            written: self.written(),
            priority: self.job.priority,
            slot: self.slot,
            age: self.job.submitted.elapsed(),
        }
    }
}

/// Tells a caller the end.
pub(super) fn tell(job: &Waiting, writer: Writer<'_>, stats: Stats, end: End) {
    let last = match end {
        End::Failed(error) => JobEvent::Failed(error),
        End::Done(finish) => {
            let reply = writer.end(finish, stats, &mut |event| job.events.send(JobEvent::Event(event)));
            JobEvent::Done(Box::new(reply))
        }
    };
    job.events.send(last);
}
