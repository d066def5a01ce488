//! Q6_K: nibbles and planes of two bits, taken as 0 to 63; signed byte scales.

use super::group::{Group, Grouped, Scales};
use super::q2_k::two_bit_planes;
use crate::isa::Isa;
use quants::q6_k::BlockQ6K;
use zerocopy::{transmute, transmute_ref};

impl Grouped for BlockQ6K {
    const SCALES: Scales = Scales::By16;
    const LARGEST: u8 = 63;
    const BIAS: i32 = 32;

    fn d(&self) -> u16 {
        self.d.get()
    }

    #[inline(always)]
    fn unpack<I: Isa>(&self, isa: I) -> Group<I> {
        let [q0, q1, q2, q3]: &[[u8; 32]; 4] = transmute_ref!(&self.ql);
        let (even, odd, low) = (isa.halves(q0, q2), isa.halves(q1, q3), isa.splat(15));
        let high = two_bit_planes(isa, &self.qh);
        let scale = isa.sixteen(transmute!(self.scales));
        Group {
            w: [
                isa.or(isa.and(even, low), isa.shl::<4>(high[0])),
                isa.or(isa.and(odd, low), isa.shl::<4>(high[1])),
                isa.or(isa.shr::<4>(even), isa.shl::<4>(high[2])),
                isa.or(isa.shr::<4>(odd), isa.shl::<4>(high[3])),
            ],
            scale: isa.spread(scale),
            by_sixteen: scale,
            offset: isa.times(scale, -Self::BIAS as i16),
        }
    }
}
