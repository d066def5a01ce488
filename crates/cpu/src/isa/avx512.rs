//! AVX-512 with VNNI, VBMI and GFNI: a vector of 64 bytes is one register.

mod iq2_xxs;
mod mxfp4;
mod q2_k;
mod q4_k;
mod q8_0;

use super::avx2::{f16x4, fold, prefetch, sum};
use super::{Isa, Kernel, Line};
use crate::dot::{Chunk32, Chunk256, GroupPart, Turned256};
use core::arch::asm;
use core::arch::x86_64::*;
use quants::iq2_xxs::BlockIq2Xxs;
use quants::mxfp4::BlockMxfp4;
use quants::q2_k::BlockQ2K;
use quants::q4_k::BlockQ4K;
use quants::q8_0::BlockQ8_0;
use zerocopy::transmute;

/// Proof that this CPU has AVX-512 with what we use of it. Only [`Avx512::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, if this CPU has them.
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("gfni")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs `kernel`, compiled with these features throughout.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,f16c")]
        fn with_avx512<K: Kernel>(isa: Avx512, kernel: K) -> K::Output {
            kernel.eval(isa)
        }
        // SAFETY: `self` exists, so `detect` found the features.
        unsafe { with_avx512(self, kernel) }
    }
}

/// Calls AVX-512 intrinsics from a method of [`Avx512`].
macro_rules! avx512 {
    ($body:expr) => {
        // SAFETY: `self` exists, so the CPU has the features; loads are from arrays of that size.
        unsafe { $body }
    };
}

/// Index for a byte shuffle that repeats 16-bit number `2 v` over the first and third quarter and
/// number `2 v + 1` over the second and fourth, from eight numbers in each quarter.
const SPREAD: [[u8; 64]; 4] = {
    let mut index = [[0; 64]; 4];
    let mut i = 0;
    while i < 4 * 64 {
        let (v, quarter, byte) = (i / 64, i / 16 % 4, i % 16);
        index[v][i % 64] = (2 * (2 * v + quarter % 2) + byte % 2) as u8;
        i += 1;
    }
    index
};

/// Index for a word shuffle that puts the lower words of two vectors beside each other.
static LOWER_WORDS: Aligned<[u16; 32]> = {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 16 {
        index[2 * i] = 2 * i as u16;
        index[2 * i + 1] = 32 + 2 * i as u16;
        i += 1;
    }
    Aligned(index)
};

/// The bf16 of each E4M3 code below 128: low bytes, high bytes, each as two halves of a table.
const FP8: [[[u8; 64]; 2]; 2] = {
    let mut table = [[[0; 64]; 2]; 2];
    let mut code = 0;
    while code < 128 {
        let bits = super::scalar::fp8_value(code as u8).to_bits();
        table[0][code / 64][code % 64] = (bits >> 16) as u8;
        table[1][code / 64][code % 64] = (bits >> 24) as u8;
        code += 1;
    }
    table
};

