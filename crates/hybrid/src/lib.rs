//! The model's operations where a GPU has no room for all of the model: some layers, or all but their experts,
//! are on the GPU, and the rest on the CPU.
//!
//! Start at [`Hybrid`], an [`Ops`](model::Ops) made of two. It knows no formulas: it knows where things are
//! ([`Split`]), hands each operation to the backend that has the weights, and moves activations when they are
//! on the other side. [`Plan`] says beforehand how many bytes go where.
//!
//! **Invariant:** nothing crosses but the streams at the border, what experts on the CPU take and give, the weights of
//! these where they are lent ([`Split::lends`]), and what somebody reads.

mod array;
mod lent;
mod matrix;
mod ops;
mod parts;
mod plan;
mod rows;
mod silent;
mod split;

pub use array::{Array, Mix, Picks, Query, Routes, Sided};
pub use matrix::Matrix;
pub use ops::{Host, Hybrid};
pub use plan::{Plan, Refusal};
pub use rows::Rows;
pub use split::{Split, SplitError};
