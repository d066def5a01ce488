//! Q8_0 is signed bytes already.

use super::acts::Chunk32;
use super::pair::Paired;
use crate::isa::Isa;
use quants::q8_0::BlockQ8_0;
use zerocopy::little_endian::U16;
use zerocopy::transmute_ref;

impl Paired for BlockQ8_0 {
    const ZERO: Self = Self { d: U16::ZERO, q: [0; 32] };
    const LARGEST: u8 = 128;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, blocks: [&Self; 2]) -> I::Signed {
        isa.signed(isa.halves(transmute_ref!(&blocks[0].q), transmute_ref!(&blocks[1].q)))
    }

    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        isa: I,
        rows: [&[Self]; 16],
        cols: [&[Chunk32]; C],
    ) -> Option<[[f32; 16]; C]> {
        isa.q8_0_products(rows, cols)
    }

    #[inline(always)]
    fn scales<I: Isa>(isa: I, blocks: [&Self; 4]) -> [f32; 4] {
        isa.f16x4([blocks[0].d.get(), blocks[1].d.get(), blocks[2].d.get(), blocks[3].d.get()])
    }
}
