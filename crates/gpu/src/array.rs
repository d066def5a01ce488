//! What travels between operations, on the device.

use crate::buffers::{Pooled, Slice};
use crate::gpu::Inner;
use crate::recorder::Binding;
use std::sync::Arc;

/// Rows of f32.
#[derive(Debug)]
pub struct Array {
    pub(crate) buffer: Arc<Pooled>,
    /// Where it begins in its buffer, in bytes.
    pub(crate) offset: u64,
    pub(crate) n: usize,
    /// Values in a row.
    pub(crate) width: usize,
    /// What is still to be done with its vectors, by whoever reads it: one launch less to wait for.
    pub(crate) treatment: Option<Arc<Treatment>>,
}

/// A norm without weights and a rotation: what becomes of queries.
#[derive(Debug)]
pub struct Treatment {
    /// Width of a vector.
    pub(crate) width: usize,
    /// Added to the mean square; `None` leaves the length alone.
    pub(crate) eps: Option<f32>,
    /// Values at the end of a vector that are rotated.
    pub(crate) rope: usize,
    /// `[n, rope / 2]` of (cos, sin), as bits.
    pub(crate) angles: Arc<Vec<u32>>,
}

impl Array {
    /// Rows whose values somebody is about to write.
    pub(crate) fn empty(gpu: &Inner, n: usize, width: usize) -> Array {
        Array { buffer: Arc::new(gpu.pooled(4 * (n * width) as u64)), offset: 0, n, width, treatment: None }
    }

    /// Arrays of so many rows of such widths one behind the other in one buffer, so that one launch can write them all
    /// through one binding.
    pub(crate) fn several(gpu: &Inner, shapes: &[(usize, usize)]) -> Vec<Array> {
        let align = u64::from(gpu.limits.min_storage_buffer_offset_alignment).max(16);
        let size = |&(n, width): &(usize, usize)| (4 * (n * width) as u64).next_multiple_of(align);
        let buffer = Arc::new(gpu.pooled(shapes.iter().map(size).sum()));
        let mut offset = 0;
        let mut next = |shape: &(usize, usize)| {
            let array = Array { buffer: buffer.clone(), offset, n: shape.0, width: shape.1, treatment: None };
            offset += size(shape);
            array
        };
        shapes.iter().map(&mut next).collect()
    }

    pub(crate) fn slice(&self) -> Slice {
        Slice {
            buffer: self.buffer.buffer().clone(),
            offset: self.offset,
            size: 4 * (self.n * self.width) as u64,
        }
    }

    pub(crate) fn read(&self) -> Binding {
        Binding::Read(self.slice())
    }

    pub(crate) fn write(&self) -> Binding {
        Binding::Write(self.slice())
    }
}

/// What entering a sub-layer leaves for its exit: `[n, hc + hc·hc]`, post then comb.
#[derive(Debug)]
pub struct Mix(pub(crate) Array);

/// The compressed rows chosen for each row of a batch.
#[derive(Debug)]
pub struct Picks {
    /// `[n, top_k]`, of which the first few of each row count.
    pub(crate) rows: Array,
    /// How many.
    pub(crate) counts: Vec<u32>,
}

/// The experts chosen for each row of a batch.
#[derive(Debug)]
pub struct Routes {
    /// `[n, k]`, ascending.
    pub(crate) ids: Array,
    /// `[n, k]`
    pub(crate) shares: Array,
}
