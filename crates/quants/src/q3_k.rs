//! Q3_K: 256 weights in 110 bytes.
//!
//! Sixteen groups of 16 weights. Group `j` has a signed 6-bit scale `s` in units of the block's
//! `d`; weight `i` is `d s q[i]` with `q` from -4 to 3. Source: `block_q3_K` in ggml-common.h.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Block;
use crate::float::f16_value;
use crate::q2_k::two_bits;

/// One block as it lies in the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ3K {
    /// The third bit of each weight: bit `i / 32` of byte `i % 32`. A clear bit means minus 4.
    pub hmask: [u8; 32],
    /// The two low bits, placed as in Q2_K.
    pub qs: [u8; 64],
    /// The scales, see [`scale`](Self::scale).
    pub scales: [u8; 12],
    /// The unit of the scales, f16 bits.
    pub d: U16,
}
const _: () = assert!(size_of::<BlockQ3K>() == 110);

impl BlockQ3K {
    /// The scale of group `j`, -32 to 31: four low bits in the first eight bytes, two high bits in
    /// the last four.
    pub fn scale(&self, j: usize) -> i8 {
        let low = (self.scales[j % 8] >> (4 * (j / 8))) & 15;
        let high = (self.scales[8 + j % 4] >> (2 * (j / 4))) & 3;
        (low | high << 4) as i8 - 32
    }

    /// Weight `i` in units of its group's scale, -4 to 3.
    pub fn q(&self, i: usize) -> i8 {
        let high = (self.hmask[i % 32] >> (i / 32)) & 1;
        (two_bits(&self.qs, i) | high << 2) as i8 - 4
    }
}

impl Block<256> for BlockQ3K {
    fn decode(&self) -> [f32; 256] {
        let d = f16_value(self.d);
        std::array::from_fn(|i| d * f32::from(self.scale(i / 16)) * f32::from(self.q(i)))
    }
}
