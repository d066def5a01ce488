//! AVX2: a vector of 64 bytes is two registers.

use super::{Isa, Kernel, Line};
use crate::dot::Turned256;
use core::arch::x86_64::*;
use zerocopy::transmute;

/// Calls AVX2 intrinsics from what only a proof of it can reach.
macro_rules! avx2 {
    ($body:expr) => {
        // SAFETY: the caller has an `Avx2`, so the CPU has AVX2, FMA and F16C; loads are from arrays of that size.
        unsafe { $body }
    };
}

mod iq2_xxs;
mod run;

/// Proof that this CPU has AVX2, FMA and F16C. Only [`Avx2::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, if this CPU has them.
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs `kernel`, compiled with these features throughout.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_avx2<K: Kernel>(isa: Avx2, kernel: K) -> K::Output {
            kernel.eval(isa)
        }
        // SAFETY: `self` exists, so `detect` found the features.
        unsafe { with_avx2(self, kernel) }
    }
}

/// Two registers; the first has the lower bytes.
type Two = [__m256i; 2];

/// Index for a byte shuffle that repeats 16-bit number `2 v` over the first half of a register and
/// number `2 v + 1` over the second, from eight numbers in each half.
const SPREAD: [[[u8; 16]; 2]; 4] = {
    let mut index = [[[0; 16]; 2]; 4];
    let mut i = 0;
    while i < 4 * 2 * 16 {
        let (v, half, byte) = (i / 32, i / 16 % 2, i % 16);
        index[v][half][byte] = (2 * (2 * v + half) + byte % 2) as u8;
        i += 1;
    }
    index
};

impl Isa for Avx2 {
    type Bytes = Two;
    type Sixteen = __m256i;
    type Spread = [Two; 4];
    /// The magnitudes and the weights.
    type Signed = (Two, Two);
    type Sums = __m256i;
    type PairSums = Two;
    type Floats = [__m256; 2];
    type Ints = Two;

    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> Two {
        let (halves, _) = x.as_chunks::<32>();
        self.halves(&halves[0], &halves[1])
    }

