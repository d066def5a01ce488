//! Dot products of weight rows and activation rows: where nearly all the time goes.
//!
//! Weights stay in their block format and are read straight from the file's bytes. Activations are
//! rounded once per row to what suits the weights' format ([`Acts`]); integer products are then
//! exact, and each block adds one float product to its output, in block order:
//!
//! ```text
//! y = Σ_blocks  (d_weight d_activation) · (exact integer dot product of the block)
//! ```
//!
//! That order is the contract. It does not depend on the instruction set, on how many rows or
//! columns are done at once, or on how rows are shared out between threads, so an output has the
//! same bits however it is computed: in decode, in prefill, on any CPU. Float weights add their
//! products in 16 lanes and then as a tree ([`floats`]).
//!
//! Start at [`matmul`]. [`group`] and [`pair`] are the two integer loops; beside them is one file for
//! each format that says how it unpacks into bytes and integer scales.

mod acts;
pub(crate) mod floats;
pub(crate) mod group;
pub(crate) mod iq2_xxs;
mod mxfp4;
mod pair;
pub(crate) mod panel;
mod q2_k;
mod q3_k;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;

pub use acts::{ActRow, Acts, Rounding};
pub(crate) use acts::{Chunk32, Chunk256, ChunkF32, Turned256};
#[cfg(target_arch = "x86_64")]
pub(crate) use mxfp4::DOUBLED as MXFP4_DOUBLED;
pub(crate) use panel::GroupPart;

use crate::isa::{self, Isa, Kernel, Level};
use floats::FloatTile;
use group::GroupTile;
use iq2_xxs::Iq2XxsTile;
use pair::PairTile;
use panel::{MANY, Panelled, PanelsBy};
use quants::Format;
use quants::float::{BlockBF16, BlockF16, BlockF32};
use quants::mxfp4::BlockMxfp4;
use quants::q2_k::BlockQ2K;
use quants::q3_k::BlockQ3K;
use quants::q4_k::BlockQ4K;
use quants::q5_k::BlockQ5K;
use quants::q6_k::BlockQ6K;
use quants::q8_0::BlockQ8_0;
use std::array;
use std::marker::PhantomData;
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A weight matrix where it lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    format: Format,
    k: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// `bytes` as rows of `k` weights.
    ///
    /// # Panics
    ///
    /// If it is not a whole number of rows: the loader has checked every matrix.
    pub fn new(format: Format, k: usize, bytes: &'a [u8]) -> Self {
        let row_bytes = format.row_bytes(k).filter(|&row| row > 0 && bytes.len().is_multiple_of(row));
        let row_bytes = row_bytes.unwrap_or_else(|| panic!("{} bytes of {format} rows of {k}", bytes.len()));
        Self { format, k, row_bytes, bytes }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The block format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The blocks of row `i`.
    fn row<B: FromBytes + Immutable + KnownLayout + Unaligned>(&self, i: usize) -> &'a [B] {
        self.blocks(i..i + 1)
    }

    /// The blocks of some rows, one row after the other.
    fn blocks<B: FromBytes + Immutable + KnownLayout + Unaligned>(&self, rows: Range<usize>) -> &'a [B] {
        let bytes = &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes];
        <[B]>::ref_from_bytes(bytes).expect("a whole number of blocks of alignment 1")
    }
}

/// Multiplies rows of a matrix by columns of activations: `out[c, r] = w[rows[r]] · acts[cols[c]]`.
///
/// Runs on the calling thread; threads share a product by calling it with ranges of rows.
///
/// - `w`: `[_, k]`
/// - `acts`: `[n, k]`, rounded for `w`'s format ([`Rounding::of`])
/// - `cols`: the rows of `acts` wanted, in any order
/// - `out`: `[cols, rows]`
///
/// # Panics
///
/// If shapes or rounding do not fit together, which only a bug can cause.
pub fn matmul(w: &Matrix<'_>, rows: Range<usize>, acts: &Acts, cols: &[usize], out: &mut [f32]) {
    matmul_at(isa::level(), w, rows, acts, cols, out);
}

