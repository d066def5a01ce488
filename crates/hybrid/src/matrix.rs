//! Weight matrices, each on its side, and the parts of the model as that side's backend knows them.

use crate::array::Sided;
use std::any::Any;
use std::sync::OnceLock;

/// A weight matrix on its side.
///
/// An operation takes a part of the model, such as an attention, in the form of its own backend. The first matrix
/// of a part keeps it in that form once it was needed, so parts live as long as the weights and are made once.
pub struct Matrix {
    pub(crate) held: Sided<model::Matrix, gpu::Matrix>,
    part: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Matrix {
    pub(crate) fn new(held: Sided<model::Matrix, gpu::Matrix>) -> Matrix {
        Matrix { held, part: OnceLock::new() }
    }

    /// Whether it is on the GPU.
    pub(crate) fn is_on_gpu(&self) -> bool {
        matches!(self.held, Sided::Gpu(_))
    }

    /// The part of the model that this matrix comes first in.
    pub(crate) fn part<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> &T {
        let part = self.part.get_or_init(|| Box::new(make()));
        part.downcast_ref().expect("a matrix comes first in one part of the model")
    }
}
