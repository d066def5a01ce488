//! Q2_K: a block of each of 16 rows at a time.
//!
//! A code times its scale is at most 45 and fits a byte: so a byte shuffle looks up products, in a table for
//! each 16 weights, and one chain of dot products goes through the block. The table has sixteen entries for
//! four codes, so that it can be asked with the neighbouring code still in the index.
//!
//! Minima meet sums of 16 activations, which are taken apart into two signed bytes: then the minima of four
//! rows are one register of bytes, too.

#![allow(clippy::needless_range_loop, reason = "several arrays go by the same index")]

use super::{
    Aligned, put_line, quarters, quarters_to_lanes, row_totals, rows_to_lanes, transpose, upper_words,
    words_as_f32,
};
use crate::dot::{Chunk256, GroupPart, SIXTEEN_ROWS, prefetch};
use crate::isa::{Avx512, Line};
use core::arch::x86_64::*;
use quants::q2_k::BlockQ2K;

/// The lower part of a sum of activations has so many bits; the rest fits a signed byte.
const LOW_BITS: u32 = 7;
const _: () = assert!(16 * 127 < 128 << LOW_BITS);

/// `[columns, 16 rows]`
///
/// # Safety
///
/// Needs AVX-512 F, BW, VL, VNNI and VBMI.
#[inline(always)]
pub(super) unsafe fn products<const C: usize>(
    isa: Avx512,
    rows: [&[BlockQ2K]; 16],
    cols: [&[Chunk256]; C],
) -> [[f32; 16]; C] {
    let blocks = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == blocks) && cols.iter().all(|col| col.len() == blocks));
    let mut totals = [[0.0; 16]; C];
    // SAFETY: the caller has the features; stores are to arrays of 16 floats.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); C];
        for g in 0..blocks {
            let mut units = Aligned([0_u32; 16]);
            let mut fours = [[_mm512_setzero_si512(); 4]; C];
            for four in 0..4 {
                let mut dots = [[_mm512_setzero_si512(); 4]; C];
                for r in 0..4 {
                    let row = 4 * four + r;
                    // Inside, by the assertion on lengths.
                    let block = rows[row].get_unchecked(g);
                    prefetch(isa, SIXTEEN_ROWS, block, g, blocks);
                    units.0[row] = u32::from(block.d.get()) | u32::from(block.dmin.get()) << 16;
                    let w = weights(block);
                    for c in 0..C {
                        for v in 0..4 {
                            let q = _mm512_loadu_si512(cols[c][g].q[v].as_ptr().cast());
                            dots[c][r] = _mm512_dpbusd_epi32(dots[c][r], w[v], q);
                        }
                    }
                }
                for c in 0..C {
                    fours[c][four] = rows_to_lanes(dots[c]);
                }
            }
            let mut minima = [_mm512_setzero_si512(); 4];
            for (r, minima) in minima.iter_mut().enumerate() {
                // A quarter is a row, and its four lanes come together in lane `r` of it.
                *minima = minima_of([0, 4, 8, 12].map(|first| rows[first + r].get_unchecked(g)));
            }
            let units = units.load();
            let (d, dmin) = (words_as_f32(units), words_as_f32(upper_words(units)));
            for c in 0..C {
                let parts = sum_parts(&cols[c][g]);
                let mut dots = [_mm512_setzero_si512(); 4];
                for r in 0..4 {
                    dots[r] = dot_minima(minima[r], parts);
                }
                let (sum, min) = (row_totals(fours[c]), rows_to_lanes(dots));
                let a = _mm512_set1_ps(cols[c][g].scale);
                let sum = _mm512_mul_ps(_mm512_mul_ps(d, a), _mm512_cvtepi32_ps(sum));
                let min = _mm512_mul_ps(_mm512_mul_ps(dmin, a), _mm512_cvtepi32_ps(min));
                sums[c] = _mm512_add_ps(sums[c], _mm512_sub_ps(sum, min));
            }
        }
        for c in 0..C {
            _mm512_storeu_ps(totals[c].as_mut_ptr(), sums[c]);
        }
    }
    totals
}

/// See [`Isa::q2_k_panel`](crate::isa::Isa::q2_k_panel). Codes and scales are brought to their lanes as they lie in the
/// block, and taken apart there.
///
/// # Safety
///
/// Needs AVX-512 F, BW and F16C.
#[inline(always)]
pub(super) unsafe fn panel(blocks: [&BlockQ2K; 16], part: &mut GroupPart) {
    // SAFETY: the caller has the features; loads are from arrays of their size.
    unsafe {
        let mut units = Aligned([0_u32; 16]);
        let mut scales = [&blocks[0].scales; 16];
        let mut rows = [_mm512_setzero_si512(); 16];
        for r in 0..16 {
            units.0[r] = u32::from(blocks[r].d.get()) | u32::from(blocks[r].dmin.get()) << 16;
            scales[r] = &blocks[r].scales;
            rows[r] = _mm512_loadu_si512(blocks[r].qs.as_ptr().cast());
        }
        let units = units.load();
        _mm512_store_ps(part.d.as_mut_ptr(), words_as_f32(units));
        _mm512_store_ps(part.dmin.as_mut_ptr(), words_as_f32(upper_words(units)));
        // Word `j / 4` of a row has scale `j` in the low nibble of byte `j % 4`, and the minimum in the high one.
        let low = _mm512_set1_epi8(15);
        let words = quarters_to_lanes(scales);
        let mut factors = [[_mm512_setzero_si512(); 4]; 4];
        for (i, word) in words.into_iter().enumerate() {
            let scales = _mm512_and_si512(word, low);
            let minima = _mm512_and_si512(_mm512_srli_epi16::<4>(word), low);
            for j in 0..4 {
                factors[i][j] = _mm512_shuffle_epi8(scales, _mm512_broadcast_i32x4(bytes_to_words([j, j])));
            }
            for two in 0..2 {
                let pair = bytes_to_words([2 * two, 2 * two + 1]);
                put_line(
                    &mut part.numbers[8 + 2 * i + two],
                    _mm512_shuffle_epi8(minima, _mm512_broadcast_i32x4(pair)),
                );
            }
        }
        let three = _mm512_set1_epi8(3);
        for (line, x) in transpose(rows).into_iter().enumerate() {
            for v in 0..4 {
                let codes = _mm512_and_si512(_mm512_srlv_epi32(x, _mm512_set1_epi32(2 * v as i32)), three);
                let j = 8 * (line / 8) + 2 * v + line % 8 / 4;
                // Words are multiplied, but no product of a byte reaches the next one.
                put_line(&mut part.w[v][line], _mm512_mullo_epi16(codes, factors[j / 4][j % 4]));
            }
        }
    }
}

