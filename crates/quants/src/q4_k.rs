//! Q4_K: 256 weights in 144 bytes.
//!
//! Eight groups of 32 weights. Group `j` has a 6-bit scale `s` and a 6-bit minimum `m`, in units
//! of the block's `d` and `dmin`; weight `i` is `d s q[i] - dmin m` with `q` of 4 bits.
//! Source: `block_q4_K` in ggml-common.h.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Block;
use crate::float::f16_value;

/// One block as it lies in the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ4K {
    /// The unit of the scales, f16 bits.
    pub d: U16,
    /// The unit of the minima, f16 bits.
    pub dmin: U16,
    /// Scales and minima of the groups.
    pub scales: ScalesMins,
    /// The weights. Of each 64, byte `l` holds weight `l` in its low nibble and `l + 32` in its
    /// high one.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ4K>() == 144);

/// Eight 6-bit scales and eight 6-bit minima in 12 bytes; Q5_K has the same.
///
/// Those of groups 0 to 3 are the low six bits of bytes 0 to 3 (scales) and 4 to 7 (minima). Those
/// of groups 4 to 7 have their low four bits in the nibbles of bytes 8 to 11 (scale low, minimum
/// high) and their top two in the spare bits of the first eight bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct ScalesMins(pub [u8; 12]);

impl ScalesMins {
    /// Scale and minimum of group `j`, each 0 to 63.
    pub fn get(&self, j: usize) -> (u8, u8) {
        let s = &self.0;
        if j < 4 {
            (s[j] & 63, s[j + 4] & 63)
        } else {
            (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
        }
    }
}

/// The nibble of weight `i` in a plane laid out as [`BlockQ4K::qs`].
pub(crate) fn nibble(qs: &[u8; 128], i: usize) -> u8 {
    (qs[32 * (i / 64) + i % 32] >> (4 * (i % 64 / 32))) & 15
}

impl Block<256> for BlockQ4K {
    fn decode(&self) -> [f32; 256] {
        let (d, dmin) = (f16_value(self.d), f16_value(self.dmin));
        std::array::from_fn(|i| {
            let (scale, min) = self.scales.get(i / 32);
            d * f32::from(scale) * f32::from(nibble(&self.qs, i)) - dmin * f32::from(min)
        })
    }
}
