//! IQ2_XXS with its whole code book in registers.
//!
//! Loading eight magnitudes at a time from a table is bound by loads and inserts. Here the 256 rows
//! of the code book are 512 bytes, 2 bits a magnitude, and byte permutations look up the 64 rows of two
//! blocks at once. A register of code bytes becomes four registers of weights: byte `p` of each belongs to row `p`,
//! and a lane of four bytes is one group of 32 weights with one scale. Its eight dot products with activations
//! in the same order ([`Turned256`]) add up in the lane, and the scale is applied once.
//!
//! From codes to weights there are two ways, by maps over the bits of bytes, which GFNI has an instruction for. Where
//! weights are multiplied at once, two codes and their signs come together in six bits, and a permutation makes the
//! weights of them ([`Pairs`]). Panels keep the units that permute busy by themselves: there a map makes magnitudes,
//! and signs become masks ([`Masked`]).

#![allow(clippy::needless_range_loop, reason = "several arrays go by the same index")]

use super::{Aligned, put_line, words_as_f32};
use crate::dot::iq2_xxs::{BIAS, UNIT};
use crate::dot::{SIXTEEN_ROWS, Turned256, prefetch};
use crate::isa::{Avx512, Line};
use core::arch::x86_64::*;
use quants::iq2_xxs::{BlockIq2Xxs, GRID_LEVELS, Group, MAGNITUDES};

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

/// A map over the bits of each byte, from the input bits that meet in each output bit.
const fn map(inputs: [u8; 8]) -> i64 {
    let mut map = [0; 8];
    let mut i = 0;
    while i < 8 {
        map[7 - i] = inputs[i];
        i += 1;
    }
    i64::from_le_bytes(map)
}

/// The magnitude plus the bias of code 0.
const CODE_0: u8 = MAGNITUDES[0] + BIAS;

/// What code `f` of a byte of four changes about [`CODE_0`].
const fn magnitude_of(f: usize) -> i64 {
    let changes = [CODE_0 ^ (MAGNITUDES[1] + BIAS), CODE_0 ^ (MAGNITUDES[2] + BIAS)];
    let mut inputs = [0; 8];
    let mut i = 0;
    while i < 8 {
        inputs[i] = ((changes[0] >> i & 1) | (changes[1] >> i & 1) << 1) << (2 * f);
        i += 1;
    }
    map(inputs)
}

/// Takes the upper two of four codes to where the lower two are.
const UPPER_CODES: i64 = map([1 << 4, 1 << 5, 1 << 6, 1 << 7, 0, 0, 0, 0]);

/// Takes the signs of weights `2 p` and `2 p + 1` of a row out of its seven, to bits 4 and 5, where those of `p = 2` are
/// from the start. The eighth sign is the parity of the others.
const fn signs_of(p: usize) -> i64 {
    let (first, second) = if p == 3 { (1 << 6, 0x7f) } else { (1 << (2 * p), 2 << (2 * p)) };
    map([0, 0, 0, 0, first, second, 0, 0])
}

/// From two codes, four bits, and their two signs: the first weight plus [`BIAS`], and the second.
static WEIGHTS: Aligned<[[u8; 64]; 2]> = {
    let mut weights = [[0; 64]; 2];
    let mut i = 0;
    while i < 2 * 64 {
        let (which, bits) = (i / 64, i % 64);
        let (code, minus) = (bits >> (2 * which) & 3, bits >> (4 + which) & 1 == 1);
        let magnitude = if code < 3 { MAGNITUDES[code] } else { 0 }; // there is no fourth
        weights[which][bits] = if minus { BIAS - magnitude } else { BIAS + magnitude };
        i += 1;
    }
    Aligned(weights)
};

/// Which byte comes to each place when eight times eight bytes are turned.
static TURN: Aligned<[u8; 64]> = {
    let mut turn = [0; 64];
    let mut at = 0;
    while at < 64 {
        turn[at] = (8 * (at % 8) + at / 8) as u8;
        at += 1;
    }
    Aligned(turn)
};

