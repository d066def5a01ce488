//! What travels between operations, on the device.

use crate::buffers::{Pooled, Slice};
use crate::gpu::Inner;
use crate::recorder::Binding;

/// Rows of f32.
#[derive(Debug)]
pub struct Array {
    pub(crate) buffer: Pooled,
    pub(crate) n: usize,
    /// Values in a row.
    pub(crate) width: usize,
}

impl Array {
    /// Rows whose values somebody is about to write.
    pub(crate) fn empty(gpu: &Inner, n: usize, width: usize) -> Array {
        Array { buffer: gpu.pooled(4 * (n * width) as u64), n, width }
    }

    pub(crate) fn slice(&self) -> Slice {
        Slice { buffer: self.buffer.buffer().clone(), offset: 0, size: 4 * (self.n * self.width) as u64 }
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