    #[inline(always)]
    fn halves(self, low: &[u8; 32], high: &[u8; 32]) -> Two {
        avx2!([_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())])
    }

    #[inline(always)]
    fn quarters(self, x: &[u8; 16]) -> Two {
        avx2!([_mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast())); 2])
    }

    #[inline(always)]
    fn nibbles(self, x: &[u8; 32]) -> Two {
        let x = avx2!(_mm256_loadu_si256(x.as_ptr().cast()));
        let high = avx2!(_mm256_srli_epi16::<4>(x));
        self.and([x, high], self.splat(15))
    }

    #[inline(always)]
    fn nibbles_of_two(self, a: &[u8; 16], b: &[u8; 16]) -> Two {
        let spread = |x: &[u8; 16]| {
            avx2!({
                let twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast()));
                _mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4))
            })
        };
        self.and([spread(a), spread(b)], self.splat(15))
    }

    #[inline(always)]
    fn eights(self, x: [u64; 8]) -> Two {
        let x: [i64; 8] = transmute!(x);
        avx2!([_mm256_set_epi64x(x[3], x[2], x[1], x[0]), _mm256_set_epi64x(x[7], x[6], x[5], x[4])])
    }

    #[inline(always)]
    fn splat(self, x: u8) -> Two {
        avx2!([_mm256_set1_epi8(x as i8); 2])
    }

    #[inline(always)]
    fn mask(self, bits: u64) -> Two {
        let half = |bits: u32| {
            avx2!({
                let byte_of = _mm256_setr_epi64x(
                    0,
                    0x0101_0101_0101_0101,
                    0x0202_0202_0202_0202,
                    0x0303_0303_0303_0303,
                );
                let bit_of = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
                let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), byte_of);
                _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of)
            })
        };
        [half(bits as u32), half((bits >> 32) as u32)]
    }

    #[inline(always)]
    fn and(self, a: Two, b: Two) -> Two {
        avx2!([_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])])
    }

    #[inline(always)]
    fn or(self, a: Two, b: Two) -> Two {
        avx2!([_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])])
    }

    #[inline(always)]
    fn xor(self, a: Two, b: Two) -> Two {
        avx2!([_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])])
    }

    #[inline(always)]
    fn add(self, a: Two, b: Two) -> Two {
        avx2!([_mm256_add_epi8(a[0], b[0]), _mm256_add_epi8(a[1], b[1])])
    }

    #[inline(always)]
    fn shr<const N: u32>(self, a: Two) -> Two {
        let n = avx2!(_mm_cvtsi32_si128(N as i32));
        let shifted = avx2!([_mm256_srl_epi16(a[0], n), _mm256_srl_epi16(a[1], n)]);
        self.and(shifted, self.splat(0xff >> N))
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: Two) -> Two {
        let n = avx2!(_mm_cvtsi32_si128(N as i32));
        let shifted = avx2!([_mm256_sll_epi16(a[0], n), _mm256_sll_epi16(a[1], n)]);
        self.and(shifted, self.splat(0xff << N))
    }

    #[inline(always)]
    fn lookup(self, table: Two, index: Two) -> Two {
        avx2!([_mm256_shuffle_epi8(table[0], index[0]), _mm256_shuffle_epi8(table[1], index[1])])
    }

    #[inline(always)]
    fn sixteen(self, bytes: [u64; 2]) -> __m256i {
        avx2!(_mm256_cvtepi8_epi16(_mm_set_epi64x(bytes[1] as i64, bytes[0] as i64)))
    }

    #[inline(always)]
    fn times(self, a: __m256i, factor: i16) -> __m256i {
        avx2!(_mm256_mullo_epi16(a, _mm256_set1_epi16(factor)))
    }

    #[inline(always)]
    fn spread(self, a: __m256i) -> [Two; 4] {
        let (first, second) =
            avx2!((_mm256_permute2x128_si256::<0x00>(a, a), _mm256_permute2x128_si256::<0x11>(a, a)));
        let mut spread = [[a; 2]; 4];
        for v in 0..4 {
            let index = avx2!(_mm256_loadu_si256(SPREAD[v].as_ptr().cast()));
            spread[v] = avx2!([_mm256_shuffle_epi8(first, index), _mm256_shuffle_epi8(second, index)]);
        }
        spread
    }

    #[inline(always)]
    fn no_sums(self) -> __m256i {
        avx2!(_mm256_setzero_si256())
    }

    #[inline(always)]
    fn dot_sixteen(self, sums: __m256i, a: __m256i, b: &[i16; 16]) -> __m256i {
        avx2!(_mm256_add_epi32(sums, _mm256_madd_epi16(a, _mm256_loadu_si256(b.as_ptr().cast()))))
    }

    #[inline(always)]
    fn dot_group(self, mut sums: __m256i, w: &[Two; 4], scale: &[Two; 4], a: &[Two; 4]) -> __m256i {
        for v in 0..4 {
            for half in 0..2 {
                avx2!({
                    // Two products of 127 and 127 fit 16 bits.
                    let pairs = _mm256_maddubs_epi16(w[v][half], a[v][half]);
                    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, scale[v][half]));
                });
            }
        }
        sums
    }

    #[inline(always)]
    fn totals(self, sums: [__m256i; 4]) -> [i32; 4] {
        avx2!(fold(rows_to_lanes(sums)))
    }

    #[inline(always)]
    fn iq2_xxs_dots<const C: usize>(
        self,
        blocks: [&[quants::iq2_xxs::Group; 8]; 4],
        cols: [&Turned256; C],
    ) -> [[i32; 4]; C] {
        iq2_xxs::dots(self, blocks, cols)
    }

    const PAIR_BIASED: bool = false;

    #[inline(always)]
    fn signed(self, w: Two) -> (Two, Two) {
        avx2!(([_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])], w))
    }

    #[inline(always)]
    fn dot_pair(self, (magnitude, w): (Two, Two), a: &[i8; 64]) -> Two {
        let mut sums = w;
        for half in 0..2 {
            avx2!({
                let a = _mm256_loadu_si256(a.as_ptr().cast::<__m256i>().add(half));
                // The magnitude of -128 is 128 as an unsigned byte, and `a` is never -128.
                let pairs = _mm256_maddubs_epi16(magnitude[half], _mm256_sign_epi8(a, w[half]));
                sums[half] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            });
        }
        sums
    }

    #[inline(always)]
    fn pair_totals(self, s: [Two; 4]) -> [[i32; 4]; 2] {
        avx2!([
            fold(rows_to_lanes([s[0][0], s[1][0], s[2][0], s[3][0]])),
            fold(rows_to_lanes([s[0][1], s[1][1], s[2][1], s[3][1]])),
        ])
    }

    #[inline(always)]
    fn put_sixteen(self, x: __m256i, to: &mut [i16; 16]) {
        avx2!(_mm256_storeu_si256(to.as_mut_ptr().cast(), x));
    }

    #[inline(always)]
    fn stored(self, (_, w): (Two, Two)) -> Two {
        w
    }

    #[inline(always)]
    fn loaded(self, w: Two) -> (Two, Two) {
        self.signed(w)
    }

    #[inline(always)]
    fn scale_bytes(self, w: Two, scale: &[Two; 4], v: usize) -> Two {
        // No product is carried into the next byte.
        avx2!([_mm256_mullo_epi16(w[0], scale[v][0]), _mm256_mullo_epi16(w[1], scale[v][1])])
    }

    #[inline(always)]
    fn fours(self, x: &[i8; 4]) -> Two {
        avx2!([_mm256_set1_epi32(i32::from_le_bytes(transmute!(*x))); 2])
    }

    #[inline(always)]
    fn dot_fours(self, mut sums: Two, w: Two, a: Two) -> Two {
        for half in 0..2 {
            avx2!({
                // Two products of 127 and 127 fit 16 bits.
                let pairs = _mm256_maddubs_epi16(w[half], a[half]);
                sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            });
        }
        sums
    }

    #[inline(always)]
    fn dot_fours_signed(self, mut sums: Two, (magnitude, w): (Two, Two), a: Two) -> Two {
        for half in 0..2 {
            avx2!({
                let pairs = _mm256_maddubs_epi16(magnitude[half], _mm256_sign_epi8(a[half], w[half]));
                sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            });
        }
        sums
    }

    #[inline(always)]
    fn dot_run<const SIGNED: bool, const N: usize, const P: usize, const C: usize>(
        self,
        largest: u8,
        w: [&[Line; N]; P],
        a: [&[[i8; 4]; N]; C],
        scale: Option<[&Line; P]>,
        sums: &mut [[Two; C]; P],
    ) -> bool {
        match scale {
            None => run::add::<SIGNED, N, P, C>(self, largest, w, a, sums),
            Some(scale) => run::add_scaled::<SIGNED, N, P, C>(self, largest, w, a, scale, sums),
        }
        true
    }

    #[inline(always)]
    fn dot_twos(self, sums: Two, w: Two, a: Two) -> Two {
        avx2!([
            _mm256_add_epi32(sums[0], _mm256_madd_epi16(w[0], a[0])),
            _mm256_add_epi32(sums[1], _mm256_madd_epi16(w[1], a[1])),
        ])
    }

    #[inline(always)]
    fn add_times(self, sums: Two, x: Two, factor: Two) -> Two {
        avx2!([
            _mm256_add_epi32(sums[0], _mm256_mullo_epi32(x[0], factor[0])),
            _mm256_add_epi32(sums[1], _mm256_mullo_epi32(x[1], factor[1])),
        ])
    }

    #[inline(always)]
    fn f16x4(self, bits: [u16; 4]) -> [f32; 4] {
        avx2!(f16x4(bits))
    }

    #[inline(always)]
    fn floats(self, x: &[f32; 16]) -> [__m256; 2] {
        avx2!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }

    #[inline(always)]
    fn floats_f32(self, x: &[u8; 64]) -> [__m256; 2] {
        let x = x.as_ptr().cast::<f32>();
        avx2!([_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))])
    }

    #[inline(always)]
    fn floats_f16(self, x: &[u8; 32]) -> [__m256; 2] {
        let x = x.as_ptr().cast::<__m128i>();
        avx2!([_mm256_cvtph_ps(_mm_loadu_si128(x)), _mm256_cvtph_ps(_mm_loadu_si128(x.add(1)))])
    }

    #[inline(always)]
    fn floats_bf16(self, x: &[u8; 32]) -> [__m256; 2] {
        let x = x.as_ptr().cast::<__m128i>();
        avx2!({
            let wide =
                [_mm256_cvtepu16_epi32(_mm_loadu_si128(x)), _mm256_cvtepu16_epi32(_mm_loadu_si128(x.add(1)))];
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[1])),
            ]
        })
    }

    #[inline(always)]
    fn no_floats(self) -> [__m256; 2] {
        avx2!([_mm256_setzero_ps(); 2])
    }

    #[inline(always)]
    fn add_products(self, sum: [__m256; 2], a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([
            _mm256_add_ps(sum[0], _mm256_mul_ps(a[0], b[0])),
            _mm256_add_ps(sum[1], _mm256_mul_ps(a[1], b[1])),
        ])
    }

    #[inline(always)]
    fn sum_floats(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn difference(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sum(self, a: [__m256; 2]) -> f32 {
        avx2!(sum(_mm256_add_ps(a[0], a[1])))
    }

    const WIDE: bool = false;

    #[inline(always)]
    fn splat_float(self, x: f32) -> [__m256; 2] {
        avx2!([_mm256_set1_ps(x); 2])
    }

    #[inline(always)]
    fn put_floats(self, a: [__m256; 2], to: &mut [f32; 16]) {
        avx2!({
            _mm256_storeu_ps(to.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), a[1]);
        });
    }

    #[inline(always)]
    fn fused(self, sum: [__m256; 2], a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])])
    }

    #[inline(always)]
    fn product(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn larger(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Two {
        avx2!([_mm256_set1_epi32(x); 2])
    }

    #[inline(always)]
    fn ints(self, x: &[i32; 16]) -> Two {
        let x = x.as_ptr().cast::<__m256i>();
        avx2!([_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1))])
    }

    #[inline(always)]
    fn put_ints(self, [low, high]: Two, to: &mut [i32; 16]) {
        let to = to.as_mut_ptr().cast::<__m256i>();
        avx2!({
            _mm256_storeu_si256(to, low);
            _mm256_storeu_si256(to.add(1), high);
        });
    }

    #[inline(always)]
    fn as_floats(self, a: Two) -> [__m256; 2] {
        avx2!([_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])])
    }

    #[inline(always)]
    fn put_bytes(self, a: Two, to: &mut [u8; 64]) {
        let to = to.as_mut_ptr().cast::<__m256i>();
        avx2!({
            _mm256_storeu_si256(to, a[0]);
            _mm256_storeu_si256(to.add(1), a[1]);
        });
    }

    #[inline(always)]
    fn transpose(self, rows: [Two; 16]) -> [Two; 16] {
        let mut columns = rows;
        for eight in 0..2 {
            for half in 0..2 {
                let mut square = [rows[0][0]; 8];
                for i in 0..8 {
                    square[i] = rows[8 * eight + i][half];
                }
                let square = avx2!(transpose(square));
                for i in 0..8 {
                    columns[8 * half + i][eight] = square[i];
                }
            }
        }
        columns
    }

    #[inline(always)]
    fn prefetch(self, base: &[u8], offset: usize) {
        prefetch(base, offset);
    }
}

