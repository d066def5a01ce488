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

use super::acts::{Acts, Chunk256, Chunks};
use super::{FOUR_ROWS, GroupPart, Tile, prefetch};
use crate::isa::Isa;
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute_ref};

/// Rows of blocks of 256.
pub(super) struct GroupTile<B>(PhantomData<B>);

/// A block as bytes and integers.
#[derive(Clone, Copy)]
pub struct Group<I: Isa> {
    /// Unsigned bytes, in the order of a group (see [`Isa`]).
    pub w: [I::Bytes; 4],
    /// The scale of each 16 weights, `s` above.
    pub scale: I::Spread,
    /// The same scales once each.
    pub by_sixteen: I::Sixteen,
    /// What the activation sums are multiplied with, `o` above.
    pub offset: I::Sixteen,
}

/// What becomes of the integer scales when rows are unpacked side by side (see [`panel`](super::panel)).
pub(super) enum Scales {
    /// They are multiplied into the bytes, where they fit.
    Folded,
    /// Those of each 32 weights are equal, and multiply sums.
    By32,
    /// They multiply sums of 16.
    By16,
}

/// A format with blocks of 256.
pub(super) trait Grouped: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Sized {
    /// Whether the offsets are minima, with [`dmin`](Self::dmin) as their unit.
    const MINIMA: bool = false;
    /// What became of the scales in panels.
    const SCALES: Scales;
    /// No unsigned weight is above this, times its scale where that is folded in.
    const LARGEST: u8;
    /// What was added to each weight to make it unsigned: the offsets are the scales times minus this,
    /// unless they are minima.
    const BIAS: i32 = 0;

    /// The unit of the scales, f16 bits.
    fn d(&self) -> u16;

    /// The unit of the minima, f16 bits, in a format that has them.
    fn dmin(&self) -> u16 {
        0
    }

    /// Unpacks one block.
    fn unpack<I: Isa>(&self, isa: I) -> Group<I>;

    /// Unpacks blocks of 16 rows side by side, if there is a better way than one by one; returns whether it did.
    #[inline(always)]
    fn unpack_sixteen<I: Isa>(_: I, _: [&Self; 16], _: &mut GroupPart) -> bool {
        false
    }

    /// See [`Tile::sixteen_rows`].
    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        _: I,
        _: [&[Self]; 16],
        _: [&[Chunk256]; C],
    ) -> Option<[[f32; 16]; C]> {
        None
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
    fn products<I: Isa, const C: usize>(isa: I, rows: [&[B]; 4], cols: [&[Chunk256]; C]) -> [[f32; 4]; C] {
        let blocks = rows[0].len();
        assert!(rows.iter().all(|row| row.len() == blocks) && cols.iter().all(|col| col.len() == blocks));
        let mut totals = [[0.0; 4]; C];
        for g in 0..blocks {
            let block = [&rows[0][g], &rows[1][g], &rows[2][g], &rows[3][g]];
            block.iter().for_each(|block| prefetch(isa, FOUR_ROWS, *block, g, blocks));
            let first = two_rows(isa, [block[0], block[1]], cols, g);
            let second = two_rows(isa, [block[2], block[3]], cols, g);
            let d = isa.f16x4([block[0].d(), block[1].d(), block[2].d(), block[3].d()]);
            let dmin = isa.f16x4([block[0].dmin(), block[1].dmin(), block[2].dmin(), block[3].dmin()]);
            for c in 0..C {
                let a = cols[c][g].scale;
                let ([a0, a1], [b0, b1]) = (first[c], second[c]);
                let sum = isa.totals([a0.weighted, a1.weighted, b0.weighted, b1.weighted]);
                let min =
                    if B::MINIMA { isa.totals([a0.minima, a1.minima, b0.minima, b1.minima]) } else { [0; 4] };
                for r in 0..4 {
                    let mut product = d[r] * a * sum[r] as f32;
                    if B::MINIMA {
                        product -= dmin[r] * a * min[r] as f32;
                    }
                    totals[c][r] += product;
                }
            }
        }
        totals
    }

    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        isa: I,
        rows: [&[B]; 16],
        cols: [&[Chunk256]; C],
    ) -> Option<[[f32; 16]; C]> {
        B::sixteen_rows(isa, rows, cols)
    }
}

/// The integer sums of a block and a column.
#[derive(Clone, Copy)]
struct BlockSums<I: Isa> {
    weighted: I::Sums,
    /// Only for formats with minima.
    minima: I::Sums,
}

/// The sums of two rows and all columns, for block `g`.
#[inline(always)]
fn two_rows<I: Isa, B: Grouped, const C: usize>(
    isa: I,
    blocks: [&B; 2],
    cols: [&[Chunk256]; C],
    g: usize,
) -> [[BlockSums<I>; 2]; C] {
    let groups = [blocks[0].unpack(isa), blocks[1].unpack(isa)];
    let mut sums = [[BlockSums { weighted: isa.no_sums(), minima: isa.no_sums() }; 2]; C];
    for c in 0..C {
        let chunk = &cols[c][g];
        let a = activations(isa, chunk);
        for r in 0..2 {
            let Group { w, scale, offset, .. } = &groups[r];
            let offset = isa.dot_sixteen(isa.no_sums(), *offset, &chunk.sum);
            sums[c][r] = if B::MINIMA {
                BlockSums { weighted: isa.dot_group(isa.no_sums(), w, scale, &a), minima: offset }
            } else {
                BlockSums { weighted: isa.dot_group(offset, w, scale, &a), minima: isa.no_sums() }
            };
        }
    }
    sums
}

/// The activations of a group.
#[inline(always)]
pub(super) fn activations<I: Isa>(isa: I, chunk: &Chunk256) -> [I::Bytes; 4] {
    let q: &[[u8; 64]; 4] = transmute_ref!(&chunk.q);
    [isa.bytes(&q[0]), isa.bytes(&q[1]), isa.bytes(&q[2]), isa.bytes(&q[3])]
}
