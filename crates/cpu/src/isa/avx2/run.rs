//! Runs of products: sums stay in 16 bits as long as they fit.
//!
//! `vpmaddubsw` adds two products in 16 bits, and `vpmaddwd` widens those to 32. With weights up to 15 eight
//! of the first fit one lane, so that a run of 32 weights needs one of the second instead of eight; with
//! weights up to 63 two fit, with bytes of Q8_0 only one. Multiplications are what this instruction set is
//! short of, so small weights can be multiplied faster than `ds4 bench --machine` says that bytes can.

use super::{Avx2, Two};
use crate::isa::{Isa, Line};
use core::arch::x86_64::*;

/// How many results of `vpmaddubsw` may be added in 16 bits.
#[inline(always)]
fn that_fit(largest: u8) -> usize {
    // Both of the pair, and activations of 127.
    i16::MAX as usize / (2 * 127 * largest as usize)
}

/// [`Isa::dot_run`] without scales.
#[inline(always)]
pub(super) fn add<const SIGNED: bool, const N: usize, const P: usize, const C: usize>(
    isa: Avx2,
    largest: u8,
    w: [&[Line; N]; P],
    a: [&[[i8; 4]; N]; C],
    sums: &mut [[Two; C]; P],
) {
    let one = avx2!(_mm256_set1_epi16(1));
    for p in 0..P {
        if that_fit(largest) >= N {
            let words = words::<SIGNED, N, C>(isa, w[p], a);
            for c in 0..C {
                widen(isa, &mut sums[p][c], words[c], [one; 2]);
            }
            continue;
        }
        let together = if that_fit(largest) >= 2 { 2 } else { 1 };
        for i in (0..N).step_by(together) {
            let first = Weights::new::<SIGNED>(isa, &w[p][i]);
            let second = Weights::new::<SIGNED>(isa, &w[p][(i + 1).min(N - 1)]);
            for c in 0..C {
                let mut words = first.times::<SIGNED>(isa, &a[c][i]);
                if together == 2 && i + 1 < N {
                    words = sum(isa, words, second.times::<SIGNED>(isa, &a[c][i + 1]));
                }
                widen(isa, &mut sums[p][c], words, [one; 2]);
            }
        }
    }
}

/// [`Isa::dot_run`] with scales.
#[inline(always)]
pub(super) fn add_scaled<const SIGNED: bool, const N: usize, const P: usize, const C: usize>(
    isa: Avx2,
    largest: u8,
    w: [&[Line; N]; P],
    a: [&[[i8; 4]; N]; C],
    scale: [&Line; P],
    sums: &mut [[Two; C]; P],
) {
    for p in 0..P {
        let scale = isa.bytes(&scale[p].0);
        if that_fit(largest) >= N {
            // Widened and scaled at once: the scale as two 16-bit numbers for the two of a lane.
            let twice = avx2!([
                _mm256_or_si256(scale[0], _mm256_slli_epi32::<16>(scale[0])),
                _mm256_or_si256(scale[1], _mm256_slli_epi32::<16>(scale[1])),
            ]);
            let words = words::<SIGNED, N, C>(isa, w[p], a);
            for c in 0..C {
                widen(isa, &mut sums[p][c], words[c], twice);
            }
        } else {
            let mut run = [[isa.splat_int(0); C]; 1];
            add::<SIGNED, N, 1, C>(isa, largest, [w[p]], a, &mut run);
            for c in 0..C {
                sums[p][c] = isa.add_times(sums[p][c], run[0][c], scale);
            }
        }
    }
}

/// The sums of a whole run in 16 bits, where they fit.
#[inline(always)]
fn words<const SIGNED: bool, const N: usize, const C: usize>(
    isa: Avx2,
    w: &[Line; N],
    a: [&[[i8; 4]; N]; C],
) -> [Two; C] {
    let mut words = [isa.splat(0); C];
    for i in 0..N {
        let w = Weights::new::<SIGNED>(isa, &w[i]);
        for c in 0..C {
            words[c] = sum(isa, words[c], w.times::<SIGNED>(isa, &a[c][i]));
        }
    }
    words
}

/// Four weights of each row.
struct Weights {
    w: Two,
    magnitude: Two,
}

impl Weights {
    #[inline(always)]
    fn new<const SIGNED: bool>(isa: Avx2, w: &Line) -> Self {
        let w = isa.bytes(&w.0);
        let magnitude = if SIGNED { isa.signed(w).0 } else { w };
        Self { w, magnitude }
    }

    /// Products with four activations, added in pairs.
    #[inline(always)]
    fn times<const SIGNED: bool>(&self, isa: Avx2, a: &[i8; 4]) -> Two {
        let [mut low, mut high] = isa.fours(a);
        avx2!({
            if SIGNED {
                low = _mm256_sign_epi8(low, self.w[0]);
                high = _mm256_sign_epi8(high, self.w[1]);
            }
            [_mm256_maddubs_epi16(self.magnitude[0], low), _mm256_maddubs_epi16(self.magnitude[1], high)]
        })
    }
}

/// Sums of 16-bit numbers.
#[inline(always)]
fn sum(_: Avx2, a: Two, b: Two) -> Two {
    avx2!([_mm256_add_epi16(a[0], b[0]), _mm256_add_epi16(a[1], b[1])])
}

/// Adds both 16-bit numbers of each lane, each times its factor.
#[inline(always)]
fn widen(_: Avx2, sums: &mut Two, words: Two, factor: Two) {
    for half in 0..2 {
        sums[half] = avx2!(_mm256_add_epi32(sums[half], _mm256_madd_epi16(words[half], factor[half])));
    }
}
