//! Activations, rounded once per row to what the weights' format is multiplied with.
//!
//! Rounding is symmetric: the scale is the largest magnitude over 127, and values go to the nearest
//! integer, ties to even. A part that holds a NaN or an infinity gets NaN as its scale, so that it
//! shows in every output instead of vanishing in an integer.

use crate::isa::{self, Isa, Kernel, Level};
use crate::memory;
use quants::Format;
use std::mem;
use zerocopy::{Immutable, IntoBytes};

/// How activations are rounded. There is one way for each format of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Not at all, for float weights.
    F32,
    /// Signed bytes, one scale per 32 values: for formats with blocks of 32.
    A32,
    /// Signed bytes, one scale per 256 values: for formats with blocks of 256.
    A256,
    /// The same numbers as [`A256`](Self::A256), and again in the order in which IQ2_XXS looks its weights up.
    A256Turned,
}

impl Rounding {
    /// How many ways there are.
    pub const COUNT: usize = Rounding::A256Turned as usize + 1;

    /// The rounding that goes with a format of weights.
    pub fn of(format: Format) -> Self {
        match format.block_len() {
            256 if format == Format::Iq2Xxs => Rounding::A256Turned,
            1 => Rounding::F32,
            32 => Rounding::A32,
            256 => Rounding::A256,
            other => unreachable!("{format} has blocks of {other}"),
        }
    }
}

/// 16 values as they are; those beyond the end of a row are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Immutable, IntoBytes)]
#[repr(C, align(64))]
pub struct ChunkF32 {
    pub(crate) x: [f32; 16],
}

impl ChunkF32 {
    pub(crate) const ZERO: Self = Self { x: [0.0; 16] };
}

/// 256 values in blocks of 32; those beyond the end of a row are zero.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Chunk32 {
    /// In the order of the row, two blocks a vector.
    pub q: [[i8; 64]; 4],
    /// By block.
    pub scale: [[f32; 2]; 4],
    /// What makes good that 128 is added to each weight: minus 128 times the sum of `q`, by block.
    pub unbias: [[i32; 2]; 4],
}

/// 256 values with one scale.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Chunk256 {
    /// In the order of a group, see [`Isa`](crate::isa::Isa).
    pub q: [[i8; 64]; 4],
    /// The sums of each 16 values, in the order of the row.
    pub sum: [i16; 16],
    /// The sums of each 32 values.
    pub sum_32: [i16; 8],
    /// The scale of all.
    pub scale: f32,
    /// The largest sum of the magnitudes of 32 values.
    pub largest_32: i32,
}

/// 256 values with one scale, in two orders.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Turned256 {
    /// `turned[i][r]` is value `8 r + i`: those that meet weight `i` of row `r` of the code book.
    pub(crate) turned: [[i8; 32]; 8],
    /// What makes good that weights are taken plus [`BIAS`](super::iq2_xxs::BIAS): minus so many times the sum
    /// of each 32 values.
    pub(crate) unbias: [i32; 8],
    /// The scale of all.
    pub(crate) scale: f32,
    /// As every format with blocks of 256 has them. Last, for the code book in registers needs only the others.
    pub(crate) plain: Chunk256,
}

/// A batch of activations.
#[derive(Clone, Debug)]
pub struct Acts {
    n: usize,
    k: usize,
    chunks: Chunks,
}

/// The rows, one after the other, each a whole number of chunks.
#[derive(Clone, Debug)]
pub(super) enum Chunks {
    F32(Vec<ChunkF32>),
    A32(Vec<Chunk32>),
    A256(Vec<Chunk256>),
    Turned(Vec<Turned256>),
}

impl Acts {
    /// A batch of `n` rows of `k` values, each row to be set by [`rows_mut`](Self::rows_mut).
    ///
    /// # Panics
    ///
    /// If `k` is not a whole number of the rounding's blocks.
    pub fn unset(rounding: Rounding, n: usize, k: usize) -> Self {
        let fits = match rounding {
            Rounding::F32 => true,
            Rounding::A32 => k.is_multiple_of(32),
            Rounding::A256 | Rounding::A256Turned => k.is_multiple_of(256),
        };
        assert!(fits && k > 0, "rows of {k} for {rounding:?}");
        /// The chunks of all rows; what no value goes to is zero.
        fn room<T: memory::Element>(n: usize, k: usize, chunk: usize) -> Vec<T> {
            let len = n * k.div_ceil(chunk);
            if k.is_multiple_of(chunk) { memory::unset(len) } else { memory::zeros(len) }
        }
        let chunks = match rounding {
            Rounding::F32 => Chunks::F32(room(n, k, 16)),
            Rounding::A32 => Chunks::A32(room(n, k, 256)),
            Rounding::A256 => Chunks::A256(room(n, k, 256)),
            Rounding::A256Turned => Chunks::Turned(room(n, k, 256)),
        };
        Self { n, k, chunks }
    }

