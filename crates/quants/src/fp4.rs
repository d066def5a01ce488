//! FP4 E2M1: sign, two exponent bits, one of mantissa; sixteen values up to 6.
//!
//! Source: OCP Microscaling Formats v1.0, section 5.3.3.

/// Twice the value of each code, which is an integer.
pub const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The largest value, code 7.
pub const LARGEST: f32 = 6.0;

/// The value of the code in the low nibble. Code 8 is minus zero, given as zero.
pub fn decode(nibble: u8) -> f32 {
    0.5 * f32::from(DOUBLED[usize::from(nibble & 15)])
}

/// The code nearest to `x`, ties to the even code; beyond [`LARGEST`] that value.
///
/// There is no code for NaN, so `x` must not be one. (The encoder of MXFP4 weights breaks ties
/// another way; it is in [`mxfp4`](crate::mxfp4).)
pub fn encode(x: f32) -> u8 {
    debug_assert!(!x.is_nan(), "FP4 has no NaN");
    let magnitude = match x.abs() {
        m if m <= 0.25 => 0,
        m if m < 0.75 => 1,
        m if m <= 1.25 => 2,
        m if m < 1.75 => 3,
        m if m <= 2.5 => 4,
        m if m < 3.5 => 5,
        m if m <= 5.0 => 6,
        _ => 7,
    };
    if x < 0.0 && magnitude != 0 { magnitude | 8 } else { magnitude }
}
