//! Products with many columns: weights are unpacked once, 16 rows side by side, and meet all columns.
//!
//! A *panel* is 16 rows of weights with a lane for each row: four neighbouring weights of every row
//! make one vector, so that a broadcast of four activations meets 16 rows at once and sums need no
//! adding up across lanes. Unpacking costs as much as a few columns do, and pays for itself from
//! [`MANY`] on; panels lie in scratch memory of the thread, small enough for the second-level cache.
//!
//! Each output is the same sequence of float operations as in the loops for few columns ([`pair`],
//! [`group`]), over the same exact integers: it has the same bits.
//!
//! [`pair`]: super::pair
//! [`group`]: super::group

mod group;
mod iq2_xxs;
mod pair;

use super::{Product, Tile};
use crate::isa::{Isa, Kernel, Line};
pub(crate) use group::GroupPart;
use pair::PairPart;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// From how many columns on panels are worth unpacking.
pub(super) const MANY: usize = 5;

/// Rows of a panel.
const LANES: usize = 16;

/// Rows that are unpacked before columns are multiplied: two panels.
pub(crate) const ROWS: usize = 2 * LANES;

/// A tile whose rows can be unpacked into panels.
pub(super) trait Panelled: Tile {
    /// The part of a panel that goes with some columns.
    type Part;

    /// The panels of this thread.
    fn of(scratch: &mut Scratch) -> &mut [Vec<Self::Part>; 2];

    /// Unpacks 16 rows.
    fn unpack<I: Isa>(isa: I, rows: [&[Self::Block]; LANES], panel: &mut Vec<Self::Part>);

    /// The products of some panels and columns.
    fn panel_products<I: Isa, const P: usize, const C: usize>(
        isa: I,
        panels: [&[Self::Part]; P],
        cols: [&[Self::Chunk]; C],
    ) -> [[I::Floats; C]; P];
}

/// The panels of a thread, kept for the next product: one kind of them is in use at a time.
#[derive(Default)]
pub(super) struct Scratch {
    pairs: [Vec<PairPart>; 2],
    groups: [Vec<GroupPart>; 2],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A product of many columns with the way to compute it.
pub(super) struct PanelsBy<'a, T> {
    product: Product<'a>,
    tile: PhantomData<T>,
}

impl<'a, T: Panelled> PanelsBy<'a, T> {
    pub(super) fn new(product: Product<'a>) -> Self {
        Self { product, tile: PhantomData }
    }
}

impl<T: Panelled> Kernel for PanelsBy<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Product { w, rows, acts, cols, out } = self.product;
        let chunks = T::chunks(acts).expect("activations rounded for the format of the weights");
        let width = chunks.len() / acts.n();
        // Taken out, since a closure would be compiled without the instruction set.
        let mut scratch = SCRATCH.take();
        let panels = T::of(&mut scratch);
        let bytes_of = |rows: Range<usize>| &w.bytes[rows.start * w.row_bytes..rows.end * w.row_bytes];
        Coming::new(bytes_of(rows.start..rows.end.min(rows.start + ROWS)), 1).ask(isa);
        let tiles_of_all = cols.len().div_ceil(if I::WIDE { 6 } else { 4 });
        for first in rows.clone().step_by(ROWS) {
            for (p, panel) in panels.iter_mut().enumerate() {
                // At the end the last row stands in for those that are missing.
                let mut sixteen = [w.row::<T::Block>(rows.end - 1); LANES];
                for (row, i) in sixteen.iter_mut().zip(first + LANES * p..rows.end) {
                    *row = w.row(i);
                }
                T::unpack(isa, sixteen, panel);
            }
            let end = rows.end.min(first + ROWS);
            let mut coming = Coming::new(bytes_of(end..rows.end.min(end + ROWS)), tiles_of_all);
            let mut tiles = Tiles::<T> {
                panels: [&panels[0], &panels[1]],
                chunks,
                width,
                cols,
                rows: rows.len(),
                at: first - rows.start,
                out,
            };
            let mut c = 0;
            while c < cols.len() {
                coming.ask(isa);
                c += match cols.len() - c {
                    1 | 2 => tiles.run::<I, 2>(isa, c),
                    5.. if I::WIDE => tiles.run::<I, 6>(isa, c),
                    _ => tiles.run::<I, 4>(isa, c),
                };
            }
        }
        SCRATCH.set(scratch);
    }
}

