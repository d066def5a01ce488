//! MXFP4: 32 weights in 17 bytes.
//!
//! A block is a power of two `2^(e - 127)` and 32 FP4 codes; a weight is the power times the value
//! of its code. `e = 255` is NaN by definition of E8M0 and then so is every weight of the block.
//! Source: OCP Microscaling Formats v1.0 and `block_mxfp4` in ggml-common.h.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Block, Encode, e8m0, fp4};

/// One block as it lies in the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockMxfp4 {
    /// The exponent of the scale, E8M0.
    pub e: u8,
    /// Byte `l` holds the code of weight `l` in its low nibble and of weight `l + 16` in its high
    /// one.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockMxfp4>() == 17);

impl Block<32> for BlockMxfp4 {
    fn decode(&self) -> [f32; 32] {
        let scale = e8m0::decode(self.e);
        std::array::from_fn(|i| scale * fp4::decode(self.qs[i % 16] >> (4 * (i / 16))))
    }
}

impl Encode<32> for BlockMxfp4 {
    const LARGEST: f32 = f32::MAX;

    /// The scale puts the largest magnitude between 4 and 8. Each weight takes the nearest value,
    /// and of two equally near the one with the lower code, that is, of smaller magnitude.
    fn encode(x: &[f32; 32]) -> Self {
        let largest = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let e = (largest.to_bits() >> 23).saturating_sub(2) as u8;
        let scale = e8m0::decode(e);
        let code = |x: f32| nearest_code(x, scale);
        Self { e, qs: std::array::from_fn(|l| code(x[l]) | code(x[l + 16]) << 4) }
    }
}

/// The code whose value times `scale` is nearest to `x`, the lowest of equals; so never minus zero.
fn nearest_code(x: f32, scale: f32) -> u8 {
    let error = |code: u8| (scale * fp4::decode(code) - x).abs();
    (1..16).fold(0, |best, code| if error(code) < error(best) { code } else { best })
}