/// `[columns, 16 rows]`
///
/// # Safety
///
/// Needs AVX-512 F, BW, DQ, VL, VNNI, VBMI and GFNI, and F16C.
#[inline(always)]
pub(super) unsafe fn products<const C: usize>(
    isa: Avx512,
    rows: [&[BlockIq2Xxs]; 16],
    cols: [&[Turned256]; C],
) -> [[f32; 16]; C] {
    let blocks = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == blocks) && cols.iter().all(|col| col.len() == blocks));
    let mut totals = [[0.0; 16]; C];
    // SAFETY: the caller has the features; loads and stores are of arrays of their size.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); C];
        if blocks == 0 {
            return totals;
        }
        let mut at_0 = four_blocks(&rows, 0, 0);
        for g in 0..blocks {
            let mut chunks = [&cols[0][g]; C];
            for c in 1..C {
                chunks[c] = &cols[c][g];
            }
            let mut units = Aligned([0_u32; 16]);
            for r in 0..16 {
                // Inside, as all blocks below, by the assertion on lengths.
                let block = rows[r].get_unchecked(g);
                prefetch(isa, SIXTEEN_ROWS, block, g, blocks);
                units.0[r] = block.d.get().into();
            }
            // Rows are paired so that their totals come out in order. It takes a while until they are looked up, so
            // the next rows are begun before these are used.
            let at_2 = four_blocks(&rows, 2, g);
            let from_0 = pair_totals(&at_0, chunks);
            let at_8 = four_blocks(&rows, 8, g);
            let from_2 = pair_totals(&at_2, chunks);
            let at_10 = four_blocks(&rows, 10, g);
            let from_8 = pair_totals(&at_8, chunks);
            at_0 = four_blocks(&rows, 0, (g + 1).min(blocks - 1));
            let from_10 = pair_totals(&at_10, chunks);
            let d = _mm512_mul_ps(words_as_f32(units.load()), _mm512_set1_ps(UNIT));
            for c in 0..C {
                let low = _mm512_add_epi32(
                    _mm512_unpacklo_epi64(from_0[c], from_2[c]),
                    _mm512_unpackhi_epi64(from_0[c], from_2[c]),
                );
                let high = _mm512_add_epi32(
                    _mm512_unpacklo_epi64(from_8[c], from_10[c]),
                    _mm512_unpackhi_epi64(from_8[c], from_10[c]),
                );
                let dots = _mm512_add_epi32(
                    _mm512_shuffle_i64x2::<0x88>(low, high),
                    _mm512_shuffle_i64x2::<0xdd>(low, high),
                );
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(chunks[c].scale));
                sums[c] = _mm512_add_ps(sums[c], _mm512_mul_ps(scale, _mm512_cvtepi32_ps(dots)));
            }
        }
        for c in 0..C {
            _mm512_storeu_ps(totals[c].as_mut_ptr(), sums[c]);
        }
    }
    totals
}

/// See [`Isa::iq2_xxs_dots`](crate::isa::Isa::iq2_xxs_dots).
///
/// # Safety
///
/// Needs AVX-512 F, BW, DQ, VL, VNNI, VBMI and GFNI.
#[inline(always)]
pub(super) unsafe fn dots<const C: usize>(blocks: [&[Group; 8]; 4], cols: [&Turned256; C]) -> [[i32; 4]; C] {
    // SAFETY: the caller has the features; loads are from arrays of at least their size.
    unsafe {
        let both = [Pairs::new(blocks[0], blocks[1]), Pairs::new(blocks[2], blocks[3])];
        let sums = group_sums(&both, cols);
        let mut totals = [[0; 4]; C];
        for c in 0..C {
            let [ab, cd] = sums[c];
            // The lanes of a, then of b; of c, then of d. Brought side by side, a and c take turns.
            let x = _mm512_add_epi32(_mm512_unpacklo_epi32(ab, cd), _mm512_unpackhi_epi32(ab, cd));
            let x = _mm512_add_epi32(x, _mm512_shuffle_epi32::<0b01_00_11_10>(x));
            let x = _mm512_add_epi32(x, _mm512_shuffle_i64x2::<0b10_11_00_01>(x, x));
            let (ac, bd) = (_mm512_castsi512_si128(x), _mm512_extracti32x4_epi32::<2>(x));
            _mm_storeu_si128(totals[c].as_mut_ptr().cast(), _mm_unpacklo_epi32(ac, bd));
        }
        totals
    }
}

/// Block `g` of rows `first` and four further on, and of the rows after these.
///
/// # Safety
///
/// As [`dots`], and the blocks must exist.
#[inline(always)]
unsafe fn four_blocks(rows: &[&[BlockIq2Xxs]; 16], first: usize, g: usize) -> [Pairs; 2] {
    // SAFETY: the caller has the features and the blocks.
    unsafe {
        let block = |r: usize| &rows[first + r].get_unchecked(g).groups;
        [Pairs::new(block(0), block(4)), Pairs::new(block(1), block(5))]
    }
}

