//! What a store has and does, in numbers.

use model::snapshot::SnapshotError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a store has and does, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Whether it is elsewhere than in a folder of this machine.
    pub is_remote: bool,
    /// Pages in the store.
    pub pages: u64,
    /// Tails in the store.
    pub tails: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many bytes it may have.
    pub limit: u64,
    /// Bytes that wait to be written.
    pub waiting: u64,
    /// Things read.
    pub loaded: u64,
    /// Bytes read.
    pub loaded_bytes: u64,
    /// Things that were gone: removed by somebody else.
    pub gone: u64,
    /// Things that were short or damaged, and removed.
    pub damaged: u64,
    /// Things that were of another model or form, and removed.
    pub foreign: u64,
    /// Things that could not be read at that moment.
    pub unreadable: u64,
    /// Things written.
    pub written: u64,
    /// Bytes written, the catalog not counted.
    pub written_bytes: u64,
    /// Things that were not written because too much was waiting, or what they belong to was not written.
    pub dropped: u64,
    /// Writes that failed: a full disk, a bucket that does not answer.
    pub failed: u64,
    /// Things removed to stay within the limit.
    pub evicted: u64,
}

/// The part of them that is counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) loaded: AtomicU64,
    pub(super) loaded_bytes: AtomicU64,
    pub(super) gone: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) foreign: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) evicted: AtomicU64,
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    /// Takes note of an object that is not what its name says.
    pub(super) fn count_bad(&self, error: &SnapshotError) {
        match error {
            SnapshotError::Length { .. } | SnapshotError::Damaged(_) => count(&self.damaged),
            _ => count(&self.foreign),
        }
    }

    pub(super) fn read(&self) -> StoreStats {
        StoreStats {
            loaded: self.loaded.load(Relaxed),
            loaded_bytes: self.loaded_bytes.load(Relaxed),
            gone: self.gone.load(Relaxed),
            damaged: self.damaged.load(Relaxed),
            foreign: self.foreign.load(Relaxed),
            unreadable: self.unreadable.load(Relaxed),
            written: self.written.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            failed: self.failed.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            ..StoreStats::default()
        }
    }
}
