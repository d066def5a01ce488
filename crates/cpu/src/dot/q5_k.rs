//! Q5_K: Q4_K with a plane of fifth bits.

use super::group::{Group, Grouped, Scales};
use super::q4_k::{nibble_planes, scales_minima};
use crate::isa::Isa;
use quants::q5_k::BlockQ5K;

impl Grouped for BlockQ5K {
    const MINIMA: bool = true;
    const SCALES: Scales = Scales::By32;
    const LARGEST: u8 = 31;

    fn d(&self) -> u16 {
        self.d.get()
    }

    fn dmin(&self) -> u16 {
        self.dmin.get()
    }

    #[inline(always)]
    fn unpack<I: Isa>(&self, isa: I) -> Group<I> {
        let low = nibble_planes(isa, &self.qs);
        let high = bit_planes(isa, &self.qh);
        let (scale, offset) = scales_minima(isa, &self.scales);
        Group {
            w: [
                isa.or(low[0], isa.shl::<4>(high[0])),
                isa.or(low[1], isa.shl::<4>(high[1])),
                isa.or(low[2], isa.shl::<4>(high[2])),
                isa.or(low[3], isa.shl::<4>(high[3])),
            ],
            scale: isa.spread(scale),
            by_sixteen: scale,
            offset,
        }
    }
}

/// One bit of each weight in the order of a group: bit `i / 32` of byte `i % 32`.
#[inline(always)]
pub(super) fn bit_planes<I: Isa>(isa: I, bits: &[u8; 32]) -> [I::Bytes; 4] {
    let (bits, one) = (isa.nibbles(bits), isa.splat(1));
    [
        isa.and(bits, one),
        isa.and(isa.shr::<1>(bits), one),
        isa.and(isa.shr::<2>(bits), one),
        isa.shr::<3>(bits),
    ]
}
