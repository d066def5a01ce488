//! IQ2_XXS: magnitudes from a code book, signs with a parity bit.
//!
//! Weights are taken plus 43, the largest magnitude, which makes them unsigned.

use super::group::{Group, Grouped};
use super::q4_k::twice;
use crate::isa::Isa;
use quants::iq2_xxs::{self, BlockIq2Xxs, GRID};

/// What makes a weight unsigned.
pub(crate) const BIAS: u8 = 43;

/// What the sums of the activations have to make good.
pub(crate) const MINUS_BIAS: i16 = -43;
const _: () = assert!(MINUS_BIAS == -(BIAS as i16));

impl Grouped for BlockIq2Xxs {
    /// `d (s + 1/2) / 4 = (d / 8) (2 s + 1)`.
    const UNIT: f32 = 0.125;

    fn d(&self) -> u16 {
        self.d.get()
    }

    #[inline(always)]
    fn unpack<I: Isa>(&self, isa: I) -> Group<I> {
        let [group, _] = Self::unpack_two(isa, [self, self]);
        group
    }

    #[inline(always)]
    fn unpack_two<I: Isa>(isa: I, blocks: [&Self; 2]) -> [Group<I>; 2] {
        isa.iq2_xxs([&blocks[0].groups, &blocks[1].groups])
    }

    #[inline(always)]
    fn order<I: Isa>(isa: I, a: I::Bytes) -> I::Bytes {
        isa.iq2_xxs_order(a)
    }
}

/// The code book plus [`BIAS`], eight magnitudes a word.
static BIASED_GRID: [u64; 256] = {
    let mut rows = [0; 256];
    let mut i = 0;
    while i < 256 {
        rows[i] = u64::from_le_bytes(GRID[i]) + 0x0101_0101_0101_0101 * BIAS as u64;
        i += 1;
    }
    rows
};

/// [`Isa::iq2_xxs`] by table look-ups, for any instruction set.
#[inline(always)]
pub(crate) fn unpack_portably<I: Isa>(isa: I, blocks: [&[iq2_xxs::Group; 8]; 2]) -> [Group<I>; 2] {
    [unpack_one(isa, blocks[0]), unpack_one(isa, blocks[1])]
}

#[inline(always)]
fn unpack_one<I: Isa>(isa: I, groups: &[iq2_xxs::Group; 8]) -> Group<I> {
    // All groups at once, for the compiler to vectorize.
    let mut signs = [0; 8];
    for (signs, group) in signs.iter_mut().zip(groups) {
        *signs = with_parities(group.signs_scale.get());
    }
    let mut w = [isa.splat(0); 4];
    for v in 0..4 {
        let (a, b) = (&groups[v].rows, &groups[4 + v].rows);
        let row = |index: u8| BIASED_GRID[usize::from(index)];
        let plus = isa.eights([
            row(a[0]),
            row(a[1]),
            row(a[2]),
            row(a[3]),
            row(b[0]),
            row(b[1]),
            row(b[2]),
            row(b[3]),
        ]);
        let minus = isa.mask(u64::from(signs[v]) | u64::from(signs[4 + v]) << 32);
        // With all bits flipped, `43 + m` is `-44 - m`, and 87 more is `43 - m`.
        w[v] = isa.add(isa.xor(plus, minus), isa.and(minus, isa.splat(2 * BIAS + 1)));
    }
    let mut scales = 0;
    for (g, group) in groups.iter().enumerate() {
        scales |= (2 * u64::from(group.scale()) + 1) << (8 * g);
    }
    let scale = isa.sixteen(twice(scales));
    Group { w, scale: isa.spread(scale), offset: isa.times(scale, MINUS_BIAS) }
}

/// Four times seven signs, each with its parity as the eighth: [`iq2_xxs::with_parity`] by bytes.
#[inline(always)]
fn with_parities(signs: u32) -> u32 {
    let m = signs;
    let x = m & 0x7f | m << 1 & 0x7f00 | m << 2 & 0x7f_0000 | m << 3 & 0x7f00_0000;
    // The parity of each byte, gathered in its lowest bit.
    let p = (x ^ x >> 4) & 0x0f0f_0f0f;
    let p = p ^ p >> 2;
    let p = (p ^ p >> 1) & 0x0101_0101;
    x | p << 7
}