impl Isa for Avx512 {
    type Bytes = __m512i;
    type Sixteen = __m256i;
    type Spread = [__m512i; 4];
    type Signed = __m512i;
    type Sums = __m512i;
    type PairSums = __m512i;
    type Floats = __m512;
    type Ints = __m512i;

    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> __m512i {
        avx512!(_mm512_loadu_si512(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn halves(self, low: &[u8; 32], high: &[u8; 32]) -> __m512i {
        avx512!({
            let low = _mm256_loadu_si256(low.as_ptr().cast());
            let high = _mm256_loadu_si256(high.as_ptr().cast());
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        })
    }

    #[inline(always)]
    fn quarters(self, x: &[u8; 16]) -> __m512i {
        avx512!(_mm512_broadcast_i32x4(_mm_loadu_si128(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn nibbles(self, x: &[u8; 32]) -> __m512i {
        let twice = avx512!(_mm512_broadcast_i64x4(_mm256_loadu_si256(x.as_ptr().cast())));
        let shifted = avx512!(_mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4)));
        self.and(shifted, self.splat(15))
    }

    #[inline(always)]
    fn nibbles_of_two(self, a: &[u8; 16], b: &[u8; 16]) -> __m512i {
        let shifted = avx512!({
            let a = _mm256_broadcastsi128_si256(_mm_loadu_si128(a.as_ptr().cast()));
            let b = _mm256_broadcastsi128_si256(_mm_loadu_si128(b.as_ptr().cast()));
            let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
            _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4))
        });
        self.and(shifted, self.splat(15))
    }

    #[inline(always)]
    fn eights(self, x: [u64; 8]) -> __m512i {
        let x: [i64; 8] = transmute!(x);
        avx512!(_mm512_set_epi64(x[7], x[6], x[5], x[4], x[3], x[2], x[1], x[0]))
    }

    #[inline(always)]
    fn splat(self, x: u8) -> __m512i {
        avx512!(_mm512_set1_epi8(x as i8))
    }

    #[inline(always)]
    fn mask(self, bits: u64) -> __m512i {
        avx512!(_mm512_movm_epi8(bits))
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_add_epi8(a, b))
    }

    #[inline(always)]
    fn shr<const N: u32>(self, a: __m512i) -> __m512i {
        self.and(avx512!(_mm512_srli_epi16::<N>(a)), self.splat(0xff >> N))
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: __m512i) -> __m512i {
        self.and(avx512!(_mm512_slli_epi16::<N>(a)), self.splat(0xff << N))
    }

    #[inline(always)]
    fn lookup(self, table: __m512i, index: __m512i) -> __m512i {
        avx512!(_mm512_shuffle_epi8(table, index))
    }

    #[inline(always)]
    fn sixteen(self, bytes: [u64; 2]) -> __m256i {
        avx512!(_mm256_cvtepi8_epi16(_mm_set_epi64x(bytes[1] as i64, bytes[0] as i64)))
    }

    #[inline(always)]
    fn times(self, a: __m256i, factor: i16) -> __m256i {
        avx512!(_mm256_mullo_epi16(a, _mm256_set1_epi16(factor)))
    }

    #[inline(always)]
    fn spread(self, a: __m256i) -> [__m512i; 4] {
        avx512!({
            let a = _mm512_castsi256_si512(a);
            let eights = _mm512_shuffle_i64x2::<0b01_01_00_00>(a, a);
            let mut spread = [eights; 4];
            for v in 0..4 {
                spread[v] = _mm512_shuffle_epi8(eights, _mm512_loadu_si512(SPREAD[v].as_ptr().cast()));
            }
            spread
        })
    }

    #[inline(always)]
    fn no_sums(self) -> __m512i {
        avx512!(_mm512_setzero_si512())
    }

    #[inline(always)]
    fn dot_sixteen(self, sums: __m512i, a: __m256i, b: &[i16; 16]) -> __m512i {
        avx512!({
            let b = _mm256_loadu_si256(b.as_ptr().cast());
            dot_words(sums, _mm512_zextsi256_si512(a), _mm512_zextsi256_si512(b))
        })
    }

    #[inline(always)]
    fn dot_group(
        self,
        mut sums: __m512i,
        w: &[__m512i; 4],
        scale: &[__m512i; 4],
        a: &[__m512i; 4],
    ) -> __m512i {
        for v in 0..4 {
            // Two products of 127 and 127 fit 16 bits.
            sums = avx512!(dot_words(sums, _mm512_maddubs_epi16(w[v], a[v]), scale[v]));
        }
        sums
    }

    #[inline(always)]
    fn totals(self, sums: [__m512i; 4]) -> [i32; 4] {
        avx512!({
            let x = rows_to_lanes(sums);
            fold(_mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x)))
        })
    }

    #[inline(always)]
    fn iq2_xxs_dots<const C: usize>(
        self,
        blocks: [&[quants::iq2_xxs::Group; 8]; 4],
        cols: [&Turned256; C],
    ) -> [[i32; 4]; C] {
        avx512!(iq2_xxs::dots(blocks, cols))
    }

    const PAIR_BIASED: bool = true;

    #[inline(always)]
    fn signed(self, w: __m512i) -> __m512i {
        self.xor(w, self.splat(0x80)) // plus 128, unsigned
    }

