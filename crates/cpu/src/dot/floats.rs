//! Float weights times f32 activations.
//!
//! Product `i` of a row goes to lane `i % 16`, each lane adds in the order of the row by fused multiply-add, and
//! at the end the lanes are added as a tree ([`Isa::sum`]).
//!
//! With few columns ([`FloatTile`]) it is all about reading the weights. With many ([`multiply`]) a part of
//! some columns stays in the first-level cache while all rows of a block meet it, and lanes that are not
//! finished wait in memory.

use super::acts::{Acts, ChunkF32, Chunks};
use super::{FOUR_ROWS, Matrix, Product, Tile, prefetch};
use crate::isa::{Isa, Kernel};
use crate::lanes::{LANES, Line, Vector};
use quants::Format;
use quants::float::{BlockBF16, BlockF16, BlockF32};
use std::array;
use std::marker::PhantomData;
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Rows of weights that meet a part of some columns.
pub(super) const ROWS: usize = 32;

/// Vectors of that part, in each column.
const DEPTH: usize = 32;

/// The most columns that are taken together.
pub(crate) const COLS: usize = 6;

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
            sums[c][r] = isa.fused(sums[c][r], w, isa.floats(&cols[c][i].x));
        }
    }
}

/// A product with many columns.
pub(super) struct ManyColumns<'a>(pub(super) Product<'a>);

impl Kernel for ManyColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Product { w, rows, acts, cols, out } = self.0;
        let Chunks::F32(chunks) = acts.chunks() else {
            panic!("activations rounded for the format of the weights")
        };
        let chunks = <[Vector]>::ref_from_bytes(chunks.as_bytes()).expect("a chunk is a vector");
        let (width, height) = (chunks.len() / acts.n(), rows.len());
        let column = |c: usize| &chunks[cols[c] * width..][..width];
        for c in (0..cols.len()).step_by(COLS) {
            let count = COLS.min(cols.len() - c);
            // Where fewer are left, the last stands in for those that are missing.
            let mut columns = [column(cols.len() - 1); COLS];
            for (i, column_of) in columns.iter_mut().enumerate().take(count) {
                *column_of = column(c + i);
            }
            let out = &mut out[c * height..][..count * height];
            multiply(isa, w, rows.clone(), columns, count, out);
        }
    }
}

/// Multiplies some rows of floats with up to [`COLS`] columns.
///
/// - `cols`: whole vectors, what is beyond a row being zero; the first `count` of them are wanted
/// - `out`: `[count, rows]`
#[inline(always)]
pub(crate) fn multiply<I: Isa>(
    isa: I,
    w: &Matrix<'_>,
    rows: Range<usize>,
    cols: [&[Vector]; COLS],
    count: usize,
    out: &mut [f32],
) {
    match w.format {
        Format::F32 => multiply_by::<I, BlockF32>(isa, w, rows, cols, count, out),
        Format::F16 => multiply_by::<I, BlockF16>(isa, w, rows, cols, count, out),
        Format::BF16 => multiply_by::<I, BlockBF16>(isa, w, rows, cols, count, out),
        other => unreachable!("{other} is no format of floats"),
    }
}

#[inline(always)]
fn multiply_by<I: Isa, B: Float>(
    isa: I,
    w: &Matrix<'_>,
    rows: Range<usize>,
    cols: [&[Vector]; COLS],
    count: usize,
    out: &mut [f32],
) {
    let vectors = w.k.div_ceil(LANES);
    let mut sums = [[Line::default(); COLS]; ROWS];
    for first in rows.clone().step_by(ROWS) {
        let height = ROWS.min(rows.end - first);
        for start in (0..vectors).step_by(DEPTH) {
            let part = start..vectors.min(start + DEPTH);
            let row = |i: usize| w.row::<B>((first + i).min(rows.end - 1));
            if I::WIDE {
                for r in (0..height).step_by(4) {
                    let rows = [row(r), row(r + 1), row(r + 2), row(r + 3)];
                    tile::<I, B, 4, COLS>(isa, rows, cols, part.clone(), &mut sums[r..], 0);
                }
            } else {
                for r in (0..height).step_by(2) {
                    for c in (0..count).step_by(2) {
                        let rows = [row(r), row(r + 1)];
                        let cols = [cols[c], cols[c + 1]];
                        tile::<I, B, 2, 2>(isa, rows, cols, part.clone(), &mut sums[r..], c);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate().take(height) {
            for (c, sum) in sums.iter().enumerate().take(count) {
                out[c * rows.len() + first - rows.start + r] = isa.sum(isa.floats(&sum.0));
            }
        }
    }
}

/// Adds the products of a part of `R` rows and `C` columns to their lanes, which begin with the first part.
///
/// - `sums`: of the rows, from column `first` on
#[inline(always)]
fn tile<I: Isa, B: Float, const R: usize, const C: usize>(
    isa: I,
    rows: [&[B]; R],
    cols: [&[Vector]; C],
    part: Range<usize>,
    sums: &mut [[Line; COLS]],
    first: usize,
) {
    let mut lanes = [[isa.no_floats(); C]; R];
    if part.start > 0 {
        for r in 0..R {
            for c in 0..C {
                lanes[r][c] = isa.floats(&sums[r][first + c].0);
            }
        }
    }
    let whole = part.start..part.end.min(rows[0].len() / LANES);
    let mut w: [&[[B; LANES]]; R] = [&[]; R];
    for r in 0..R {
        w[r] = &rows[r].as_chunks().0[whole.clone()];
    }
    let mut x: [&[Vector]; C] = [&[]; C];
    for c in 0..C {
        x[c] = &cols[c][whole.clone()];
    }
    for i in 0..whole.len() {
        let mut values = [isa.no_floats(); C];
        for c in 0..C {
            values[c] = isa.floats(&x[c][i]);
        }
        for r in 0..R {
            let w = B::widen(isa, &w[r][i]);
            for c in 0..C {
                lanes[r][c] = isa.fused(lanes[r][c], w, values[c]);
            }
        }
    }
    if whole.end < part.end {
        for r in 0..R {
            let mut end = [B::ZERO; LANES];
            let rest = rows[r].as_chunks::<LANES>().1;
            end[..rest.len()].copy_from_slice(rest);
            let w = B::widen(isa, &end);
            for c in 0..C {
                lanes[r][c] = isa.fused(lanes[r][c], w, isa.floats(&cols[c][whole.end]));
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            isa.put_floats(lanes[r][c], &mut sums[r][first + c].0);
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