/// The dot products of four blocks and each column, in pairs of lanes that have yet to be added: in the first two quarters
/// those of the first and of the third block take turns, in the others those of the second and the fourth.
///
/// # Safety
///
/// As [`dots`].
#[inline(always)]
unsafe fn pair_totals<const C: usize>(both: &[Pairs; 2], cols: [&Turned256; C]) -> [__m512i; C] {
    // SAFETY: the caller has the features.
    unsafe {
        let groups = group_sums(both, cols);
        let mut totals = [_mm512_setzero_si512(); C];
        for c in 0..C {
            let [ab, cd] = groups[c];
            totals[c] = _mm512_add_epi32(_mm512_unpacklo_epi32(ab, cd), _mm512_unpackhi_epi32(ab, cd));
        }
        totals
    }
}

/// The dot products of each group of 32 weights and each column, times the group's scale: a lane for each.
///
/// # Safety
///
/// As [`dots`].
#[inline(always)]
unsafe fn group_sums<const C: usize>([ab, cd]: &[Pairs; 2], cols: [&Turned256; C]) -> [[__m512i; 2]; C] {
    // SAFETY: the caller has the features; loads are from arrays of their size.
    unsafe {
        // Two chains of additions each, since one alone would take longer than all the rest.
        let mut sums = [[[_mm512_setzero_si512(); 2]; 2]; C];
        for c in 0..C {
            sums[c][0] = [twice(_mm256_load_si256(cols[c].unbias.as_ptr().cast())); 2];
        }
        for place in 0..8 {
            let (w_ab, w_cd, chain) = (ab.weights(place), cd.weights(place), place / 4);
            for c in 0..C {
                let a = twice(_mm256_load_si256(cols[c].turned[place].as_ptr().cast()));
                sums[c][chain][0] = _mm512_dpbusd_epi32(sums[c][chain][0], w_ab, a);
                sums[c][chain][1] = _mm512_dpbusd_epi32(sums[c][chain][1], w_cd, a);
            }
        }
        let scales = [scales(ab.signs_scale), scales(cd.signs_scale)];
        let mut scaled = [[_mm512_setzero_si512(); 2]; C];
        for c in 0..C {
            for two in 0..2 {
                let sum = _mm512_add_epi32(sums[c][0][two], sums[c][1][two]);
                scaled[c][two] = _mm512_mullo_epi32(sum, scales[two]);
            }
        }
        scaled
    }
}

/// See [`Isa::iq2_xxs_panel`](crate::isa::Isa::iq2_xxs_panel).
///
/// # Safety
///
/// As [`dots`].
#[inline(always)]
pub(super) unsafe fn panel(blocks: [&[Group; 8]; 16], w: &mut [[Line; 16]; 4], scales: &mut [Line; 8]) {
    // SAFETY: the caller has the features; stores are to lines.
    unsafe {
        // As `eights_to_lanes` wants them: rows 0 to 3 with 4 to 7, and 8 to 11 with 12 to 15.
        let mut looked_up = [Masked::new(blocks[0], blocks[4]); 8];
        for i in 1..8 {
            let first = i + 4 * (i / 4);
            looked_up[i] = Masked::new(blocks[first], blocks[first + 4]);
        }
        for h in 0..2 {
            for f in 0..4 {
                let maps = const { [magnitude_of(0), magnitude_of(1), magnitude_of(2), magnitude_of(3)] };
                let map = _mm512_set1_epi64(maps[f]);
                let place = 4 * h + f;
                let mut rows = [map; 8];
                for (row, two) in rows.iter_mut().zip(&looked_up) {
                    *row = two.weights(map, h, place);
                }
                let lanes = eights_to_lanes(rows);
                for g in 0..8 {
                    put_line(&mut w[place / 2][8 * (place % 2) + g], lanes[g]);
                }
            }
        }
        let mut rows = [_mm512_setzero_si512(); 8];
        for (row, two) in rows.iter_mut().zip(&looked_up) {
            *row = self::scales(two.signs_scale);
        }
        for (line, lanes) in scales.iter_mut().zip(eights_to_lanes(rows)) {
            put_line(line, lanes);
        }
    }
}