    #[inline(always)]
    fn signed_lookup(self, table: __m512i, index: __m512i) -> __m512i {
        self.lookup(self.signed(table), index) // prepares a constant, once
    }

    #[inline(always)]
    fn dot_pair(self, w: __m512i, a: &[i8; 64]) -> __m512i {
        avx512!(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w, _mm512_loadu_si512(a.as_ptr().cast())))
    }

    #[inline(always)]
    fn pair_totals(self, sums: [__m512i; 4]) -> [[i32; 4]; 2] {
        avx512!({
            let x = rows_to_lanes(sums);
            [fold(_mm512_castsi512_si256(x)), fold(_mm512_extracti64x4_epi64::<1>(x))]
        })
    }

    #[inline(always)]
    fn put_sixteen(self, x: __m256i, to: &mut [i16; 16]) {
        avx512!(_mm256_storeu_si256(to.as_mut_ptr().cast(), x));
    }

    #[inline(always)]
    fn stored(self, w: __m512i) -> __m512i {
        w
    }

    #[inline(always)]
    fn loaded(self, w: __m512i) -> __m512i {
        w
    }

    #[inline(always)]
    fn iq2_xxs_panel(
        self,
        blocks: [&[quants::iq2_xxs::Group; 8]; 16],
        w: &mut [[Line; 16]; 4],
        scales: &mut [Line; 8],
    ) {
        avx512!(iq2_xxs::panel(blocks, w, scales));
    }

    #[inline(always)]
    fn scale_bytes(self, w: __m512i, scale: &[__m512i; 4], v: usize) -> __m512i {
        avx512!(_mm512_mullo_epi16(w, scale[v])) // no product is carried into the next byte
    }

    #[inline(always)]
    fn fours(self, x: &[i8; 4]) -> __m512i {
        avx512!(_mm512_set1_epi32(i32::from_le_bytes(transmute!(*x))))
    }

    #[inline(always)]
    fn dot_fours(self, sums: __m512i, w: __m512i, a: __m512i) -> __m512i {
        avx512!(_mm512_dpbusd_epi32(sums, w, a))
    }

    #[inline(always)]
    fn dot_fours_signed(self, sums: __m512i, w: __m512i, a: __m512i) -> __m512i {
        avx512!(_mm512_dpbusd_epi32(sums, w, a))
    }

    #[inline(always)]
    fn dot_twos(self, sums: __m512i, w: __m512i, a: __m512i) -> __m512i {
        avx512!(dot_words(sums, w, a))
    }

    #[inline(always)]
    fn add_times(self, sums: __m512i, x: __m512i, factor: __m512i) -> __m512i {
        avx512!(_mm512_add_epi32(sums, _mm512_mullo_epi32(x, factor)))
    }

    const TWO_TIMES: bool = true;

    #[inline(always)]
    fn add_two_times(self, sums: __m512i, [first, second]: [__m512i; 2], factors: __m512i) -> __m512i {
        // One multiplication instead of two: dot products want the same units.
        avx512!({
            let order = _mm512_load_si512((&raw const LOWER_WORDS).cast());
            dot_words(sums, _mm512_permutex2var_epi16(first, order, second), factors)
        })
    }

    #[inline(always)]
    fn mxfp4_panel(self, blocks: [&BlockMxfp4; 16], to: &mut [Line; 8]) -> bool {
        avx512!(mxfp4::panel(blocks, to));
        true
    }

    #[inline(always)]
    fn q2_k_panel(self, blocks: [&BlockQ2K; 16], part: &mut GroupPart) -> bool {
        avx512!(q2_k::panel(blocks, part));
        true
    }

    #[inline(always)]
    fn q4_k_panel(self, blocks: [&BlockQ4K; 16], part: &mut GroupPart) -> bool {
        avx512!(q4_k::panel(blocks, part));
        true
    }

    #[inline(always)]
    fn mxfp4_products<const C: usize>(
        self,
        rows: [&[BlockMxfp4]; 16],
        cols: [&[Chunk32]; C],
    ) -> Option<[[f32; 16]; C]> {
        rows[0].len().is_multiple_of(4).then(|| avx512!(mxfp4::products(self, rows, cols)))
    }

    #[inline(always)]
    fn q8_0_products<const C: usize>(
        self,
        rows: [&[BlockQ8_0]; 16],
        cols: [&[Chunk32]; C],
    ) -> Option<[[f32; 16]; C]> {
        rows[0].len().is_multiple_of(2).then(|| avx512!(q8_0::products(self, rows, cols)))
    }

    #[inline(always)]
    fn q2_k_products<const C: usize>(
        self,
        rows: [&[BlockQ2K]; 16],
        cols: [&[Chunk256]; C],
    ) -> Option<[[f32; 16]; C]> {
        Some(avx512!(q2_k::products(self, rows, cols)))
    }

    #[inline(always)]
    fn q4_k_products<const C: usize>(
        self,
        rows: [&[BlockQ4K]; 16],
        cols: [&[Chunk256]; C],
    ) -> Option<[[f32; 16]; C]> {
        Some(avx512!(q4_k::products(self, rows, cols)))
    }

    #[inline(always)]
    fn iq2_xxs_products<const C: usize>(
        self,
        rows: [&[BlockIq2Xxs]; 16],
        cols: [&[Turned256]; C],
    ) -> Option<[[f32; 16]; C]> {
        Some(avx512!(iq2_xxs::products(self, rows, cols)))
    }

    #[inline(always)]
    fn f16x4(self, bits: [u16; 4]) -> [f32; 4] {
        avx512!(f16x4(bits))
    }

    #[inline(always)]
    fn floats(self, x: &[f32; 16]) -> __m512 {
        avx512!(_mm512_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn floats_f32(self, x: &[u8; 64]) -> __m512 {
        avx512!(_mm512_loadu_ps(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn floats_f16(self, x: &[u8; 32]) -> __m512 {
        avx512!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn floats_bf16(self, x: &[u8; 32]) -> __m512 {
        avx512!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    fn no_floats(self) -> __m512 {
        avx512!(_mm512_setzero_ps())
    }

    #[inline(always)]
    fn add_products(self, sum: __m512, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_add_ps(sum, _mm512_mul_ps(a, b)))
    }

    #[inline(always)]
    fn sum_floats(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn difference(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        avx512!(sum(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a))))
    }

    const WIDE: bool = true;

    #[inline(always)]
    fn splat_float(self, x: f32) -> __m512 {
        avx512!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn put_floats(self, a: __m512, to: &mut [f32; 16]) {
        avx512!(_mm512_storeu_ps(to.as_mut_ptr(), a));
    }

    #[inline(always)]
    fn fused(self, sum: __m512, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_fmadd_ps(a, b, sum))
    }

    #[inline(always)]
    fn product(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn times_power(self, a: __m512, power: __m512) -> __m512 {
        // Exponents are added where nothing else is done, for multiplications wait for dot products.
        avx512!({
            let exponent = _mm512_sub_epi32(_mm512_castps_si512(power), _mm512_set1_epi32(0x3f80_0000));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), exponent))
        })
    }

    #[inline(always)]
    fn larger(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn fp8(self, codes: &[u8; 64]) -> [__m512; 4] {
        avx512!({
            // Bytes are widened by interleaving within quarters: word `4 q + k` goes to `4 k + q` first.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let codes = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(codes.as_ptr().cast()));
            let mut parts = [codes; 2];
            for i in 0..2 {
                let first = _mm512_loadu_si512(FP8[i][0].as_ptr().cast());
                let second = _mm512_loadu_si512(FP8[i][1].as_ptr().cast());
                parts[i] = _mm512_permutex2var_epi8(first, codes, second);
            }
            let [low, high] = parts;
            let high = _mm512_or_si512(high, _mm512_and_si512(codes, _mm512_set1_epi8(i8::MIN)));
            let words = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
            let zero = _mm512_setzero_si512();
            [
                _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, words[0])),
                _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, words[0])),
                _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, words[1])),
                _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, words[1])),
            ]
        })
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m512i {
        avx512!(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    fn ints(self, x: &[i32; 16]) -> __m512i {
        avx512!(_mm512_loadu_si512(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn put_ints(self, a: __m512i, to: &mut [i32; 16]) {
        avx512!(_mm512_storeu_si512(to.as_mut_ptr().cast(), a));
    }

    #[inline(always)]
    fn put_low_bytes(self, a: __m512, to: &mut [i8; 16]) {
        let bytes = avx512!(_mm512_cvtepi32_epi8(_mm512_castps_si512(a)));
        avx512!(_mm_storeu_si128(to.as_mut_ptr().cast(), bytes));
    }

    #[inline(always)]
    fn sums_of_quarters(self, q: &[[i8; 64]; 4]) -> [[i32; 4]; 4] {
        avx512!({
            let mut fours = [_mm512_setzero_si512(); 4];
            for (fours, q) in fours.iter_mut().zip(q) {
                let q = _mm512_loadu_si512(q.as_ptr().cast());
                *fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), q);
            }
            let mut sums = [[0; 4]; 4];
            _mm512_storeu_si512((&raw mut sums).cast(), rows_to_lanes(fours));
            sums
        })
    }

    #[inline(always)]
    fn turn(self, q: &[[i8; 64]; 4], turned: &mut [[i8; 32]; 8]) {
        avx512!(iq2_xxs::turn(q, turned));
    }

    #[inline(always)]
    fn as_floats(self, a: __m512i) -> __m512 {
        avx512!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn put_bytes(self, a: __m512i, to: &mut [u8; 64]) {
        avx512!(_mm512_storeu_si512(to.as_mut_ptr().cast(), a));
    }

    #[inline(always)]
    fn transpose(self, rows: [__m512i; 16]) -> [__m512i; 16] {
        avx512!(transpose(rows))
    }

    #[inline(always)]
    fn prefetch(self, base: &[u8], offset: usize) {
        prefetch(base, offset);
    }
}

/// 64 bytes that are loaded at once.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Aligned<T>(T);

impl Aligned<[u32; 16]> {
    /// The words, a lane each. The read is volatile because the compiler would otherwise put the vector together
    /// word by word in the shuffle units, which are busy.
    ///
    /// Needs AVX-512 F; inlined as the compiler's own intrinsics are.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(&self) -> __m512i {
        // SAFETY: the array has the size and the alignment of the vector.
        unsafe { (&raw const self.0).cast::<__m512i>().read_volatile() }
    }
}

/// Adds products of 16-bit numbers, two to a lane: `vpdpwssd`, which the compiler would take apart.
///
/// Needs AVX-512 F and VNNI; inlined as the compiler's own intrinsics are.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_words(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the CPU has AVX-512 VNNI, and the instruction touches only its registers.
    unsafe {
        asm!(
            "vpdpwssd {sums}, {a}, {b}",
            sums = inout(zmm_reg) sums,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Puts four of 64 bytes into lane `row`: those at the places that lane of `places` says.
///
/// As an instruction, since the compiler knows better: of sixteen such loads and shuffles in a row it makes several
/// times as many.
///
/// Needs AVX-512 F and VBMI; inlined as the compiler's own intrinsics are.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn put_lane(mut lanes: __m512i, row: usize, places: __m512i, bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the CPU has AVX-512 VBMI, and the instruction reads only the bytes.
    unsafe {
        asm!(
            "vpermb {lanes} {{{lane}}}, {places}, zmmword ptr [{bytes}]",
            lanes = inout(zmm_reg) lanes,
            lane = in(kreg) 0xf_u64 << (4 * row),
            places = in(zmm_reg) places,
            bytes = in(reg) bytes.as_ptr(),
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    lanes
}

/// Adds within each quarter so that lane `r` of a quarter belongs to row `r`.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn rows_to_lanes(s: [__m512i; 4]) -> __m512i {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]), _mm512_unpackhi_epi32(s[0], s[1]));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]), _mm512_unpackhi_epi32(s[2], s[3]));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}

/// Adds up quarters: from four registers of [`rows_to_lanes`], the total of row `r` in lane `r`.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn row_totals([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
        let cd = _mm512_add_epi32(_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
        _mm512_add_epi32(_mm512_shuffle_i64x2::<0x88>(ab, cd), _mm512_shuffle_i64x2::<0xdd>(ab, cd))
    }
}

/// As [`row_totals`], of the first two quarters and of the last two.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn half_totals([a, b, c, d]: [__m512i; 4]) -> [__m512i; 2] {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
        let cd = _mm512_add_epi32(_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
        [_mm512_shuffle_i64x2::<0x88>(ab, cd), _mm512_shuffle_i64x2::<0xdd>(ab, cd)]
    }
}

/// The values of the f16 in the lower half of each lane.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn words_as_f32(x: __m512i) -> __m512 {
    // SAFETY: the caller has AVX-512 F.
    unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)) }
}

