//! The roundings the model was trained with, for its cache: FP8 and FP4 with powers of two.
//!
//! A row is cut into blocks. The scale of a block is the least power of two that brings its largest
//! magnitude into the range of the code (448 or 6), and each value is rounded to the nearest code.
//! Rounding twice is rounding once, so a rounded row is kept without loss as codes and scale bytes:
//! `round_*` is the same as `pack_*` followed by `unpack_*`.
//!
//! A NaN or an infinity has no scale: its whole block becomes NaN, visible to whoever looks.
//!
//! Source: the reference inference code published with the DeepSeek V4 weights (its `act_quant` and
//! `fp4_act_quant` with power-of-two scales), down to the f32 product that decides the exponent.

use crate::{e8m0, fp4, fp8};

/// Rounds each block of `block` values to FP8 E4M3, in place.
///
/// # Panics
///
/// If `x` is not a whole number of blocks.
pub fn round_fp8(x: &mut [f32], block: usize) {
    for x in blocks_mut(x, block) {
        let scale = e8m0::decode(fp8_scale(x));
        x.iter_mut().for_each(|x| *x = fp8::decode(fp8::encode(*x / scale)) * scale);
    }
}

/// Packs a row as FP8 codes and one E8M0 scale per block.
///
/// - `x`, `codes`: `[n]`
/// - `scales`: `[n / block]`
///
/// # Panics
///
/// If the lengths do not fit together.
pub fn pack_fp8(x: &[f32], block: usize, codes: &mut [u8], scales: &mut [u8]) {
    assert_eq!((codes.len(), scales.len() * block), (x.len(), x.len()), "FP8 codes and scales");
    for ((x, codes), e) in x.chunks_exact(block).zip(codes.chunks_exact_mut(block)).zip(scales) {
        *e = fp8_scale(x);
        let scale = e8m0::decode(*e);
        for (x, code) in x.iter().zip(codes) {
            *code = fp8::encode(x / scale);
        }
    }
}

/// The values of a row that [`pack_fp8`] packed; shapes as there.
///
/// # Panics
///
/// If the lengths do not fit together.
pub fn unpack_fp8(codes: &[u8], scales: &[u8], block: usize, x: &mut [f32]) {
    assert_eq!((codes.len(), scales.len() * block), (x.len(), x.len()), "FP8 codes and scales");
    for ((x, codes), &e) in x.chunks_exact_mut(block).zip(codes.chunks_exact(block)).zip(scales) {
        let scale = e8m0::decode(e);
        for (x, &code) in x.iter_mut().zip(codes) {
            *x = fp8::decode(code) * scale;
        }
    }
}

/// Rounds each block of `block` values to FP4 E2M1, in place.
///
/// # Panics
///
/// If `x` is not a whole number of blocks.
pub fn round_fp4(x: &mut [f32], block: usize) {
    for x in blocks_mut(x, block) {
        let e = fp4_scale(x);
        let scale = e8m0::decode(e);
        x.iter_mut().for_each(|x| *x = fp4::decode(fp4_code(*x, e)) * scale);
    }
}

/// Packs a row as FP4 codes, two in a byte (the even one in the low nibble), and one E8M0 scale per
/// block.
///
/// - `x`: `[n]`; `codes`: `[n / 2]`; `scales`: `[n / block]`, `block` even
///
/// # Panics
///
/// If the lengths do not fit together.
pub fn pack_fp4(x: &[f32], block: usize, codes: &mut [u8], scales: &mut [u8]) {
    assert_fp4_lengths(x, block, codes, scales);
    for ((x, codes), e) in x.chunks_exact(block).zip(codes.chunks_exact_mut(block / 2)).zip(scales) {
        *e = fp4_scale(x);
        for (&[even, odd], code) in x.as_chunks().0.iter().zip(codes) {
            *code = fp4_code(even, *e) | fp4_code(odd, *e) << 4;
        }
    }
}

/// The values of a row that [`pack_fp4`] packed; shapes as there.
///
/// # Panics
///
/// If the lengths do not fit together.
pub fn unpack_fp4(codes: &[u8], scales: &[u8], block: usize, x: &mut [f32]) {
    assert_fp4_lengths(x, block, codes, scales);
    for ((x, codes), &e) in x.chunks_exact_mut(block).zip(codes.chunks_exact(block / 2)).zip(scales) {
        let scale = e8m0::decode(e);
        for (pair, &code) in x.as_chunks_mut().0.iter_mut().zip(codes) {
            *pair = [fp4::decode(code) * scale, fp4::decode(code >> 4) * scale];
        }
    }
}

fn assert_fp4_lengths(x: &[f32], block: usize, codes: &[u8], scales: &[u8]) {
    assert!(block.is_multiple_of(2), "FP4 block of {block}");
    assert_eq!((codes.len() * 2, scales.len() * block), (x.len(), x.len()), "FP4 codes and scales");
}

fn blocks_mut(x: &mut [f32], block: usize) -> impl Iterator<Item = &mut [f32]> {
    assert!(x.len().is_multiple_of(block), "{} values in blocks of {block}", x.len());
    x.chunks_exact_mut(block)
}

/// The E8M0 scale of a block in FP8.
fn fp8_scale(x: &[f32]) -> u8 {
    e8m0::at_least(largest_magnitude(x, 1e-4) * (1.0 / fp8::LARGEST))
}

/// The E8M0 scale of a block in FP4.
fn fp4_scale(x: &[f32]) -> u8 {
    e8m0::at_least(largest_magnitude(x, fp4::LARGEST * f32::MIN_POSITIVE) * (1.0 / fp4::LARGEST))
}

/// The code of `x` in a block with scale byte `e`; in a NaN block, where it has no meaning, 0.
fn fp4_code(x: f32, e: u8) -> u8 {
    if e == e8m0::NAN { 0 } else { fp4::encode(x / e8m0::decode(e)) }
}

/// The largest magnitude of a block, but at least `floor`; NaN if there is one.
fn largest_magnitude(x: &[f32], floor: f32) -> f32 {
    x.iter().fold(floor, |m, x| if x.abs() <= m || m.is_nan() { m } else { x.abs() })
}