/// Brings eight words of each of 16 rows to a lane for each row. A register has two rows: the first four have rows 0
/// to 3 and then 4 to 7, the others rows 8 to 11 and then 12 to 15.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn eights_to_lanes(r: [__m512i; 8]) -> [__m512i; 8] {
    // SAFETY: the caller has the feature.
    unsafe {
        // Within each quarter: squares of four rows.
        let mut t = r;
        for i in [0, 4] {
            let ab = [_mm512_unpacklo_epi32(r[i], r[i + 1]), _mm512_unpackhi_epi32(r[i], r[i + 1])];
            let cd = [_mm512_unpacklo_epi32(r[i + 2], r[i + 3]), _mm512_unpackhi_epi32(r[i + 2], r[i + 3])];
            for half in 0..2 {
                t[i + 2 * half] = _mm512_unpacklo_epi64(ab[half], cd[half]);
                t[i + 2 * half + 1] = _mm512_unpackhi_epi64(ab[half], cd[half]);
            }
        }
        let mut lanes = t;
        for i in 0..4 {
            lanes[i] = _mm512_shuffle_i64x2::<0b10_00_10_00>(t[i], t[i + 4]);
            lanes[4 + i] = _mm512_shuffle_i64x2::<0b11_01_11_01>(t[i], t[i + 4]);
        }
        lanes
    }
}

/// See [`Isa::turn`](crate::isa::Isa::turn).
///
/// # Safety
///
/// Needs AVX-512 F and VBMI.
#[inline(always)]
pub(super) unsafe fn turn(q: &[[i8; 64]; 4], to: &mut [[i8; 32]; 8]) {
    for v in 0..4 {
        // Place by place the values of rows `4 v..4 v + 4` and then of those 16 further on.
        let mut turned = Aligned([[[0; 4]; 2]; 8]);
        // SAFETY: the caller has the features; loads and the store are of 64 bytes.
        unsafe {
            let order = _mm512_load_si512(TURN.0.as_ptr().cast());
            let x = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(q[v].as_ptr().cast()));
            _mm512_store_si512((&raw mut turned).cast(), x);
        }
        for place in 0..8 {
            let [low, high]: [[i8; 4]; 2] = turned.0[place];
            to[place][4 * v..][..4].copy_from_slice(&low);
            to[place][16 + 4 * v..][..4].copy_from_slice(&high);
        }
    }
}

/// Two blocks of different rows of weights, their 64 rows of the code book looked up: weights 0 to 3 of each, and weights
/// 4 to 7. Beside them one word a group, of seven signs a row and `s` in the top four bits.
///
/// # Safety
///
/// As [`dots`].
#[inline(always)]
unsafe fn codes_and_signs(a: &[Group; 8], b: &[Group; 8]) -> ([__m512i; 2], __m512i) {
    // SAFETY: the caller has the features; loads are of 64 bytes from arrays of that size.
    unsafe {
        let a = _mm512_loadu_si512(a.as_ptr().cast());
        let b = _mm512_loadu_si512(b.as_ptr().cast());
        // Group g of `a` is words 2 g (its rows) and 2 g + 1 (signs and scale), of `b` 16 further on.
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        let rows = _mm512_permutex2var_epi32(a, even, b);
        let codes = [look_up(&CODES.0[0], rows), look_up(&CODES.0[1], rows)];
        (codes, _mm512_permutex2var_epi32(a, odd, b))
    }
}

/// `2 s + 1` of each group.
///
/// # Safety
///
/// As [`dots`].
#[inline(always)]
unsafe fn scales(signs_scale: __m512i) -> __m512i {
    // SAFETY: the caller has the features.
    unsafe {
        let twice = _mm512_and_si512(_mm512_srli_epi32::<27>(signs_scale), _mm512_set1_epi32(0x1e));
        _mm512_or_si512(twice, _mm512_set1_epi32(1))
    }
}

/// Two blocks, to be multiplied.
#[derive(Clone, Copy)]
struct Pairs {
    /// For each two places in a row: the codes of the 64 rows there and their signs, as [`WEIGHTS`] wants them.
    pairs: [__m512i; 4],
    signs_scale: __m512i,
}

