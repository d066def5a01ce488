//! Brings weights to the device: all cores lay them out, straight into memory that the device reads.
//!
//! Where CPU and GPU share their memory, that is the buffer itself. Elsewhere it is one of a few staging buffers, from
//! which the device copies; while it takes one, others are filled. So a matrix takes as long as the slowest of three:
//! reading the file, laying it out, and the way to the device.

use crate::buffers::Buffer;
use crate::gpu::{Inner, PATIENCE, lock};
use crate::planes::Planes;
use model::ops::DeviceError;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpu::WriteOnly;

/// Bytes of a staging buffer; a piece needs at most that.
const STAGE: usize = 16 << 20;

/// Staging buffers.
const STAGES: usize = 4;

/// Bytes of the file that a core lays out at a time, so that they stay in its cache.
const SHARE: usize = 128 << 10;

/// Host memory that the device copies from.
struct Stage {
    buffer: Arc<Buffer>,
    /// The copy that is under way, and whether the host may write again.
    trip: Option<(wgpu::SubmissionIndex, Arc<AtomicBool>)>,
}

/// Staging buffers; the one at the front was used longest ago.
#[derive(Default)]
pub(crate) struct Ferry(VecDeque<Stage>);

/// Where the two planes go in a buffer.
pub(crate) struct Destination<'a> {
    pub(crate) buffer: &'a Buffer,
    pub(crate) bits_at: u64,
    /// Behind the plane of bits.
    pub(crate) scales_at: u64,
    /// Whether the host can write there. It is handed over to the device in the end.
    pub(crate) mapped: bool,
}

/// Some blocks of a matrix: what goes over at a time.
struct Piece<'a> {
    planes: Planes,
    blocks: &'a [u8],
    /// What goes ahead of the scales.
    table: &'a [u8],
    /// Which byte of all blocks is its first.
    at: usize,
}

/// Brings blocks to the device, and says of each piece, as a range of bytes, that it has been read.
///
/// - `blocks`: whole blocks
///
/// # Errors
///
/// If the device fails.
pub(crate) fn bring(
    gpu: &Inner,
    planes: Planes,
    blocks: &[u8],
    to: &Destination<'_>,
    was_read: impl FnMut(Range<usize>),
) -> Result<(), DeviceError> {
    let table = planes.table_bytes();
    // A number of blocks whose planes are whole words.
    let step = STAGE / planes.bytes(64) as usize * 64 * planes.block();
    let pieces = blocks.chunks(step).enumerate().map(|(i, blocks)| {
        let table = if i == 0 { &table[..] } else { &[] };
        Piece { planes, blocks, table, at: i * step }
    });
    match to.mapped {
        true => fill(gpu, pieces, to, was_read),
        false => ship(gpu, pieces, to, was_read),
    }
}

/// To a buffer that the host can write to.
fn fill<'a>(
    gpu: &Inner,
    pieces: impl Iterator<Item = Piece<'a>>,
    to: &Destination<'_>,
    mut was_read: impl FnMut(Range<usize>),
) -> Result<(), DeviceError> {
    let mut view = view_of(gpu, to.buffer)?;
    let mut scales = view.slice(..);
    let bits = scales.split_off(..to.scales_at as usize).expect("in the buffer");
    let mut bits = bits.into_slice(to.bits_at as usize..);
    for piece in pieces {
        let of_bits = bits.split_off(..piece.bits()).expect("in the buffer");
        let of_scales = scales.split_off(..piece.scales()).expect("in the buffer");
        piece.lay_out(of_bits, of_scales);
        was_read(piece.range());
    }
    drop(view);
    to.buffer.raw.unmap();
    Ok(())
}

/// By way of staging buffers.
fn ship<'a>(
    gpu: &Inner,
    pieces: impl Iterator<Item = Piece<'a>>,
    to: &Destination<'_>,
    mut was_read: impl FnMut(Range<usize>),
) -> Result<(), DeviceError> {
    let mut ferry = lock(&gpu.ferry);
    let (mut bits_to, mut scales_to) = (to.bits_at, to.scales_at);
    for piece in pieces {
        let stage = ferry.vacant(gpu)?;
        let [bits, scales] = [piece.bits(), piece.scales()];
        let [whole_bits, whole_scales] = [bits, scales].map(|len| len.next_multiple_of(4));
        {
            let mut view = view_of(gpu, &stage.buffer)?;
            let mut rest = view.slice(..whole_bits + whole_scales);
            let mut of_bits = rest.split_off(..whole_bits).expect("in the stage");
            // Words that only begin with what is copied are zero behind it.
            of_bits.slice(bits..).fill(0);
            rest.slice(scales..).fill(0);
            piece.lay_out(of_bits.into_slice(..bits), rest.into_slice(..scales));
        }
        was_read(piece.range());
        let parts = [(0, bits_to, whole_bits), (whole_bits, scales_to, whole_scales)];
        stage.go(gpu, to.buffer, parts);
        bits_to += bits as u64;
        scales_to += scales as u64;
    }
    gpu.check()
}

