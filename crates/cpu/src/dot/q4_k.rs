//! Q4_K: nibbles; 6-bit scales and minima.

use super::GroupPart;
use super::acts::Chunk256;
use super::group::{Group, Grouped, Scales};
use crate::isa::Isa;
use quants::q4_k::{BlockQ4K, ScalesMins};
use zerocopy::little_endian::U32;
use zerocopy::{transmute, transmute_ref};

impl Grouped for BlockQ4K {
    const MINIMA: bool = true;
    const SCALES: Scales = Scales::By32;
    const LARGEST: u8 = 15;

    fn d(&self) -> u16 {
        self.d.get()
    }

    fn dmin(&self) -> u16 {
        self.dmin.get()
    }

    #[inline(always)]
    fn unpack<I: Isa>(&self, isa: I) -> Group<I> {
        let (scale, offset) = scales_minima(isa, &self.scales);
        Group { w: nibble_planes(isa, &self.qs), scale: isa.spread(scale), by_sixteen: scale, offset }
    }

    #[inline(always)]
    fn unpack_sixteen<I: Isa>(isa: I, blocks: [&Self; 16], part: &mut GroupPart) -> bool {
        isa.q4_k_panel(blocks, part)
    }

    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        isa: I,
        rows: [&[Self]; 16],
        cols: [&[Chunk256]; C],
    ) -> Option<[[f32; 16]; C]> {
        isa.q4_k_products(rows, cols)
    }
}

/// Nibbles in the order of a group: byte `l` of each 32 holds weights `l` and `l + 32` of 64.
#[inline(always)]
pub(super) fn nibble_planes<I: Isa>(isa: I, qs: &[u8; 128]) -> [I::Bytes; 4] {
    let [q0, q1, q2, q3]: &[[u8; 32]; 4] = transmute_ref!(qs);
    let (even, odd, low) = (isa.halves(q0, q2), isa.halves(q1, q3), isa.splat(15));
    [isa.and(even, low), isa.shr::<4>(even), isa.and(odd, low), isa.shr::<4>(odd)]
}

/// The scales and minima of eight groups of 32: [`ScalesMins::get`] for all at once.
#[inline(always)]
pub(super) fn scales_minima<I: Isa>(isa: I, packed: &ScalesMins) -> (I::Sixteen, I::Sixteen) {
    let words: [U32; 3] = transmute!(packed.0);
    let [a, b, c] = words.map(|word| u64::from(word.get()));
    let low_six = 0x3f3f_3f3f;
    let low_four = 0x0f0f_0f0f;
    let top_two = 0x0303_0303; // as the lowest bits
    let scales = a & low_six | (c & low_four | (a >> 6 & top_two) << 4) << 32;
    let minima = b & low_six | (c >> 4 & low_four | (b >> 6 & top_two) << 4) << 32;
    (isa.sixteen(twice(scales)), isa.sixteen(twice(minima)))
}

/// Each of eight bytes twice, as one of 32 weights stands for two of 16.
#[inline(always)]
pub(super) fn twice(bytes: u64) -> [u64; 2] {
    // Four bytes, moved to every other place.
    let apart = |four: u64| {
        let x = (four | four << 16) & 0x0000_ffff_0000_ffff;
        let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
        x | x << 8
    };
    [apart(bytes & 0xffff_ffff), apart(bytes >> 32)]
}
