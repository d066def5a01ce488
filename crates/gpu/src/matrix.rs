//! Weights on the device, laid out as [`crate::planes`] says. A matrix that is larger than what a kernel may bind is split
//! by rows.
//!
//! Most are taken over for good. Others stay with the host and are lent: brought into a [`Berth`] for one use, which the
//! next one takes.

use crate::adapter::Device;
use crate::buffers::{Buffer, Slice};
use crate::ferry::{self, Destination};
use crate::gpu::{Gpu, Inner, megabytes};
use crate::planes::Planes;
use crate::recorder::Binding;
use model::ops::DeviceError;
use model::weights;
use quants::Format;
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
    let size = |rows: usize| Planes::of(format).bytes((rows * row_blocks) as u64) + 512;
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

/// Takes a matrix over; what was taken over leaves the host's memory, so that there is one copy of the weights and not
/// two.
///
/// # Errors
///
/// If its shape does not suit the kernels, or there is no room.
pub(crate) fn upload(gpu: &Inner, matrix: weights::Matrix) -> Result<Matrix, DeviceError> {
    placed(gpu, &matrix, |_, bytes, extent| {
        let buffer = gpu.try_weights(&matrix.name, extent.total())?;
        gpu.weight_bytes.fetch_add(buffer.size(), Ordering::Relaxed);
        let to = Destination {
            buffer: &buffer,
            bits_at: 0,
            scales_at: extent.scales_at,
            mapped: gpu.shares_memory,
        };
        ferry::bring(gpu, Planes::of(matrix.format), bytes, &to, |read| {
            gpu.uploaded(read.len() as u64);
            bytes.put_back(read);
        })?;
        Ok(buffer)
    })
}

/// A matrix of buffers that `place` finds and fills.
///
/// - `place`: given a part's number, the part's bytes, and what it needs
fn placed(
    gpu: &Inner,
    matrix: &weights::Matrix,
    mut place: impl FnMut(usize, &gguf::Bytes, &Extent) -> Result<Arc<Buffer>, DeviceError>,
) -> Result<Matrix, DeviceError> {
    let &weights::Matrix { ref name, format, rows, cols, ref bytes } = matrix;
    let count = match fit(&gpu.about, format, rows, cols) {
        Fit::Parts(parts) => parts,
        Fit::Never(why) => {
            return Err(DeviceError(format!("{}: {why}; use --backend cpu", gpu.about.name)));
        }
    };
    let row_bytes = format.row_bytes(cols).expect("checked when loaded");
    let part_rows = rows / count;
    let part = |i| {
        let bytes = bytes.slice(i * part_rows * row_bytes..(i + 1) * part_rows * row_bytes);
        let extent = Extent::new(gpu, format, bytes.len());
        let buffer = place(i, &bytes, &extent)?;
        let bits = Slice { buffer: buffer.clone(), offset: 0, size: extent.bits };
        let scales = match extent.scales {
            0 => bits.clone(),
            size => Slice { buffer, offset: extent.scales_at, size },
        };
        Ok(Part { first: i * part_rows, rows: part_rows, bits, scales })
    };
    let parts = (0..count).map(part).collect::<Result<_, DeviceError>>()?;
    Ok(Matrix { name: name.clone(), format, rows, cols, parts })
}

/// What the planes of some rows need, in bytes.
struct Extent {
    bits: u64,
    /// Where the plane of scales begins.
    scales_at: u64,
    scales: u64,
}

impl Extent {
    /// - `len`: of the rows in the file
    fn new(gpu: &Inner, format: Format, len: usize) -> Extent {
        let (planes, blocks) = (Planes::of(format), len / format.block_bytes());
        let bits = (blocks * planes.padded) as u64;
        let align = u64::from(gpu.limits.min_storage_buffer_offset_alignment).max(16);
        let scales = ((planes.table + blocks * planes.scales) as u64).next_multiple_of(4);
        Extent { bits, scales_at: bits.next_multiple_of(align), scales }
    }

    fn total(&self) -> u64 {
        (self.scales_at + self.scales.max(4)).next_multiple_of(16)
    }
}

/// Room on the device for one lent matrix at a time.
#[derive(Debug, Default)]
pub struct Berth {
    /// For each part of it.
    parts: Vec<Arc<Buffer>>,
}

impl Gpu {
    /// Sees to it that a berth has room for a matrix, beside those that it had room for before.
    ///
    /// # Errors
    ///
    /// If its shape does not suit the kernels, or there is no room.
    pub fn make_room(&self, berth: &mut Berth, matrix: &weights::Matrix) -> Result<(), DeviceError> {
        let gpu = &*self.0;
        placed(gpu, matrix, |i, _, extent| {
            if let Some(buffer) = berth.parts.get(i) {
                if buffer.size() >= extent.total() {
                    return Ok(buffer.clone());
                }
                gpu.weight_bytes.fetch_sub(buffer.size(), Ordering::Relaxed);
                berth.parts.truncate(i);
            }
            berth.parts.push(gpu.try_storage("lent weights", extent.total())?);
            gpu.weight_bytes.fetch_add(extent.total(), Ordering::Relaxed);
            Ok(berth.parts[i].clone())
        })
        .map(drop)
    }

    /// Brings a matrix into a berth with room for it. Operations asked for from now on can use it, until the next one
    /// is brought there.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn lend(&self, berth: &Berth, matrix: &weights::Matrix) -> Result<Matrix, DeviceError> {
        let gpu = &*self.0;
        // What still needs the matrix before it goes first.
        self.begin();
        let rehearses = self.rehearses();
        placed(gpu, matrix, |i, bytes, extent| {
            let buffer = &berth.parts[i];
            if rehearses {
                return Ok(buffer.clone());
            }
            let to = Destination { buffer, bits_at: 0, scales_at: extent.scales_at, mapped: false };
            ferry::bring(gpu, Planes::of(matrix.format), bytes, &to, drop)?;
            Ok(buffer.clone())
        })
    }
}
