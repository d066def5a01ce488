//! Q4_K: a block of each of 16 rows at a time.
//!
//! A register of codes has two groups of 32 weights in its low nibbles and two in the high ones. The dot products of
//! 16 rows are added up together until each group of each row has one lane: so scales multiply once for 16 rows.
//! They come to their lanes as they lie in the block, and are taken apart there. So do whole blocks for panels.

#![allow(clippy::needless_range_loop, reason = "several arrays go by the same index")]

use super::{half_totals, put_line, quarters_to_lanes, rows_to_lanes, transpose, upper_words, words_as_f32};
use crate::dot::{Chunk256, GroupPart, SIXTEEN_ROWS, prefetch};
use crate::isa::Avx512;
use core::arch::x86_64::*;
use quants::q4_k::BlockQ4K;
use zerocopy::IntoBytes;

/// `[columns, 16 rows]`
///
/// # Safety
///
/// Needs AVX-512 F, BW and VNNI, and F16C.
#[inline(always)]
pub(super) unsafe fn products<const C: usize>(
    isa: Avx512,
    rows: [&[BlockQ4K]; 16],
    cols: [&[Chunk256]; C],
) -> [[f32; 16]; C] {
    let blocks = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == blocks) && cols.iter().all(|col| col.len() == blocks));
    let mut totals = [[0.0; 16]; C];
    // SAFETY: the caller has the features; stores are to arrays of 16 floats.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); C];
        for g in 0..blocks {
            let mut acts = [acts_in_order(&cols[0][g]); C];
            for c in 1..C {
                acts[c] = acts_in_order(&cols[c][g]);
            }
            let mut heads = [head(rows[0].get_unchecked(g)); 16];
            let mut fours = [[[_mm512_setzero_si512(); 4]; 4]; C];
            for four in 0..4 {
                let mut dots = [[[_mm512_setzero_si512(); 4]; 4]; C];
                for r in 0..4 {
                    let row = 4 * four + r;
                    // Inside, by the assertion on lengths.
                    let block = rows[row].get_unchecked(g);
                    prefetch(isa, SIXTEEN_ROWS, block, g, blocks);
                    heads[row] = head(block);
                    let w = weights(block);
                    for c in 0..C {
                        for v in 0..4 {
                            dots[c][v][r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[v], acts[c][v]);
                        }
                    }
                }
                for c in 0..C {
                    for v in 0..4 {
                        fours[c][v][four] = rows_to_lanes(dots[c][v]);
                    }
                }
            }
            let [units, a, b, c] = quarters_to_lanes(heads);
            let (scales, minima) = scales_minima(a, b, c);
            let minima = [words_of(minima[0]), words_of(minima[1])];
            let (d, dmin) = (words_as_f32(units), words_as_f32(upper_words(units)));
            for c in 0..C {
                let (mut sum, mut min) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                for v in 0..4 {
                    for (half, dots) in half_totals(fours[c][v]).into_iter().enumerate() {
                        let j = group_of(v, half);
                        let scale = _mm512_srlv_epi32(scales[j / 4], _mm512_set1_epi32(8 * (j % 4) as i32));
                        let scale = _mm512_and_si512(scale, _mm512_set1_epi32(0xff));
                        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(dots, scale));
                    }
                    let two: i32 =
                        zerocopy::transmute!([cols[c][g].sum_32[2 * v], cols[c][g].sum_32[2 * v + 1]]);
                    min = super::dot_words(min, minima[v / 2][v % 2], _mm512_set1_epi32(two));
                }
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

/// The codes of a block: groups 0 and 2, 1 and 3, 4 and 6, 5 and 7.
///
/// # Safety
///
/// Needs AVX-512 F and BW.
#[inline(always)]
unsafe fn weights(block: &BlockQ4K) -> [__m512i; 4] {
    // SAFETY: the caller has the features; loads are of 64 bytes from 128.
    unsafe {
        let low = _mm512_set1_epi8(15);
        let first = _mm512_loadu_si512(block.qs.as_ptr().cast());
        let second = _mm512_loadu_si512(block.qs[64..].as_ptr().cast());
        [
            _mm512_and_si512(first, low),
            _mm512_and_si512(_mm512_srli_epi16::<4>(first), low),
            _mm512_and_si512(second, low),
            _mm512_and_si512(_mm512_srli_epi16::<4>(second), low),
        ]
    }
}

/// Which group of 32 is in a half of a vector of [`weights`].
#[inline(always)]
fn group_of(v: usize, half: usize) -> usize {
    4 * (v / 2) + v % 2 + 2 * half
}

/// The activations that meet each vector of [`weights`].
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn acts_in_order(chunk: &Chunk256) -> [__m512i; 4] {
    // SAFETY: the caller has the feature; loads are of 64 bytes from arrays of that size.
    unsafe {
        let mut q = [_mm512_setzero_si512(); 4];
        for v in 0..4 {
            q[v] = _mm512_loadu_si512(chunk.q[v].as_ptr().cast());
        }
        // Vector `v` has groups `v` and `v + 4`.
        [
            _mm512_shuffle_i64x2::<0b01_00_01_00>(q[0], q[2]),
            _mm512_shuffle_i64x2::<0b01_00_01_00>(q[1], q[3]),
            _mm512_shuffle_i64x2::<0b11_10_11_10>(q[0], q[2]),
            _mm512_shuffle_i64x2::<0b11_10_11_10>(q[1], q[3]),
        ]
    }
}

/// From the three words of each row: the scales of groups 0 to 3 and of 4 to 7, as bytes, and the minima.
///
/// # Safety
///
/// Needs AVX-512 F and BW.
#[inline(always)]
unsafe fn scales_minima(a: __m512i, b: __m512i, c: __m512i) -> ([__m512i; 2], [__m512i; 2]) {
    // SAFETY: the caller has the features.
    unsafe {
        let (low, six, two) = (_mm512_set1_epi8(15), _mm512_set1_epi8(63), _mm512_set1_epi8(3));
        // The two bits above the six of the first four are bits 4 and 5 of the others.
        let top_a = _mm512_slli_epi16::<4>(_mm512_and_si512(_mm512_srli_epi16::<6>(a), two));
        let top_b = _mm512_slli_epi16::<4>(_mm512_and_si512(_mm512_srli_epi16::<6>(b), two));
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(c), low);
        (
            [_mm512_and_si512(a, six), _mm512_or_si512(_mm512_and_si512(c, low), top_a)],
            [_mm512_and_si512(b, six), _mm512_or_si512(high, top_b)],
        )
    }
}

