//! Q8_0: two blocks of each of 16 rows at a time.
//!
//! A row's pair of blocks fills a register and has one dot product for each half. Those of 16 rows are added
//! up together until each has a lane of its own, where scales, conversions and sums are done for all rows at
//! once. Both scales of a pair come to the row's lane by one masked permutation.

#![allow(clippy::needless_range_loop, reason = "several arrays go by the same index")]

use super::{half_totals, put_lane, rows_to_lanes, upper_words, words_as_f32};
use crate::dot::{Chunk32, SIXTEEN_ROWS, prefetch};
use crate::isa::Avx512;
use core::arch::x86_64::*;
use quants::q8_0::BlockQ8_0;

/// Blocks taken together.
const PAIR: usize = 2;

/// Where the two scales lie among the bytes of a pair, of which 64 are loaded.
const SCALES: i32 = {
    const SIZE: u8 = size_of::<BlockQ8_0>() as u8;
    assert!(PAIR * SIZE as usize >= 64);
    i32::from_le_bytes([0, 1, SIZE, SIZE + 1])
};

/// `[columns, 16 rows]`, from rows whose blocks are a whole number of pairs.
///
/// # Safety
///
/// Needs AVX-512 F, BW, VL, VNNI and VBMI.
#[inline(always)]
pub(super) unsafe fn products<const C: usize>(
    isa: Avx512,
    rows: [&[BlockQ8_0]; 16],
    cols: [&[Chunk32]; C],
) -> [[f32; 16]; C] {
    let (pairs, width) = (rows[0].len() / PAIR, cols[0].len());
    assert!(rows.iter().all(|row| row.len() == PAIR * pairs) && 4 * width >= pairs);
    assert!(cols.iter().all(|col| col.len() == width));
    let mut totals = [[0.0; 16]; C];
    // SAFETY: the caller has the features; stores are to arrays of 16 floats.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); C];
        let places = _mm512_set1_epi32(SCALES);
        for p in 0..pairs {
            let mut acts = [Acts::new(&cols[0][p / 4], p % 4); C];
            for c in 1..C {
                acts[c] = Acts::new(&cols[c][p / 4], p % 4);
            }
            let mut scales = _mm512_setzero_si512();
            let mut fours = [[_mm512_setzero_si512(); 4]; C];
            for four in 0..4 {
                let mut dots = [[_mm512_setzero_si512(); 4]; C];
                for r in 0..4 {
                    let row = 4 * four + r;
                    // Inside, by the assertion on lengths.
                    let pair: &[BlockQ8_0; PAIR] = &*rows[row].as_ptr().add(PAIR * p).cast();
                    prefetch(isa, SIXTEEN_ROWS, pair, p, pairs);
                    // The scales of a row come to its lane.
                    scales = put_lane(scales, row, places, &*pair.as_ptr().cast());
                    let w = weights(pair);
                    for c in 0..C {
                        dots[c][r] = _mm512_dpbusd_epi32(acts[c].start, w, acts[c].q);
                    }
                }
                for c in 0..C {
                    fours[c][four] = rows_to_lanes(dots[c]);
                }
            }
            let d = [words_as_f32(scales), words_as_f32(upper_words(scales))];
            for c in 0..C {
                let dots = half_totals(fours[c]);
                for half in 0..PAIR {
                    let scale = _mm512_mul_ps(d[half], _mm512_set1_ps(acts[c].scale[half]));
                    sums[c] = _mm512_add_ps(sums[c], _mm512_mul_ps(scale, _mm512_cvtepi32_ps(dots[half])));
                }
            }
        }
        for c in 0..C {
            _mm512_storeu_ps(totals[c].as_mut_ptr(), sums[c]);
        }
    }
    totals
}

/// The activations that meet a pair.
#[derive(Clone, Copy)]
struct Acts {
    q: __m512i,
    /// Minus 128 times the sum of each block, in the first lane of its half.
    start: __m512i,
    scale: [f32; PAIR],
}

impl Acts {
    /// Pair `p` of a chunk.
    ///
    /// # Safety
    ///
    /// Needs AVX-512 F.
    #[inline(always)]
    unsafe fn new(chunk: &Chunk32, p: usize) -> Self {
        // SAFETY: the caller has the feature; loads are of 64 and 8 bytes from arrays of that size.
        unsafe {
            let unbias = _mm_loadl_epi64(chunk.unbias[p].as_ptr().cast());
            Self {
                q: _mm512_loadu_si512(chunk.q[p].as_ptr().cast()),
                start: _mm512_maskz_expand_epi32(0x0101, _mm512_castsi128_si512(unbias)),
                scale: chunk.scale[p],
            }
        }
    }
}

/// The weights of a pair plus 128.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn weights(pair: &[BlockQ8_0; PAIR]) -> __m512i {
    // SAFETY: the caller has the feature; loads are of 32 bytes from arrays of that size.
    unsafe {
        let first = _mm256_loadu_si256(pair[0].q.as_ptr().cast());
        let second = _mm256_loadu_si256(pair[1].q.as_ptr().cast());
        let both = _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(first), 0xf0, second);
        _mm512_xor_si512(both, _mm512_set1_epi8(i8::MIN))
    }
}