/// Weights that are asked for while those before them are multiplied, so that unpacking finds them in the cache.
struct Coming<'a> {
    bytes: &'a [u8],
    /// How many of them at a time.
    step: usize,
}

impl<'a> Coming<'a> {
    /// Weights to be asked for in so many steps.
    #[inline(always)]
    fn new(bytes: &'a [u8], steps: usize) -> Self {
        Self { bytes, step: bytes.len().div_ceil(steps.max(1)).next_multiple_of(64) }
    }

    /// Asks for the next of them, if any are left.
    #[inline(always)]
    fn ask<I: Isa>(&mut self, isa: I) {
        let (now, later) = self.bytes.split_at(self.step.min(self.bytes.len()));
        for offset in (0..now.len()).step_by(64) {
            isa.prefetch(now, offset);
        }
        self.bytes = later;
    }
}

/// Two panels, and the columns they meet.
struct Tiles<'a, T: Panelled> {
    panels: [&'a [T::Part]; 2],
    chunks: &'a [T::Chunk],
    /// Chunks of a column.
    width: usize,
    cols: &'a [usize],
    /// Rows of the output.
    rows: usize,
    /// The first of them that the panels compute.
    at: usize,
    out: &'a mut [f32],
}

impl<T: Panelled> Tiles<'_, T> {
    /// Multiplies `C` columns from `c` on; returns how many there were.
    #[inline(always)]
    fn run<I: Isa, const C: usize>(&mut self, isa: I, c: usize) -> usize {
        // Likewise the last column.
        let column = |i: usize| &self.chunks[self.cols[i] * self.width..][..self.width];
        let mut cols = [column(self.cols.len() - 1); C];
        for (col, i) in cols.iter_mut().zip(c..self.cols.len()) {
            *col = column(i);
        }
        if I::WIDE {
            let [first, second] = T::panel_products::<I, 2, C>(isa, self.panels, cols);
            self.store(isa, 0, c, first);
            self.store(isa, 1, c, second);
        } else {
            for p in 0..2 {
                let [products] = T::panel_products::<I, 1, C>(isa, [self.panels[p]], cols);
                self.store(isa, p, c, products);
            }
        }
        C.min(self.cols.len() - c)
    }

    /// Writes the products of panel `p` and the columns from `c` on.
    #[inline(always)]
    fn store<I: Isa, const C: usize>(&mut self, isa: I, p: usize, c: usize, products: [I::Floats; C]) {
        let first = self.at + LANES * p;
        let count = LANES.min(self.rows.saturating_sub(first));
        for (i, products) in products.into_iter().enumerate().take(self.cols.len() - c) {
            let out = &mut self.out[(c + i) * self.rows..][..self.rows];
            match out.get_mut(first..first + LANES) {
                Some(out) => isa.put_floats(products, out.try_into().expect("16 outputs")),
                None => {
                    let mut all = [0.0; LANES];
                    isa.put_floats(products, &mut all);
                    out[self.rows - count..].copy_from_slice(&all[..count]);
                }
            }
        }
    }
}

/// Element `i` of each slice.
#[inline(always)]
fn each<T, const N: usize>(slices: [&[T]; N], i: usize) -> [&T; N] {
    let mut found = [&slices[0][i]; N];
    for n in 1..N {
        found[n] = &slices[n][i];
    }
    found
}

/// Activations `4 i..4 i + 4` of a vector.
#[inline(always)]
fn four<const N: usize>(q: &[i8; N], i: usize) -> &[i8; 4] {
    &q.as_chunks().0[i]
}

/// All activations of a vector by fours, the `i`-th `N` of those.
#[inline(always)]
fn fours<const N: usize>(q: &[i8; 64], i: usize) -> &[[i8; 4]; N] {
    &q.as_chunks::<4>().0.as_chunks().0[i]
}

/// The `i`-th `N` lines.
#[inline(always)]
fn run<const N: usize>(lines: &[Line; 16], i: usize) -> &[Line; N] {
    &lines.as_chunks().0[i]
}

/// Puts fours of bytes side by side: `to[i][4 r + b] = rows[r][4 i + b]`.
#[inline(always)]
pub(super) fn transpose<I: Isa>(isa: I, rows: &[Line; LANES], to: &mut [Line; 16]) {
    let mut lines = [isa.splat(0); LANES];
    for (line, row) in lines.iter_mut().zip(rows) {
        *line = isa.bytes(&row.0);
    }
    for (to, line) in to.iter_mut().zip(isa.transpose(lines)) {
        isa.put_bytes(line, &mut to.0);
    }
}
