//! What the engine is and how it is doing.

use crate::miss::Miss;
use crate::store::StoreStats;
use model::KvFormat;
use std::time::Duration;
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
    /// Which checkpoint's words prompts are written in.
    pub profile: Profile,
    /// How cached rows are stored.
    pub kv: KvFormat,
    /// Bytes set aside for cached rows.
    pub memory: u64,
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
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Of them, those that were known.
    pub cached_tokens: u64,
    /// Of those, the ones that the page store brought.
    pub fetched_tokens: u64,
    /// Tokens written.
    pub written_tokens: u64,
    /// Started jobs of which the whole prompt was known but its last token.
    pub hits: u64,
    /// The other started jobs, by reason: see [`Totals::misses_by_reason`].
    pub(super) misses: [u64; MISSES.len()],
}

/// Names of the reasons, in the order of the counters.
const MISSES: [&str; 5] = ["new", "beyond", "differs", "no_checkpoint", "evicted"];

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
    /// Of which so many are in use by active jobs.
    pub in_use: u64,
    /// Bytes that active jobs may still need.
    pub reserved: u64,
    /// Bytes that there may be.
    pub limit: u64,
    /// Things evicted since the start.
    pub evicted: u64,
}
