//! NEON: a vector of 64 bytes is four registers.
//!
//! There are two of it, which differ in how products of bytes are added up: see [`Products`].

use super::scalar::sixteenth;
use super::{Isa, Kernel};
use core::arch::aarch64::*;
use core::arch::asm;
use std::arch::is_aarch64_feature_detected;
use std::array::from_fn;
use zerocopy::transmute;

/// Calls NEON intrinsics from what only a proof of NEON can reach.
macro_rules! neon {
    ($body:expr) => {
        // SAFETY: NEON is part of the target; loads are from arrays of that size.
        unsafe { $body }
    };
}

/// Proof that this CPU has NEON with a way to add up products. Only `detect` makes one.
#[derive(Clone, Copy, Debug)]
pub struct Neon<P>(P);

/// Products of bytes by widening them to 16 bits, which every aarch64 can.
#[derive(Clone, Copy, Debug)]
pub struct Widened(());

/// Products of bytes by `sdot` (Armv8.2 and later).
#[derive(Clone, Copy, Debug)]
pub struct Sdot(());

impl Neon<Widened> {
    /// The proof, if this CPU has it.
    pub fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(Widened(())))
    }

    /// Runs `kernel`, compiled with NEON throughout.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.eval(self) // NEON is part of the target already
    }
}

impl Neon<Sdot> {
    /// The proof, if this CPU has it.
    pub fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("dotprod").then_some(Self(Sdot(())))
    }

    /// Runs `kernel`, compiled with NEON and the dot products throughout.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon,dotprod")]
        fn with_dotprod<K: Kernel>(isa: Neon<Sdot>, kernel: K) -> K::Output {
            kernel.eval(isa)
        }
        // SAFETY: `self` exists, so `detect` found the feature.
        unsafe { with_dotprod(self, kernel) }
    }
}

/// How products of signed bytes are added up. `a` is never -128.
pub trait Products: Copy {
    /// Adds `Σ_b w[4 i + b] a[4 i + b]` to each lane `i`.
    fn add_fours(self, sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t;
    /// Adds all 16 products; which lane gets which has no meaning.
    fn add_all(self, sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t;
}

impl Products for Widened {
    #[inline(always)]
    fn add_fours(self, sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
        neon!({
            // Two products of -128 and 127 fit 16 bits.
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(a));
            vpadalq_s16(sums, vpaddq_s16(low, vmull_high_s8(w, a)))
        })
    }

    #[inline(always)]
    fn add_all(self, sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
        neon!(vpadalq_s16(sums, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(a)), w, a)))
    }
}

impl Products for Sdot {
    #[inline(always)]
    fn add_fours(self, sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
        // SAFETY: `self` exists, so `detect` found the feature.
        unsafe { sdot(sums, w, a) }
    }

    #[inline(always)]
    fn add_all(self, sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
        self.add_fours(sums, w, a)
    }
}

/// Adds four products to each lane. The intrinsic is not in stable Rust yet; inlined as intrinsics are.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: the CPU has the instruction, which touches only its registers.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {w:v}.16b, {a:v}.16b",
            sums = inout(vreg) sums,
            w = in(vreg) w,
            a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The values of four f16, exactly. Every NEON has the instruction, stable Rust has no intrinsic for it.
