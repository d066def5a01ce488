//! Q8_K: 256 values in 292 bytes, for activations only; no weight in a file has this format.
//!
//! A block is an f32 scale `d`, 256 signed bytes `q` and the sums of each 16 of them; value `i` is
//! `d * q[i]`. Source: `block_q8_K` in ggml-common.h.

use zerocopy::little_endian::{F32, I16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Block, Encode};

/// One block as ggml lays it out.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ8K {
    /// The scale; negative when the value of largest magnitude is positive.
    pub d: F32,
    /// The values in units of the scale, -127 to 127.
    pub q: [i8; 256],
    /// `sums[j]` is the sum of `q[16 j..16 j + 16]`.
    pub sums: [I16; 16],
}
const _: () = assert!(size_of::<BlockQ8K>() == 292);

impl Block<256> for BlockQ8K {
    fn decode(&self) -> [f32; 256] {
        let d = self.d.get();
        self.q.map(|q| d * f32::from(q))
    }
}

impl Encode<256> for BlockQ8K {
    const LARGEST: f32 = f32::MAX;

    /// The scale makes the value of largest magnitude (the first of equals) -127.
    fn encode(x: &[f32; 256]) -> Self {
        let extreme = x.iter().fold(0.0_f32, |m, &x| if x.abs() > m.abs() { x } else { m });
        if extreme == 0.0 {
            return Self { d: F32::new(0.0), q: [0; 256], sums: [I16::ZERO; 16] };
        }
        let inverse = -127.0 / extreme;
        let q = x.map(|x| (inverse * x).round_ties_even().clamp(-127.0, 127.0) as i8);
        let sums = std::array::from_fn(|j| I16::new(q[16 * j..][..16].iter().map(|&q| i16::from(q)).sum()));
        Self { d: F32::new(1.0 / inverse), q, sums }
    }
}
