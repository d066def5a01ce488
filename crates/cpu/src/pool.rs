//! A fixed pool of threads that share loops.
//!
//! [`Pool::each`] runs a closure once for every index of a range and returns when all are done: one
//! parallel region, one barrier. A layer has about ten of them, so they must be cheap, and they must
//! not stall when another program takes a core away:
//!
//! - Indices are claimed one by one from a counter. A thread that loses its core delays the one index
//!   that it holds, and a thread that has not even noticed the region delays nobody: what is waited
//!   for is indices, not threads.
//! - Idle threads spin for a short while, because the next region usually follows at once, and then
//!   sleep until they are woken.
//!
//! How a late thread is kept from running a closure that is gone: region number and counter are one
//! atomic word. A thread reads the word, then the region's closure, and claims an index by
//! compare-and-swap on the whole word. If that succeeds, the region it read is still the current one and
//! not finished, since the claimed index is not; so the closure it read is that region's and alive.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle thread spins before it sleeps: longer than the gap between two regions of a pass.
const SPIN: Duration = Duration::from_micros(50);

/// Bits of the word that count claimed indices; the rest number the region.
const INDEX_BITS: u32 = 24;

/// The most indices one region may have.
pub const MAX_ITEMS: usize = (1 << INDEX_BITS) - 1;

/// Threads that share loops. Dropping it ends them.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held while a region runs: there is one at a time.
    region: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Region number and next index.
    word: Padded<AtomicU64>,
    /// Indices of the region whose closure has returned.
    done: Padded<AtomicUsize>,
    /// Indices in the region.
    items: AtomicUsize,
    /// The region's closure, behind one more pointer so that it fits an atomic.
    work: AtomicPtr<Work>,
    /// A panic of the region's closure, to be resumed by the caller.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Threads that sleep until there is a new region, or until one is done.
    sleepers: AtomicUsize,
    asleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

/// Alone on its cache lines, so that threads that write it do not slow down others.
#[repr(align(128))]
struct Padded<T>(T);

/// A closure of a region, its lifetime forgotten.
type Work = &'static (dyn Fn(usize) + Sync);

impl Pool {
    /// A pool of `threads` threads, of which the caller is one.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            word: Padded(AtomicU64::new(0)),
            done: Padded(AtomicUsize::new(0)),
            items: AtomicUsize::new(0),
            work: AtomicPtr::new(std::ptr::null_mut()),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let worker = |i: usize| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("ds4-cpu-{i}"));
            let work = move || {
                NUMBER.set(i);
                shared.work_until_stopped();
            };
            thread.spawn(work).expect("the system can start a thread")
        };
        let workers = (1..threads.max(1)).map(worker).collect();
        Pool { shared, region: Mutex::new(()), workers }
    }

    /// Number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(i)` once for each `i` in `0..items`, on all threads; returns when all are done.
    /// There is one region at a time: `work` must not start another.
    ///
    /// # Panics
    ///
    /// If `work` panics, or if `items` is more than [`MAX_ITEMS`].
    pub fn each(&self, items: usize, work: impl Fn(usize) + Sync) {
        assert!(items <= MAX_ITEMS, "{items} items in one region");
        if items <= 1 || self.workers.is_empty() {
            return (0..items).for_each(work);
        }
        let _one_at_a_time = self.region.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let work: &(dyn Fn(usize) + Sync) = &work;
        // SAFETY: only the lifetime changes. `Shared::run` returns when every index is done, and by the
        // argument at the top of this file no thread calls the closure afterwards.
        let mut work: Work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Work>(work) };
        self.shared.run(items, &mut work);
        let panic = self.shared.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Pool {
    /// As [`each`](Self::each), but a thread takes neighbouring indices one after the other, as long as nobody is
    /// in need: so weights that lie in a row are read in a row, and what was fetched ahead of one index is what the
    /// next begins with.
    ///
    /// # Panics
    ///
    /// As [`each`](Self::each).
    pub fn each_in_runs(&self, items: usize, work: impl Fn(usize) + Sync) {
        let runs = Runs::new(items, self.threads());
        // As many claims as there are indices, so there is one left for each.
        self.each(items, |_| work(runs.claim(NUMBER.get())));
    }
}