/// The upper half of each lane, as the lower.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn upper_words(x: __m512i) -> __m512i {
    // SAFETY: the caller has AVX-512 F.
    unsafe { _mm512_srli_epi32::<16>(x) }
}

/// To a line of memory.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn put_line(to: &mut Line, x: __m512i) {
    // SAFETY: the caller has the feature; a line is as long as the vector, and aligned.
    unsafe { _mm512_store_si512((&raw mut *to).cast(), x) }
}

/// Four times 16 bytes, side by side.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn quarters([a, b, c, d]: [&[u8; 16]; 4]) -> __m512i {
    // SAFETY: the caller has the feature; loads are of 16 bytes from arrays of that size.
    unsafe {
        let mut x = _mm512_castsi128_si512(_mm_loadu_si128(a.as_ptr().cast()));
        x = _mm512_mask_broadcast_i32x4(x, 0x00f0, _mm_loadu_si128(b.as_ptr().cast()));
        x = _mm512_mask_broadcast_i32x4(x, 0x0f00, _mm_loadu_si128(c.as_ptr().cast()));
        _mm512_mask_broadcast_i32x4(x, 0xf000, _mm_loadu_si128(d.as_ptr().cast()))
    }
}

/// Brings four words of each of 16 rows to a lane for each row.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn quarters_to_lanes(rows: [&[u8; 16]; 16]) -> [__m512i; 4] {
    // SAFETY: the caller has the feature.
    unsafe {
        let mut r = [_mm512_setzero_si512(); 4];
        for i in 0..4 {
            r[i] = quarters([rows[i], rows[4 + i], rows[8 + i], rows[12 + i]]);
        }
        let ab = [_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[0], r[1])];
        let cd = [_mm512_unpacklo_epi32(r[2], r[3]), _mm512_unpackhi_epi32(r[2], r[3])];
        [
            _mm512_unpacklo_epi64(ab[0], cd[0]),
            _mm512_unpackhi_epi64(ab[0], cd[0]),
            _mm512_unpacklo_epi64(ab[1], cd[1]),
            _mm512_unpackhi_epi64(ab[1], cd[1]),
        ]
    }
}

