//! MXFP4: four blocks of each of 16 rows at a time.
//!
//! The codes of four blocks fill a register: their low nibbles are one vector of weights and their high
//! nibbles another, both with a block to a quarter. So the two dot products of a row add up in the same four
//! lanes, and four rows together are two levels of additions away from one lane each. Scales come to lanes by
//! a masked permutation for each row. A permutation takes the codes out of the bytes of four blocks, and
//! another looks the weights up: it regards six bits of each code's byte, of which the table ignores two, so
//! nothing has to be masked. Shuffles are what this kernel is made of, more than products.

#![allow(clippy::needless_range_loop, reason = "several arrays go by the same index")]

use super::{Aligned, put_line, quarters_to_lanes, rows_to_lanes};
use crate::dot::{Chunk32, MXFP4_DOUBLED, SIXTEEN_ROWS, prefetch};
use crate::isa::{Avx512, Line};
use core::arch::asm;
use core::arch::x86_64::*;
use quants::mxfp4::BlockMxfp4;

/// Blocks taken together.
const QUAD: usize = 4;

/// What makes a doubled weight unsigned.
const BIAS: i32 = 12;

/// Bytes of a block. Of a quad 64 are loaded, which have all the exponents and the codes of three blocks.
const SIZE: usize = size_of::<BlockMxfp4>();
const _: () = assert!(QUAD * SIZE >= 64 && 3 * SIZE < 64);

/// Where the exponents lie among the bytes of a quad.
const EXPONENTS: i32 = i32::from_le_bytes([0, SIZE as u8, 2 * SIZE as u8, 3 * SIZE as u8]);

/// Where the codes of the first three blocks lie.
static CODES: Aligned<[u8; 64]> = {
    let mut places = [0; 64];
    let mut i = 0;
    while i < 48 {
        places[i] = (SIZE * (i / 16) + 1 + i % 16) as u8;
        i += 1;
    }
    Aligned(places)
};

/// `[columns, 16 rows]`, from rows whose blocks are a whole number of quads.
///
/// # Safety
///
/// Needs AVX-512 F, BW, VNNI and VBMI.
#[inline(always)]
pub(super) unsafe fn products<const C: usize>(
    isa: Avx512,
    rows: [&[BlockMxfp4]; 16],
    cols: [&[Chunk32]; C],
) -> [[f32; 16]; C] {
    let (quads, width) = (rows[0].len() / QUAD, cols[0].len());
    assert!(rows.iter().all(|row| row.len() == QUAD * quads) && 2 * width >= quads);
    assert!(cols.iter().all(|col| col.len() == width));
    let mut totals = [[0.0; 16]; C];
    // SAFETY: the caller has the features; stores are to arrays of 16 floats.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); C];
        let places = _mm512_set1_epi32(EXPONENTS);
        for q in 0..quads {
            let mut acts = [Acts::new(&cols[0][q / 2], q % 2); C];
            for c in 1..C {
                acts[c] = Acts::new(&cols[c][q / 2], q % 2);
            }
            let mut exponents = [_mm512_setzero_si512(); 4];
            let mut fours = [[_mm512_setzero_si512(); 4]; C];
            for four in 0..4 {
                let mut w = [[_mm512_setzero_si512(); 2]; 4];
                for r in 0..4 {
                    let row = 4 * four + r;
                    // Inside, by the assertion on lengths.
                    let quad: &[BlockMxfp4; QUAD] = &*rows[row].as_ptr().add(QUAD * q).cast();
                    prefetch(isa, SIXTEEN_ROWS, quad, q, quads);
                    let bytes = _mm512_loadu_si512(quad.as_ptr().cast());
                    exponents[four] = put_lanes(exponents[four], r, places, bytes);
                    w[r] = weights(bytes, &quad[3]);
                }
                for c in 0..C {
                    let a = &acts[c];
                    fours[c][four] = rows_to_lanes([a.dot(w[0]), a.dot(w[1]), a.dot(w[2]), a.dot(w[3])]);
                }
            }
            let scales = scales(own_quarters(exponents));
            for c in 0..C {
                let blocks = blocks_apart(fours[c]);
                for (j, dots) in blocks.into_iter().enumerate() {
                    let scale = _mm512_mul_ps(scales[j], _mm512_set1_ps(acts[c].scale[j]));
                    sums[c] = _mm512_add_ps(sums[c], _mm512_mul_ps(scale, _mm512_cvtepi32_ps(dots)));
                }
            }
        }
        for c in 0..C {
            _mm512_storeu_ps(totals[c].as_mut_ptr(), sums[c]);
        }
    }
    totals
}

