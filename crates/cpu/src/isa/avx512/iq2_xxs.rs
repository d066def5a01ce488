//! IQ2_XXS with its whole code book in registers.
//!
//! Loading eight magnitudes at a time from a table is bound by loads and inserts. Here the 256 rows
//! of the code book are 512 bytes, 2 bits a magnitude, and byte permutations look up 64 rows at
//! once. From code to magnitude is an affine map over the two bits, and GFNI does one such map for
//! each eight bytes of a register, so the eight maps for the four codes in a byte are one
//! instruction. The price is another order of the weights in a vector, which [`order`] gives to the
//! activations too:
//!
//! ```text
//! position 16 f + 8 h + t  is weight 4 h + f of row t,  t = 0..8: four rows of each of two groups
//! ```
//!
//! Signs come out in this order as well: with the sign bits as its matrix, the same instruction
//! turns them and adds the parity.

use crate::dot::iq2_xxs::BIAS;
use core::arch::x86_64::*;
use quants::iq2_xxs::{GRID_LEVELS, Group, MAGNITUDES};

/// 64 bytes of constants, for one load.
#[repr(C, align(64))]
struct Aligned<T>(T);

/// The codes of the rows: first the low bytes of all 256 (weights 0 to 3), then the high bytes.
static CODES: Aligned<[[u8; 256]; 2]> = {
    let mut codes = [[0; 256]; 2];
    let mut row = 0;
    while row < 256 {
        let [low, high] = GRID_LEVELS[row].to_le_bytes();
        codes[0][row] = low;
        codes[1][row] = high;
        row += 1;
    }
    Aligned(codes)
};

/// The magnitude plus the bias of level 0.
const LEVEL_0: u8 = MAGNITUDES[0] + BIAS;

/// The maps from a byte of four codes to what code `f` changes about [`LEVEL_0`]: for each `f` twice
/// a matrix of eight bytes, of which byte `7 - i` says which bits of the codes meet in bit `i`.
static MAPS: Aligned<[[u8; 8]; 8]> = {
    let changes = [LEVEL_0 ^ (MAGNITUDES[1] + BIAS), LEVEL_0 ^ (MAGNITUDES[2] + BIAS)];
    let mut maps = [[0; 8]; 8];
    let mut at = 0;
    while at < 8 * 8 {
        let (f, i) = (at / 16, at % 8);
        let bits = (changes[0] >> i & 1) | (changes[1] >> i & 1) << 1;
        maps[at / 8][7 - i] = bits << (2 * f);
        at += 1;
    }
    Aligned(maps)
};

/// Where position `i` of a vector finds its activation.
static ORDER: Aligned<[u8; 64]> = {
    let mut order = [0; 64];
    let mut i = 0;
    while i < 64 {
        let (f, h, t) = (i / 16, i / 8 % 2, i % 8);
        order[i] = (8 * t + 4 * h + f) as u8;
        i += 1;
    }
    Aligned(order)
};

/// The weights of two blocks, each plus [`BIAS`], in the order of this file, and their scales
/// `2 s + 1`: beside the weights, and by 16 weights of the row.
///
/// # Safety
///
/// Needs AVX-512 F, BW, DQ, VL, VBMI and GFNI.
#[inline(always)]
pub(super) unsafe fn unpack(blocks: [&[Group; 8]; 2]) -> [([__m512i; 4], [__m512i; 4], __m256i); 2] {
    // SAFETY: the caller has the features; loads are of 64 bytes from arrays of at least that size.
    unsafe {
        let a = _mm512_loadu_si512(blocks[0].as_ptr().cast());
        let b = _mm512_loadu_si512(blocks[1].as_ptr().cast());
        // Group g of `a` is words 2 g (its rows) and 2 g + 1 (signs and scale), of `b` 16 further on.
        let rows_of = _mm512_setr_epi32(0, 8, 16, 24, 2, 10, 18, 26, 4, 12, 20, 28, 6, 14, 22, 30);
        let signs_of = _mm512_setr_epi32(1, 9, 3, 11, 5, 13, 7, 15, 17, 25, 19, 27, 21, 29, 23, 31);
        // Quarter v: the eight rows of vector v of `a`, then of `b`.
        let rows = _mm512_permutex2var_epi32(a, rows_of, b);
        // Eight bytes v: the signs and scales of vector v of `a`; 4 + v: of `b`.
        let signs = _mm512_permutex2var_epi32(a, signs_of, b);

        let (low, high) = (look_up(&CODES.0[0], rows), look_up(&CODES.0[1], rows));
        let masks = through_memory(masks(signs));
        let scales = scales(signs);
        let by_vector = through_memory(scales);
        // From the order of the vectors to that of the groups.
        let groups = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
        let by_group = _mm512_permutexvar_epi32(groups, scales);
        [
            (
                weights(_mm512_unpacklo_epi64(low, high), &masks[..4]),
                spread(&by_vector[..4]),
                _mm512_castsi512_si256(by_group),
            ),
            (
                weights(_mm512_unpackhi_epi64(low, high), &masks[4..]),
                spread(&by_vector[4..]),
                _mm512_extracti64x4_epi64::<1>(by_group),
            ),
        ]
    }
}

