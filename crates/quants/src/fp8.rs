//! FP8 E4M3 (the variant without infinities): sign, four exponent bits of bias 7, three of mantissa.
//!
//! Values reach 448, the least is 2^-9, and codes `0x7f` and `0xff` are NaN.
//! Source: OCP 8-bit Floating Point Specification v1.0; "float8_e4m3fn" in PyTorch.

/// The largest value, code `0x7e`.
pub const LARGEST: f32 = 448.0;

/// The value of a code.
pub fn decode(code: u8) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 15, f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * power_of_two(-9),
        _ => (8.0 + mantissa) * power_of_two(i32::from(exponent) - 10),
    };
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

/// The code nearest to `x`, ties to the even code; beyond [`LARGEST`] that value. NaN stays NaN.
pub fn encode(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    if x.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = x.abs().min(LARGEST);
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    // Eighths of the binade, 0 to 16. Both a full eight and a carry belong in the exponent field,
    // which the addition does.
    let eighths = (magnitude * power_of_two(3 - exponent)).round_ties_even() as u8;
    sign | ((((exponent + 6) as u8) << 3) + eighths)
}

/// `2^k` for a `k` in the normal range.
fn power_of_two(k: i32) -> f32 {
    f32::from_bits(((k + 127) as u32) << 23)
}
