//! Cached rows on the device: regions of their layer's [`Heap`].
//!
//! On the device a row is a whole number of 16-byte vectors, and in `f8` its bf16 tail comes before the
//! scale bytes, so that everything is aligned. Bytes that leave or arrive are as [`RowLayout`] says.

use crate::buffers::Slice;
use crate::gpu::{Inner, lock};
use crate::heap::{Heap, VECTOR};
use crate::recorder::Recorder;
use model::RowLayout;
use model::ops::RowStore;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Values that share a scale byte in an FP8 row.
const FP8_BLOCK: usize = 64;
/// Values that share a scale byte in an FP4 row.
const FP4_BLOCK: usize = 32;

/// Rows for which there is room that a store may keep without having them.
const SPARE: usize = 512;

/// A growable sequence of cached rows.
pub struct Rows {
    gpu: Arc<Inner>,
    heap: Arc<Mutex<Heap>>,
    layout: RowLayout,
    /// Start and length of the region, in vectors.
    region: Option<(u32, u32)>,
    /// Rows at the start of the region that were dropped.
    dropped: usize,
    len: usize,
}

/// Vectors of a row on the device.
pub(crate) fn stride(layout: RowLayout) -> usize {
    match layout {
        RowLayout::F32 { width } => width / 4,
        RowLayout::F16 { width } => width / 8,
        RowLayout::Latent8 { width, rope } => {
            let plain = width - rope;
            plain / 16 + rope / 8 + (plain / FP8_BLOCK).div_ceil(16)
        }
        RowLayout::Index4 { width } => width / 32 + (width / FP4_BLOCK).div_ceil(16),
    }
}

/// The parts of a row: bytes in the layout's order, and where each begins on the device.
fn parts(layout: RowLayout) -> Vec<(Range<usize>, usize)> {
    match layout {
        RowLayout::F32 { .. } | RowLayout::F16 { .. } => vec![(0..layout.row_bytes(), 0)],
        RowLayout::Latent8 { width, rope } => {
            let plain = width - rope;
            let scales = plain + plain / FP8_BLOCK;
            vec![(0..plain, 0), (plain..scales, plain + 2 * rope), (scales..layout.row_bytes(), plain)]
        }
        RowLayout::Index4 { width } => {
            vec![(0..width / 2, 0), (width / 2..layout.row_bytes(), width / 2)]
        }
    }
}

impl Rows {
    /// No rows yet, of a layer.
    pub(crate) fn new(gpu: &Arc<Inner>, layout: RowLayout, layer: usize) -> Rows {
        let rope = if let RowLayout::Latent8 { rope, .. } = layout { rope } else { 0 };
        if !layout.width().is_multiple_of(16) || !rope.is_multiple_of(16) {
            gpu.fail(format!(
                "cached rows of {} values, {rope} of them with rotary embedding: the GPU backend needs \
                 multiples of 16; use --backend cpu",
                layout.width()
            ));
        }
        let heap = lock(&gpu.heaps).entry(layer).or_default().clone();
        Rows { gpu: gpu.clone(), heap, layout, region: None, dropped: 0, len: 0 }
    }

    /// The buffer with these rows and all others of the layer; `None` if the device had no room for it.
    pub(crate) fn store(&self) -> Option<Slice> {
        lock(&self.heap).buffer().map(Slice::all)
    }

    fn stride(&self) -> u32 {
        stride(self.layout) as u32
    }

    /// Address of row `i`, in vectors.
    pub(crate) fn address(&self, i: usize) -> u32 {
        self.region.map_or(0, |(at, _)| at + (self.dropped + i) as u32 * self.stride())
    }

    /// Makes room for `more` rows and counts them as held; returns the address of the first, in vectors.
    /// `None` if the device has no room, which reads then report.
    pub(crate) fn extend(&mut self, recorder: &mut Recorder, more: usize) -> Option<u32> {
        let stride = self.stride();
        let capacity = self.region.map_or(0, |(_, len)| (len / stride) as usize);
        if self.dropped + self.len + more > capacity {
            let rows = (self.len + more).max(2 * self.len).max(8);
            let len = u32::try_from(rows * stride as usize).ok()?;
            let at = lock(&self.heap).allocate(&self.gpu, recorder, len)?;
            if self.len > 0 {
                self.copy_to(recorder, 0, at, self.len as u32 * stride);
            }
            self.release();
            (self.region, self.dropped) = (Some((at, len)), 0);
        }
        self.len += more;
        Some(self.address(self.len - more))
    }

    /// Copies so many vectors from a row on inside the store.
    fn copy_to(&self, recorder: &mut Recorder, row: usize, to: u32, count: u32) {
        if let Some(store) = self.store() {
            crate::kernels::move_rows(&self.gpu, recorder, store, self.address(row), to, count);
        }
    }

