//! Q4_K panels: codes and scales are brought to their lanes as they lie in the block, and taken apart there.

#![allow(clippy::needless_range_loop, reason = "several arrays go by the same index")]

use super::{put_line, quarters_to_lanes, transpose, upper_words, words_as_f32};
use crate::dot::GroupPart;
use core::arch::x86_64::*;
use quants::q4_k::BlockQ4K;
use zerocopy::IntoBytes;

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
        let (six, two) = (_mm512_set1_epi8(63), _mm512_set1_epi8(3));
        // Two bits from above the six of the first four, as bits 4 and 5.
        let top = |x| _mm512_slli_epi16::<4>(_mm512_and_si512(_mm512_srli_epi16::<6>(x), two));
        let scales = [_mm512_and_si512(a, six), _mm512_or_si512(_mm512_and_si512(c, low), top(a))];
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(c), low);
        let minima = [_mm512_and_si512(b, six), _mm512_or_si512(high, top(b))];
        let byte = _mm512_set1_epi32(0xff);
        for j in 0..4 {
            let shift = _mm512_set1_epi32(8 * j as i32);
            let [first, second] = [0, 1].map(|i| _mm512_and_si512(_mm512_srlv_epi32(scales[i], shift), byte));
            put_line(&mut part.numbers[j], first);
            put_line(&mut part.numbers[4 + j], second);
            put_line(&mut part.numbers[12 + j], _mm512_or_si512(first, _mm512_slli_epi32::<16>(second)));
        }
        // Bytes 0 and 1 of each word, and bytes 2 and 3, as 16-bit numbers.
        let first_word = _mm512_set1_epi32(0xffff);
        for (i, minima) in minima.into_iter().enumerate() {
            let odd = _mm512_srli_epi16::<8>(minima);
            let even = _mm512_and_si512(minima, _mm512_set1_epi16(0xff));
            let first = _mm512_or_si512(_mm512_and_si512(even, first_word), _mm512_slli_epi32::<16>(odd));
            let second = _mm512_or_si512(_mm512_srli_epi32::<16>(even), _mm512_andnot_si512(first_word, odd));
            put_line(&mut part.numbers[8 + 2 * i], first);
            put_line(&mut part.numbers[9 + 2 * i], second);
        }
    }
}
