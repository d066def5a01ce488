//! Q6_K: 256 weights in 210 bytes.
//!
//! Sixteen groups of 16 weights. Group `j` has a signed byte `s` as its scale, in units of the
//! block's `d`; weight `i` is `d s q[i]` with `q` from -32 to 31.
//! Source: `block_q6_K` in ggml-common.h.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Block;
use crate::float::f16_value;

/// One block as it lies in the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ6K {
    /// The four low bits. Of each half of the block, byte `l` holds weight `l` in its low nibble
    /// and `l + 64` in its high one.
    pub ql: [u8; 128],
    /// The two high bits. Of each half of the block, byte `l` holds those of weights `l`, `l + 32`,
    /// `l + 64`, `l + 96`, lowest bits first.
    pub qh: [u8; 64],
    /// The scales of the groups.
    pub scales: [i8; 16],
    /// The unit of the scales, f16 bits.
    pub d: U16,
}
const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl BlockQ6K {
    /// Weight `i` in units of its group's scale, -32 to 31.
    pub fn q(&self, i: usize) -> i8 {
        let (half, r) = (i / 128, i % 128);
        let low = (self.ql[64 * half + r % 64] >> (4 * (r / 64))) & 15;
        let high = (self.qh[32 * half + r % 32] >> (2 * (r / 32))) & 3;
        (low | high << 4) as i8 - 32
    }
}

impl Block<256> for BlockQ6K {
    fn decode(&self) -> [f32; 256] {
        let d = f16_value(self.d);
        std::array::from_fn(|i| d * f32::from(self.scales[i / 16]) * f32::from(self.q(i)))
    }
}
