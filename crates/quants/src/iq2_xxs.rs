//! IQ2_XXS: 256 weights in 66 bytes.
//!
//! Eight groups of 32 weights. A group is four bytes that each name eight magnitudes of a code
//! book, and a word with four times seven sign bits and a 4-bit scale `s`. The eighth sign of each
//! eight is not stored: it makes the number of minus signs even. With the block's f16 `d`, a weight
//! is `d (s + 1/2) / 4` times its signed magnitude, which is 8, 25 or 43.
//! Source: `block_iq2_xxs` in ggml-common.h.

mod grid;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Block;
use crate::float::f16_value;
pub use grid::GRID_LEVELS;

/// One block as it lies in the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockIq2Xxs {
    /// The scale, f16 bits.
    pub d: U16,
    /// Eight groups of 32 weights.
    pub groups: [Group; 8],
}
const _: () = assert!(size_of::<BlockIq2Xxs>() == 66);

/// 32 weights.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Group {
    /// The rows of [`GRID`] that give the magnitudes, eight weights each.
    pub rows: [u8; 4],
    /// Bits `7 l..7 l + 7` are the signs of the `l`-th eight, bits 28 to 31 the scale.
    pub signs_scale: U32,
}

impl Group {
    /// The scale `s` of the group, 0 to 15, which stands for `s + 1/2`.
    #[inline]
    pub fn scale(&self) -> u8 {
        (self.signs_scale.get() >> 28) as u8
    }

    /// The signs of the `l`-th eight weights, bit `c` set if weight `c` is negative.
    pub fn signs(&self, l: usize) -> u8 {
        with_parity((self.signs_scale.get() >> (7 * l)) as u8 & 127)
    }
}

/// Seven sign bits with the eighth that makes the number of set bits even.
pub const fn with_parity(signs: u8) -> u8 {
    signs | ((signs.count_ones() as u8 & 1) << 7)
}

/// The three magnitudes, by level: `8 + 17 level + (level >> 1)`.
pub const MAGNITUDES: [u8; 3] = [8, 25, 43];

/// The code book: 256 rows of eight magnitudes.
pub static GRID: [[u8; 8]; 256] = {
    let mut grid = [[0; 8]; 256];
    let mut i = 0;
    while i < 256 * 8 {
        let level = GRID_LEVELS[i / 8] >> (2 * (i % 8)) & 3;
        grid[i / 8][i % 8] = MAGNITUDES[level as usize];
        i += 1;
    }
    grid
};

impl Block<256> for BlockIq2Xxs {
    fn decode(&self) -> [f32; 256] {
        let d = f16_value(self.d);
        std::array::from_fn(|i| {
            let (group, l, c) = (&self.groups[i / 32], i % 32 / 8, i % 8);
            let scale = d * (0.5 + f32::from(group.scale())) * 0.25;
            let magnitude = f32::from(GRID[usize::from(group.rows[l])][c]);
            let sign = if group.signs(l) >> c & 1 == 1 { -1.0 } else { 1.0 };
            scale * magnitude * sign
        })
    }
}
