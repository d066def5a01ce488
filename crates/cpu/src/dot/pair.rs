//! Formats with blocks of 32: one float product per block, two blocks to a vector.
//!
//! ```text
//! y += (d a) · Σ_i w[i] q[i]
//! ```

use super::acts::{Acts, Chunk32, Chunks};
use super::{FOUR_ROWS, Tile, prefetch};
use crate::isa::{Isa, Line};
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Rows of blocks of 32.
pub(super) struct PairTile<B>(PhantomData<B>);

/// A format with blocks of 32.
pub(super) trait Paired: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy {
    /// A block of zeros, to make a pair at the end of a row.
    const ZERO: Self;
    /// No magnitude of an unpacked weight is above this.
    const LARGEST: u8;
    /// Whether scales are powers of two.
    const POWERS: bool = false;

    /// Unpacks two neighbouring blocks into signed bytes.
    fn unpack<I: Isa>(isa: I, blocks: [&Self; 2]) -> I::Signed;

    /// Unpacks blocks of 16 rows side by side, if there is a better way than two by two; returns whether it did.
    #[inline(always)]
    fn unpack_sixteen<I: Isa>(_: I, _: [&Self; 16], _: &mut [Line; 8]) -> bool {
        false
    }

    /// The scales of four blocks.
    fn scales<I: Isa>(isa: I, blocks: [&Self; 4]) -> [f32; 4];

    /// See [`Tile::sixteen_rows`].
    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        _: I,
        _: [&[Self]; 16],
        _: [&[Chunk32]; C],
    ) -> Option<[[f32; 16]; C]> {
        None
    }
}

impl<B: Paired> Tile for PairTile<B> {
    type Block = B;
    type Chunk = Chunk32;

    fn chunks(acts: &Acts) -> Option<&[Chunk32]> {
        match acts.chunks() {
            Chunks::A32(chunks) => Some(chunks),
            _ => None,
        }
    }

    #[inline(always)]
    fn products<I: Isa, const C: usize>(isa: I, rows: [&[B]; 4], cols: [&[Chunk32]; C]) -> [[f32; 4]; C] {
        let rows = rows.map(|row| row.as_chunks::<2>());
        let pairs = rows[0].0.len();
        assert!(rows.iter().all(|row| row.0.len() == pairs && row.1.len() == rows[0].1.len()));
        let mut totals = [[0.0; 4]; C];
        for p in 0..pairs {
            let pair = [&rows[0].0[p], &rows[1].0[p], &rows[2].0[p], &rows[3].0[p]];
            pair.iter().for_each(|pair| prefetch(isa, FOUR_ROWS, *pair, p, pairs));
            add_pair(isa, pair, cols, p, &mut totals);
        }
        if !rows[0].1.is_empty() {
            let zero = B::ZERO;
            add_pair(isa, rows.map(|(_, end)| [end[0], zero]).each_ref(), cols, pairs, &mut totals);
        }
        totals
    }

    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        isa: I,
        rows: [&[B]; 16],
        cols: [&[Chunk32]; C],
    ) -> Option<[[f32; 16]; C]> {
        B::sixteen_rows(isa, rows, cols)
    }
}

/// Adds the products of pair `p` of each row and column.
#[inline(always)]
fn add_pair<I: Isa, B: Paired, const C: usize>(
    isa: I,
    pair: [&[B; 2]; 4],
    cols: [&[Chunk32]; C],
    p: usize,
    totals: &mut [[f32; 4]; C],
) {
    let w = [
        B::unpack(isa, [&pair[0][0], &pair[0][1]]),
        B::unpack(isa, [&pair[1][0], &pair[1][1]]),
        B::unpack(isa, [&pair[2][0], &pair[2][1]]),
        B::unpack(isa, [&pair[3][0], &pair[3][1]]),
    ];
    let d = [
        B::scales(isa, [&pair[0][0], &pair[1][0], &pair[2][0], &pair[3][0]]),
        B::scales(isa, [&pair[0][1], &pair[1][1], &pair[2][1], &pair[3][1]]),
    ];
    for c in 0..C {
        let chunk = &cols[c][p / 4];
        let a = &chunk.q[p % 4];
        let sums =
            [isa.dot_pair(w[0], a), isa.dot_pair(w[1], a), isa.dot_pair(w[2], a), isa.dot_pair(w[3], a)];
        let sums = isa.pair_totals(sums);
        for half in 0..2 {
            let a = chunk.scale[p % 4][half];
            let unbias = if I::PAIR_BIASED { chunk.unbias[p % 4][half] } else { 0 };
            for r in 0..4 {
                totals[c][r] += d[half][r] * a * (sums[half][r] + unbias) as f32;
            }
        }
    }
}
