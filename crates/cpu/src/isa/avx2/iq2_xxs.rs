//! IQ2_XXS: magnitudes from the code book in memory; signs go to the activations.

use super::{Avx2, fold, rows_to_lanes};
use crate::dot::Turned256;
use core::arch::x86_64::*;
use quants::iq2_xxs::{GRID, Group};

/// The code book, eight magnitudes a word.
static WORDS: [i64; 256] = {
    let mut words = [0; 256];
    let mut i = 0;
    while i < 256 {
        words[i] = i64::from_le_bytes(GRID[i]);
        i += 1;
    }
    words
};

/// The products of four blocks and each column, as [`Isa::iq2_xxs_dots`](crate::isa::Isa::iq2_xxs_dots) has them.
#[inline(always)]
pub(super) fn dots<const C: usize>(
    _: Avx2,
    blocks: [&[Group; 8]; 4],
    cols: [&Turned256; C],
) -> [[i32; 4]; C] {
    let mut sums = [[avx2!(_mm256_setzero_si256()); 4]; C];
    for r in 0..4 {
        // SAFETY: the caller has an `Avx2`.
        let (signs, scales) = unsafe { signs_and_scales(blocks[r]) };
        let mut row = [avx2!(_mm256_setzero_si256()); C];
        for g in 0..8 {
            let [i, j, k, l] = blocks[r][g].rows;
            let words =
                [WORDS[usize::from(i)], WORDS[usize::from(j)], WORDS[usize::from(k)], WORDS[usize::from(l)]];
            avx2!({
                let w = _mm256_set_epi64x(words[3], words[2], words[1], words[0]);
                // Where its bit is set a byte becomes -1, elsewhere 1.
                let byte_of = _mm256_setr_epi64x(
                    0,
                    0x0101_0101_0101_0101,
                    0x0202_0202_0202_0202,
                    0x0303_0303_0303_0303,
                );
                let bit_of = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
                let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(signs[g]), byte_of);
                let minus = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
                let sign = _mm256_or_si256(minus, _mm256_set1_epi8(1));
                let scale = _mm256_set1_epi32(scales[g]);
                for c in 0..C {
                    let q = &cols[c].plain.q[g % 4];
                    let a = _mm256_loadu_si256(q.as_ptr().cast::<__m256i>().add(g / 4));
                    // Two products of 43 and 127 fit 16 bits.
                    let pairs = _mm256_maddubs_epi16(w, _mm256_sign_epi8(a, sign));
                    row[c] = _mm256_add_epi32(row[c], _mm256_madd_epi16(pairs, scale));
                }
            });
        }
        for c in 0..C {
            sums[c][r] = row[c];
        }
    }
    let mut totals = [[0; 4]; C];
    for c in 0..C {
        totals[c] = avx2!(fold(rows_to_lanes(sums[c])));
    }
    totals
}

/// For each group: four times seven signs, each with its parity as the eighth; and the scale, `2 s + 1`, as two
/// 16-bit numbers.
///
/// # Safety
///
/// Needs AVX2.
#[inline(always)]
unsafe fn signs_and_scales(groups: &[Group; 8]) -> ([i32; 8], [i32; 8]) {
    let (mut signs, mut scales) = ([0; 8], [0; 8]);
    // SAFETY: the caller has AVX2; loads and stores are of 64 and of 32 bytes that are there.
    unsafe {
        let at = groups.as_ptr().cast::<__m256i>();
        let low = _mm256_castsi256_ps(_mm256_loadu_si256(at));
        let high = _mm256_castsi256_ps(_mm256_loadu_si256(at.add(1)));
        // The second word of each group; first of groups 0, 1, 4, 5, then of the others.
        let words = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(low, high));
        let m = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);

        let first = _mm256_and_si256(m, _mm256_set1_epi32(0x7f));
        let second = _mm256_and_si256(_mm256_slli_epi32::<1>(m), _mm256_set1_epi32(0x7f00));
        let third = _mm256_and_si256(_mm256_slli_epi32::<2>(m), _mm256_set1_epi32(0x7f_0000));
        let fourth = _mm256_and_si256(_mm256_slli_epi32::<3>(m), _mm256_set1_epi32(0x7f00_0000));
        let seven = _mm256_or_si256(_mm256_or_si256(first, second), _mm256_or_si256(third, fourth));
        // The parity of both halves of a byte together, as its highest bit.
        let parity = _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
        let halves = _mm256_xor_si256(seven, _mm256_srli_epi32::<4>(seven));
        let halves = _mm256_and_si256(halves, _mm256_set1_epi8(15));
        let eighth = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(parity), halves);
        _mm256_storeu_si256(signs.as_mut_ptr().cast(), _mm256_or_si256(seven, eighth));

        let s = _mm256_srli_epi32::<28>(m);
        let odd = _mm256_or_si256(_mm256_add_epi32(s, s), _mm256_set1_epi32(1));
        let twice = _mm256_or_si256(odd, _mm256_slli_epi32::<16>(odd));
        _mm256_storeu_si256(scales.as_mut_ptr().cast(), twice);
    }
    (signs, scales)
}