/// Transposes a square of 32-bit words.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        // Within each quarter: squares of four rows.
        let mut t = r;
        for i in (0..16).step_by(4) {
            let ab = [_mm512_unpacklo_epi32(r[i], r[i + 1]), _mm512_unpackhi_epi32(r[i], r[i + 1])];
            let cd = [_mm512_unpacklo_epi32(r[i + 2], r[i + 3]), _mm512_unpackhi_epi32(r[i + 2], r[i + 3])];
            for half in 0..2 {
                t[i + 2 * half] = _mm512_unpacklo_epi64(ab[half], cd[half]);
                t[i + 2 * half + 1] = _mm512_unpackhi_epi64(ab[half], cd[half]);
            }
        }
        // Quarters of four such rows: a square of quarters.
        let mut out = t;
        for i in 0..4 {
            let ab = [
                _mm512_shuffle_i32x4::<0b01_00_01_00>(t[i], t[i + 4]),
                _mm512_shuffle_i32x4::<0b11_10_11_10>(t[i], t[i + 4]),
            ];
            let cd = [
                _mm512_shuffle_i32x4::<0b01_00_01_00>(t[i + 8], t[i + 12]),
                _mm512_shuffle_i32x4::<0b11_10_11_10>(t[i + 8], t[i + 12]),
            ];
            for half in 0..2 {
                out[8 * half + i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab[half], cd[half]);
                out[8 * half + 4 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab[half], cd[half]);
            }
        }
        out
    }
}