thread_local! {
    /// Which thread of its pool this is.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// The indices of a region, a run for each thread.
struct Runs(Vec<Padded<AtomicU64>>);

impl Runs {
    /// `0..items` in equal runs.
    fn new(items: usize, threads: usize) -> Runs {
        let run = |i: usize| Runs::word(items * i / threads, items * (i + 1) / threads);
        Runs((0..threads).map(|i| Padded(AtomicU64::new(run(i)))).collect())
    }

    /// First index left and end of a run.
    fn word(first: usize, end: usize) -> u64 {
        (first as u64) << 32 | end as u64
    }

    /// An index that nobody has taken: the first of this thread's run, else the last of the longest one.
    /// There must be one.
    fn claim(&self, thread: usize) -> usize {
        let own = self.take(thread % self.0.len(), |first, end| (first, Runs::word(first + 1, end)));
        own.unwrap_or_else(|| {
            loop {
                let left = |run: usize| {
                    let word = self.0[run].0.load(SeqCst);
                    (word & u64::from(u32::MAX)) - (word >> 32)
                };
                let longest = (0..self.0.len()).max_by_key(|&run| left(run)).expect("a thread");
                if let Some(last) = self.take(longest, |first, end| (end - 1, Runs::word(first, end - 1))) {
                    return last;
                }
            }
        })
    }

    /// Takes an index out of a run, unless it is empty.
    fn take(&self, run: usize, split: impl Fn(usize, usize) -> (usize, u64)) -> Option<usize> {
        let mut taken = None;
        let update = |word: u64| {
            let (first, end) = ((word >> 32) as usize, (word & u64::from(u32::MAX)) as usize);
            let (index, rest) = (first < end).then(|| split(first, end))?;
            taken = Some(index);
            Some(rest)
        };
        self.0[run].0.fetch_update(SeqCst, SeqCst, update).ok().and(taken)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of closures, so it only ends by returning.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Starts a region, takes part in it and waits for its end.
    fn run(&self, items: usize, work: &mut Work) {
        let region = ((self.word.0.load(SeqCst) >> INDEX_BITS) + 1) << INDEX_BITS;
        // A counter at its end lets nobody claim while the rest of the region is put in place.
        self.word.0.store(region | MAX_ITEMS as u64, SeqCst);
        self.done.0.store(0, SeqCst);
        self.items.store(items, SeqCst);
        self.work.store(work, SeqCst);
        self.word.0.store(region, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            self.wake_all();
        }
        while self.claim_and_run() {}
        self.wait(|| self.done.0.load(SeqCst) == items);
    }

    fn work_until_stopped(&self) {
        while !self.stop.load(SeqCst) {
            if !self.claim_and_run() {
                let seen = self.word.0.load(SeqCst) >> INDEX_BITS;
                self.wait(|| {
                    self.word.0.load(SeqCst) >> INDEX_BITS != seen
                        || self.has_work()
                        || self.stop.load(SeqCst)
                });
            }
        }
    }

    fn has_work(&self) -> bool {
        let word = self.word.0.load(SeqCst);
        ((word & MAX_ITEMS as u64) as usize) < self.items.load(SeqCst)
    }

    /// Runs the closure for one index that nobody has claimed; false if there is none.
    fn claim_and_run(&self) -> bool {
        let mut word = self.word.0.load(SeqCst);
        loop {
            let index = (word & MAX_ITEMS as u64) as usize;
            let (items, work) = (self.items.load(SeqCst), self.work.load(SeqCst));
            if index >= items || word >> INDEX_BITS == 0 {
                return false;
            }
            match self.word.0.compare_exchange_weak(word, word + 1, SeqCst, SeqCst) {
                // SAFETY: the swap succeeded, so `work` is the closure of the current region, which
                // does not end before this index is done; see the top of this file.
                Ok(_) => return self.run_one(items, index, unsafe { *work }),
                Err(now) => word = now,
            }
        }
    }

    fn run_one(&self, items: usize, index: usize, work: Work) -> bool {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(index))) {
            self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(panic);
        }
        if self.done.0.fetch_add(1, SeqCst) + 1 == items && self.sleepers.load(SeqCst) > 0 {
            self.wake_all();
        }
        true
    }

    /// Spins, then sleeps, until `ready`. Whoever makes it so calls [`Shared::wake_all`] if there are sleepers.
    fn wait(&self, ready: impl Fn() -> bool) {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        let mut asleep = self.asleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.sleepers.fetch_add(1, SeqCst);
        while !ready() {
            asleep = self.wake.wait(asleep).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// Wakes all sleepers. The lock makes sure that none is between looking and falling asleep.
    fn wake_all(&self) {
        drop(self.asleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.wake.notify_all();
    }
}

/// A slice that the indices of a region write to, each its own parts.
pub struct Shards<'a, T> {
    data: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by an unsafe method whose caller promises that they do not overlap, so
// sharing this between threads is sharing out a `&mut [T]`.
unsafe impl<T: Send> Sync for Shards<'_, T> {}

impl<'a, T> Shards<'a, T> {
    /// All of `slice`, to be shared out.
    pub fn new(slice: &'a mut [T]) -> Self {
        Shards { data: slice.as_mut_ptr(), len: slice.len(), slice: std::marker::PhantomData }
    }

    /// A part of the slice.
    ///
    /// # Safety
    ///
    /// While this part is in use, no other part that overlaps it may be.
    #[allow(clippy::mut_from_ref)] // that is the point; see Safety
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(
            start.checked_add(len).is_some_and(|end| end <= self.len),
            "part {start}+{len} of {}",
            self.len
        );
        // SAFETY: inside the slice, which outlives `self`; the caller sees to the rest.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

/// How many threads suit this machine: the physical cores that the process may use.
pub fn default_threads() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(logical, |cores| cores.clamp(1, logical))
}

/// Cores among the processors this process may run on, hyper-threads of one core counted once.
#[cfg(target_os = "linux")]
fn physical_cores() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = std::collections::HashSet::new();
    for range in allowed.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for cpu in first.parse::<usize>().ok()?..=last.parse().ok()? {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            cores.insert(std::fs::read_to_string(path).ok()?);
        }
    }
    Some(cores.len())
}

#[cfg(not(target_os = "linux"))]
fn physical_cores() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_runs_once() {
        let pool = Pool::new(4);
        for round in 0..2000 {
            let items = round % 67;
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.each(items, |i| {
                counts[i].fetch_add(1, SeqCst);
            });
            assert!(counts.iter().all(|c| c.load(SeqCst) == 1), "round {round}");
        }
    }

    #[test]
    fn every_index_of_a_run_is_run_once() {
        let pool = Pool::new(4);
        for items in 0..200 {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.each_in_runs(items, |i| {
                counts[i].fetch_add(1, SeqCst);
            });
            assert!(counts.iter().all(|c| c.load(SeqCst) == 1), "{items} items");
        }
    }

    #[test]
    fn a_thread_goes_on_where_it_was_and_then_helps_the_others() {
        let runs = Runs::new(7, 3); // 0..2, 2..4, 4..7
        let taken: Vec<usize> = [2, 2, 0, 2, 2, 2, 2].into_iter().map(|thread| runs.claim(thread)).collect();
        assert_eq!(taken, [4, 5, 0, 6, 3, 2, 1]);
    }

    #[test]
    fn sleepers_are_woken() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            let sum = AtomicUsize::new(0);
            pool.each(100, |i| {
                sum.fetch_add(i, SeqCst);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let panic = catch_unwind(AssertUnwindSafe(|| pool.each(10, |i| assert_ne!(i, 7))));
        assert!(panic.is_err());
        let sum = AtomicUsize::new(0);
        pool.each(10, |i| {
            sum.fetch_add(i, SeqCst);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn parts_of_a_slice_are_written_in_parallel() {
        let pool = Pool::new(4);
        let mut numbers = vec![0; 1000];
        let shards = Shards::new(&mut numbers);
        pool.each(100, |i| {
            // SAFETY: ten numbers for each index, none of them shared.
            let part = unsafe { shards.part(i * 10, 10) };
            part.iter_mut().enumerate().for_each(|(j, x)| *x = i * 10 + j);
        });
        assert!(numbers.into_iter().eq(0..1000));
    }
}
