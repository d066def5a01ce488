//! What is launched, for those who reckon what a step costs: see [`Gpu::watch`].

use crate::buffers::{ACTIVATIONS, CACHED_ROWS, HOST_DATA};
use crate::gpu::Gpu;
use crate::recorder::Binding;
use std::collections::HashMap;

/// A launch, as it was asked for.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// A name with what sets this variant apart.
    pub label: String,
    /// Workgroups in each dimension.
    pub groups: [u32; 3],
    /// Rows that share one reading of the weights, in a product by tiles.
    pub tile: Option<u32>,
    /// Whether it has to wait for launches before it: it reads what one of them wrote, or writes what one of them
    /// used. Buffers count as a whole, as they do for `wgpu`, which puts a barrier there; between launches that are handed
    /// over at different times it puts all barriers ahead of the first.
    pub barrier: bool,
    /// The parts of buffers that it may use.
    pub bound: Vec<Bound>,
}

/// A part of a buffer that a launch may use.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What is in it.
    pub holds: Holds,
    /// Its size; of a store of cached rows that of the whole store.
    pub bytes: u64,
    /// Whether it may be written.
    pub written: bool,
}

/// What a buffer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Weights of this tensor, or of some of its rows.
    Weights(String),
    /// Cached rows of a layer.
    CachedRows,
    /// What goes from one operation to the next.
    Activations,
    /// Tokens, angles and tables that the host sent along.
    HostData,
}

impl Holds {
    fn of(label: &str) -> Holds {
        match label {
            ACTIVATIONS => Holds::Activations,
            CACHED_ROWS => Holds::CachedRows,
            HOST_DATA => Holds::HostData,
            tensor => Holds::Weights(tensor.to_owned()),
        }
    }
}

/// What was launched since somebody began to watch.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    launches: Vec<Launch>,
    /// Buffers that were used, and whether the last use may have written to them.
    used: HashMap<u64, bool>,
    /// Whether the next launch is the first of those that are handed over together, behind others.
    first: bool,
}

impl Watch {
    /// What was launched is handed over.
    pub(crate) fn handed_over(&mut self) {
        self.first |= !self.used.is_empty();
        self.used.clear();
    }

    /// - `kernel`, `label`, `tile`: of the variant
    pub(crate) fn note(
        &mut self,
        (kernel, label, tile): (&'static str, &str, Option<u32>),
        bindings: &[Binding],
        groups: [u32; 3],
    ) {
        let mut barrier = std::mem::take(&mut self.first);
        let uses = || bindings.iter().map(|b| (b.slice(), matches!(b, Binding::Write(_))));
        for (slice, writes) in uses() {
            barrier |= self.used.get(&slice.buffer.id).is_some_and(|&wrote| wrote || writes);
        }
        for (slice, _) in uses() {
            self.used.remove(&slice.buffer.id);
        }
        for (slice, writes) in uses() {
            *self.used.entry(slice.buffer.id).or_default() |= writes;
        }
        let bound = |(slice, written): (&crate::buffers::Slice, bool)| Bound {
            holds: Holds::of(&slice.buffer.label),
            bytes: slice.size,
            written,
        };
        let bound = uses().map(bound).collect();
        self.launches.push(Launch { kernel, label: label.to_owned(), groups, tile, barrier, bound });
    }
}

impl Gpu {
    /// Begins to take note of launches, or ends it.
    pub fn watch(&self, on: bool) {
        self.0.recorder().watch = on.then(Watch::default);
    }

    /// What was launched since this was asked last; nothing if nobody watches. What is held back to be launched with
    /// something else comes when it is.
    pub fn launched(&self) -> Vec<Launch> {
        let mut recorder = self.0.recorder();
        recorder.watch.as_mut().map(|watch| std::mem::take(&mut watch.launches)).unwrap_or_default()
    }
}
