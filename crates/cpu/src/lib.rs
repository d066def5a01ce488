//! The model's operations on the CPU.
//!
//! Two backends: [`Reference`], plain loops in f32 that say what each operation means, and the oracle
//! that every fast kernel is held to; and [`Cpu`], which is fast.
//!
//! Start at [`reference`](mod@reference) to understand an operation.
//!
//! This crate knows nothing of HTTP or of users' sessions.

mod array;
pub mod pool;
pub mod reference;
mod rows;
mod select;

pub use array::{Array, Picks, Routes};
pub use reference::Reference;
pub use rows::Rows;
