//! What waits to be written: bounded, so that a slow disk costs memory only up to a limit, and never time.

use super::index::Entry;
use model::PageKey;
use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Something to write: what it is, and how to make its bytes, which is done by the one who writes.
pub(super) struct Item {
    pub(super) entry: Entry,
    pub(super) make: Box<dyn FnOnce() -> Vec<u8> + Send>,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// Keys of what waits or is being written.
    keys: HashSet<PageKey>,
    /// Bytes of what waits or is being written.
    bytes: u64,
    closed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, key: &PageKey) -> bool {
        self.state().keys.contains(key)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Adds an item, unless more than `most` bytes would wait. Returns whether it was added or is there already.
    /// An item that is larger than that by itself waits alone.
    pub(super) fn push(&self, item: Item, most: u64) -> bool {
        let mut state = self.state();
        if state.keys.contains(&item.entry.key) {
            return true;
        }
        if state.closed || (state.bytes > 0 && state.bytes + item.entry.bytes > most) {
            return false;
        }
        state.keys.insert(item.entry.key);
        state.bytes += item.entry.bytes;
        state.items.push_back(item);
        self.changed.notify_all();
        true
    }

    /// The next item, when there is one; `None` when the queue is closed and empty. [`Queue::done`] has to
    /// follow.
    pub(super) fn pop(&self) -> Option<Item> {
        let mut state = self.state();
        loop {
            match state.items.pop_front() {
                Some(item) => return Some(item),
                None if state.closed => return None,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Takes note that an item was dealt with.
    pub(super) fn done(&self, entry: &Entry) {
        let mut state = self.state();
        state.keys.remove(&entry.key);
        state.bytes -= entry.bytes;
        self.changed.notify_all();
    }

    /// Waits until nothing waits any more. Returns whether that is so.
    pub(super) fn settle(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut state = self.state();
        while state.bytes > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lets no more in.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}
