//! f32 arithmetic in 16 lanes, as plain arrays.
//!
//! Inlined into a kernel that [`crate::isa`] compiles for an instruction set, these loops become vector
//! code of its width. Every operation is a fixed sequence of IEEE operations a lane (sums by fused
//! multiply-add, lanes added in a tree), so results have the same bits on every CPU.

use crate::isa::Isa;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Lanes in a vector.
pub const LANES: usize = 16;

/// A vector of f32.
pub type Vector = [f32; LANES];

/// A vector that does not straddle two cache lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct Line(pub Vector);

/// The floats of some lines in order.
pub fn floats(lines: &[Line]) -> &[f32] {
    FromBytes::ref_from_bytes(lines.as_bytes()).expect("a line is sixteen floats")
}

/// Sums of a dot product that wait for nothing but themselves.
const CHAINS: usize = 4;

/// Dot product. Of four vectors each goes to a sum of its own; these are added in pairs, then their lanes in a tree.
///
/// # Panics
///
/// If `b` is shorter than `a`.
#[inline(always)]
pub fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [isa.no_floats(); CHAINS];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b[..a.len()].as_chunks::<LANES>());
    let ((a, a_few), (b, b_few)) = (a.as_chunks::<CHAINS>(), b.as_chunks::<CHAINS>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..CHAINS {
            sums[i] = isa.fused(sums[i], isa.floats(&a[i]), isa.floats(&b[i]));
        }
    }
    for i in 0..a_few.len() {
        sums[i] = isa.fused(sums[i], isa.floats(&a_few[i]), isa.floats(&b_few[i]));
    }
    let mut last = [0.0; LANES];
    isa.put_floats(sums[CHAINS - 1], &mut last);
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        last[lane] = a.mul_add(*b, last[lane]);
    }
    let pairs = [isa.sum_floats(sums[0], sums[1]), isa.sum_floats(sums[2], isa.floats(&last))];
    isa.sum(isa.sum_floats(pairs[0], pairs[1]))
}

/// `1 / sqrt(mean(x^2) + eps)`
#[inline(always)]
pub fn inverse_rms<I: Isa>(isa: I, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(isa, x, x) / x.len() as f32 + eps).sqrt()
}

/// `x *= w / sqrt(mean(x^2) + eps)`
#[inline(always)]
pub fn rms_norm<I: Isa>(isa: I, x: &mut [f32], w: &[f32], eps: f32) {
    let scale = inverse_rms(isa, x, eps);
    for (x, w) in x.iter_mut().zip(w) {
        *x *= scale * w;
    }
}

/// `e^x` to within 2 units in the last place for `x` from -87 to 88; 0 below, the largest such power above.
///
/// `x = n·ln 2 + r`, a polynomial for `e^r` (minimax on ±ln 2 / 2), and n added to the exponent.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1] {
        p = p.mul_add(r, c);
    }
    // A sum with 1.5 · 2^23 has the integer in its low bits. A conversion would not vectorize: it saturates.
    let power = f32::from_bits((n + (12_582_912.0 + 127.0)).to_bits() << 23);
    let result = (p * r).mul_add(r, r) + 1.0;
    if x < -87.0 { 0.0 } else { result * power }
}

/// `x·σ(x)`
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{self, Kernel};

    #[derive(Clone)]
    struct Dot<'a>(&'a [f32], &'a [f32]);

    impl Kernel for Dot<'_> {
        type Output = f32;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> f32 {
            dot(isa, self.0, self.1)
        }
    }

    #[test]
    fn exp_is_within_two_units() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - want) / want).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn dots_of_any_length_are_right() {
        for n in [0, 1, 15, 16, 17, 33, 63, 64, 65, 100, 127, 200] {
            let a: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 2.0).collect();
            let want: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            for (level, got) in isa::on_each(Dot(&a, &b)) {
                assert_eq!(got, want, "{n} on {level}");
            }
        }
    }
}
