//! NEON: a vector of 64 bytes is four registers.
//!
//! Products are widened to 16 bits: the dot-product instructions are not yet in stable Rust.

use super::scalar::{f16_value, sixteenth};
use super::{Isa, Kernel};
use core::arch::aarch64::*;
use std::array::from_fn;

/// Proof that this CPU has NEON. Only [`Neon::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// The proof, if this CPU has it.
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    /// Runs `kernel`, compiled with NEON throughout.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.eval(self) // NEON is part of the target already
    }
}

/// Calls NEON intrinsics from a method of [`Neon`].
macro_rules! neon {
    ($body:expr) => {
        // SAFETY: `self` exists, so the CPU has NEON; loads are from arrays of that size.
        unsafe { $body }
    };
}

/// Four registers; the first has the lowest bytes.
type Four = [uint8x16_t; 4];

impl Isa for Neon {
    type Bytes = Four;
    type Sixteen = [int16x8_t; 2];
    type Spread = [i16; 16];
    type Signed = [int8x16_t; 4];
    type Sums = int32x4_t;
    type PairSums = [int32x4_t; 2];
    type Floats = [float32x4_t; 4];
    type Ints = [int32x4_t; 4];

    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> Four {
        from_fn(|q| neon!(vld1q_u8(x.as_ptr().add(16 * q))))
    }

    #[inline(always)]
    fn halves(self, low: &[u8; 32], high: &[u8; 32]) -> Four {
        let at = |x: &[u8; 32], q: usize| neon!(vld1q_u8(x.as_ptr().add(16 * q)));
        [at(low, 0), at(low, 1), at(high, 0), at(high, 1)]
    }

    #[inline(always)]
    fn quarters(self, x: &[u8; 16]) -> Four {
        [neon!(vld1q_u8(x.as_ptr())); 4]
    }

    #[inline(always)]
    fn nibbles(self, x: &[u8; 32]) -> Four {
        let [a, b] = [0, 16].map(|at| neon!(vld1q_u8(x.as_ptr().add(at))));
        neon!([
            vandq_u8(a, vdupq_n_u8(15)),
            vandq_u8(b, vdupq_n_u8(15)),
            vshrq_n_u8::<4>(a),
            vshrq_n_u8::<4>(b),
        ])
    }

    #[inline(always)]
    fn nibbles_of_two(self, a: &[u8; 16], b: &[u8; 16]) -> Four {
        let [a, b] = [a, b].map(|x| neon!(vld1q_u8(x.as_ptr())));
        neon!([
            vandq_u8(a, vdupq_n_u8(15)),
            vshrq_n_u8::<4>(a),
            vandq_u8(b, vdupq_n_u8(15)),
            vshrq_n_u8::<4>(b),
        ])
    }

