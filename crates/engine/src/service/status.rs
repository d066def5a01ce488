//! What the engine is and how it is doing.

use crate::miss::Miss;
use crate::store::StoreStats;
use model::KvFormat;
use std::time::{Duration, Instant, SystemTime};
use text::chat::Profile;

use super::job::Priority;

/// What an engine serves; it does not change.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// What the model calls itself.
    pub name: String,
    /// Identifies the weights.
    pub fingerprint: [u8; 32],
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Tokens that one conversation may have.
    pub context: usize,
    /// Tokens that the model knows.
    pub trained_context: usize,
    /// Which checkpoint's words prompts are written in.
    pub profile: Profile,
    /// How cached rows are stored.
    pub kv: KvFormat,
    /// Bytes set aside for cached rows.
    pub memory: u64,
    /// Tokens for whose rows there is room there, all conversations together.
    pub kv_tokens: usize,
    /// The formats of the weights, those that take most first: `iq2_xxs/q2_k/q8_0`.
    pub quant: String,
    /// Bytes of the model's files.
    pub bytes: u64,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// What is odd about the model's file, a sentence each.
    pub warnings: Vec<String>,
}

/// How an engine is doing.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Jobs that wait.
    pub queued: usize,
    /// How many may.
    pub queue_limit: usize,
    /// Jobs being worked on, in order of arrival.
    pub active: Vec<ActiveJob>,
    /// How many may.
    pub active_limit: usize,
    /// Sums since the start.
    pub totals: Totals,
    /// The cache and the memory it takes.
    pub cache: CacheStatus,
    /// The page store beneath it, if there is one.
    pub store: Option<StoreStats>,
    /// Rows of prompts read in a second, lately.
    pub prefill_rate: f64,
    /// Tokens written in a second by all sessions together, lately.
    pub decode_rate: f64,
    /// Tokens of the prompts that wait.
    pub queued_tokens: usize,
    /// Tokens of a reply, on average of those that ended lately; 0 if none has.
    pub reply_tokens: f64,
    /// The places in which conversations are worked on.
    pub slots: Vec<SlotStatus>,
    /// Since when the worker does what it does now; `None` if it waits for something to do. A forward pass takes
    /// seconds at most, so long ago means that it is stuck.
    pub busy_since: Option<Instant>,
    /// Bytes that the device keeps for values between operations, as far as it counts them.
    pub scratch: u64,
    /// When the last forward pass ended.
    pub last_step: Option<SystemTime>,
    /// What the device said, if it failed and has not worked since.
    pub device_error: Option<String>,
    /// Whether the worker has broken down: nothing will be answered any more.
    pub is_gone: bool,
}

/// A place in which conversations are worked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotStatus {
    /// The number of the job that is in it.
    pub job: Option<u64>,
    /// Tokens of the conversation that was last in it.
    pub tokens: usize,
    /// What the caller calls the conversation; see [`super::Job::affinity`].
    pub affinity: Option<u64>,
    /// When something was last done in it.
    pub last_used: Option<Instant>,
}

impl Status {
    /// How long it will probably take until the first of `some` requests of those that run or wait has ended: the
    /// tokens that are still to be read and written for all of them, by the speed of late, and of the moments at
    /// which they end the first of so many.
    ///
    /// At least a second, and at most a minute: client libraries take no notice of longer waits. Two seconds as long
    /// as nothing was measured.
    pub fn first_end(&self, some: usize) -> Duration {
        const UNKNOWN: Duration = Duration::from_secs(2);
        let unread = self.active.iter().map(|job| job.prompt.saturating_sub(job.tokens)).sum::<usize>();
        let unwritten = |job: &ActiveJob| (self.reply_tokens - job.written as f64).max(1.0);
        let unwritten =
            self.active.iter().map(unwritten).sum::<f64>() + self.queued as f64 * self.reply_tokens.max(1.0);
        let (read, written) = ((unread + self.queued_tokens) as f64, unwritten);
        let seconds = read / self.prefill_rate + written / self.decode_rate;
        if !seconds.is_finite() || self.reply_tokens == 0.0 {
            return UNKNOWN;
        }
        Duration::from_secs_f64((seconds / (some + 1) as f64).clamp(1.0, 60.0))
    }
}

/// A job that is being worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveJob {
    /// Its number.
    pub id: u64,
    /// What is being done.
    pub phase: Phase,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Of which so many were known.
    pub cached: usize,
    /// Tokens in its timeline: what was read and written so far.
    pub tokens: usize,
    /// Tokens written.
    pub written: usize,
    /// Its priority.
    pub priority: Priority,
    /// Its place, of [`Status::slots`].
    pub slot: usize,
    /// Since it was submitted.
    pub age: Duration,
}

