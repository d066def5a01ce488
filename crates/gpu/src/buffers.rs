//! Buffers on the device: those of weights, and a pool of those that come and go with activations.
//!
//! Commands run in the order in which they were recorded, so a buffer whose owner is gone can be given to
//! the next one at once, while what the old one asked for has yet to run.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A buffer with a number that is never used again, so that bind groups can be remembered by it.
#[derive(Debug)]
pub struct Buffer {
    pub(crate) id: u64,
    /// What is in it: a tensor's name, or one of [`ACTIVATIONS`], [`CACHED_ROWS`], [`HOST_DATA`].
    pub(crate) label: String,
    pub(crate) raw: wgpu::Buffer,
}

/// Label of buffers of the pool.
pub(crate) const ACTIVATIONS: &str = "activations";
/// Label of buffers with cached rows.
pub(crate) const CACHED_ROWS: &str = "cached rows";
/// Label of buffers of what the host sends along.
pub(crate) const HOST_DATA: &str = "host data";

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Buffer {
    pub(crate) fn new(label: &str, raw: wgpu::Buffer) -> Arc<Buffer> {
        Arc::new(Buffer { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), label: label.to_owned(), raw })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.raw.size()
    }
}

/// A part of a buffer, as a kernel sees it.
#[derive(Clone, Debug)]
pub struct Slice {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl Slice {
    /// All of a buffer.
    pub fn all(buffer: &Arc<Buffer>) -> Slice {
        Slice { buffer: buffer.clone(), offset: 0, size: buffer.size() }
    }
}

/// Buffers that nobody uses at the moment, by size and number: of those of a size the lowest is given out, so that a token
/// gets the buffers that the one before it had.
///
/// Small ones rest until what used them has been handed over. For in what is handed over together a launch waits for all
/// that went before it if it writes to a buffer that any of them used. So launches that read nothing of each other run at
/// the same time.
#[derive(Debug, Default)]
pub struct Pool {
    shelves: Mutex<Shelves>,
    total: AtomicU64,
}

#[derive(Debug, Default)]
struct Shelves {
    free: HashMap<u64, BTreeMap<u64, Arc<Buffer>>>,
    resting: Vec<Arc<Buffer>>,
    /// Bytes of these.
    rest: u64,
}

/// Bytes of the largest buffer that rests, and of all that rest together.
const SMALL: u64 = 256 << 10;
const MOST_REST: u64 = 8 << 20;

impl Shelves {
    fn release(&mut self, buffer: Arc<Buffer>) {
        if buffer.size() <= SMALL && self.rest + buffer.size() <= MOST_REST {
            self.rest += buffer.size();
            self.resting.push(buffer);
        } else {
            self.shelve(buffer);
        }
    }

    fn shelve(&mut self, buffer: Arc<Buffer>) {
        self.free.entry(buffer.size()).or_default().insert(buffer.id, buffer);
    }
}

/// A buffer of the pool; it goes back when this is dropped.
#[derive(Debug)]
pub struct Pooled {
    buffer: Option<Arc<Buffer>>,
    /// Where it goes; nowhere if it was never the pool's.
    pool: Option<Arc<Pool>>,
}

impl Pooled {
    /// A buffer with one owner for good.
    pub(crate) fn owned(buffer: Arc<Buffer>) -> Pooled {
        Pooled { buffer: Some(buffer), pool: None }
    }

    pub(crate) fn buffer(&self) -> &Arc<Buffer> {
        self.buffer.as_ref().expect("taken only when dropped")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let (Some(buffer), Some(pool)) = (self.buffer.take(), &self.pool)
            && let Ok(mut shelves) = pool.shelves.lock()
        {
            shelves.release(buffer);
        }
    }
}

impl Pool {
    /// A buffer of at least `bytes`, of those that are free or made by `create`.
    pub(crate) fn take(self: &Arc<Pool>, bytes: u64, create: impl FnOnce(u64) -> Arc<Buffer>) -> Pooled {
        let size = size_class(bytes);
        let free = self.shelves.lock().ok().and_then(|mut shelves| shelves.free.get_mut(&size)?.pop_first());
        let buffer = free.map(|(_, buffer)| buffer).unwrap_or_else(|| {
            self.total.fetch_add(size, Ordering::Relaxed);
            create(size)
        });
        Pooled { buffer: Some(buffer), pool: Some(self.clone()) }
    }

    /// What used buffers so far has been handed over.
    pub(crate) fn handed_over(&self) {
        if let Ok(mut shelves) = self.shelves.lock() {
            shelves.rest = 0;
            for buffer in std::mem::take(&mut shelves.resting) {
                shelves.shelve(buffer);
            }
        }
    }

    /// Bytes of all buffers ever made for the pool.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// The size a buffer is made with: an eighth of a power of two, so that sizes which differ little share.
fn size_class(bytes: u64) -> u64 {
    let step = (bytes.max(1024).next_power_of_two() / 8).max(256);
    bytes.max(1024).next_multiple_of(step)
}