impl Pairs {
    /// # Safety
    ///
    /// As [`dots`].
    #[inline(always)]
    unsafe fn new(a: &[Group; 8], b: &[Group; 8]) -> Self {
        // SAFETY: the caller has the features.
        unsafe {
            let (codes, signs_scale) = codes_and_signs(a, b);
            // Bits 0, 7, 14 and 21 of each word begin the seven signs of a row.
            let signs = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x352e_2720_150e_0700), signs_scale);
            let low = _mm512_set1_epi8(15);
            let mut pairs = [signs; 4];
            for p in 0..4 {
                let (mut codes, mut signs) = (codes[p / 2], signs);
                if p % 2 == 1 {
                    codes = _mm512_gf2p8affine_epi64_epi8::<0>(codes, _mm512_set1_epi64(UPPER_CODES));
                }
                if p != 2 {
                    let map = const { [signs_of(0), signs_of(1), signs_of(2), signs_of(3)] }[p];
                    signs = _mm512_gf2p8affine_epi64_epi8::<0>(signs, _mm512_set1_epi64(map));
                }
                // Codes in the low bits, signs above them; two bits more do not count.
                pairs[p] = _mm512_ternarylogic_epi64::<0xca>(low, codes, signs);
            }
            Self { pairs, signs_scale }
        }
    }

    /// Weight `place` of each row plus [`BIAS`].
    ///
    /// # Safety
    ///
    /// As [`dots`].
    #[inline(always)]
    unsafe fn weights(&self, place: usize) -> __m512i {
        // SAFETY: the caller has the features; the load is of 64 bytes from an array of that size.
        unsafe {
            let table = _mm512_load_si512(WEIGHTS.0[place % 2].as_ptr().cast());
            _mm512_permutexvar_epi8(self.pairs[place / 2], table)
        }
    }
}

/// Two blocks, to be put into a panel.
#[derive(Clone, Copy)]
struct Masked {
    /// Weights 0 to 3 of each row of the code book, and weights 4 to 7.
    codes: [__m512i; 2],
    /// For each place in a row: which of the 64 rows have a minus there.
    minus: Aligned<[u64; 8]>,
    signs_scale: __m512i,
}

impl Masked {
    /// # Safety
    ///
    /// As [`dots`].
    #[inline(always)]
    unsafe fn new(a: &[Group; 8], b: &[Group; 8]) -> Self {
        // SAFETY: the caller has the features.
        unsafe {
            let (codes, signs_scale) = codes_and_signs(a, b);
            Self { codes, minus: masks(signs_scale), signs_scale }
        }
    }

    /// Weight `place` of each row plus [`BIAS`]: one of four in half `h` of its codes, by its map.
    ///
    /// # Safety
    ///
    /// As [`dots`].
    #[inline(always)]
    unsafe fn weights(&self, map: __m512i, h: usize, place: usize) -> __m512i {
        // SAFETY: the caller has the features. The read is volatile because a word goes from memory to a mask
        // register with a mere load, where the compiler would use the shuffle units, which are busy.
        unsafe {
            let minus = (&raw const self.minus.0[place]).read_volatile();
            let plus = _mm512_gf2p8affine_epi64_epi8::<{ CODE_0 as i32 }>(self.codes[h], map);
            _mm512_mask_sub_epi8(plus, minus, _mm512_set1_epi8(2 * BIAS as i8), plus)
        }
    }
}

/// For each place in a row: which of the 64 rows have a minus there, from four times seven bits in each 32.
///
/// # Safety
///
/// Needs AVX-512 F, VBMI and GFNI.
#[inline(always)]
unsafe fn masks(signs: __m512i) -> Aligned<[u64; 8]> {
    // SAFETY: the caller has the features; load and store are of 64 aligned bytes.
    unsafe {
        // The bits of row 7 first: bit 53, then 46, 39, 32, 21, 14, 7, 0. A matrix lies that way.
        let offsets = _mm512_set1_epi64(0x0007_0e15_2027_2e35);
        let rows = _mm512_multishift_epi64_epi8(offsets, signs);
        // Byte i wants bit i of each row, and the last byte the parity of all seven.
        let wanted = _mm512_set1_epi64(0x7f40_2010_0804_0201);
        let by_place = _mm512_gf2p8affine_epi64_epi8::<0>(wanted, rows);
        let turned = _mm512_permutexvar_epi8(_mm512_load_si512(TURN.0.as_ptr().cast()), by_place);
        let mut masks = Aligned([0; 8]);
        _mm512_store_si512(masks.0.as_mut_ptr().cast(), turned);
        masks
    }
}

/// A vector in both halves of a register.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn twice(x: __m256i) -> __m512i {
    // SAFETY: the caller has the feature.
    unsafe { _mm512_broadcast_i64x4(x) }
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
