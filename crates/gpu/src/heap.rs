//! One large buffer for all cached rows of a layer, given out in regions.
//!
//! Attention reads rows of a hundred pages in one launch, and a launch can bind only a few buffers: so all
//! rows of a layer live in one, and a page is a number. It grows by copying, up to what a kernel may see of a
//! buffer. Layers have buffers of their own, since no launch reads the rows of two of them: so a long context
//! is limited by memory and not by what a kernel may see.

use crate::buffers::{Buffer, CACHED_ROWS};
use crate::gpu::{Inner, megabytes};
use crate::recorder::Recorder;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The unit of addresses: 16 bytes.
pub const VECTOR: u64 = 16;

/// Size at the start.
const FIRST: u64 = 1 << 20;

/// The most a buffer can have: kernels count its words in 32 bits.
const MOST: u64 = 4 * (u32::MAX as u64 + 1) - VECTOR;

/// Bytes of cached rows that one layer can have, where a kernel may see so many of a buffer.
pub(crate) fn most(largest_buffer: u64) -> u64 {
    largest_buffer.min(MOST) / VECTOR * VECTOR
}

/// See the module. Addresses and lengths are in vectors.
#[derive(Debug, Default)]
pub struct Heap {
    buffer: Option<Arc<Buffer>>,
    /// Free regions by start, none adjacent.
    free: BTreeMap<u32, u32>,
    size: u32,
}

impl Heap {
    /// The buffer; there is one once anything was allocated.
    pub(crate) fn buffer(&self) -> Option<&Arc<Buffer>> {
        self.buffer.as_ref()
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        u64::from(self.size) * VECTOR
    }

    /// A region; `None`, and a fault of the device, if there is no room for it.
    pub(crate) fn allocate(&mut self, gpu: &Inner, recorder: &mut Recorder, len: u32) -> Option<u32> {
        loop {
            let fit = self.take(len);
            if fit.is_some() || !self.grow(gpu, recorder, len) {
                return fit;
            }
        }
    }

    /// A region of what is free now, if one is long enough.
    pub(crate) fn take(&mut self, len: u32) -> Option<u32> {
        let (at, free) = self.free.iter().find(|&(_, &free)| free >= len).map(|(&at, &free)| (at, free))?;
        self.free.remove(&at);
        if free > len {
            self.free.insert(at + len, free - len);
        }
        Some(at)
    }

    /// Gives a region back.
    pub fn release(&mut self, at: u32, len: u32) {
        let (mut at, mut len) = (at, len);
        if let Some((&before, &size)) = self.free.range(..at).next_back()
            && before + size == at
        {
            self.free.remove(&before);
            (at, len) = (before, size + len);
        }
        if let Some(size) = self.free.remove(&(at + len)) {
            len += size;
        }
        self.free.insert(at, len);
    }

    fn grow(&mut self, gpu: &Inner, recorder: &mut Recorder, need: u32) -> bool {
        let limit = most(gpu.about.largest_buffer) / VECTOR;
        let old = u64::from(self.size);
        let wanted = (2 * old).max(old + u64::from(need)).max(FIRST / VECTOR).min(limit);
        if wanted < old + u64::from(need) {
            gpu.fail(format!(
                "the KV cache is full: {} are the most that {} allows for one layer; \
                 use a smaller context, fewer sessions, or --kv f8",
                megabytes(limit * VECTOR),
                gpu.about.name
            ));
            return false;
        }
        let buffer = match gpu.try_storage(CACHED_ROWS, wanted * VECTOR) {
            Ok(buffer) => buffer,
            Err(error) => {
                gpu.fail(format!("growing the KV cache to {}: {error}", megabytes(wanted * VECTOR)));
                return false;
            }
        };
        if let Some(old) = self.buffer.replace(buffer.clone()) {
            recorder.copy(gpu, crate::buffers::Slice::all(&old), &buffer, 0);
            recorder.forget(&old);
        }
        self.release(self.size, (wanted - old) as u32);
        self.size = wanted as u32;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_neighbours_become_one_region() {
        let mut heap = Heap { size: 100, ..Heap::default() };
        heap.release(0, 10);
        heap.release(20, 10);
        heap.release(40, 60);
        heap.release(10, 10);
        assert_eq!(heap.free, BTreeMap::from([(0, 30), (40, 60)]));
        heap.release(30, 10);
        assert_eq!(heap.free, BTreeMap::from([(0, 100)]));
    }
}
