//! Looking at intermediates by name, so that two backends can be compared step by step.

use crate::ops::Ops;

/// Where an observed value was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The layer, or `None` before the first and after the last.
    pub layer: Option<usize>,
    /// Name of the value, as in the text of the forward pass.
    pub name: &'static str,
}

/// An observed value.
pub enum Seen<'a, B: Ops> {
    /// Activations.
    Array(&'a B::Array),
    /// Compressed rows chosen by the indexer.
    Picks(&'a B::Picks),
    /// Experts chosen by the router.
    Routes(&'a B::Routes),
    /// A step that changes a timeline and leaves nothing to look at.
    Done,
}

/// Is shown each named intermediate of a forward pass, in order.
pub trait Tap<B: Ops> {
    /// Called once a value exists; `ops` can read it.
    fn see(&mut self, ops: &B, place: Place, seen: Seen<'_, B>);
}

/// Looks at nothing.
pub struct NoTap;

impl<B: Ops> Tap<B> for NoTap {
    fn see(&mut self, _: &B, _: Place, _: Seen<'_, B>) {}
}

impl<B: Ops, F: FnMut(&B, Place, Seen<'_, B>)> Tap<B> for F {
    fn see(&mut self, ops: &B, place: Place, seen: Seen<'_, B>) {
        self(ops, place, seen);
    }
}