/// [`matmul`] with a given instruction set.
fn matmul_at(level: Level, w: &Matrix<'_>, rows: Range<usize>, acts: &Acts, cols: &[usize], out: &mut [f32]) {
    assert_eq!(w.k, acts.k(), "row length of weights and activations");
    assert_eq!(out.len(), rows.len() * cols.len(), "outputs");
    assert!(rows.end <= w.rows(), "rows {rows:?} of {}", w.rows());
    let product = Product { w, rows, acts, cols, out };
    match w.format {
        Format::F32 | Format::F16 | Format::BF16 if product.cols.len() >= MANY => {
            level.run(floats::ManyColumns(product));
        }
        Format::F32 => level.run(product.by::<FloatTile<BlockF32>>()),
        Format::F16 => level.run(product.by::<FloatTile<BlockF16>>()),
        Format::BF16 => level.run(product.by::<FloatTile<BlockBF16>>()),
        Format::Q8_0 => product.few_or_many::<PairTile<BlockQ8_0>>(level),
        Format::Mxfp4 => product.few_or_many::<PairTile<BlockMxfp4>>(level),
        Format::Q2K => product.few_or_many::<GroupTile<BlockQ2K>>(level),
        Format::Q3K => product.few_or_many::<GroupTile<BlockQ3K>>(level),
        Format::Q4K => product.few_or_many::<GroupTile<BlockQ4K>>(level),
        Format::Q5K => product.few_or_many::<GroupTile<BlockQ5K>>(level),
        Format::Q6K => product.few_or_many::<GroupTile<BlockQ6K>>(level),
        Format::Iq2Xxs => product.few_or_many::<Iq2XxsTile>(level),
    }
}

/// How a few rows are multiplied by a few columns.
///
/// Implementations use loops where closures would do: a closure that is not inlined is compiled without the
/// instruction set's features, and every operation in it becomes a call.
trait Tile {
    /// What a row of weights is made of.
    type Block: FromBytes + Immutable + KnownLayout + Unaligned;
    /// What a row of activations is made of.
    type Chunk;

    /// The rows of activations, if they are rounded for this.
    fn chunks(acts: &Acts) -> Option<&[Self::Chunk]>;

    /// The products of four rows and `C` columns. Implementations are `#[inline(always)]`.
    fn products<I: Isa, const C: usize>(
        isa: I,
        rows: [&[Self::Block]; 4],
        cols: [&[Self::Chunk]; C],
    ) -> [[f32; 4]; C];

    /// The products of 16 rows and `C` columns, if that is better than four times four. Same bits.
    #[inline(always)]
    fn sixteen_rows<I: Isa, const C: usize>(
        _: I,
        _: [&[Self::Block]; 16],
        _: [&[Self::Chunk]; C],
    ) -> Option<[[f32; 16]; C]> {
        None
    }

    /// The products of 16 rows and `C` columns, one way or the other.
    #[inline(always)]
    fn products_of_sixteen<I: Isa, const C: usize>(
        isa: I,
        rows: [&[Self::Block]; 16],
        cols: [&[Self::Chunk]; C],
    ) -> [[f32; 16]; C] {
        if let Some(all) = Self::sixteen_rows(isa, rows, cols) {
            return all;
        }
        let mut all = [[0.0; 16]; C];
        for (i, four) in rows.as_chunks::<4>().0.iter().enumerate() {
            let products = Self::products(isa, *four, cols);
            for c in 0..C {
                all[c][4 * i..][..4].copy_from_slice(&products[c]);
            }
        }
        all
    }
}

/// How far ahead of the arithmetic memory is asked for weights.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// Bytes of each row.
    bytes: usize,
    /// Rows that are taken together.
    rows: usize,
}

/// For tiles of four rows.
const FOUR_ROWS: Ahead = Ahead { bytes: 4096, rows: 4 };

