//! Encoding what will most likely be asked for next, while the device works.
//!
//! To put a token's launches into the device's own form takes the host about a third of the time that the device then needs to
//! run them. But decoding asks for the same ones token after token, or every fourth token where windows are compressed:
//! buffers come from the pool in the same order, and what changes is host data. So lists of commands are remembered, and those that
//! came a second time are encoded again while the host waits. A list that comes again then only has to be handed over.

use crate::gpu::Inner;
use crate::recorder::{Command, encode};

/// Lists remembered: a token of 43 layers has about 16, and every fourth token has others.
const MOST_LISTS: usize = 256;

/// See the module.
#[derive(Default)]
pub(crate) struct Ahead {
    lists: Vec<List>,
    /// Lists asked for so far.
    asked: u64,
    /// Of these, how many had been encoded.
    used_ready: u64,
}

struct List {
    commands: Vec<Command>,
    /// Whether it was asked for twice.
    recurs: bool,
    /// When it was last asked for: the value of [`Ahead::asked`].
    last: u64,
    ready: Option<wgpu::CommandBuffer>,
}

impl Ahead {
    /// The commands for the device's queue: encoded before, or now.
    pub(crate) fn encoded(&mut self, gpu: &Inner, commands: Vec<Command>) -> wgpu::CommandBuffer {
        self.asked += 1;
        if let Some(list) = self.lists.iter_mut().find(|list| list.commands == commands) {
            (list.recurs, list.last) = (true, self.asked);
            if let Some(ready) = list.ready.take() {
                self.used_ready += 1;
                return ready;
            }
            return encode(gpu, &commands, None);
        }
        let encoded = encode(gpu, &commands, None);
        if self.lists.len() == MOST_LISTS {
            let oldest = (0..MOST_LISTS).min_by_key(|&i| self.lists[i].last).expect("some");
            self.lists.swap_remove(oldest);
        }
        self.lists.push(List { commands, recurs: false, last: self.asked, ready: None });
        encoded
    }

    /// Encodes the lists that recur and were used up.
    pub(crate) fn prepare(&mut self, gpu: &Inner) {
        for list in self.lists.iter_mut().filter(|list| list.recurs && list.ready.is_none()) {
            list.ready = Some(encode(gpu, &list.commands, None));
        }
    }

    /// Forgets everything: lists keep buffers alive.
    pub(crate) fn forget(&mut self) {
        self.lists.clear();
    }

    /// Lists asked for, and how many of them had been encoded.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.asked, self.used_ready)
    }
}
