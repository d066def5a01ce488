//! The unfinished end of a conversation, kept apart from it: with the pages before it, somebody can go on there.

use crate::ops::Ops;
use crate::timeline::{LayerTail, PAGE, Shape};

/// The state after the pages before it and fewer than [`PAGE`] further tokens. See [`crate::Timeline::tail`].
pub struct Tail<B: Ops> {
    /// Pages before it.
    pub(crate) pages: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) slack: usize,
    pub(crate) layers: Vec<LayerTail<B>>,
    pub(crate) shape: Shape,
}

impl<B: Ops> Tail<B> {
    /// Its tokens: those after the pages before it.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many pages come before it.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Tokens of the conversation up to its end.
    pub fn position(&self) -> usize {
        self.pages * PAGE + self.tokens.len()
    }

    /// By how many tokens a conversation that goes on from it can be cut back without recomputation.
    pub fn slack(&self) -> usize {
        self.slack
    }

    /// Device memory in use, in bytes.
    pub fn memory(&self) -> usize {
        self.layers.iter().map(LayerTail::memory).sum()
    }
}
