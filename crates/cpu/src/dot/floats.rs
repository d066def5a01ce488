//! Float weights times f32 activations.
//!
//! Product `i` of a row goes to lane `i % 16`, each lane adds in the order of the row, and at the end
//! the lanes are added as a tree ([`Isa::sum`]).

use super::acts::{Acts, ChunkF32, Chunks};
use super::{FOUR_ROWS, Tile, prefetch};
use crate::isa::Isa;
use quants::float::{BlockBF16, BlockF16, BlockF32};
use std::array;
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Rows of single floats.
pub(super) struct FloatTile<B>(PhantomData<B>);

/// A float that can be widened, 16 at a time.
pub(super) trait Float: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy {
    /// Zero, for the end of a row.
    const ZERO: Self;

    /// The values of 16 weights.
    fn widen<I: Isa>(isa: I, w: &[Self; 16]) -> I::Floats;
}

impl<B: Float> Tile for FloatTile<B> {
    type Block = B;
    type Chunk = ChunkF32;

    fn chunks(acts: &Acts) -> Option<&[ChunkF32]> {
        match acts.chunks() {
            Chunks::F32(chunks) => Some(chunks),
            _ => None,
        }
    }

    #[inline(always)]
    fn products<I: Isa, const C: usize>(isa: I, rows: [&[B]; 4], cols: [&[ChunkF32]; C]) -> [[f32; 4]; C] {
        let rows = rows.map(|row| row.as_chunks::<16>());
        let whole = rows[0].0.len();
        assert!(rows.iter().all(|row| row.0.len() == whole) && cols.iter().all(|col| col.len() >= whole));
        let mut sums = [[isa.no_floats(); 4]; C];
        for i in 0..whole {
            let w = [&rows[0].0[i], &rows[1].0[i], &rows[2].0[i], &rows[3].0[i]];
            w.iter().for_each(|w| prefetch(isa, FOUR_ROWS, *w, i, whole));
            add_products(isa, w, cols, i, &mut sums);
        }
        if !rows[0].1.is_empty() {
            let ends = rows.map(|(_, end)| array::from_fn(|i| *end.get(i).unwrap_or(&B::ZERO)));
            add_products(isa, ends.each_ref(), cols, whole, &mut sums);
        }
        let mut totals = [[0.0; 4]; C];
        for c in 0..C {
            for r in 0..4 {
                totals[c][r] = isa.sum(sums[c][r]);
            }
        }
        totals
    }
}

/// Adds the products of 16 weights of each row and chunk `i` of each column.
#[inline(always)]
fn add_products<I: Isa, B: Float, const C: usize>(
    isa: I,
    w: [&[B; 16]; 4],
    cols: [&[ChunkF32]; C],
    i: usize,
    sums: &mut [[I::Floats; 4]; C],
) {
    for r in 0..4 {
        let w = B::widen(isa, w[r]);
        for c in 0..C {
            sums[c][r] = isa.add_products(sums[c][r], w, isa.floats(&cols[c][i].x));
        }
    }
}

impl Float for BlockF32 {
    const ZERO: Self = Self { value: zerocopy::little_endian::F32::ZERO };

    #[inline(always)]
    fn widen<I: Isa>(isa: I, w: &[Self; 16]) -> I::Floats {
        isa.floats_f32(w.as_bytes().try_into().expect("16 times 4 bytes"))
    }
}

impl Float for BlockF16 {
    const ZERO: Self = Self { bits: zerocopy::little_endian::U16::ZERO };

    #[inline(always)]
    fn widen<I: Isa>(isa: I, w: &[Self; 16]) -> I::Floats {
        isa.floats_f16(w.as_bytes().try_into().expect("16 times 2 bytes"))
    }
}

impl Float for BlockBF16 {
    const ZERO: Self = Self { bits: zerocopy::little_endian::U16::ZERO };

    #[inline(always)]
    fn widen<I: Isa>(isa: I, w: &[Self; 16]) -> I::Floats {
        isa.floats_bf16(w.as_bytes().try_into().expect("16 times 2 bytes"))
    }
}