/// What is being done for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its prompt is being read.
    Prefill,
    /// Its reply is being written.
    Decode,
}

/// Sums since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs accepted.
    pub accepted: u64,
    /// Jobs not accepted.
    pub refused: u64,
    /// Jobs with a finished reply.
    pub finished: u64,
    /// Of them, those that were cancelled.
    pub cancelled: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Forward passes.
    pub steps: u64,
    /// Forward passes that failed and were repeated.
    pub failed_steps: u64,
    /// Forward passes of which all logits had to be read from the device, though the requests could have done with
    /// the largest ones.
    pub whole_logits: u64,
    /// Tokens that were guessed.
    pub drafted_tokens: u64,
    /// Of them, those that were right.
    pub accepted_tokens: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Of them, those that were known.
    pub cached_tokens: u64,
    /// Of those, the ones that the page store brought.
    pub fetched_tokens: u64,
    /// Tokens of prompts that were read so far.
    pub computed_tokens: u64,
    /// Tokens written.
    pub written_tokens: u64,
    /// Of them, those of reasoning.
    pub reasoning_tokens: u64,
    /// Of them, those of calls: their markup, names and arguments.
    pub call_tokens: u64,
    /// Started jobs of which the whole prompt was known but its last token.
    pub hits: u64,
    /// The other started jobs, by reason: see [`Totals::misses_by_reason`].
    pub(super) misses: [u64; MISSES.len()],
}

/// Names of the reasons, in the order of the counters.
const MISSES: [&str; 7] =
    ["new", "beyond", "differs", "no_checkpoint", "evicted", "too_short", "incompatible"];

impl Totals {
    /// How many jobs had to read (a part of) their prompt for which reason; see [`Miss::name`].
    pub fn misses_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        MISSES.into_iter().zip(self.misses)
    }

    pub(super) fn count(&mut self, miss: Option<Miss>) {
        match miss.map(|miss| MISSES.iter().position(|&name| name == miss.name())) {
            None => self.hits += 1,
            Some(at) => self.misses[at.expect("every reason has a counter")] += 1,
        }
    }
}

/// The prefix cache and the memory for cached rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// Pages kept.
    pub pages: usize,
    /// Tails kept: ends of conversations and checkpoints.
    pub tails: usize,
    /// Bytes of all cached rows, those in use included.
    pub bytes: u64,
    /// Of which so many are pages that are kept.
    pub page_bytes: u64,
    /// And so many are tails that are kept. The rest are the unfinished pages of active jobs.
    pub tail_bytes: u64,
    /// Of all bytes, those that are in use by active jobs.
    pub in_use: u64,
    /// Bytes that active jobs may still need.
    pub reserved: u64,
    /// Bytes that there may be.
    pub limit: u64,
    /// Things evicted since the start.
    pub evicted: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_back_depends_on_the_queue_and_the_speed() {
        let job = ActiveJob {
            id: 1,
            phase: Phase::Prefill,
            prompt: 600,
            cached: 0,
            tokens: 100,
            written: 0,
            priority: Priority::Normal,
            slot: 0,
            age: Duration::ZERO,
        };
        let status = Status {
            active: vec![job; 2],
            queued: 2,
            queued_tokens: 1000,
            prefill_rate: 100.0,
            decode_rate: 10.0,
            reply_tokens: 50.0,
            ..Status::default()
        };
        // 2000 tokens to read, 20 s; four replies of 50 tokens to write, 20 s.
        let seconds = |status: &Status, some| status.first_end(some).as_secs_f64();
        assert_eq!(seconds(&status, 4), 8.0, "the first of five equal parts");
        assert_eq!(seconds(&status, 1), 20.0);
        let more = Status { queued: 10, queued_tokens: 5000, ..status.clone() };
        assert!(seconds(&more, 4) > 8.0, "a longer queue takes longer");
        let quick = Status { prefill_rate: 1e6, decode_rate: 1e6, ..status.clone() };
        assert_eq!(seconds(&quick, 4), 1.0);
        let slow = Status { decode_rate: 0.01, ..status.clone() };
        assert_eq!(seconds(&slow, 4), 60.0);
        assert_eq!(seconds(&Status { reply_tokens: 0.0, ..status }, 4), 2.0, "nothing is known");
        assert_eq!(seconds(&Status::default(), 0), 2.0);
    }
}