/// For tiles of 16 rows: less of each, so that the start of a tile does not come too soon.
#[cfg(target_arch = "x86_64")]
pub(crate) const SIXTEEN_ROWS: Ahead = Ahead { bytes: 1024, rows: 16 };

/// Asks for the weights that come so far after block `i` of `count` in a row: further on in this row, or
/// else at the start of the row that is as many below as are taken together, where the next tile begins.
#[inline(always)]
pub(crate) fn prefetch<I: Isa, B: IntoBytes + Immutable>(
    isa: I,
    ahead: Ahead,
    block: &B,
    i: usize,
    count: usize,
) {
    let blocks = ahead.bytes / size_of::<B>();
    let rows_between = if i + blocks < count { 0 } else { (ahead.rows - 1) * count * size_of::<B>() };
    for line in 0..size_of::<B>().div_ceil(64) {
        isa.prefetch(block.as_bytes(), blocks * size_of::<B>() + rows_between + 64 * line);
    }
}

/// The arguments of [`matmul`].
struct Product<'a> {
    w: &'a Matrix<'a>,
    rows: Range<usize>,
    acts: &'a Acts,
    cols: &'a [usize],
    out: &'a mut [f32],
}

impl<'a> Product<'a> {
    fn by<T: Tile>(self) -> ProductBy<'a, T> {
        ProductBy { product: self, tile: PhantomData }
    }

    /// Computes it by the loop that suits the number of columns.
    fn few_or_many<T: Panelled>(self, level: Level) {
        if self.cols.len() < MANY {
            level.run(self.by::<T>());
        } else {
            level.run(PanelsBy::<T>::new(self));
        }
    }
}

/// A product with the way to compute it.
struct ProductBy<'a, T> {
    product: Product<'a>,
    tile: PhantomData<T>,
}

impl<T: Tile> Kernel for ProductBy<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let (rows, cols) = (self.product.rows.len(), self.product.cols.len());
        let blocks = self.product.w.blocks(self.product.rows.clone());
        let mut first = 0;
        while first < rows {
            let height = if rows - first >= 16 { 16 } else { 4 };
            let mut c = 0;
            while c < cols {
                c += match cols - c {
                    1 => self.tile::<I, 1>(isa, blocks, first, height, c),
                    2 => self.tile::<I, 2>(isa, blocks, first, height, c),
                    _ => self.tile::<I, 4>(isa, blocks, first, height, c),
                };
            }
            first += height;
        }
    }
}

impl<T: Tile> ProductBy<'_, T> {
    /// Outputs `first..first + height`, 16 or 4 of them, by columns `c..c + C`. Where fewer are left, the last row and the
    /// last column stand in for those that are missing. Returns `C`.
    ///
    /// - `blocks`: those of all rows wanted
    #[inline(always)]
    fn tile<I: Isa, const C: usize>(
        &mut self,
        isa: I,
        blocks: &[T::Block],
        first: usize,
        height: usize,
        c: usize,
    ) -> usize {
        let Product { rows, acts, cols, out, .. } = &mut self.product;
        let chunks = T::chunks(acts).expect("activations rounded for the format of the weights");
        let (per_row, width) = (blocks.len() / rows.len(), chunks.len() / acts.n());
        let row = |i: usize| &blocks[(first + i).min(rows.len() - 1) * per_row..][..per_row];
        let columns = array::from_fn(|i| &chunks[cols[(c + i).min(cols.len() - 1)] * width..][..width]);
        let mut store = |c: usize, products: &[f32]| {
            let at = c * rows.len() + first;
            let count = products.len().min(rows.len() - first);
            out[at..at + count].copy_from_slice(&products[..count]);
        };
        let wanted = C.min(cols.len() - c);
        if height == 16 {
            let products: [_; C] = T::products_of_sixteen(isa, array::from_fn(row), columns);
            (0..wanted).for_each(|i| store(c + i, &products[i]));
        } else {
            let products: [_; C] = T::products(isa, array::from_fn(row), columns);
            (0..wanted).for_each(|i| store(c + i, &products[i]));
        }
        C
    }
}

#[cfg(test)]
mod tests;
