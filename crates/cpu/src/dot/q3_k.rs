//! Q3_K: the planes of Q2_K and a third bit, taken as 0 to 7; signed 6-bit scales.

use super::group::{Group, Grouped, Scales};
use super::q2_k::two_bit_planes;
use super::q5_k::bit_planes;
use crate::isa::Isa;
use quants::q3_k::BlockQ3K;
use zerocopy::little_endian::U32;
use zerocopy::transmute;

impl Grouped for BlockQ3K {
    const SCALES: Scales = Scales::By16;
    const LARGEST: u8 = 7;
    const BIAS: i32 = 4;

    fn d(&self) -> u16 {
        self.d.get()
    }

    #[inline(always)]
    fn unpack<I: Isa>(&self, isa: I) -> Group<I> {
        let low = two_bit_planes(isa, &self.qs);
        let high = bit_planes(isa, &self.hmask);
        let scale = isa.sixteen(scales(&self.scales));
        Group {
            w: [
                isa.or(low[0], isa.shl::<2>(high[0])),
                isa.or(low[1], isa.shl::<2>(high[1])),
                isa.or(low[2], isa.shl::<2>(high[2])),
                isa.or(low[3], isa.shl::<2>(high[3])),
            ],
            scale: isa.spread(scale),
            by_sixteen: scale,
            offset: isa.times(scale, -Self::BIAS as i16),
        }
    }
}

/// The sixteen scales as signed bytes: [`BlockQ3K::scale`] for all groups at once.
#[inline(always)]
fn scales(packed: &[u8; 12]) -> [u64; 2] {
    let [a, b, top]: [U32; 3] = transmute!(*packed);
    let low = u64::from(a.get()) | u64::from(b.get()) << 32;
    let top = u64::from(top.get());
    // Bits 2 i and 2 i + 1 of each of four bytes.
    let two = |i: u32| top >> (2 * i) & 0x0303_0303;
    let join = |low: u64, high: u64| {
        let unsigned = low & 0x0f0f_0f0f_0f0f_0f0f | high << 4;
        // Minus 32 in each byte; the top bit keeps borrows from the next byte.
        ((unsigned | 0x8080_8080_8080_8080) - 0x2020_2020_2020_2020) ^ 0x8080_8080_8080_8080
    };
    [join(low, two(0) | two(1) << 32), join(low >> 4, two(2) | two(3) << 32)]
}
