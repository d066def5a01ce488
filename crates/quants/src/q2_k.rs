//! Q2_K: 256 weights in 84 bytes.
//!
//! Sixteen groups of 16 weights. Group `j` has a 4-bit scale `s` and a 4-bit minimum `m`, both in
//! units of the block's `d` and `dmin`; weight `i` is `d s q[i] - dmin m` with `q` of 2 bits.
//! Source: `block_q2_K` in ggml-common.h.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Block;
use crate::float::f16_value;

/// One block as it lies in the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ2K {
    /// By group: the scale in the low nibble, the minimum in the high one.
    pub scales: [u8; 16],
    /// The weights. Of each half of the block, byte `l` holds weights `l`, `l + 32`, `l + 64`,
    /// `l + 96`, lowest bits first.
    pub qs: [u8; 64],
    /// The unit of the scales, f16 bits.
    pub d: U16,
    /// The unit of the minima, f16 bits.
    pub dmin: U16,
}
const _: () = assert!(size_of::<BlockQ2K>() == 84);

/// The two bits of weight `i` in a plane laid out as [`BlockQ2K::qs`]; Q3_K has the same.
pub(crate) fn two_bits(qs: &[u8; 64], i: usize) -> u8 {
    (qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3
}

impl Block<256> for BlockQ2K {
    fn decode(&self) -> [f32; 256] {
        let (d, dmin) = (f16_value(self.d), f16_value(self.dmin));
        std::array::from_fn(|i| {
            let scale = self.scales[i / 16];
            let q = two_bits(&self.qs, i);
            d * f32::from(scale & 15) * f32::from(q) - dmin * f32::from(scale >> 4)
        })
    }
}