#[inline(always)]
fn f16_values(bits: uint16x4_t) -> float32x4_t {
    let values;
    // SAFETY: NEON is part of the target, and the instruction touches only its registers.
    unsafe {
        asm!(
            "fcvtl {values:v}.4s, {bits:v}.4h",
            values = lateout(vreg) values,
            bits = in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    values
}

/// Four registers; the first has the lowest bytes.
type Four = [uint8x16_t; 4];

impl<P: Products> Isa for Neon<P> {
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
                    // At most 127, so the same number when signed.
                    let (w, a) = (vreinterpretq_s8_u8(w[v][q]), vreinterpretq_s8_u8(a[v][q]));
                    let products = self.0.add_all(vdupq_n_s32(0), w, a);
                    sums = vmlaq_n_s32(sums, products, i32::from(scale[sixteenth(v, 16 * q)]));
                });
            }
        }
        sums
    }

    #[inline(always)]
    fn totals(self, s: [int32x4_t; 4]) -> [i32; 4] {
        lanes(neon!(vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3]))))
    }

    const PAIR_BIASED: bool = false;

    #[inline(always)]
    fn signed(self, w: Four) -> [int8x16_t; 4] {
        w.map(|w| neon!(vreinterpretq_s8_u8(w)))
    }

    #[inline(always)]
    fn dot_pair(self, w: [int8x16_t; 4], a: &[i8; 64]) -> [int32x4_t; 2] {
        let mut sums = [self.no_sums(); 2];
        for (q, w) in w.into_iter().enumerate() {
            let a = neon!(vld1q_s8(a.as_ptr().add(16 * q)));
            sums[q / 2] = self.0.add_all(sums[q / 2], w, a);
        }
        sums
    }

    #[inline(always)]
    fn pair_totals(self, s: [[int32x4_t; 2]; 4]) -> [[i32; 4]; 2] {
        [self.totals([s[0][0], s[1][0], s[2][0], s[3][0]]), self.totals([s[0][1], s[1][1], s[2][1], s[3][1]])]
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
        [neon!(vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(transmute!(*x))))); 4]
    }

    #[inline(always)]
    fn dot_fours(self, sums: [int32x4_t; 4], w: Four, a: Four) -> [int32x4_t; 4] {
        self.dot_fours_signed(sums, self.signed(w), a) // at most 127, so the same numbers
    }

    #[inline(always)]
    fn dot_fours_signed(self, mut sums: [int32x4_t; 4], w: [int8x16_t; 4], a: Four) -> [int32x4_t; 4] {
        for q in 0..4 {
            sums[q] = self.0.add_fours(sums[q], w[q], neon!(vreinterpretq_s8_u8(a[q])));
        }
        sums
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
        let mut values = [0.0; 4];
        neon!(vst1q_f32(values.as_mut_ptr(), f16_values(vld1_u16(bits.as_ptr()))));
        values
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
        from_fn(|q| neon!(f16_values(vreinterpret_u16_u8(vld1_u8(x.as_ptr().add(8 * q))))))
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
    fn put_ints(self, a: [int32x4_t; 4], to: &mut [i32; 16]) {
        for (a, to) in a.into_iter().zip(to.as_chunks_mut::<4>().0) {
            neon!(vst1q_s32(to.as_mut_ptr(), a));
        }
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
    fn transpose(self, rows: [Four; 16]) -> [Four; 16] {
        let mut columns = rows;
        for four in 0..4 {
            for q in 0..4 {
                let square = transpose([
                    rows[4 * four][q],
                    rows[4 * four + 1][q],
                    rows[4 * four + 2][q],
                    rows[4 * four + 3][q],
                ]);
                for i in 0..4 {
                    columns[4 * q + i][four] = square[i];
                }
            }
        }
        columns
    }

    #[inline(always)]
    fn prefetch(self, _base: &[u8], _offset: usize) {
        // There is no prefetch in stable Rust; these CPUs follow four streams by themselves.
    }
}

/// The four lanes.
#[inline(always)]
fn lanes(x: int32x4_t) -> [i32; 4] {
    let mut lanes = [0; 4];
    neon!(vst1q_s32(lanes.as_mut_ptr(), x));
    lanes
}

/// Transposes a square of four by four words.
#[inline(always)]
fn transpose(rows: Four) -> Four {
    neon!({
        let [a, b, c, d] = rows.map(|row| vreinterpretq_u32_u8(row));
        // Words 0 and 2 of two rows, 1 and 3.
        let (ab0, ab1) = (vtrn1q_u32(a, b), vtrn2q_u32(a, b));
        let (cd0, cd1) = (vtrn1q_u32(c, d), vtrn2q_u32(c, d));
        let [ab0, ab1, cd0, cd1] = [ab0, ab1, cd0, cd1].map(|x| vreinterpretq_u64_u32(x));
        [vtrn1q_u64(ab0, cd0), vtrn1q_u64(ab1, cd1), vtrn2q_u64(ab0, cd0), vtrn2q_u64(ab1, cd1)]
            .map(|x| vreinterpretq_u8_u64(x))
    })
}
