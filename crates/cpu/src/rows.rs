//! Cached rows in memory, each in the byte form of its layout.

use crate::array::Array;
use crate::ops::linear::blocks;
use crate::pool::{Pool, Shards};
use model::RowLayout;
use model::ops::{Blocks, RowStore};
use std::ops::Range;

/// Rows that a thread rounds one after the other: they are small, and neighbours share cache lines.
const ROWS: usize = 32;

/// A growable sequence of cached rows.
#[derive(Clone, Debug)]
pub struct Rows {
    layout: RowLayout,
    /// [`RowLayout::row_bytes`] a row.
    bytes: Vec<u8>,
}

impl Rows {
    /// No rows yet.
    pub fn new(layout: RowLayout) -> Rows {
        Rows { layout, bytes: Vec::new() }
    }

    /// The bytes of row `i`.
    pub fn row(&self, i: usize) -> &[u8] {
        let size = self.layout.row_bytes();
        &self.bytes[i * size..(i + 1) * size]
    }

    /// Rounds a row to the layout and appends it.
    pub fn push(&mut self, row: &[f32]) {
        let at = self.bytes.len();
        self.bytes.resize(at + self.layout.row_bytes(), 0);
        self.layout.encode(row, &mut self.bytes[at..]);
    }

    /// Rounds some rows of an array to the layout and appends them.
    pub fn extend(&mut self, pool: &Pool, values: &Array, rows: Range<usize>) {
        let (at, size) = (self.bytes.len(), self.layout.row_bytes());
        self.bytes.resize(at + rows.len() * size, 0);
        let parts = Shards::new(&mut self.bytes[at..]);
        let blocks: Vec<_> = blocks(rows.len(), ROWS).collect();
        pool.each(blocks.len(), |block| {
            for row in blocks[block].clone() {
                // SAFETY: an item owns its rows.
                let to = unsafe { parts.part(row * size, size) };
                self.layout.encode(values.row(rows.start + row), to);
            }
        });
    }

    /// The values of row `i`, as [`RowLayout::decode`] gives them.
    pub fn decode(&self, i: usize, out: &mut [f32]) {
        self.layout.decode(self.row(i), out);
    }
}

/// The values of the first `count` rows, `[count, width]`.
pub fn decode_blocks(blocks: &Blocks<'_, Rows>, count: usize) -> Vec<f32> {
    let Some(layout) = blocks.blocks.first().map(|rows| rows.layout) else {
        return Vec::new();
    };
    let mut values = vec![0.0; count * layout.width()];
    for (i, out) in values.chunks_exact_mut(layout.width()).enumerate() {
        let (rows, at) = blocks.find(i);
        rows.decode(at, out);
    }
    values
}

impl RowStore for Rows {
    fn len(&self) -> usize {
        self.bytes.len() / self.layout.row_bytes()
    }

    fn layout(&self) -> RowLayout {
        self.layout
    }

    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len * self.layout.row_bytes());
    }

    fn drop_front(&mut self, count: usize) {
        self.bytes.drain(..count * self.layout.row_bytes());
        // A long prompt passed through: give back what a short window will not need again.
        if self.bytes.capacity() > 4 * self.bytes.len().max(1 << 12) {
            self.bytes.shrink_to(2 * self.bytes.len());
        }
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let size = self.layout.row_bytes();
        Rows { layout: self.layout, bytes: self.bytes[range.start * size..range.end * size].to_vec() }
    }

    /// With the room that the first row appended would make anyway, so that nothing is copied twice.
    fn copy_to_grow(&self) -> Self {
        let mut bytes = Vec::with_capacity(2 * self.bytes.len());
        bytes.extend_from_slice(&self.bytes);
        Rows { layout: self.layout, bytes }
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    fn extend_from_bytes(&mut self, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(self.layout.row_bytes()), "whole rows");
        self.bytes.extend_from_slice(bytes);
    }

    fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}
