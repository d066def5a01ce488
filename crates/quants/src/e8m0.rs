//! E8M0: a power of two in a byte, `2^(e - 127)`; 255 is NaN.
//!
//! The scale of MXFP4 blocks, of the official FP8 checkpoint and of the rounded cache.
//! Source: OCP Microscaling Formats v1.0, section 5.4.1.

/// The byte that is not a number.
pub const NAN: u8 = 255;

/// The power of two of a byte, exact also where it is subnormal.
#[inline]
pub const fn decode(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(1 << 22), // 2^-127
        NAN => f32::NAN,
        e => f32::from_bits((e as u32) << 23),
    }
}

/// The smallest power of two that is at least `x`, as a byte; NaN if `x` is not finite.
///
/// `x` must be at least 2^-126, the least normal number; the mantissa then decides alone.
pub fn at_least(x: f32) -> u8 {
    debug_assert!(x.is_nan() || x >= f32::MIN_POSITIVE, "{x} is too small");
    let bits = x.to_bits();
    if x.is_finite() { (bits >> 23) as u8 + u8::from(bits & 0x7f_ffff != 0) } else { NAN }
}