    /// Rounds a batch.
    ///
    /// - `x`: `[n, k]`
    ///
    /// # Panics
    ///
    /// If `x` is not whole rows, or `k` not a whole number of the rounding's blocks.
    pub fn new(rounding: Rounding, x: &[f32], k: usize) -> Self {
        assert!(x.len().is_multiple_of(k), "{} values in rows of {k}", x.len());
        let mut acts = Self::unset(rounding, x.len() / k, k);
        for (mut row, x) in acts.rows_mut().zip(x.chunks_exact(k)) {
            row.set(x);
        }
        acts
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Values in a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The rows, to be set in any order and by any thread.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = ActRow<'_>> {
        let (n, k) = (self.n, self.k);
        // One of the four is not empty.
        let (mut f32s, mut a32s): (&mut [ChunkF32], &mut [Chunk32]) = Default::default();
        let (mut a256s, mut turned): (&mut [Chunk256], &mut [Turned256]) = Default::default();
        match &mut self.chunks {
            Chunks::F32(chunks) => f32s = chunks,
            Chunks::A32(chunks) => a32s = chunks,
            Chunks::A256(chunks) => a256s = chunks,
            Chunks::Turned(chunks) => turned = chunks,
        }
        let f32s = f32s.chunks_exact_mut(k.div_ceil(16)).map(Row::F32);
        let a32s = a32s.chunks_exact_mut(k.div_ceil(256)).map(Row::A32);
        let a256s = a256s.chunks_exact_mut(k.div_ceil(256)).map(Row::A256);
        let turned = turned.chunks_exact_mut(k.div_ceil(256)).map(Row::Turned);
        f32s.chain(a32s).chain(a256s).chain(turned).take(n).map(move |row| ActRow { k, row })
    }

    pub(super) fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// What the rounded rows stand for.
    #[cfg(test)]
    pub(super) fn decoded(&self) -> Vec<Vec<f32>> {
        let (n, k) = (self.n, self.k);
        let mut values: Vec<f32> = vec![];
        match &self.chunks {
            Chunks::F32(chunks) => chunks.iter().for_each(|chunk| values.extend(chunk.x)),
            Chunks::A32(chunks) => values.extend(chunks.iter().flat_map(|chunk| {
                (0..256).map(|i| f32::from(chunk.q[i / 64][i % 64]) * chunk.scale[i / 64][i % 64 / 32])
            })),
            Chunks::A256(chunks) => values.extend(chunks.iter().flat_map(Chunk256::decoded)),
            Chunks::Turned(chunks) => values.extend(chunks.iter().flat_map(|chunk| chunk.plain.decoded())),
        }
        values.chunks_exact(values.len() / n).map(|row| row[..k].to_vec()).collect()
    }
}

impl Drop for Acts {
    fn drop(&mut self) {
        match &mut self.chunks {
            Chunks::F32(chunks) => memory::keep(mem::take(chunks)),
            Chunks::A32(chunks) => memory::keep(mem::take(chunks)),
            Chunks::A256(chunks) => memory::keep(mem::take(chunks)),
            Chunks::Turned(chunks) => memory::keep(mem::take(chunks)),
        }
    }
}

/// One row of a batch, to be set.
#[derive(Debug)]
pub struct ActRow<'a> {
    k: usize,
    row: Row<'a>,
}

#[derive(Debug)]
enum Row<'a> {
    F32(&'a mut [ChunkF32]),
    A32(&'a mut [Chunk32]),
    A256(&'a mut [Chunk256]),
    Turned(&'a mut [Turned256]),
}

impl ActRow<'_> {
    /// Rounds `x` into this row.
    ///
    /// # Panics
    ///
    /// If `x` is not `k` long.
    pub fn set(&mut self, x: &[f32]) {
        self.set_at(isa::level(), x);
    }

    /// [`set`](Self::set) with a given instruction set.
    pub(super) fn set_at(&mut self, level: Level, x: &[f32]) {
        assert_eq!(x.len(), self.k, "row length of activations");
        level.run(SetRow { row: &mut self.row, x });
    }
}

/// Rounds a row.
struct SetRow<'a, 'r> {
    row: &'a mut Row<'r>,
    x: &'a [f32],
}

impl Kernel for SetRow<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        match self.row {
            Row::F32(chunks) => {
                for (chunk, x) in chunks.iter_mut().zip(self.x.chunks(16)) {
                    chunk.x[..x.len()].copy_from_slice(x);
                }
            }
            Row::A32(chunks) => {
                for (chunk, x) in chunks.iter_mut().zip(self.x.chunks(256)) {
                    chunk.set(isa, x);
                }
            }
            Row::A256(chunks) => {
                for (chunk, x) in chunks.iter_mut().zip(self.x.as_chunks().0) {
                    chunk.set(isa, x);
                }
            }
            Row::Turned(chunks) => {
                for (chunk, x) in chunks.iter_mut().zip(self.x.as_chunks().0) {
                    chunk.set(isa, x);
                }
            }
        }
    }
}

