//! Weights on the device.
//!
//! Blocks whose size is not a multiple of 16 bytes are laid out anew while they are copied: first a plane
//! with the bits, whole vectors for each block, then a plane with the scales, both in the order of the
//! file. Kernels can then read 16 bytes at a time, and the bytes stay as many, but for two of padding in
//! a Q3_K block. A matrix that is larger than what a kernel may bind is split by rows.

use crate::adapter::Device;
use crate::buffers::{Buffer, Slice};
use crate::gpu::{Inner, megabytes};
use crate::recorder::Binding;
use model::ops::DeviceError;
use model::weights;
use quants::Format;
use quants::iq2_xxs::GRID_LEVELS;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A weight matrix. Clones are the same buffers.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(crate) name: String,
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) parts: Vec<Part>,
}

/// Some consecutive rows of a matrix.
#[derive(Clone, Debug)]
pub struct Part {
    pub(crate) first: usize,
    pub(crate) rows: usize,
    bits: Slice,
    scales: Slice,
}

impl Part {
    /// The two planes, for a kernel.
    pub(crate) fn bind(&self) -> [Binding; 2] {
        [Binding::Read(self.bits.clone()), Binding::Read(self.scales.clone())]
    }

    /// Whether there is a plane of scales; the second binding is the first one again if not.
    pub(crate) fn has_scales(&self) -> bool {
        self.scales.offset != self.bits.offset
    }
}

impl Matrix {
    /// Units of 32 weights in a row.
    pub(crate) fn units(&self) -> usize {
        self.cols / 32
    }
}

/// How a block is laid out: which of its bytes go to the plane of bits, and which to that of scales.
struct Planes {
    bits: Range<usize>,
    /// The bits' size on the device, a multiple of 16 where a block has scales apart.
    padded: usize,
    scales: Range<usize>,
    /// Bytes ahead of all scales.
    table: usize,
}

fn planes(format: Format) -> Planes {
    let (bits, scales) = match format {
        Format::F32 | Format::F16 | Format::BF16 | Format::Q4K | Format::Q5K | Format::Q3K => {
            (0..format.block_bytes(), 0..0)
        }
        Format::Q8_0 => (2..34, 0..2),
        Format::Q2K => (0..80, 80..84),
        Format::Q6K => (0..208, 208..210),
        Format::Iq2Xxs => (2..66, 0..2),
        Format::Mxfp4 => (1..17, 0..1),
    };
    let padded = if format == Format::Q3K { 112 } else { bits.len() };
    Planes { bits, padded, scales, table: if format == Format::Iq2Xxs { 2 * GRID_LEVELS.len() } else { 0 } }
}

/// Bytes that a matrix of this many blocks has on the device.
pub(crate) fn device_bytes(format: Format, blocks: u64) -> u64 {
    let p = planes(format);
    blocks * (p.padded + p.scales.len()) as u64 + p.table as u64
}

/// Bytes written at a time: staging memory stays small.
const PIECE: usize = 16 << 20;

/// Bytes in flight before we wait for the device to take them.
const IN_FLIGHT: u64 = 256 << 20;

/// Whether and how a matrix can be placed.
pub(crate) enum Fit {
    /// In so many parts of equally many rows.
    Parts(usize),
    /// In no way.
    Never(String),
}

/// How many parts a matrix needs on a device.
pub(crate) fn fit(device: &Device, format: Format, rows: usize, cols: usize) -> Fit {
    if !cols.is_multiple_of(32) {
        return Fit::Never(format!("rows of {cols} weights: the GPU backend needs multiples of 32"));
    }
    let row_blocks = cols / format.block_len();
    let size = |rows: usize| device_bytes(format, (rows * row_blocks) as u64) + 512;
    let most = device.largest_buffer.min(u64::from(u32::MAX));
    let mut parts = 1;
    while size(rows / parts) > most {
        if !(rows / parts).is_multiple_of(2) {
            return Fit::Never(format!(
                "{}, and a buffer there holds {}; its {rows} rows cannot be halved often enough",
                megabytes(size(rows)),
                megabytes(most)
            ));
        }
        parts *= 2;
    }
    Fit::Parts(parts)
}

