//! What all block formats have in common.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `N` consecutive weights of a row, as they lie in a file.
pub trait Block<const N: usize>: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {
    /// The weights this block stands for. Any bytes are a block; hostile ones may decode to
    /// infinities or NaN, never to a panic.
    fn decode(&self) -> [f32; N];
}

/// A block format that this crate can also make.
pub trait Encode<const N: usize>: Block<N> {
    /// The largest magnitude that encodes to something finite.
    const LARGEST: f32;

    /// The block nearest to `x`, whose values are finite and at most [`Self::LARGEST`] in magnitude.
    fn encode(x: &[f32; N]) -> Self;
}