impl Piece<'_> {
    /// Its bytes among those of all blocks.
    fn range(&self) -> Range<usize> {
        self.at..self.at + self.blocks.len()
    }

    /// Bytes of its part of the plane of bits.
    fn bits(&self) -> usize {
        self.blocks.len() / self.planes.block() * self.planes.padded
    }

    /// Bytes of its part of the plane of scales.
    fn scales(&self) -> usize {
        self.table.len() + self.blocks.len() / self.planes.block() * self.planes.scales
    }

    /// Lays it out, by all cores.
    fn lay_out(&self, bits: WriteOnly<'_, [u8]>, mut scales: WriteOnly<'_, [u8]>) {
        let planes = self.planes;
        scales.slice(..self.table.len()).copy_from_slice(self.table);
        let (mut bits, mut scales) = (bits, scales.into_slice(self.table.len()..));
        let share = SHARE / planes.block() * planes.block();
        let mut shares = Vec::with_capacity(self.blocks.len() / share + 1);
        for blocks in self.blocks.chunks(share) {
            let count = blocks.len() / planes.block();
            let of_bits = bits.split_off(..count * planes.padded).expect("a part of it");
            let of_scales = scales.split_off(..count * planes.scales).expect("a part of it");
            shares.push((blocks, Window(of_bits), Window(of_scales)));
        }
        shares.into_par_iter().for_each(|(blocks, Window(mut of_bits), Window(mut of_scales))| {
            if planes.as_in_file() {
                return of_bits.copy_from_slice(blocks);
            }
            SCRATCH.with_borrow_mut(|scratch| {
                scratch.resize(scratch.len().max(of_bits.len() + of_scales.len()), 0);
                let (bits, rest) = scratch.split_at_mut(of_bits.len());
                let scales = &mut rest[..of_scales.len()];
                planes.lay_out(blocks, bits, scales);
                of_bits.copy_from_slice(bits);
                of_scales.copy_from_slice(scales);
            });
        });
    }
}

thread_local! {
    /// What a core lays out before it goes to mapped memory, which takes whole lines in their order best.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A part of mapped memory that one core writes.
struct Window<'a>(WriteOnly<'a, [u8]>);

// SAFETY: as `&mut [u8]` it is the only way to its bytes, and bytes may be written by any thread. (`wgpu` says the same
// of values whose size is known, and forgot slices.)
unsafe impl Send for Window<'_> {}

fn view_of(gpu: &Inner, buffer: &Buffer) -> Result<wgpu::BufferViewMut, DeviceError> {
    let view = buffer.raw.get_mapped_range_mut(..);
    view.map_err(|error| DeviceError(format!("{}: {error}", gpu.about.name)))
}

impl Ferry {
    /// A stage that the host may write, once there is one.
    fn vacant(&mut self, gpu: &Inner) -> Result<&mut Stage, DeviceError> {
        if self.0.len() < STAGES {
            let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
            let size = STAGE as u64 + 4096;
            let buffer = gpu.tried(size, || gpu.buffer("staging", size, usage, true))?;
            self.0.push_front(Stage { buffer, trip: None });
        }
        self.0.rotate_left(1);
        let stage = self.0.back_mut().expect("there are some");
        if let Some((submission, back)) = stage.trip.take() {
            let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(PATIENCE) };
            let waited = gpu.device.poll(wait);
            waited
                .map_err(|error| DeviceError(format!("{} does not take weights: {error}", gpu.about.name)))?;
            gpu.check()?;
            if !back.load(Ordering::Acquire) {
                return Err(DeviceError(format!("{} does not take weights", gpu.about.name)));
            }
        }
        Ok(stage)
    }
}

impl Stage {
    /// Lets the device copy parts of it: from where, to where in a buffer, and how many bytes.
    fn go(&mut self, gpu: &Inner, to: &Buffer, parts: [(usize, u64, usize); 2]) {
        self.buffer.raw.unmap();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        for (from, at, len) in parts {
            if len > 0 {
                encoder.copy_buffer_to_buffer(&self.buffer.raw, from as u64, &to.raw, at, len as u64);
            }
        }
        let submission = gpu.queue.submit([encoder.finish()]);
        let back = Arc::new(AtomicBool::new(false));
        let tell = back.clone();
        self.buffer.raw.map_async(wgpu::MapMode::Write, .., move |mapped| {
            tell.store(mapped.is_ok(), Ordering::Release);
        });
        self.trip = Some((submission, back));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Choice;
    use crate::buffers::Slice;
    use crate::gpu::{Gpu, Options};
    use crate::planes::planes_of;
    use quants::Format;

    /// Matrices of several pieces, more than there are stages, whose last one ends within a word: in buffers that the
    /// host can write to, and in others.
    #[test]
    fn pieces_arrive_as_planes() {
        let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
        let gpu = &*gpu.0;
        for (format, size) in
            [(Format::Iq2Xxs, 90), (Format::Mxfp4, 40), (Format::Q3K, 40), (Format::F16, 40)]
        {
            let planes = Planes::of(format);
            let blocks = ((size << 20) / planes.block()) | 1;
            let byte = |i: usize| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8;
            let bytes: Vec<u8> = (0..blocks * planes.block()).map(byte).collect();
            let (bits, scales) = planes_of(format, &bytes);
            let scales = &scales[..planes.table + blocks * planes.scales];
            let (bits_at, scales_at) = (64, (64 + bits.len() as u64).next_multiple_of(256));
            let total = (scales_at + scales.len() as u64).next_multiple_of(256);
            for mapped in [false, true] {
                let usage = match mapped {
                    true => wgpu::BufferUsages::MAP_WRITE,
                    false => wgpu::BufferUsages::COPY_DST,
                };
                let buffer = gpu.buffer("planes", total, usage | wgpu::BufferUsages::COPY_SRC, mapped);
                let to = Destination { buffer: &buffer, bits_at, scales_at, mapped };
                let mut read = 0;
                bring(gpu, planes, &bytes, &to, |part| {
                    assert_eq!(part.start, read, "one after the other");
                    read = part.end;
                })
                .unwrap();
                assert_eq!(read, bytes.len());
                let got = gpu.read(&mut gpu.recorder(), &[Slice::all(&buffer)]).unwrap();
                let what = format!("{format:?}, mapped: {mapped}");
                assert!(got[bits_at as usize..][..bits.len()] == bits, "{what}: bits");
                assert!(got[scales_at as usize..][..scales.len()] == *scales, "{what}: scales");
            }
        }
    }
}
