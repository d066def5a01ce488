//! The model's operations on the CPU.
//!
//! Two backends: [`Reference`], plain loops in f32 that say what each operation means, and the oracle
//! that every fast kernel is held to; and [`Cpu`], which is fast.
//!
//! Start at [`reference`](mod@reference) to understand an operation, and at [`dot`] to see where the time
//! goes.
//!
//! This crate knows nothing of HTTP or of users' sessions.

mod array;
pub mod dot;
mod fast;
pub mod isa;
mod lanes;
mod memory;
mod ops;
pub mod pool;
pub mod probe;
pub mod reference;
mod rows;
mod select;
mod spares;
#[cfg(test)]
mod test_random;

pub use array::{Array, Picks, Routes};
pub use fast::Cpu;
pub use reference::Reference;
pub use rows::Rows;