/// The bytes of each lane as 16-bit numbers: the first two, and the last two.
///
/// # Safety
///
/// Needs AVX-512 F and BW.
#[inline(always)]
unsafe fn words_of(bytes: __m512i) -> [__m512i; 2] {
    // SAFETY: the caller has the features.
    unsafe {
        let odd = _mm512_srli_epi16::<8>(bytes);
        let even = _mm512_and_si512(bytes, _mm512_set1_epi16(0xff));
        let first_word = _mm512_set1_epi32(0xffff);
        [
            _mm512_or_si512(_mm512_and_si512(even, first_word), _mm512_slli_epi32::<16>(odd)),
            _mm512_or_si512(_mm512_srli_epi32::<16>(even), _mm512_andnot_si512(first_word, odd)),
        ]
    }
}

/// What is before the codes of a block.
#[inline(always)]
fn head(block: &BlockQ4K) -> &[u8; 16] {
    block.as_bytes().first_chunk().expect("a block is longer")
}

/// See [`Isa::q4_k_panel`](crate::isa::Isa::q4_k_panel).
///
/// # Safety
///
/// Needs AVX-512 F, BW and F16C.
#[inline(always)]
pub(super) unsafe fn panel(blocks: [&BlockQ4K; 16], part: &mut GroupPart) {
    // SAFETY: the caller has the features; loads are of 64 and 16 bytes from blocks of 144.
    unsafe {
        let low = _mm512_set1_epi8(15);
        // Of each 64 weights 32 bytes, so 64 bytes are vectors 0 and 1, and 2 and 3, of one half of the block.
        for half in 0..2 {
            let mut rows = [low; 16];
            for (row, block) in rows.iter_mut().zip(blocks) {
                *row = _mm512_loadu_si512(block.qs[64 * half..].as_ptr().cast());
            }
            for (i, x) in transpose(rows).into_iter().enumerate() {
                let (v, line) = (2 * (i / 8), 8 * half + i % 8);
                put_line(&mut part.w[v][line], _mm512_and_si512(x, low));
                put_line(&mut part.w[v + 1][line], _mm512_and_si512(_mm512_srli_epi16::<4>(x), low));
            }
        }
        // Of each row d and dmin, and three words of scales and minima.
        let mut heads = [head(blocks[0]); 16];
        for r in 1..16 {
            heads[r] = head(blocks[r]);
        }
        let [units, a, b, c] = quarters_to_lanes(heads);
        _mm512_store_ps(part.d.as_mut_ptr(), words_as_f32(units));
        _mm512_store_ps(part.dmin.as_mut_ptr(), words_as_f32(upper_words(units)));
        let (scales, minima) = scales_minima(a, b, c);
        let byte = _mm512_set1_epi32(0xff);
        for j in 0..4 {
            let shift = _mm512_set1_epi32(8 * j as i32);
            let first = _mm512_and_si512(_mm512_srlv_epi32(scales[0], shift), byte);
            let second = _mm512_and_si512(_mm512_srlv_epi32(scales[1], shift), byte);
            put_line(&mut part.numbers[j], first);
            put_line(&mut part.numbers[4 + j], second);
            put_line(&mut part.numbers[12 + j], _mm512_or_si512(first, _mm512_slli_epi32::<16>(second)));
        }
        for (i, minima) in minima.into_iter().enumerate() {
            let [first, second] = words_of(minima);
            put_line(&mut part.numbers[8 + 2 * i], first);
            put_line(&mut part.numbers[9 + 2 * i], second);
        }
    }
}
