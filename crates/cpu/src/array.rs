//! What travels between operations on the CPU: plain vectors in memory.

use crate::dot::{Acts, Rounding};
use crate::memory;
use crate::pool::{Pool, Shards};
use std::mem;
use std::sync::OnceLock;

/// Rows of f32, or a small vector of the model as one row.
#[derive(Clone, Debug, Default)]
pub struct Array {
    /// `[n, width]`, row-major. Not to be changed once [`Array::rounded`] was called.
    pub data: Vec<f32>,
    /// Values in a row, all inner axes together.
    pub width: usize,
    /// The rows as each kind of weights wants them: rounded once, for all matrices that they meet.
    rounded: [OnceLock<Acts>; Rounding::COUNT],
}

impl Array {
    /// Rows of `width` values.
    pub fn new(data: Vec<f32>, width: usize) -> Array {
        Array { data, width, rounded: Default::default() }
    }

    /// `n` rows of zeros.
    pub fn zeros(n: usize, width: usize) -> Array {
        Array::new(memory::zeros(n * width), width)
    }

    /// `n` rows of any values, to be overwritten.
    pub(crate) fn unset(n: usize, width: usize) -> Array {
        Array::new(memory::unset(n * width), width)
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.data.len() / self.width
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..(i + 1) * self.width]
    }

    /// Row `i`, to write to.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.width..(i + 1) * self.width]
    }

    /// Some of the rows.
    pub fn take_rows(&self, rows: &[usize]) -> Array {
        Array::new(rows.iter().flat_map(|&i| self.row(i)).copied().collect(), self.width)
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.width)
    }

    /// The rows rounded for some kind of weights; computed at the first call.
    pub fn rounded(&self, rounding: Rounding, pool: &Pool) -> &Acts {
        self.rounded[rounding as usize].get_or_init(|| round(self, rounding, pool))
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        memory::keep(mem::take(&mut self.data));
    }
}

fn round(x: &Array, rounding: Rounding, pool: &Pool) -> Acts {
    let mut acts = Acts::unset(rounding, x.n(), x.width);
    let mut rows: Vec<_> = acts.rows_mut().collect();
    let parts = Shards::new(&mut rows);
    pool.each(x.n(), |i| {
        // SAFETY: one item a row.
        let row = unsafe { parts.part(i, 1) };
        row[0].set(x.row(i));
    });
    acts
}

/// The compressed rows chosen for each row of a batch, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picks {
    /// The lists of all rows, one after the other.
    pub chosen: Vec<u32>,
    /// Where each row's list ends.
    pub ends: Vec<usize>,
}

impl Picks {
    /// A list of each length, all zeros, to be filled.
    pub fn with_lengths(lengths: impl Iterator<Item = usize>) -> Picks {
        let ends: Vec<usize> = lengths
            .scan(0, |end, len| {
                *end += len;
                Some(*end)
            })
            .collect();
        Picks { chosen: vec![0; ends.last().copied().unwrap_or(0)], ends }
    }

    /// Where the list of row `i` lies in `chosen`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        i.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[i]
    }

    /// The list of row `i` of the batch.
    pub fn row(&self, i: usize) -> &[u32] {
        &self.chosen[self.range(i)]
    }

    /// All lists in order.
    pub fn rows(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.ends.len()).map(|i| self.row(i))
    }

    /// Adds a row's list.
    pub fn push(&mut self, list: &[u32]) {
        self.chosen.extend_from_slice(list);
        self.ends.push(self.chosen.len());
    }
}

/// The experts chosen for each row of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// `k` (expert, share) pairs a row, ascending by expert.
    pub chosen: Vec<(u32, f32)>,
    /// k.
    pub used: usize,
}

impl Routes {
    /// The pairs of row `i`.
    pub fn row(&self, i: usize) -> &[(u32, f32)] {
        &self.chosen[i * self.used..(i + 1) * self.used]
    }
}