    /// Moves what is left to a smaller region after a long batch, if there is one, so that others of the layer get the room.
    fn give_back(&mut self) {
        let stride = self.stride();
        let capacity = self.region.map_or(0, |(_, len)| (len / stride) as usize);
        if capacity <= SPARE.max(4 * self.len) {
            return;
        }
        let mut small =
            Rows { gpu: self.gpu.clone(), heap: self.heap.clone(), region: None, dropped: 0, ..*self };
        if self.len > 0 {
            let len = 2 * self.len as u32 * stride;
            let Some(at) = lock(&self.heap).take(len) else { return };
            self.copy_to(&mut self.gpu.recorder(), 0, at, self.len as u32 * stride);
            small.region = Some((at, len));
        }
        *self = small;
    }

    fn release(&mut self) {
        if let Some((at, len)) = self.region.take() {
            lock(&self.heap).release(at, len);
        }
    }

    fn slice_of(&self, range: Range<usize>) -> Option<Slice> {
        let buffer = self.store()?.buffer;
        let bytes = u64::from(self.stride()) * VECTOR;
        let offset = u64::from(self.address(range.start)) * VECTOR;
        Some(Slice { buffer, offset, size: range.len() as u64 * bytes })
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.release();
    }
}

impl RowStore for Rows {
    fn len(&self) -> usize {
        self.len
    }

    fn layout(&self) -> RowLayout {
        self.layout
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if self.len == 0 {
            self.dropped = 0;
        }
    }

    fn drop_front(&mut self, count: usize) {
        // Rows for which there was no room are not here; the next read says so.
        let count = count.min(self.len);
        self.dropped += count;
        self.len -= count;
        if self.len == 0 {
            self.dropped = 0;
        }
        self.give_back();
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let mut copy = Rows {
            gpu: self.gpu.clone(),
            heap: self.heap.clone(),
            layout: self.layout,
            region: None,
            dropped: 0,
            len: 0,
        };
        // As in `drop_front`.
        let range = range.start..range.end.min(self.len);
        if range.is_empty() {
            return copy;
        }
        let mut recorder = self.gpu.recorder();
        let count = range.len() as u32 * self.stride();
        let region = lock(&self.heap).allocate(&self.gpu, &mut recorder, count);
        if let Some(at) = region {
            self.copy_to(&mut recorder, range.start, at, count);
            (copy.region, copy.len) = (Some((at, count)), range.len());
        }
        copy
    }

    /// The rows' bytes; none at all if the device has failed, so that a length check finds out.
    fn to_bytes(&self) -> Vec<u8> {
        if self.len == 0 {
            return Vec::new();
        }
        let mut recorder = self.gpu.recorder();
        let Some(slice) = self.slice_of(0..self.len) else {
            return Vec::new();
        };
        let Ok(device) = self.gpu.read(&mut recorder, &[slice]) else {
            return Vec::new();
        };
        let (size, parts) = (self.layout.row_bytes(), parts(self.layout));
        let mut bytes = vec![0; self.len * size];
        let rows = device.chunks_exact(self.stride() as usize * VECTOR as usize);
        for (row, from) in bytes.chunks_exact_mut(size).zip(rows) {
            for (range, at) in &parts {
                row[range.clone()].copy_from_slice(&from[*at..at + range.len()]);
            }
        }
        bytes
    }

    fn extend_from_bytes(&mut self, bytes: &[u8]) {
        let size = self.layout.row_bytes();
        assert!(bytes.len().is_multiple_of(size), "whole rows");
        let count = bytes.len() / size;
        if count == 0 {
            return;
        }
        let gpu = self.gpu.clone();
        let mut recorder = gpu.recorder();
        let Some(_) = self.extend(&mut recorder, count) else {
            return;
        };
        // What was recorded may still read the region's earlier content.
        recorder.flush(&gpu);
        let Some(slice) = self.slice_of(self.len - count..self.len) else {
            return;
        };
        let parts = parts(self.layout);
        let mut device = vec![0; slice.size as usize];
        let rows = device.chunks_exact_mut(self.stride() as usize * VECTOR as usize);
        for (row, to) in bytes.chunks_exact(size).zip(rows) {
            for (range, at) in &parts {
                to[*at..at + range.len()].copy_from_slice(&row[range.clone()]);
            }
        }
        gpu.queue.write_buffer(&slice.buffer.raw, slice.offset, &device);
    }

    fn memory(&self) -> usize {
        self.region.map_or(0, |(_, len)| len as usize * VECTOR as usize)
    }
}