impl Chunk32 {
    pub(crate) const ZERO: Self = Self { q: [[0; 64]; 4], scale: [[0.0; 2]; 4], unbias: [[0; 2]; 4] };

    /// Rounds at most 256 values, a whole number of blocks.
    #[inline(always)]
    fn set<I: Isa>(&mut self, isa: I, x: &[f32]) {
        for (i, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let (v, half) = (i / 2, i % 2);
            let (scale, inverse) = scale_of(x);
            let q: &mut [i8; 32] = (&mut self.q[v][32 * half..][..32]).try_into().expect("32 of 64");
            round(isa, x, inverse, q);
            self.scale[v][half] = scale;
        }
        let sums = isa.sums_of_quarters(&self.q);
        for (v, unbias) in self.unbias.iter_mut().enumerate() {
            *unbias = [-128 * (sums[0][v] + sums[1][v]), -128 * (sums[2][v] + sums[3][v])];
        }
    }
}

impl Chunk256 {
    pub(crate) const ZERO: Self =
        Self { q: [[0; 64]; 4], sum: [0; 16], sum_32: [0; 8], scale: 0.0, largest_32: 0 };

    #[inline(always)]
    fn set<I: Isa>(&mut self, isa: I, x: &[f32; 256]) {
        let (scale, inverse) = scale_of(x);
        self.scale = scale;
        for (i, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let (v, half) = (i % 4, i / 4);
            let q: &mut [i8; 32] = (&mut self.q[v][32 * half..][..32]).try_into().expect("32 of 64");
            round(isa, x, inverse, q);
        }
        let sums = isa.sums_of_quarters(&self.q);
        let magnitudes = isa.sums_of_quarters(&self.q.map(|q| q.map(i8::wrapping_abs)));
        self.largest_32 = 0;
        for v in 0..4 {
            for half in 0..2 {
                let [first, second] = [sums[2 * half][v], sums[2 * half + 1][v]];
                self.sum[8 * half + 2 * v] = first as i16;
                self.sum[8 * half + 2 * v + 1] = second as i16;
                let magnitude = magnitudes[2 * half][v] + magnitudes[2 * half + 1][v];
                self.largest_32 = self.largest_32.max(magnitude);
            }
        }
        for (sum, sums) in self.sum_32.iter_mut().zip(self.sum.as_chunks::<2>().0) {
            *sum = sums[0] + sums[1];
        }
    }

    /// Whether the sum of 32 products with weights up to `largest` fits 16 bits.
    #[inline(always)]
    pub(super) fn sums_fit(&self, largest: u8) -> bool {
        self.largest_32 * i32::from(largest) <= i16::MAX.into()
    }

    #[cfg(test)]
    fn decoded(&self) -> impl Iterator<Item = f32> {
        (0..256).map(|i| f32::from(self.q[i / 32 % 4][32 * (i / 128) + i % 32]) * self.scale)
    }
}

impl Turned256 {
    pub(crate) const ZERO: Self =
        Self { turned: [[0; 32]; 8], unbias: [0; 8], scale: 0.0, plain: Chunk256::ZERO };

    #[inline(always)]
    fn set<I: Isa>(&mut self, isa: I, x: &[f32; 256]) {
        self.plain.set(isa, x);
        isa.turn(&self.plain.q, &mut self.turned);
        self.scale = self.plain.scale;
        for (unbias, sum) in self.unbias.iter_mut().zip(self.plain.sum_32) {
            *unbias = -i32::from(super::iq2_xxs::BIAS) * i32::from(sum);
        }
    }
}

/// The scale of some values and its inverse; 0 for both if they are all too small to matter, NaN and
/// 0 if one is not finite.
#[inline(always)]
fn scale_of(x: &[f32]) -> (f32, f32) {
    // Magnitudes compare like their bits, and NaN is above all.
    let largest = x.iter().fold(0, |largest, x| u32::max(largest, x.abs().to_bits()));
    let largest = f32::from_bits(largest);
    let inverse = 127.0 / largest;
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if !inverse.is_finite() {
        (0.0, 0.0) // zero, or so small that the inverse overflows
    } else {
        (largest / 127.0, inverse)
    }
}

/// `q = x · inverse`, to the nearest integer, ties to even; 0 if `inverse` is.
#[inline(always)]
fn round<I: Isa>(isa: I, x: &[f32; 32], inverse: f32, q: &mut [i8; 32]) {
    // Adding 1.5 · 2^23 leaves no room for a fraction: the sum is rounded to an integer, which is
    // then its low bits. Unlike a conversion this vectorizes well everywhere.
    const MAGIC: f32 = 12_582_912.0;
    let (inverse, magic) = (isa.splat_float(inverse), isa.splat_float(MAGIC));
    for (q, x) in q.as_chunks_mut::<16>().0.iter_mut().zip(x.as_chunks::<16>().0) {
        isa.put_low_bytes(isa.add_products(magic, isa.floats(x), inverse), q);
    }
}
