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

/// The planes of bits and of scales of some rows, as they lie on the device.
#[cfg(test)]
pub(crate) fn planes_of(format: Format, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let p = planes(format);
    let table = if p.table > 0 { &GRID_LEVELS[..] } else { &[] };
    let mut scales: Vec<u8> = table.iter().flat_map(|levels| levels.to_le_bytes()).collect();
    let mut bits = Vec::new();
    for block in bytes.chunks_exact(format.block_bytes()) {
        bits.extend(&block[p.bits.clone()]);
        bits.resize(bits.len() + p.padded - p.bits.len(), 0);
        scales.extend(&block[p.scales.clone()]);
    }
    scales.resize((scales.len() + 4).next_multiple_of(4), 0);
    (bits, scales)
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
            let part = bytes.slice(i * part_rows * row_bytes..(i + 1) * part_rows * row_bytes);
            upload_part(gpu, &name, format, &part).map(|(bits, scales)| Part {
                first: i * part_rows,
                rows: part_rows,
                bits,
                scales,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Matrix { name, format, rows, cols, parts })
}

/// Takes some rows over, a piece at a time; what was taken over leaves the host's memory, so that there is one copy
/// of the weights and not two.
fn upload_part(
    gpu: &Inner,
    name: &str,
    format: Format,
    bytes: &gguf::Bytes,
) -> Result<(Slice, Slice), DeviceError> {
    let (p, block) = (planes(format), format.block_bytes());
    let blocks = bytes.len() / block;
    let bits_size = (blocks * p.padded) as u64;
    let align = u64::from(gpu.limits.min_storage_buffer_offset_alignment).max(16);
    let scales_at = bits_size.next_multiple_of(align);
    let scales_size = ((p.table + blocks * p.scales.len()) as u64).next_multiple_of(4);
    let total = scales_at + scales_size.max(4);
    let buffer = gpu.try_weights(name, total.next_multiple_of(16))?;
    gpu.weight_bytes.fetch_add(buffer.size(), Ordering::Relaxed);
    let mut to = Destination::new(gpu, &buffer)?;
    let step = (PIECE / block).next_multiple_of(64);
    let (mut bits, mut scales) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE / 4));
    let mut scales_to = scales_at;
    if p.table > 0 {
        scales.extend(GRID_LEVELS.iter().flat_map(|levels| levels.to_le_bytes()));
    }
    for (i, piece) in bytes.chunks(step * block).enumerate() {
        let at = (i * step * p.padded) as u64;
        if p.padded == block {
            to.write(at, piece)?;
        } else {
            bits.clear();
            for block in piece.chunks_exact(block) {
                bits.extend_from_slice(&block[p.bits.clone()]);
                bits.resize(bits.len() + p.padded - p.bits.len(), 0);
            }
            to.write(at, &bits)?;
        }
        if !p.scales.is_empty() {
            scales.extend(piece.chunks_exact(block).flat_map(|block| &block[p.scales.clone()]));
            // Whole words: `step` is a multiple of 4, and so are both the table and where the scales begin.
            to.write(scales_to, &scales)?;
            scales_to += scales.len() as u64;
            scales.clear();
        }
        gpu.uploaded(piece.len() as u64);
        bytes.put_back(i * step * block..i * step * block + piece.len());
    }
    to.finish()?;
    let bits = Slice { buffer: buffer.clone(), offset: 0, size: bits_size };
    let scales = match p.scales.is_empty() {
        true => bits.clone(),
        false => Slice { buffer, offset: scales_at, size: scales_size },
    };
    Ok((bits, scales))
}

/// A buffer that is being filled.
enum Destination<'a> {
    /// It is mapped: bytes go straight there.
    Mapped(&'a Buffer, wgpu::BufferViewMut),
    /// Bytes go through staging memory of the driver; those on their way are counted.
    Staged(&'a Inner, &'a Buffer, u64),
}

impl<'a> Destination<'a> {
    fn new(gpu: &'a Inner, buffer: &'a Buffer) -> Result<Destination<'a>, DeviceError> {
        if !gpu.shares_memory {
            return Ok(Destination::Staged(gpu, buffer, 0));
        }
        let view = buffer.raw.get_mapped_range_mut(..);
        let view = view.map_err(|error| DeviceError(format!("{}: {error}", gpu.about.name)))?;
        Ok(Destination::Mapped(buffer, view))
    }

    /// Writes bytes, whole words; a few bytes short of one are filled with zeros.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        match self {
            Destination::Mapped(_, view) => {
                let at = at as usize;
                view.slice(at..at + bytes.len()).copy_from_slice(bytes);
            }
            Destination::Staged(gpu, buffer, flight) => {
                let whole = bytes.len() & !3;
                gpu.queue.write_buffer(&buffer.raw, at, &bytes[..whole]);
                if whole < bytes.len() {
                    let mut last = [0; 4];
                    last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
                    gpu.queue.write_buffer(&buffer.raw, at + whole as u64, &last);
                }
                *flight += bytes.len() as u64;
                if *flight > IN_FLIGHT {
                    *flight = 0;
                    settle(gpu)?;
                }
            }
        }
        Ok(())
    }

    /// Hands the buffer over to the device.
    fn finish(self) -> Result<(), DeviceError> {
        match self {
            Destination::Mapped(buffer, view) => {
                drop(view);
                buffer.raw.unmap();
                Ok(())
            }
            Destination::Staged(gpu, ..) => settle(gpu),
        }
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
