//! IQ2_XXS: magnitudes from a code book, signs with a parity bit.
//!
//! Weights are taken plus 43, the largest magnitude, which makes them unsigned. How a block meets its
//! activations is up to the instruction set ([`Isa::iq2_xxs_dots`]): where the code book fits registers, it
//! wants them in an order of its own ([`Turned256`]).

use super::acts::{Acts, Chunks, Turned256};
use super::group::{Group, activations};
use super::panel::transpose;
use super::q4_k::twice;
use super::{FOUR_ROWS, Tile, prefetch};
use crate::isa::{Isa, Line};
use quants::iq2_xxs::{self, BlockIq2Xxs, GRID};

/// What makes a weight unsigned.
pub(crate) const BIAS: u8 = 43;

/// What the sums of the activations have to make good.
const MINUS_BIAS: i16 = -43;
const _: () = assert!(MINUS_BIAS == -(BIAS as i16));

/// `d (s + 1/2) / 4 = (d / 8) (2 s + 1)`.
pub(crate) const UNIT: f32 = 0.125;

/// Rows of IQ2_XXS.
pub(super) struct Iq2XxsTile;

impl Tile for Iq2XxsTile {
    type Block = BlockIq2Xxs;
    type Chunk = Turned256;

    fn chunks(acts: &Acts) -> Option<&[Turned256]> {
        match acts.chunks() {
            Chunks::Turned(chunks) => Some(chunks),
            _ => None,
        }
    }

    #[inline(always)]
    fn products<I: Isa, const C: usize>(
        isa: I,
        rows: [&[BlockIq2Xxs]; 4],
        cols: [&[Turned256]; C],
    ) -> [[f32; 4]; C] {
        let blocks = rows[0].len();
        assert!(rows.iter().all(|row| row.len() == blocks) && cols.iter().all(|col| col.len() == blocks));
        let mut totals = [[0.0; 4]; C];
        for g in 0..blocks {
            let block = [&rows[0][g], &rows[1][g], &rows[2][g], &rows[3][g]];
            block.iter().for_each(|block| prefetch(isa, FOUR_ROWS, *block, g, blocks));
            let groups = [&block[0].groups, &block[1].groups, &block[2].groups, &block[3].groups];
            let mut chunks = [&cols[0][g]; C];
            for c in 1..C {
                chunks[c] = &cols[c][g];
            }
            let sums = isa.iq2_xxs_dots(groups, chunks);
            let d = isa.f16x4([block[0].d.get(), block[1].d.get(), block[2].d.get(), block[3].d.get()]);
            for c in 0..C {
                for r in 0..4 {
                    totals[c][r] += d[r] * UNIT * cols[c][g].scale * sums[c][r] as f32;
                }
            }
        }
        totals
    }

    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        isa: I,
        rows: [&[BlockIq2Xxs]; 16],
        cols: [&[Turned256]; C],
    ) -> Option<[[f32; 16]; C]> {
        isa.iq2_xxs_products(rows, cols)
    }
}

/// [`Isa::iq2_xxs_dots`] by table look-ups, for any instruction set.
#[inline(always)]
pub(crate) fn dots_portably<I: Isa, const C: usize>(
    isa: I,
    blocks: [&[iq2_xxs::Group; 8]; 4],
    cols: [&Turned256; C],
) -> [[i32; 4]; C] {
    let mut sums = [[isa.no_sums(); 4]; C];
    for r in 0..4 {
        let Group { w, scale, offset, .. } = unpack(isa, blocks[r]);
        for c in 0..C {
            let chunk = &cols[c].plain;
            let start = isa.dot_sixteen(isa.no_sums(), offset, &chunk.sum);
            sums[c][r] = isa.dot_group(start, &w, &scale, &activations(isa, chunk));
        }
    }
    let mut totals = [[0; 4]; C];
    for c in 0..C {
        totals[c] = isa.totals(sums[c]);
    }
    totals
}

/// [`Isa::iq2_xxs_panel`] by way of the order of a group.
#[inline(always)]
pub(crate) fn panel_portably<I: Isa>(
    isa: I,
    blocks: [&[iq2_xxs::Group; 8]; 16],
    w: &mut [[Line; 16]; 4],
    scales: &mut [Line; 8],
) {
    let mut staged = [[Line::ZERO; 16]; 4];
    let (mut numbers, mut lanes) = ([Line::ZERO; 16], [Line::ZERO; 16]);
    for (r, block) in blocks.into_iter().enumerate() {
        for (v, weights) in unpack(isa, block).w.into_iter().enumerate() {
            let mut vector = [0; 64];
            isa.put_bytes(weights, &mut vector);
            for (half, weights) in vector.as_chunks::<32>().0.iter().enumerate() {
                let first_row = 4 * (v + 4 * half);
                for (j, &weight) in weights.iter().enumerate() {
                    let place = j % 8;
                    staged[place / 2][r].0[32 * (place % 2) + first_row + j / 8] = weight;
                }
            }
        }
        for (word, group) in numbers[r].0.as_chunks_mut::<4>().0.iter_mut().zip(block) {
            *word = (2 * u32::from(group.scale()) + 1).to_le_bytes();
        }
    }
    for (staged, w) in staged.iter().zip(w) {
        transpose(isa, staged, w);
    }
    transpose(isa, &numbers, &mut lanes);
    scales.copy_from_slice(&lanes[..8]);
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

/// A block as any format with blocks of 256 unpacks.
#[inline(always)]
fn unpack<I: Isa>(isa: I, groups: &[iq2_xxs::Group; 8]) -> Group<I> {
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
    Group { w, scale: isa.spread(scale), by_sixteen: scale, offset: isa.times(scale, MINUS_BIAS) }
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
