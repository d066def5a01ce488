//! Q5_K: 256 weights in 176 bytes.
//!
//! Q4_K with a fifth bit: weight `i` is `d s q[i] - dmin m` with `q` from 0 to 31, and `s`, `m` the
//! scale and minimum of its group of 32. Source: `block_q5_K` in ggml-common.h.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Block;
use crate::float::f16_value;
use crate::q4_k::{ScalesMins, nibble};

/// One block as it lies in the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ5K {
    /// The unit of the scales, f16 bits.
    pub d: U16,
    /// The unit of the minima, f16 bits.
    pub dmin: U16,
    /// Scales and minima of the groups.
    pub scales: ScalesMins,
    /// The fifth bit of each weight: bit `i / 32` of byte `i % 32`.
    pub qh: [u8; 32],
    /// The four low bits, placed as in Q4_K.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ5K>() == 176);

impl BlockQ5K {
    /// Weight `i` in units of its group's scale, above its group's minimum: 0 to 31.
    pub fn q(&self, i: usize) -> u8 {
        nibble(&self.qs, i) | ((self.qh[i % 32] >> (i / 32)) & 1) << 4
    }
}

impl Block<256> for BlockQ5K {
    fn decode(&self) -> [f32; 256] {
        let (d, dmin) = (f16_value(self.d), f16_value(self.dmin));
        std::array::from_fn(|i| {
            let (scale, min) = self.scales.get(i / 32);
            d * f32::from(scale) * f32::from(self.q(i)) - dmin * f32::from(min)
        })
    }
}
