//! Matrix products: `y = W x` for every row of the batch.
//!
//! Work is cut into items of some weight rows and some batch rows, which threads claim. How it is cut
//! changes no bits; see [`crate::dot`].

use crate::array::Array;
use crate::dot::{self, Acts, Rounding};
use crate::fast::Cpu;
use crate::pool::Shards;
use crate::spares::{Spares, room};
use model::Matrix;
use std::ops::Range;

/// Batch rows of one item with float weights, which need no unpacking: few enough for all threads to have some where
/// there are few weight rows.
const FLOAT_COLS: usize = 16 * dot::floats::COLS;

/// Batch rows of one item with other weights, which are unpacked for each item.
pub const COLS: usize = 512;

/// Rows of one item with many batch rows, at most: the activations of an expert stay in the cache for all panels
/// of an item, and the weights of the next panels are fetched while these are multiplied.
pub const TALLEST: usize = 4 * dot::panel::ROWS;

/// Weights that a claim of a single batch row reads, at most: a few microseconds.
const BLOCK_BYTES: usize = 128 << 10;

/// Some rows of a matrix, and their input.
pub struct Product<'a> {
    pub w: &'a Matrix,
    pub rows: Range<usize>,
    pub x: Input<'a>,
}

/// What a matrix is multiplied by.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// Rows that are rounded when first they are needed.
    Array(&'a Array),
    /// Rows that are rounded for the matrix already.
    Acts(&'a Acts),
}

impl<'a> Product<'a> {
    /// All rows of a matrix.
    pub fn new(w: &'a Matrix, x: &'a Array) -> Self {
        Product { w, rows: 0..w.rows, x: Input::Array(x) }
    }

    /// Batch rows.
    fn n(&self) -> usize {
        match self.x {
            Input::Array(x) => x.n(),
            Input::Acts(x) => x.n(),
        }
    }

    /// The input as the matrix takes it.
    fn rounded(&self, cpu: &Cpu) -> &'a Acts {
        match self.x {
            Input::Array(x) => x.rounded(Rounding::of(self.w.format), &cpu.pool),
            Input::Acts(x) => x,
        }
    }
}

impl Cpu {
    /// `[n, w.rows]`
    pub(crate) fn linear(&self, w: &Matrix, x: &Array) -> Array {
        self.linears(&[Product::new(w, x)]).pop().expect("one product")
    }