/// The activations that meet a quad.
#[derive(Clone, Copy)]
struct Acts {
    /// Those of low nibbles: the first 16 of each block.
    low: __m512i,
    high: __m512i,
    /// Minus [`BIAS`] times the sum of each block, in the first lane of its quarter.
    start: __m512i,
    scale: [f32; QUAD],
}

impl Acts {
    /// Half `half` of a chunk.
    ///
    /// # Safety
    ///
    /// Needs AVX-512 F.
    #[inline(always)]
    unsafe fn new(chunk: &Chunk32, half: usize) -> Self {
        let at = 2 * half;
        let ([u0, u1], [u2, u3]) = (chunk.unbias[at], chunk.unbias[at + 1]);
        let ([d0, d1], [d2, d3]) = (chunk.scale[at], chunk.scale[at + 1]);
        // SAFETY: the caller has the feature; loads are of 64 bytes from arrays of that size.
        unsafe {
            let first = _mm512_loadu_si512(chunk.q[at].as_ptr().cast());
            let second = _mm512_loadu_si512(chunk.q[at + 1].as_ptr().cast());
            // Minus 128 times the sums; minus 4 times them; minus `BIAS` times them.
            let fours = _mm_srai_epi32::<5>(_mm_setr_epi32(u0, u1, u2, u3));
            let starts = _mm512_castsi128_si512(_mm_mullo_epi32(fours, _mm_set1_epi32(BIAS / 4)));
            Self {
                low: _mm512_shuffle_i64x2::<0b10_00_10_00>(first, second),
                high: _mm512_shuffle_i64x2::<0b11_01_11_01>(first, second),
                start: _mm512_maskz_expand_epi32(0x1111, starts),
                scale: [d0, d1, d2, d3],
            }
        }
    }

    /// Four lanes a block, whose sum is its dot product.
    ///
    /// # Safety
    ///
    /// Needs AVX-512 F and VNNI.
    #[inline(always)]
    unsafe fn dot(&self, [low, high]: [__m512i; 2]) -> __m512i {
        // SAFETY: the caller has the features.
        unsafe { _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(self.start, low, self.low), high, self.high) }
    }
}

/// See [`Isa::mxfp4_panel`](crate::isa::Isa::mxfp4_panel). Codes are brought to their lanes before they become weights:
/// so there is half as much to move.
///
/// # Safety
///
/// Needs AVX-512 F, BW and VBMI.
#[inline(always)]
pub(super) unsafe fn panel(blocks: [&BlockMxfp4; 16], to: &mut [Line; 8]) {
    // SAFETY: the caller has the features; stores are to lines.
    unsafe {
        let mut codes = [&blocks[0].qs; 16];
        for r in 1..16 {
            codes[r] = &blocks[r].qs;
        }
        for (j, words) in quarters_to_lanes(codes).into_iter().enumerate() {
            let [low, high] = looked_up(words, 128);
            put_line(&mut to[j], low);
            put_line(&mut to[4 + j], high);
        }
    }
}

/// Puts four of 64 bytes, those at the places that a lane of `places` says, into lane `r` of each quarter. Those of
/// row 0 go everywhere, before the others.
///
/// As an instruction, for the reason of [`put_lane`](super::put_lane); masks that know of no quarter are few enough to
/// stay in their registers.
///
/// Needs AVX-512 F, BW and VBMI; inlined as the compiler's own intrinsics are.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn put_lanes(mut lanes: __m512i, r: usize, places: __m512i, bytes: __m512i) -> __m512i {
    if r == 0 {
        return _mm512_permutexvar_epi8(places, bytes);
    }
    // SAFETY: the CPU has AVX-512 VBMI, and the instruction touches only its registers.
    unsafe {
        asm!(
            "vpermb {lanes} {{{lane}}}, {places}, {bytes}",
            lanes = inout(zmm_reg) lanes,
            lane = in(kreg) 0x000f_000f_000f_000f_u64 << (4 * r),
            places = in(zmm_reg) places,
            bytes = in(zmm_reg) bytes,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    lanes
}

/// Quarter `i` of register `i`.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn own_quarters([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: the caller has the feature.
    unsafe {
        let ab = _mm512_mask_mov_epi32(a, 0x00f0, b);
        _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(ab, 0x0f00, c), 0xf000, d)
    }
}