/// Index for a byte shuffle within words that makes two of the four bytes of each 16-bit numbers.
///
/// # Safety
///
/// Needs SSE2.
#[inline(always)]
unsafe fn bytes_to_words([first, second]: [usize; 2]) -> __m128i {
    let index = |word: i32| word | 0x80 << 8 | (word - first as i32 + second as i32) << 16 | i32::MIN;
    let [a, b, c, d] = [0, 4, 8, 12].map(|at| index(at + first as i32));
    // SAFETY: the caller has the feature.
    unsafe { _mm_setr_epi32(a, b, c, d) }
}

/// Where each byte of the table for vector `v` comes from: from four times 16 bytes, which are the scales times 0, 1,
/// 2 and 3. Entry `e` is for the code in the lower two bits of `e` if `v` is even, else in the upper two.
static TABLES: [Line; 4] = {
    let mut tables = [Line::ZERO; 4];
    let mut at = 0;
    while at < 4 * 64 {
        let (v, quarter, entry) = (at / 64, at / 16 % 4, at % 16);
        let code = if v % 2 == 0 { entry % 4 } else { entry / 4 };
        let scale = 8 * (quarter / 2) + 2 * v + quarter % 2;
        tables[v].0[at % 64] = (16 * code + scale) as u8;
        at += 1;
    }
    tables
};

/// The codes of a block times their scales, in the order of a group.
///
/// # Safety
///
/// Needs AVX-512 F, BW and VBMI.
#[inline(always)]
unsafe fn weights(block: &BlockQ2K) -> [__m512i; 4] {
    // SAFETY: the caller has the features; loads are from arrays of their size.
    unsafe {
        let low = _mm512_set1_epi8(15);
        let scales = _mm512_broadcast_i32x4(_mm_loadu_si128(block.scales.as_ptr().cast()));
        let codes = _mm512_setr_epi64(
            0,
            0,
            0x0001_0001_0001_0001,
            0x0001_0001_0001_0001,
            0x0002_0002_0002_0002,
            0x0002_0002_0002_0002,
            0x0003_0003_0003_0003,
            0x0003_0003_0003_0003,
        );
        // Words are multiplied, but no product of a byte reaches the next one.
        let multiples = _mm512_mullo_epi16(_mm512_and_si512(scales, low), codes);
        let q = _mm512_loadu_si512(block.qs.as_ptr().cast());
        let pairs = [_mm512_and_si512(q, low), _mm512_and_si512(_mm512_srli_epi16::<4>(q), low)];
        let mut w = [q; 4];
        for v in 0..4 {
            let index = _mm512_load_si512((&raw const TABLES[v]).cast());
            w[v] = _mm512_shuffle_epi8(_mm512_permutexvar_epi8(index, multiples), pairs[v / 2]);
        }
        w
    }
}

/// The minima of four blocks, a block to a quarter.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn minima_of(blocks: [&BlockQ2K; 4]) -> __m512i {
    // SAFETY: the caller has the feature; loads are of 16 bytes from arrays of that size.
    unsafe {
        let x = quarters([&blocks[0].scales, &blocks[1].scales, &blocks[2].scales, &blocks[3].scales]);
        _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15))
    }
}

/// The sums of activations as bytes in each quarter: the lower bits, and what is above them.
///
/// # Safety
///
/// Needs AVX-512 F, BW and VL.
#[inline(always)]
unsafe fn sum_parts(chunk: &Chunk256) -> [__m512i; 2] {
    // SAFETY: the caller has the features; the load is of 16 words from an array of that size.
    unsafe {
        let sums = _mm256_loadu_si256(chunk.sum.as_ptr().cast());
        let low = _mm256_and_si256(sums, _mm256_set1_epi16((1 << LOW_BITS) - 1));
        let high = _mm256_srai_epi16::<{ LOW_BITS as i32 }>(sums);
        [
            _mm512_broadcast_i32x4(_mm256_cvtepi16_epi8(low)),
            _mm512_broadcast_i32x4(_mm256_cvtepi16_epi8(high)),
        ]
    }
}

/// Four lanes a quarter, whose sum is the dot product of its minima and the sums of activations.
///
/// # Safety
///
/// Needs AVX-512 F and VNNI.
#[inline(always)]
unsafe fn dot_minima(minima: __m512i, [low, high]: [__m512i; 2]) -> __m512i {
    // SAFETY: the caller has the features.
    unsafe {
        let high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), minima, high);
        _mm512_dpbusd_epi32(_mm512_slli_epi32::<LOW_BITS>(high), minima, low)
    }
}