/// Adds within each half so that lane `r` of a half belongs to row `r`.
///
/// # Safety
///
/// Needs AVX2.
#[inline(always)]
unsafe fn rows_to_lanes(s: [__m256i; 4]) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe {
        let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(s[0], s[1]), _mm256_unpackhi_epi32(s[0], s[1]));
        let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(s[2], s[3]), _mm256_unpackhi_epi32(s[2], s[3]));
        _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
    }
}

/// Transposes a square of eight by eight words.
///
/// # Safety
///
/// Needs AVX2.
#[inline(always)]
unsafe fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut twos = rows;
    let mut fours = rows;
    let mut columns = rows;
    // SAFETY: the caller has AVX2.
    unsafe {
        for i in 0..4 {
            twos[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            twos[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        for i in 0..2 {
            // Word `k` of four rows, and word `k + 4` of them in the upper half.
            let [a, b, c, d] = [twos[4 * i], twos[4 * i + 1], twos[4 * i + 2], twos[4 * i + 3]];
            fours[4 * i] = _mm256_unpacklo_epi64(a, c);
            fours[4 * i + 1] = _mm256_unpackhi_epi64(a, c);
            fours[4 * i + 2] = _mm256_unpacklo_epi64(b, d);
            fours[4 * i + 3] = _mm256_unpackhi_epi64(b, d);
        }
        for k in 0..4 {
            columns[k] = _mm256_permute2x128_si256::<0x20>(fours[k], fours[4 + k]);
            columns[4 + k] = _mm256_permute2x128_si256::<0x31>(fours[k], fours[4 + k]);
        }
    }
    columns
}

/// The sum of the two halves.
///
/// # Safety
///
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn fold(x: __m256i) -> [i32; 4] {
    // SAFETY: the caller has AVX2; both types are 16 bytes of plain numbers.
    unsafe {
        core::mem::transmute(_mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x)))
    }
}

/// The values of four f16.
///
/// # Safety
///
/// Needs F16C.
#[inline(always)]
pub(super) unsafe fn f16x4(bits: [u16; 4]) -> [f32; 4] {
    let packed = bits.iter().rev().fold(0, |packed, &bits| packed << 16 | u64::from(bits));
    // SAFETY: the caller has F16C; both types are 16 bytes of plain numbers.
    unsafe { core::mem::transmute(_mm_cvtph_ps(_mm_cvtsi64_si128(packed as i64))) }
}

/// The sum of eight lanes: 4, 2 and 1 apart.
///
/// # Safety
///
/// Needs AVX.
#[inline(always)]
pub(super) unsafe fn sum(x: __m256) -> f32 {
    // SAFETY: the caller has AVX.
    unsafe {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
}

/// Asks for a cache line in the second level: that queue is longer than the first level's, and four
/// rows some kilobytes ahead would fill the first level.
#[inline(always)]
pub(super) fn prefetch(base: &[u8], offset: usize) {
    // SAFETY: a prefetch reads nothing and cannot fault, wherever it points.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(base.as_ptr().wrapping_add(offset).cast()) }
}
