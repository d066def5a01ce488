//! What this machine can do at most: the roofs that a measured speed is held against.
//!
//! Three numbers, all threads together: how fast memory is read, how many products of 8-bit numbers and how
//! many of f32 are added up in a second. They are measured, not looked up, since clocks and neighbours
//! change within minutes: measure them in the same process and minute as what they are held against.
//!
//! Start at [`Probe`]. The arithmetic is a loop of nothing but multiply-accumulates on registers, in
//! `x86` and `arm`, for the instruction set in use ([`isa::level`]).

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::isa::{self, Isa, Kernel};
use memmap2::MmapMut;
use std::hint::black_box;
use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// Memory that one read goes through: far more than caches hold.
pub const READ_BYTES: usize = 1 << 30;

/// What a thread takes at a time, so that one that lost its core is made up for by the others.
const BLOCK: usize = 1 << 20;

/// How long arithmetic is run for one measurement.
const ARITHMETIC: Duration = Duration::from_millis(25);

/// Measures the machine. Holds [`READ_BYTES`] of memory.
pub struct Probe {
    threads: usize,
    memory: MmapMut,
}

/// A cache line.
type Line = [u64; 8];

/// A loop of multiply-accumulates.
#[derive(Clone, Copy)]
pub(crate) struct Loop {
    /// Runs it so many times round.
    pub run: fn(u64),
    /// Products in one time round.
    pub products: u64,
}

/// The loops of one instruction set.
pub(crate) struct Loops {
    pub int8: Loop,
    pub f32: Loop,
    /// Products of bf16 with sums in f32, where there is an instruction for them.
    pub bf16: Option<Loop>,
}

impl Probe {
    /// Takes the memory and writes to it, so that it is there. It lies in large pages where the system has them, as the
    /// weights of a mapped file do: they are read faster than ordinary ones.
    ///
    /// # Errors
    ///
    /// If there is not as much memory.
    pub fn new(threads: usize) -> io::Result<Probe> {
        let mut memory = MmapMut::map_anon(READ_BYTES)?;
        #[cfg(target_os = "linux")]
        drop(memory.advise(memmap2::Advice::HugePage));
        // Not zeros: the system may keep those in one page that the caches hold.
        memory.fill(1);
        Ok(Probe { threads: threads.max(1), memory })
    }

    /// Bytes a second that all threads together read from memory, once through all of it.
    pub fn read(&self) -> f64 {
        let lines = <[Line]>::ref_from_bytes(&self.memory).expect("a mapping is aligned and of whole lines");
        let blocks: Vec<&[Line]> = lines.chunks(BLOCK / size_of::<Line>()).collect();
        let next = AtomicUsize::new(0);
        let seconds = self.on_all_threads(|| {
            while let Some(lines) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                black_box(isa::dispatch(Sum { lines }));
            }
        });
        READ_BYTES as f64 / seconds.into_iter().fold(0.0, f64::max)
    }

    /// Products of 8-bit numbers a second, added up in 32 bits.
    pub fn int8(&self) -> f64 {
        self.rate(loops().int8)
    }

    /// Fused multiply-adds of f32 a second.
    pub fn f32(&self) -> f64 {
        self.rate(loops().f32)
    }

    /// Products of bf16 a second, added up in f32, if this CPU has an instruction for them.
    pub fn bf16(&self) -> Option<f64> {
        loops().bf16.map(|looped| self.rate(looped))
    }

    fn rate(&self, looped: Loop) -> f64 {
        const ROUNDS: u64 = 10_000;
        let products = AtomicUsize::new(0);
        let seconds = self.on_all_threads(|| {
            let start = Instant::now();
            while start.elapsed() < ARITHMETIC {
                (looped.run)(ROUNDS);
                products.fetch_add((ROUNDS * looped.products) as usize, Ordering::Relaxed);
            }
        });
        products.into_inner() as f64 / seconds.into_iter().fold(0.0, f64::max)
    }

    /// Runs `work` on every thread at once; returns the seconds that each took.
    fn on_all_threads(&self, work: impl Fn() + Sync) -> Vec<f64> {
        let barrier = Barrier::new(self.threads);
        let timed = || {
            barrier.wait();
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads).map(|_| scope.spawn(timed)).collect();
            let own = timed();
            others.into_iter().map(|t| t.join().expect("no probe panics")).chain([own]).collect()
        })
    }
}