/// Activations in the order of this file.
///
/// # Safety
///
/// Needs AVX-512 F and VBMI.
#[inline(always)]
pub(super) unsafe fn order(a: __m512i) -> __m512i {
    // SAFETY: the caller has the features; the load is of 64 bytes.
    unsafe { _mm512_permutexvar_epi8(_mm512_load_si512(ORDER.0.as_ptr().cast()), a) }
}

/// `table[index]` for 64 indices.
///
/// # Safety
///
/// Needs AVX-512 BW and VBMI.
#[inline(always)]
unsafe fn look_up(table: &[u8; 256], index: __m512i) -> __m512i {
    // SAFETY: the caller has the features; the four loads make up the table.
    unsafe {
        let part = |i: usize| _mm512_loadu_si512(table.as_ptr().add(64 * i).cast());
        let first = _mm512_permutex2var_epi8(part(0), index, part(1));
        let second = _mm512_permutex2var_epi8(part(2), index, part(3));
        _mm512_mask_mov_epi8(first, _mm512_movepi8_mask(index), second)
    }
}

/// The signs of the eight vectors, one bit a weight, from four times seven bits in each 32.
///
/// # Safety
///
/// Needs AVX-512 F, VBMI and GFNI.
#[inline(always)]
unsafe fn masks(signs: __m512i) -> __m512i {
    // SAFETY: the caller has the features.
    unsafe {
        // The bits of row 7 first: bit 53, then 46, 39, 32, 21, 14, 7, 0. A matrix lies that way.
        let offsets = _mm512_set1_epi64(0x0007_0e15_2027_2e35);
        let rows = _mm512_multishift_epi64_epi8(offsets, signs);
        // Byte 2 f + h wants bit 4 h + f of each row, and for the last the parity of all seven.
        let wanted = _mm512_set1_epi64(0x7f08_4004_2002_1001);
        _mm512_gf2p8affine_epi64_epi8::<0>(wanted, rows)
    }
}

/// `2 s + 1` of each group as two 16-bit numbers.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn scales(signs: __m512i) -> __m512i {
    // SAFETY: the caller has the features.
    unsafe {
        let twice = _mm512_and_si512(_mm512_srli_epi32::<27>(signs), _mm512_set1_epi32(0x1e));
        let odd = _mm512_or_si512(twice, _mm512_set1_epi32(1));
        _mm512_or_si512(odd, _mm512_slli_epi32::<16>(odd))
    }
}

/// The eight words of a register, by way of memory: from there a word goes to a mask register or to
/// all of a vector with a mere load, while the shuffle units are what this file is short of.
#[inline(always)]
fn through_memory(x: __m512i) -> [u64; 8] {
    let stored = Aligned(x);
    // SAFETY: both types are 64 bytes of plain numbers. Volatile, or the compiler would shuffle.
    unsafe { core::ptr::read_volatile((&raw const stored).cast()) }
}

/// The scales of a block beside its weights: those of two groups take turns.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn spread(scales: &[u64]) -> [__m512i; 4] {
    // SAFETY: the caller has the features.
    let all = |scale: u64| unsafe { _mm512_set1_epi64(scale as i64) };
    [all(scales[0]), all(scales[1]), all(scales[2]), all(scales[3])]
}

/// The weights of one block from the codes of its 32 rows: quarter v holds the low bytes of the
/// eight rows of vector v and then their high bytes.
///
/// # Safety
///
/// Needs AVX-512 F, BW and GFNI.
#[inline(always)]
unsafe fn weights(codes: __m512i, minus: &[u64]) -> [__m512i; 4] {
    // SAFETY: the caller has the features; the load is of 64 bytes.
    unsafe {
        let maps = _mm512_load_si512(MAPS.0.as_ptr().cast());
        let twice_bias = _mm512_set1_epi8(2 * BIAS as i8);
        let weights = |codes: __m512i, minus: u64| {
            let plus = _mm512_gf2p8affine_epi64_epi8::<{ LEVEL_0 as i32 }>(codes, maps);
            _mm512_mask_sub_epi8(plus, minus, twice_bias, plus)
        };
        [
            weights(_mm512_shuffle_i64x2::<0x00>(codes, codes), minus[0]),
            weights(_mm512_shuffle_i64x2::<0x55>(codes, codes), minus[1]),
            weights(_mm512_shuffle_i64x2::<0xaa>(codes, codes), minus[2]),
            weights(_mm512_shuffle_i64x2::<0xff>(codes, codes), minus[3]),
        ]
    }
}
