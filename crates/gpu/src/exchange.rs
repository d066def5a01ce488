//! What a backend needs that keeps a part of the model on the device and the rest elsewhere: between operations
//! values travel to the device and back.

use crate::array::{Array, Routes};
use crate::buffers::Slice;
use crate::ferry::{self, Destination};
use crate::gpu::Gpu;
use crate::kernels::{THREADS, threads};
use crate::planes::Planes;
use model::ops::DeviceError;
use quants::Format;
use zerocopy::IntoBytes;

/// Bytes of rows that do not go by the arena any more, where they would be copied twice by one core.
const FERRIED: usize = 1 << 20;

impl Array {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// Rows and the experts chosen for them, on the host.
pub struct Routed {
    /// `[n, width]`
    pub x: Vec<f32>,
    /// `[n, k]` of expert and share, ascending by expert.
    pub chosen: Vec<(u32, f32)>,
}

impl Gpu {
    /// Takes rows of f32 along for operations to come. What the device refuses is an error of the next read.
    ///
    /// - `values.len()` is a multiple of `width`
    pub fn send(&self, values: &[f32], width: usize) -> Array {
        let (gpu, mut r) = (&*self.0, self.0.recorder());
        let array = Array::empty(gpu, values.len() / width, width);
        // In a rehearsal nothing is copied by commands, but what is sent may be weights that are here to stay.
        if size_of_val(values) >= FERRIED || r.rehearses() {
            // What still needs the buffer as it was goes first.
            r.flush(gpu);
            let Slice { buffer, offset, size } = array.slice();
            let to =
                Destination { buffer: &buffer, bits_at: offset, scales_at: offset + size, mapped: false };
            if let Err(error) = ferry::bring(gpu, Planes::of(Format::F32), values.as_bytes(), &to, drop) {
                gpu.fail(error.0);
            }
            return array;
        }
        let words: Vec<u32> = values.iter().map(|x| x.to_bits()).collect();
        let (from, to) = (r.put(gpu, &words), array.slice());
        r.copy(gpu, from, &to.buffer, to.offset);
        array
    }

    /// Lets the device begin with what was asked for so far, without waiting for it.
    pub fn begin(&self) {
        self.0.recorder().flush(&self.0);
    }

    /// `y += z`
    ///
    /// - `y`, `z`: `[n, d]`, d a multiple of 4
    pub fn add(&self, y: &mut Array, z: &Array) {
        assert_eq!((y.n, y.width), (z.n, z.width), "shapes");
        let vectors = (y.width / 4) as u32;
        self.0.recorder().launch(
            &self.0,
            threads("sum_slots"),
            &[z.read(), y.write()],
            &[vectors, 1],
            [vectors.div_ceil(THREADS), y.n as u32, 1],
        );
    }

    /// Rows and the experts chosen for them, with their shares, in one transfer.
    ///
    /// # Errors
    ///
    /// If the device failed since the last read.
    pub fn read_routed(&self, x: &Array, routes: &Routes) -> Result<Routed, DeviceError> {
        let parts = [x.slice(), routes.ids.slice(), routes.shares.slice()];
        let bytes = self.0.read(&mut self.0.recorder(), &parts)?;
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        let (x, chosen) = words.split_at(x.n * x.width);
        let (ids, shares) = chosen.split_at(chosen.len() / 2);
        let pairs = ids.iter().zip(shares).map(|(&id, &share)| (id, f32::from_bits(share)));
        Ok(Routed { x: x.iter().map(|&x| f32::from_bits(x)).collect(), chosen: pairs.collect() })
    }
}

impl Routes {
    /// Experts of a row.
    pub fn used(&self) -> usize {
        self.ids.width
    }
}
