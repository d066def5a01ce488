//! Plain floats: F32, F16 and BF16, little-endian, each a block of one weight.
//!
//! BF16 is the upper half of an F32. Encoding rounds to nearest, ties to even.

use half::{bf16, f16};
use zerocopy::little_endian::{F32, U16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Block, Encode};

/// A single-precision weight.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockF32 {
    /// The weight.
    pub value: F32,
}

/// A half-precision weight.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockF16 {
    /// f16 bits.
    pub bits: U16,
}

/// A weight that is the upper half of a single-precision number.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockBF16 {
    /// The upper 16 bits of an f32.
    pub bits: U16,
}

const _: () =
    assert!(size_of::<BlockF32>() == 4 && size_of::<BlockF16>() == 2 && size_of::<BlockBF16>() == 2);

/// The value of f16 bits, as the scales of many formats are stored. Exact.
pub fn f16_value(bits: U16) -> f32 {
    f16::from_bits(bits.get()).to_f32()
}

/// The f16 nearest to `x`, ties to even; beyond the range an infinity.
pub fn f16_bits(x: f32) -> U16 {
    U16::new(f16::from_f32(x).to_bits())
}

impl Block<1> for BlockF32 {
    fn decode(&self) -> [f32; 1] {
        [self.value.get()]
    }
}

impl Encode<1> for BlockF32 {
    const LARGEST: f32 = f32::MAX;

    fn encode(&[x]: &[f32; 1]) -> Self {
        Self { value: F32::new(x) }
    }
}

impl Block<1> for BlockF16 {
    fn decode(&self) -> [f32; 1] {
        [f16_value(self.bits)]
    }
}

impl Encode<1> for BlockF16 {
    const LARGEST: f32 = 65520.0_f32.next_down(); // 65520 is the tie between the last f16 and infinity

    fn encode(&[x]: &[f32; 1]) -> Self {
        Self { bits: f16_bits(x) }
    }
}

impl Block<1> for BlockBF16 {
    fn decode(&self) -> [f32; 1] {
        [f32::from_bits(u32::from(self.bits.get()) << 16)]
    }
}

impl Encode<1> for BlockBF16 {
    const LARGEST: f32 = f32::from_bits(0x7f7f_7fff); // the next one rounds up to infinity

    fn encode(&[x]: &[f32; 1]) -> Self {
        Self { bits: U16::new(bf16::from_f32(x).to_bits()) }
    }
}
