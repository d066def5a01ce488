//! Cached rows, on the side of their layer. Their bytes are as the layout says on both, so pages and tails made
//! here are those of any other backend.

use model::RowLayout;
use model::ops::RowStore;
use std::ops::Range;

/// A growable sequence of cached rows.
pub enum Rows {
    /// Of a layer on the CPU.
    Host(cpu::Rows),
    /// Of a layer on the GPU.
    Gpu(gpu::Rows),
}

/// The same for both sides.
macro_rules! on_either {
    ($rows:expr, $it:ident => $what:expr) => {
        match $rows {
            Rows::Host($it) => $what,
            Rows::Gpu($it) => $what,
        }
    };
}

impl Rows {
    pub(crate) fn host(&self) -> &cpu::Rows {
        match self {
            Rows::Host(rows) => rows,
            Rows::Gpu(_) => panic!("rows of a layer on the GPU, needed on the CPU"),
        }
    }

    pub(crate) fn gpu(&self) -> &gpu::Rows {
        match self {
            Rows::Gpu(rows) => rows,
            Rows::Host(_) => panic!("rows of a layer on the CPU, needed on the GPU"),
        }
    }
}

impl RowStore for Rows {
    fn len(&self) -> usize {
        on_either!(self, rows => rows.len())
    }

    fn layout(&self) -> RowLayout {
        on_either!(self, rows => rows.layout())
    }

    fn truncate(&mut self, len: usize) {
        on_either!(self, rows => rows.truncate(len));
    }

    fn drop_front(&mut self, count: usize) {
        on_either!(self, rows => rows.drop_front(count));
    }

    fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Rows::Host(rows) => Rows::Host(rows.slice(range)),
            Rows::Gpu(rows) => Rows::Gpu(rows.slice(range)),
        }
    }

    fn copy_to_grow(&self) -> Self {
        match self {
            Rows::Host(rows) => Rows::Host(rows.copy_to_grow()),
            Rows::Gpu(rows) => Rows::Gpu(rows.copy_to_grow()),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        on_either!(self, rows => rows.to_bytes())
    }

    fn extend_from_bytes(&mut self, bytes: &[u8]) {
        on_either!(self, rows => rows.extend_from_bytes(bytes));
    }

    fn memory(&self) -> usize {
        on_either!(self, rows => rows.memory())
    }
}