/// The loops of the instruction set in use.
fn loops() -> Loops {
    #[cfg(target_arch = "x86_64")]
    if let Some(loops) = x86::loops(isa::level()) {
        return loops;
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(loops) = arm::loops(isa::level()) {
        return loops;
    }
    portable()
}

/// What plain Rust comes to without any instruction set of ours.
fn portable() -> Loops {
    const N: usize = 1024;
    fn int8(rounds: u64) {
        let (a, b) = (black_box([3_i8; N]), black_box([-5_i8; N]));
        for _ in 0..rounds {
            let pairs = black_box(&a).iter().zip(black_box(&b));
            black_box(pairs.map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>());
        }
    }
    fn f32(rounds: u64) {
        let (a, b) = (black_box([1.5_f32; N]), black_box([0.5_f32; N]));
        let mut sums = [0.0_f32; 16];
        for _ in 0..rounds {
            let (a, b) = (black_box(&a), black_box(&b));
            for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
                sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
            }
        }
        black_box(sums);
    }
    let products = N as u64;
    Loops { int8: Loop { run: int8, products }, f32: Loop { run: f32, products }, bf16: None }
}

/// Adds up memory, as fast as it comes.
struct Sum<'a> {
    lines: &'a [Line],
}

impl Kernel for Sum<'_> {
    type Output = u64;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> u64 {
        /// Places at which a block is read at once: one stream alone leaves a tenth of the bandwidth
        /// unused (two threads, 30.2 and 33.4 GB/s), and rows of a matrix are read several at once, too.
        const STREAMS: usize = 4;
        /// Lines of one step in each of them, and how many bytes ahead others are asked for.
        const STEP: usize = 2;
        const AHEAD: usize = 1024;
        let mut sums = [[0_u64; 8]; STREAMS * STEP];
        let part = self.lines.len() / STREAMS;
        let (streams, rest) = self.lines.split_at(part * STREAMS);
        let bytes = zerocopy::IntoBytes::as_bytes(self.lines);
        for i in (0..part).step_by(STEP) {
            for k in 0..STREAMS {
                for j in 0..STEP.min(part - i) {
                    let at = k * part + i + j;
                    isa.prefetch(bytes, at * size_of::<Line>() + AHEAD);
                    add(&mut sums[k * STEP + j], &streams[at]);
                }
            }
        }
        rest.iter().for_each(|line| add(&mut sums[0], line));
        sums.as_flattened().iter().copied().fold(0, u64::wrapping_add)
    }
}

#[inline(always)]
fn add(sum: &mut Line, line: &Line) {
    for (sum, word) in sum.iter_mut().zip(line) {
        *sum = sum.wrapping_add(*word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word is read: a roof that skips some would flatter nobody.
    #[test]
    fn all_of_the_memory_is_added_up() {
        for len in [0, 1, 7, 512, 1021] {
            let lines: Vec<Line> = (0..len).map(|i| [i + 1; 8]).collect();
            for (level, sum) in isa::on_each(SumOf(&lines)) {
                assert_eq!(sum, 8 * (1..=len).sum::<u64>(), "{level}");
            }
        }
    }

    #[derive(Clone)]
    struct SumOf<'a>(&'a [Line]);
    impl Kernel for SumOf<'_> {
        type Output = u64;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> u64 {
            Sum { lines: self.0 }.eval(isa)
        }
    }

    #[test]
    fn arithmetic_has_a_rate() {
        let probe = Probe { threads: 2, memory: MmapMut::map_anon(1).unwrap() };
        // So little even under emulation.
        let rates = [probe.int8(), probe.f32(), probe.bf16().unwrap_or(1e9), probe.rate(portable().int8)];
        assert!(rates.iter().all(|rate| rate.is_finite() && *rate > 1e5), "{rates:?}");
    }
}