    #[inline(always)]
    fn eights(self, x: [u64; 8]) -> Four {
        from_fn(|q| {
            neon!(vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(x[2 * q]), vcreate_u64(x[2 * q + 1]))))
        })
    }

    #[inline(always)]
    fn splat(self, x: u8) -> Four {
        [neon!(vdupq_n_u8(x)); 4]
    }

    #[inline(always)]
    fn mask(self, bits: u64) -> Four {
        let bytes = bits.to_le_bytes();
        from_fn(|q| {
            neon!({
                let bit_of = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
                vtstq_u8(vcombine_u8(vdup_n_u8(bytes[2 * q]), vdup_n_u8(bytes[2 * q + 1])), bit_of)
            })
        })
    }

    #[inline(always)]
    fn and(self, a: Four, b: Four) -> Four {
        from_fn(|q| neon!(vandq_u8(a[q], b[q])))
    }

    #[inline(always)]
    fn or(self, a: Four, b: Four) -> Four {
        from_fn(|q| neon!(vorrq_u8(a[q], b[q])))
    }

    #[inline(always)]
    fn xor(self, a: Four, b: Four) -> Four {
        from_fn(|q| neon!(veorq_u8(a[q], b[q])))
    }

    #[inline(always)]
    fn add(self, a: Four, b: Four) -> Four {
        from_fn(|q| neon!(vaddq_u8(a[q], b[q])))
    }

    #[inline(always)]
    fn shr<const N: u32>(self, a: Four) -> Four {
        a.map(|a| neon!(vshlq_u8(a, vdupq_n_s8(-(N as i8)))))
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: Four) -> Four {
        a.map(|a| neon!(vshlq_u8(a, vdupq_n_s8(N as i8))))
    }

    #[inline(always)]
    fn lookup(self, table: Four, index: Four) -> Four {
        from_fn(|q| neon!(vqtbl1q_u8(table[q], index[q])))
    }

    #[inline(always)]
    fn sixteen(self, bytes: [u64; 2]) -> [int16x8_t; 2] {
        bytes.map(|bytes| neon!(vmovl_s8(vcreate_s8(bytes))))
    }

    #[inline(always)]
    fn times(self, a: [int16x8_t; 2], factor: i16) -> [int16x8_t; 2] {
        a.map(|a| neon!(vmulq_n_s16(a, factor)))
    }

    #[inline(always)]
    fn spread(self, a: [int16x8_t; 2]) -> [i16; 16] {
        let mut spread = [0; 16];
        for (out, a) in spread.as_chunks_mut::<8>().0.iter_mut().zip(a) {
            neon!(vst1q_s16(out.as_mut_ptr(), a));
        }
        spread
    }

    #[inline(always)]
    fn no_sums(self) -> int32x4_t {
        neon!(vdupq_n_s32(0))
    }

    #[inline(always)]
    fn dot_sixteen(self, mut sums: int32x4_t, a: [int16x8_t; 2], b: &[i16; 16]) -> int32x4_t {
        for (a, b) in a.into_iter().zip(b.as_chunks::<8>().0) {
            neon!({
                let b = vld1q_s16(b.as_ptr());
                sums = vmlal_s16(sums, vget_low_s16(a), vget_low_s16(b));
                sums = vmlal_high_s16(sums, a, b);
            });
        }
        sums
    }

    #[inline(always)]
    fn dot_group(self, mut sums: int32x4_t, w: &[Four; 4], scale: &[i16; 16], a: &[Four; 4]) -> int32x4_t {
        for v in 0..4 {
            for q in 0..4 {
                neon!({
                    let pairs = dot_pairs(w[v][q], vreinterpretq_s8_u8(a[v][q]));
                    let scale = scale[sixteenth(v, 16 * q)];
                    sums = vmlal_n_s16(sums, vget_low_s16(pairs), scale);
                    sums = vmlal_high_n_s16(sums, pairs, scale);
                });
            }
        }
        sums
    }

    #[inline(always)]
    fn totals(self, sums: [int32x4_t; 4]) -> [i32; 4] {
        sums.map(|sums| neon!(vaddvq_s32(sums)))
    }

    const PAIR_BIAS: i32 = 0;

    #[inline(always)]
    fn signed(self, w: Four) -> [int8x16_t; 4] {
        w.map(|w| neon!(vreinterpretq_s8_u8(w)))
    }

    #[inline(always)]
    fn dot_pair(self, w: [int8x16_t; 4], a: &[i8; 64]) -> [int32x4_t; 2] {
        from_fn(|half| {
            neon!({
                let (w0, w1) = (w[2 * half], w[2 * half + 1]);
                let (a0, a1) =
                    (vld1q_s8(a.as_ptr().add(32 * half)), vld1q_s8(a.as_ptr().add(32 * half + 16)));
                // Two products of -128 and 127 fit 16 bits.
                let first = vmlal_high_s8(vmull_s8(vget_low_s8(w0), vget_low_s8(a0)), w0, a0);
                let second = vmlal_high_s8(vmull_s8(vget_low_s8(w1), vget_low_s8(a1)), w1, a1);
                vpadalq_s16(vpaddlq_s16(first), second)
            })
        })
    }

    #[inline(always)]
    fn pair_totals(self, sums: [[int32x4_t; 2]; 4]) -> [[i32; 4]; 2] {
        from_fn(|half| sums.map(|sums| neon!(vaddvq_s32(sums[half]))))
    }

    #[inline(always)]
    fn put_sixteen(self, x: [int16x8_t; 2], to: &mut [i16; 16]) {
        for (to, x) in to.as_chunks_mut::<8>().0.iter_mut().zip(x) {
            neon!(vst1q_s16(to.as_mut_ptr(), x));
        }
    }

    #[inline(always)]
    fn stored(self, w: [int8x16_t; 4]) -> Four {
        w.map(|w| neon!(vreinterpretq_u8_s8(w)))
    }

    #[inline(always)]
    fn loaded(self, w: Four) -> [int8x16_t; 4] {
        self.signed(w)
    }

    #[inline(always)]
    fn scale_bytes(self, w: Four, scale: &[i16; 16], v: usize) -> Four {
        from_fn(|q| neon!(vmulq_u8(w[q], vdupq_n_u8(scale[sixteenth(v, 16 * q)] as u8))))
    }

    #[inline(always)]
    fn fours(self, x: &[i8; 4]) -> Four {
        [neon!(vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(x.map(|x| x as u8))))); 4]
    }

    #[inline(always)]
    fn dot_fours(self, sums: [int32x4_t; 4], w: Four, a: Four) -> [int32x4_t; 4] {
        self.dot_fours_signed(sums, self.signed(w), a) // at most 127, so the same numbers
    }

    #[inline(always)]
    fn dot_fours_signed(self, sums: [int32x4_t; 4], w: [int8x16_t; 4], a: Four) -> [int32x4_t; 4] {
        from_fn(|q| {
            neon!({
                let a = vreinterpretq_s8_u8(a[q]);
                // Two products of -128 and 127 fit 16 bits.
                let low = vmull_s8(vget_low_s8(w[q]), vget_low_s8(a));
                vpadalq_s16(sums[q], vpaddq_s16(low, vmull_high_s8(w[q], a)))
            })
        })
    }

    #[inline(always)]
    fn dot_twos(self, sums: [int32x4_t; 4], w: Four, a: Four) -> [int32x4_t; 4] {
        from_fn(|q| {
            neon!({
                let (w, a) = (vreinterpretq_s16_u8(w[q]), vreinterpretq_s16_u8(a[q]));
                let low = vmull_s16(vget_low_s16(w), vget_low_s16(a));
                vaddq_s32(sums[q], vpaddq_s32(low, vmull_high_s16(w, a)))
            })
        })
    }

    #[inline(always)]
    fn add_times(self, sums: [int32x4_t; 4], x: [int32x4_t; 4], factor: Four) -> [int32x4_t; 4] {
        from_fn(|q| neon!(vmlaq_s32(sums[q], x[q], vreinterpretq_s32_u8(factor[q]))))
    }

    #[inline(always)]
    fn f16x4(self, bits: [u16; 4]) -> [f32; 4] {
        bits.map(f16_value)
    }

    #[inline(always)]
    fn floats(self, x: &[f32; 16]) -> [float32x4_t; 4] {
        from_fn(|q| neon!(vld1q_f32(x.as_ptr().add(4 * q))))
    }

    #[inline(always)]
    fn floats_f32(self, x: &[u8; 64]) -> [float32x4_t; 4] {
        from_fn(|q| neon!(vreinterpretq_f32_u8(vld1q_u8(x.as_ptr().add(16 * q)))))
    }

    #[inline(always)]
    fn floats_f16(self, x: &[u8; 32]) -> [float32x4_t; 4] {
        self.floats(&from_fn(|i| f16_value(u16::from_le_bytes([x[2 * i], x[2 * i + 1]]))))
    }

    #[inline(always)]
    fn floats_bf16(self, x: &[u8; 32]) -> [float32x4_t; 4] {
        from_fn(|q| {
            neon!({
                let bits = vreinterpret_u16_u8(vld1_u8(x.as_ptr().add(8 * q)));
                vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))
            })
        })
    }

    #[inline(always)]
    fn no_floats(self) -> [float32x4_t; 4] {
        [neon!(vdupq_n_f32(0.0)); 4]
    }

    #[inline(always)]
    fn add_products(
        self,
        sum: [float32x4_t; 4],
        a: [float32x4_t; 4],
        b: [float32x4_t; 4],
    ) -> [float32x4_t; 4] {
        from_fn(|q| neon!(vaddq_f32(sum[q], vmulq_f32(a[q], b[q]))))
    }

    #[inline(always)]
    fn sum_floats(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        from_fn(|q| neon!(vaddq_f32(a[q], b[q])))
    }

    #[inline(always)]
    fn difference(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        from_fn(|q| neon!(vsubq_f32(a[q], b[q])))
    }

    #[inline(always)]
    fn sum(self, a: [float32x4_t; 4]) -> f32 {
        neon!({
            let x = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let x = vadd_f32(vget_low_f32(x), vget_high_f32(x));
            vget_lane_f32::<0>(x) + vget_lane_f32::<1>(x)
        })
    }

    const WIDE: bool = false;

    #[inline(always)]
    fn splat_float(self, x: f32) -> [float32x4_t; 4] {
        [neon!(vdupq_n_f32(x)); 4]
    }

    #[inline(always)]
    fn put_floats(self, a: [float32x4_t; 4], to: &mut [f32; 16]) {
        for (to, a) in to.as_chunks_mut::<4>().0.iter_mut().zip(a) {
            neon!(vst1q_f32(to.as_mut_ptr(), a));
        }
    }

    #[inline(always)]
    fn fused(self, sum: [float32x4_t; 4], a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        from_fn(|q| neon!(vfmaq_f32(sum[q], a[q], b[q])))
    }

    #[inline(always)]
    fn product(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        from_fn(|q| neon!(vmulq_f32(a[q], b[q])))
    }

    #[inline(always)]
    fn larger(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // Not `vmaxq_f32`, which hands on a NaN from either side.
        from_fn(|q| neon!(vbslq_f32(vcgtq_f32(a[q], b[q]), a[q], b[q])))
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> [int32x4_t; 4] {
        [neon!(vdupq_n_s32(x)); 4]
    }

    #[inline(always)]
    fn ints(self, x: &[i32; 16]) -> [int32x4_t; 4] {
        from_fn(|q| neon!(vld1q_s32(x.as_ptr().add(4 * q))))
    }

    #[inline(always)]
    fn as_floats(self, a: [int32x4_t; 4]) -> [float32x4_t; 4] {
        a.map(|a| neon!(vcvtq_f32_s32(a)))
    }

    #[inline(always)]
    fn put_bytes(self, a: Four, to: &mut [u8; 64]) {
        for (to, a) in to.as_chunks_mut::<16>().0.iter_mut().zip(a) {
            neon!(vst1q_u8(to.as_mut_ptr(), a));
        }
    }

    #[inline(always)]
    fn prefetch(self, _base: &[u8], _offset: usize) {
        // There is no prefetch in stable Rust; these CPUs follow four streams by themselves.
    }
}

/// Sums of two neighbouring products.
///
/// # Safety
///
/// Needs NEON.
#[inline(always)]
unsafe fn dot_pairs(w: uint8x16_t, a: int8x16_t) -> int16x8_t {
    // SAFETY: the caller has NEON.
    unsafe {
        let w = vreinterpretq_s8_u8(w); // at most 127, so the same number
        vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)), vmull_high_s8(w, a))
    }
}