/// Twice the weights of a quad plus [`BIAS`], those of low nibbles and those of high ones.
///
/// - `bytes`: the first 64 of the quad
///
/// # Safety
///
/// Needs AVX-512 F, BW and VBMI.
#[inline(always)]
unsafe fn weights(bytes: __m512i, last: &BlockMxfp4) -> [__m512i; 2] {
    // SAFETY: the caller has the features; loads are from arrays of their size.
    unsafe {
        let three = _mm512_permutexvar_epi8(_mm512_load_si512(CODES.0.as_ptr().cast()), bytes);
        let last = _mm_loadu_si128(last.qs.as_ptr().cast());
        looked_up(_mm512_mask_broadcast_i32x4(three, 0xf000, last), BIAS as u8)
    }
}

/// Twice the weights plus `bias`, those of low nibbles and those of high ones.
///
/// # Safety
///
/// Needs AVX-512 F, BW and VBMI.
#[inline(always)]
unsafe fn looked_up(x: __m512i, bias: u8) -> [__m512i; 2] {
    // SAFETY: the caller has the features; the load is of 16 bytes from an array of that size.
    unsafe {
        // The same in each quarter, so that bits above the nibble make no difference.
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(MXFP4_DOUBLED.as_ptr().cast()));
        let table = _mm512_add_epi8(table, _mm512_set1_epi8(bias as i8));
        [_mm512_permutexvar_epi8(x, table), _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(x), table)]
    }
}

/// Half the power of two of each block, from the exponents of a quad in each row's lane.
///
/// # Safety
///
/// Needs AVX-512 F and BW.
#[inline(always)]
unsafe fn scales(exponents: __m512i) -> [__m512; QUAD] {
    // SAFETY: the caller has the features.
    unsafe {
        // The power 2^(e - 128) has exponent bits e - 1, if e is neither 0, 1 nor 255.
        let from_two = _mm512_sub_epi8(exponents, _mm512_set1_epi8(2));
        if _mm512_cmpgt_epu8_mask(from_two, _mm512_set1_epi8(252_u8 as i8)) != 0 {
            return [scale(exponents, 0), scale(exponents, 1), scale(exponents, 2), scale(exponents, 3)];
        }
        let mut scales = [_mm512_setzero_ps(); QUAD];
        let moved = [
            _mm512_slli_epi32::<23>(exponents),
            _mm512_slli_epi32::<15>(exponents),
            _mm512_slli_epi32::<7>(exponents),
            _mm512_srli_epi32::<1>(exponents),
        ];
        for (scale, moved) in scales.iter_mut().zip(moved) {
            let bits = _mm512_and_si512(moved, _mm512_set1_epi32(0xff << 23));
            *scale = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_set1_epi32(1 << 23)));
        }
        scales
    }
}

/// Half the power of two of block `j` of each row, whatever its exponent.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn scale(exponents: __m512i, j: usize) -> __m512 {
    // SAFETY: the caller has the feature.
    unsafe {
        let e = _mm512_srlv_epi32(exponents, _mm512_set1_epi32(8 * j as i32));
        let e = _mm512_and_si512(e, _mm512_set1_epi32(0xff));
        // The power 2^(e - 128) is subnormal for 0 and 1; 255 is NaN.
        let one = _mm512_set1_epi32(1);
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, one));
        let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(1 << 21), e);
        let bits = _mm512_mask_mov_epi32(normal, _mm512_cmple_epu32_mask(e, one), subnormal);
        let nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
        _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(f32::NAN.to_bits() as i32)))
    }
}

/// From four rows a register and a block a quarter to a block a register.
///
/// # Safety
///
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn blocks_apart(fours: [__m512i; 4]) -> [__m512i; QUAD] {
    let [a, b, c, d] = fours;
    // SAFETY: the caller has the feature.
    unsafe {
        let (ab01, ab23) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
        let (cd01, cd23) = (_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
        [
            _mm512_shuffle_i64x2::<0x88>(ab01, cd01),
            _mm512_shuffle_i64x2::<0xdd>(ab01, cd01),
            _mm512_shuffle_i64x2::<0x88>(ab23, cd23),
            _mm512_shuffle_i64x2::<0xdd>(ab23, cd23),
        ]
    }
}
