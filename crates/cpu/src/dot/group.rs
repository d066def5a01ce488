//! Formats with blocks of 256: integer scales inside the block, floats once per block.
//!
//! Each format unpacks a block into unsigned bytes `w` and 16 integer scales `s`, and says what to do
//! with the activation sums `b` (one per 16): either they correct for `w` having been made unsigned,
//! or they carry the block's minima, which have a float scale of their own.
//!
//! ```text
//! correction:  y += (d a) · (Σ_i s[i/16] w[i] q[i] + Σ_j o[j] b[j])
//! minima:      y += (d a) · Σ_i s[i/16] w[i] q[i]  -  (dmin a) · Σ_j o[j] b[j]
//! ```

use super::Tile;
use super::acts::{Acts, Chunk256, Chunks};
use crate::isa::Isa;
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Rows of blocks of 256.
pub(super) struct GroupTile<B>(PhantomData<B>);

/// A block as bytes and integers.
pub(super) struct Group<I: Isa> {
    /// Unsigned bytes, in the order of a group (see [`Isa`]).
    pub w: [I::Bytes; 4],
    /// The scale of each 16 weights, `s` above.
    pub scale: I::Sixteen,
    /// What the activation sums are multiplied with, `o` above.
    pub offset: I::Sixteen,
}

/// A format with blocks of 256.
pub(super) trait Grouped: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {
    /// Whether the offsets are minima, with [`dmin`](Self::dmin) as their unit.
    const MINIMA: bool;
    /// A power of two that goes with `d`.
    const UNIT: f32;

    /// The unit of the scales, f16 bits.
    fn d(&self) -> u16;

    /// The unit of the minima, f16 bits.
    fn dmin(&self) -> u16;

    /// Unpacks one block.
    fn unpack<I: Isa>(&self, isa: I) -> Group<I>;

    /// Unpacks two blocks of different rows, for formats where that is cheaper.
    #[inline(always)]
    fn unpack_two<I: Isa>(isa: I, blocks: [&Self; 2]) -> [Group<I>; 2] {
        [blocks[0].unpack(isa), blocks[1].unpack(isa)]
    }
}

impl<B: Grouped> Tile for GroupTile<B> {
    type Block = B;
    type Chunk = Chunk256;

    fn chunks(acts: &Acts) -> Option<&[Chunk256]> {
        match acts.chunks() {
            Chunks::A256(chunks) => Some(chunks),
            _ => None,
        }
    }

    #[inline(always)]
    fn products<I: Isa, const C: usize>(
        isa: I,
        rows: [&[B]; 4],
        cols: [&[Chunk256]; C],
        ahead: usize,
    ) -> [[f32; 4]; C] {
        let blocks = rows[0].len();
        assert!(rows.iter().all(|row| row.len() == blocks) && cols.iter().all(|col| col.len() == blocks));
        let mut totals = [[0.0; 4]; C];
        for g in 0..blocks {
            let block = [&rows[0][g], &rows[1][g], &rows[2][g], &rows[3][g]];
            let mut sums = [[isa.no_sums(); 4]; C];
            let mut minima = [[isa.no_sums(); 4]; C];
            for two in [0, 2] {
                let unpacked = B::unpack_two(isa, [block[two], block[two + 1]]);
                for (r, group) in unpacked.into_iter().enumerate() {
                    prefetch(isa, block[two + r], ahead);
                    let scale = isa.spread(group.scale);
                    for c in 0..C {
                        let chunk = &cols[c][g];
                        let offset = isa.dot_sixteen(isa.no_sums(), group.offset, &chunk.sum);
                        let start = if B::MINIMA { isa.no_sums() } else { offset };
                        sums[c][two + r] = isa.dot_group(start, &group.w, &scale, &chunk.q);
                        minima[c][two + r] = offset;
                    }
                }
            }
            let d = isa.f16x4([block[0].d(), block[1].d(), block[2].d(), block[3].d()]);
            let dmin = isa.f16x4([block[0].dmin(), block[1].dmin(), block[2].dmin(), block[3].dmin()]);
            for c in 0..C {
                let a = cols[c][g].scale;
                let sum = isa.totals(sums[c]);
                let min = if B::MINIMA { isa.totals(minima[c]) } else { [0; 4] };
                for r in 0..4 {
                    let mut product = d[r] * B::UNIT * a * sum[r] as f32;
                    if B::MINIMA {
                        product -= dmin[r] * a * min[r] as f32;
                    }
                    totals[c][r] += product;
                }
            }
        }
        totals
    }
}

/// Asks for every cache line that the block as far ahead begins in.
#[inline(always)]
fn prefetch<I: Isa, B: Grouped>(isa: I, block: &B, ahead: usize) {
    let bytes = block.as_bytes();
    for line in 0..size_of::<B>().div_ceil(64) {
        isa.prefetch(bytes, ahead + 64 * line);
    }
}