/// Takes a matrix over.
///
/// # Errors
///
/// If its shape does not suit the kernels, or there is no room.
pub(crate) fn upload(gpu: &Inner, matrix: weights::Matrix) -> Result<Matrix, DeviceError> {
    let weights::Matrix { name, format, rows, cols, bytes } = matrix;
    let count = match fit(&gpu.about, format, rows, cols) {
        Fit::Parts(parts) => parts,
        Fit::Never(why) => {
            return Err(DeviceError(format!("{}: {why}; use --backend cpu", gpu.about.name)));
        }
    };
    let row_bytes = format.row_bytes(cols).expect("checked when loaded");
    let part_rows = rows / count;
    let parts = (0..count)
        .map(|i| {
            let part = &bytes[i * part_rows * row_bytes..(i + 1) * part_rows * row_bytes];
            upload_part(gpu, &name, format, part).map(|(bits, scales)| Part {
                first: i * part_rows,
                rows: part_rows,
                bits,
                scales,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Matrix { name, format, rows, cols, parts })
}

fn upload_part(gpu: &Inner, name: &str, format: Format, bytes: &[u8]) -> Result<(Slice, Slice), DeviceError> {
    let (p, block) = (planes(format), format.block_bytes());
    let blocks = bytes.len() / block;
    let bits_size = (blocks * p.padded) as u64;
    let align = u64::from(gpu.limits.min_storage_buffer_offset_alignment).max(16);
    let scales_at = bits_size.next_multiple_of(align);
    let scales_size = ((p.table + blocks * p.scales.len()) as u64).next_multiple_of(4);
    let total = scales_at + scales_size.max(4);
    let buffer = gpu.try_storage(name, total.next_multiple_of(16))?;
    gpu.weight_bytes.fetch_add(buffer.size(), Ordering::Relaxed);
    let step = (PIECE / block).next_multiple_of(64);
    let (mut staged, mut flight) = (Vec::with_capacity(PIECE), 0);
    for (i, piece) in bytes.chunks(step * block).enumerate() {
        let at = (i * step * p.padded) as u64;
        if p.padded == block {
            write(gpu, &buffer, at, piece);
        } else {
            staged.clear();
            for block in piece.chunks_exact(block) {
                staged.extend_from_slice(&block[p.bits.clone()]);
                staged.resize(staged.len() + p.padded - p.bits.len(), 0);
            }
            write(gpu, &buffer, at, &staged);
        }
        gpu.uploaded(piece.len() as u64);
        flight += piece.len() as u64;
        if flight > IN_FLIGHT {
            flight = 0;
            settle(gpu)?;
        }
    }
    if !p.scales.is_empty() {
        let mut scales: Vec<u8> = Vec::with_capacity(scales_size as usize);
        if p.table > 0 {
            scales.extend(GRID_LEVELS.iter().flat_map(|levels| levels.to_le_bytes()));
        }
        scales.extend(bytes.chunks_exact(block).flat_map(|block| &block[p.scales.clone()]));
        scales.resize(scales_size as usize, 0);
        for (i, piece) in scales.chunks(PIECE).enumerate() {
            write(gpu, &buffer, scales_at + (i * PIECE) as u64, piece);
        }
    }
    settle(gpu)?;
    let bits = Slice { buffer: buffer.clone(), offset: 0, size: bits_size };
    let scales = match p.scales.is_empty() {
        true => bits.clone(),
        false => Slice { buffer, offset: scales_at, size: scales_size },
    };
    Ok((bits, scales))
}

/// Writes whole words; a few bytes short of one are filled with zeros.
fn write(gpu: &Inner, buffer: &Arc<Buffer>, at: u64, bytes: &[u8]) {
    let whole = bytes.len() & !3;
    gpu.queue.write_buffer(&buffer.raw, at, &bytes[..whole]);
    if whole < bytes.len() {
        let mut last = [0; 4];
        last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
        gpu.queue.write_buffer(&buffer.raw, at + whole as u64, &last);
    }
}

/// Lets the device take what was written so far.
fn settle(gpu: &Inner) -> Result<(), DeviceError> {
    let submission = gpu.queue.submit([]);
    let wait = wgpu::PollType::Wait {
        submission_index: Some(submission),
        timeout: Some(std::time::Duration::from_secs(60)),
    };
    gpu.device
        .poll(wait)
        .map_err(|error| DeviceError(format!("{} does not take weights: {error}", gpu.about.name)))?;
    gpu.check()
}