    /// Several products in one parallel region: `[n, rows]` each.
    pub(crate) fn linears(&self, products: &[Product<'_>]) -> Vec<Array> {
        let mut made: Vec<Array> = products.iter().map(|p| Array::unset(p.n(), p.rows.len())).collect();
        let parts: Vec<_> = made.iter_mut().map(|y| Shards::new(&mut y.data)).collect();
        let target = |(data, p): (_, &Product<'_>)| Target { data, width: p.rows.len(), at: 0 };
        self.multiply(products, &parts.iter().zip(products).map(target).collect::<Vec<_>>());
        made
    }

    /// Several products of the same batch rows in one parallel region, side by side: `[n, all rows]`.
    pub(crate) fn linears_beside(&self, products: &[Product<'_>]) -> Array {
        let width = products.iter().map(|p| p.rows.len()).sum();
        let mut made = Array::unset(products.first().map_or(0, Product::n), width);
        let data = &Shards::new(&mut made.data);
        let mut at = 0;
        let target = |p: &Product<'_>| {
            let start = at;
            at += p.rows.len();
            Target { data, width, at: start }
        };
        self.multiply(products, &products.iter().map(target).collect::<Vec<_>>());
        made
    }

    /// Computes each product into its target. Targets do not overlap.
    fn multiply(&self, products: &[Product<'_>], targets: &[Target<'_>]) {
        // One row each is rounded by a thread of its own; more rows are shared out for each input.
        if products.iter().all(|p| p.n() == 1 && matches!(p.x, Input::Array(_))) {
            self.pool.each(products.len(), |i| {
                products[i].rounded(self);
            });
        }
        let jobs: Vec<Job<'_>> =
            products.iter().zip(targets).map(|(product, out)| Job::new(self, product, *out)).collect();
        let all: usize = products.iter().map(|p| p.rows.len()).sum();
        let items: Vec<(usize, Range<usize>, Range<usize>)> = jobs
            .iter()
            .enumerate()
            .flat_map(|(job, j)| {
                let cols = if j.w.format().block_len() == 1 { FLOAT_COLS } else { COLS };
                let floats = j.w.format().block_len() == 1;
                let tallest = if floats { dot::panel::ROWS } else { TALLEST };
                self.row_blocks(j.rows.len(), all, j.cols.len(), j.w.row_bytes(), tallest).flat_map(
                    move |rows| blocks(j.cols.len(), cols).map(move |cols| (job, rows.clone(), cols)),
                )
            })
            .collect();
        self.each_block(products.iter().all(|p| p.n() == 1), items.len(), |i| {
            let (job, rows, cols) = &items[i];
            jobs[*job].run(rows.clone(), cols.clone());
        });
    }

    /// Runs `work` for blocks of rows: in the order of memory where they are read for a single batch row, since
    /// then it is all about reading.
    pub(crate) fn each_block(&self, single: bool, blocks: usize, work: impl Fn(usize) + Sync) {
        if single {
            self.pool.each_in_runs(blocks, work);
        } else {
            self.pool.each(blocks, work);
        }
    }

    /// Cuts the rows of a matrix into blocks for the threads to claim.
    ///
    /// - `all`: rows of all matrices in the region
    /// - `n`: batch rows
    /// - `row_bytes`: of the weights that are read for a row
    /// - `tallest`: rows of a block with more batch rows than one, at most
    pub(crate) fn row_blocks(
        &self,
        rows: usize,
        all: usize,
        n: usize,
        row_bytes: usize,
        tallest: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        // A few claims a thread, so that one that lost its core is made up for by the others; whole tiles.
        let threads = self.pool.threads();
        let share = all.div_ceil(threads * 8).next_multiple_of(16);
        let mut start = 0;
        std::iter::from_fn(move || {
            let left = rows - start;
            let most = if n == 1 {
                (BLOCK_BYTES / row_bytes).next_multiple_of(16)
            } else {
                // The last ones small, so that all threads end at about the same time.
                let part = left.div_ceil(threads * 4).next_multiple_of(dot::panel::ROWS);
                part.min(tallest)
            };
            let block = start..rows.min(start + share.min(most));
            start = block.end;
            (!block.is_empty()).then_some(block)
        })
    }
}

/// `0..len` in pieces of `size`.
pub fn blocks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |start| start..len.min(start + size))
}

/// A matrix as the dot products take it.
pub fn as_dot(w: &Matrix) -> dot::Matrix<'_> {
    dot::Matrix::new(w.format, w.cols, &w.bytes)
}

/// One product, ready to be computed in pieces.
struct Job<'a> {
    w: dot::Matrix<'a>,
    rows: &'a Range<usize>,
    acts: &'a Acts,
    cols: Vec<usize>,
    tiles: &'a Tiles,
    out: Target<'a>,
}

/// Products on their way to where they go.
pub type Tiles = Spares<[Vec<f32>; 2]>;

/// Where a product goes: so many columns of rows of `width`, from column `at` on.
#[derive(Clone, Copy)]
struct Target<'a> {
    data: &'a Shards<'a, f32>,
    width: usize,
    at: usize,
}

impl<'a> Job<'a> {
    fn new(cpu: &'a Cpu, product: &'a Product<'_>, out: Target<'a>) -> Job<'a> {
        let acts = product.rounded(cpu);
        let cols = (0..product.n()).collect();
        Job { w: as_dot(product.w), rows: &product.rows, acts, cols, tiles: &cpu.tiles, out }
    }

    /// Computes outputs `block` of the batch rows `cols`.
    fn run(&self, block: Range<usize>, cols: Range<usize>) {
        let Target { data, width, at } = self.out;
        let rows = self.rows.start + block.start..self.rows.start + block.end;
        if cols.len() == 1 {
            // SAFETY: an item owns its outputs of its batch rows.
            let out = unsafe { data.part(cols.start * width + at + block.start, block.len()) };
            return dot::matmul(&self.w, rows, self.acts, &self.cols[cols], out);
        }
        self.tiles.with(|[tile, _]| {
            let tile = room(tile, cols.len() * block.len());
            dot::matmul(&self.w, rows, self.acts, &self.cols[cols.clone()], tile);
            for (col, tile) in cols.zip(tile.chunks_exact(block.len())) {
                // SAFETY: as above.
                unsafe { data.part(col * width + at + block.start, block.len()) }.copy_from_slice(tile);
            }
        });
    }
}
