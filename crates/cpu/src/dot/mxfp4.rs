//! MXFP4: a nibble looks up twice its value, and the scale is half the block's power of two.

use super::acts::Chunk32;
use super::pair::Paired;
use crate::isa::{Isa, Line};
use quants::mxfp4::BlockMxfp4;
use quants::{e8m0, fp4};

/// Twice the value of each code, as bytes.
pub(crate) const DOUBLED: [u8; 16] = {
    let mut bytes = [0; 16];
    let mut code = 0;
    while code < 16 {
        bytes[code] = fp4::DOUBLED[code] as u8;
        code += 1;
    }
    bytes
};

/// Half the power of two of each exponent: a look-up has no branches for subnormal numbers and NaN.
static HALF_POWERS: [f32; 256] = {
    let mut powers = [0.0; 256];
    let mut e = 0;
    while e < 256 {
        powers[e] = 0.5 * e8m0::decode(e as u8);
        e += 1;
    }
    powers
};

impl Paired for BlockMxfp4 {
    const ZERO: Self = Self { e: 0, qs: [0; 16] };
    const LARGEST: u8 = 12;
    const POWERS: bool = true;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, blocks: [&Self; 2]) -> I::Signed {
        let nibbles = isa.nibbles_of_two(&blocks[0].qs, &blocks[1].qs);
        isa.signed_lookup(isa.quarters(&DOUBLED), nibbles)
    }

    #[inline(always)]
    fn unpack_sixteen<I: Isa>(isa: I, blocks: [&Self; 16], to: &mut [Line; 8]) -> bool {
        isa.mxfp4_panel(blocks, to)
    }

    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        isa: I,
        rows: [&[Self]; 16],
        cols: [&[Chunk32]; C],
    ) -> Option<[[f32; 16]; C]> {
        isa.mxfp4_products(rows, cols)
    }

    #[inline(always)]
    fn scales<I: Isa>(_: I, blocks: [&Self; 4]) -> [f32; 4] {
        let scale = |block: &Self| HALF_POWERS[usize::from(block.e)];
        [scale(blocks[0]), scale(blocks[1]), scale(blocks[2]), scale(blocks[3])]
    }
}
