//! Q2_K: four planes of two bits; 4-bit scales and minima.

use super::GroupPart;
use super::acts::Chunk256;
use super::group::{Group, Grouped, Scales};
use crate::isa::Isa;
use quants::q2_k::BlockQ2K;
use zerocopy::transmute;

impl Grouped for BlockQ2K {
    const MINIMA: bool = true;
    /// 3 times 15 fits.
    const SCALES: Scales = Scales::Folded;
    const LARGEST: u8 = 3 * 15;

    fn d(&self) -> u16 {
        self.d.get()
    }

    fn dmin(&self) -> u16 {
        self.dmin.get()
    }

    #[inline(always)]
    fn unpack<I: Isa>(&self, isa: I) -> Group<I> {
        let scales: [u64; 2] = transmute!(self.scales);
        const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        let scale = isa.sixteen([scales[0] & LOW, scales[1] & LOW]);
        Group {
            w: two_bit_planes(isa, &self.qs),
            scale: isa.spread(scale),
            by_sixteen: scale,
            offset: isa.sixteen([scales[0] >> 4 & LOW, scales[1] >> 4 & LOW]),
        }
    }

    #[inline(always)]
    fn unpack_sixteen<I: Isa>(isa: I, blocks: [&Self; 16], part: &mut GroupPart) -> bool {
        isa.q2_k_panel(blocks, part)
    }

    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        isa: I,
        rows: [&[Self]; 16],
        cols: [&[Chunk256]; C],
    ) -> Option<[[f32; 16]; C]> {
        isa.q2_k_products(rows, cols)
    }
}

/// Two bits of each weight, from bytes that hold those of four weights a quarter block apart.
#[inline(always)]
pub(super) fn two_bit_planes<I: Isa>(isa: I, qs: &[u8; 64]) -> [I::Bytes; 4] {
    let (q, three) = (isa.bytes(qs), isa.splat(3));
    [isa.and(q, three), isa.and(isa.shr::<2>(q), three), isa.and(isa.shr::<4>(q), three), isa.shr::<6>(q)]
}
