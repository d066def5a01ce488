//! Q8_0: 32 weights in 34 bytes.
//!
//! A block is an f16 scale `d` and 32 signed bytes `q`; weight `i` is `d * q[i]`.
//! Source: `block_q8_0` in ggml-common.h.
//!
//! Start at [`BlockQ8_0::decode`], the meaning of the format: every fast kernel is held to it.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::float::{f16_bits, f16_value};
use crate::{Block, Encode};

/// One block as it lies in the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale, f16 bits.
    pub d: U16,
    /// The weights in units of the scale.
    pub q: [i8; 32],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

impl Block<32> for BlockQ8_0 {
    fn decode(&self) -> [f32; 32] {
        let d = f16_value(self.d);
        self.q.map(|q| d * f32::from(q))
    }
}

impl Encode<32> for BlockQ8_0 {
    const LARGEST: f32 = 127.0 * 65504.0;

    /// The scale makes the largest magnitude 127. As in ggml, the bytes are rounded (half away from
    /// zero) with the f32 scale and not with the f16 one that is stored.
    fn encode(x: &[f32; 32]) -> Self {
        let largest = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let d = largest / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        Self { d: f16_bits(d), q: x.map(|x| (x * inverse).round() as i8) }
    }
}
