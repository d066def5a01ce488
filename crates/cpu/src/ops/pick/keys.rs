//! Sixteen index keys, a lane each.

use crate::isa::Isa;
use crate::lanes::{LANES, Line};
use crate::rows::Rows;
use crate::spares::room;
use model::kv::{FP4_BLOCK, RowLayout};
use model::ops::RowStore;
use quants::{e8m0, fp4};

/// What is added to a doubled FP4 value, so that it is not negative.
pub const BIAS: i8 = 12;

/// Doubled FP4 values plus [`BIAS`], by code.
const BIASED: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (fp4::DOUBLED[code] + BIAS) as u8;
        code += 1;
    }
    table
};

/// Sixteen keys; those that are missing give scores without meaning.
#[derive(Default)]
pub struct Keys {
    /// FP4: vector `j` has four components of each key, in the order of [`FOURS`].
    pub fours: Vec<Bytes>,
    /// FP4: half the scale of each key, a vector for each block of components.
    pub scale: Vec<Line>,
    /// Other layouts: a vector for each component.
    pub values: Vec<Line>,
}

/// A vector of bytes that does not straddle two cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Bytes(pub [u8; 64]);

impl Default for Bytes {
    fn default() -> Self {
        Bytes([0; 64])
    }
}

/// The components that make up vectors `2 j` and `2 j + 1`, counted from `8 j`: low nibbles, high nibbles.
pub const FOURS: [[usize; 4]; 2] = [[0, 2, 4, 6], [1, 3, 5, 7]];

impl Keys {
    /// Takes up to sixteen keys of one layout.
    #[inline(always)]
    pub fn load<'a, I: Isa>(&mut self, isa: I, keys: impl ExactSizeIterator<Item = (&'a Rows, usize)>) {
        let (mut rows, mut layout) = ([[].as_slice(); LANES], None);
        for (row, (store, at)) in rows.iter_mut().zip(keys) {
            *row = store.row(at);
            layout = Some(store.layout());
        }
        match layout {
            Some(RowLayout::Index4 { width }) => self.load_fp4(isa, width, rows),
            Some(layout) => self.load_floats(isa, layout, rows),
            None => {}
        }
    }

    #[inline(always)]
    fn load_fp4<I: Isa>(&mut self, isa: I, width: usize, rows: [&[u8]; LANES]) {
        let (packed, blocks) = (width / 2, width / FP4_BLOCK);
        let table = isa.quarters(&BIASED);
        let fours = room(&mut self.fours, width / 4);
        for (start, fours) in (0..packed).step_by(64).zip(fours.chunks_mut(32)) {
            let part = start..packed.min(start + 64);
            let mut words = [isa.splat(0); LANES];
            for (words, row) in words.iter_mut().zip(rows) {
                *words = isa.bytes(&padded(row.get(part.clone())));
            }
            for (fours, words) in fours.chunks_exact_mut(2).zip(isa.transpose(words)) {
                let low = isa.and(words, isa.splat(15));
                isa.put_bytes(isa.lookup(table, low), &mut fours[0].0);
                isa.put_bytes(isa.lookup(table, isa.shr::<4>(words)), &mut fours[1].0);
            }
        }
        for (block, scale) in room(&mut self.scale, blocks).iter_mut().enumerate() {
            scale.0 = rows.map(|row| row.get(packed + block).map_or(0.0, |&e| 0.5 * e8m0::decode(e)));
        }
    }

    #[inline(always)]
    fn load_floats<I: Isa>(&mut self, isa: I, layout: RowLayout, rows: [&[u8]; LANES]) {
        let mut values = [0.0; LANES];
        let step = layout.row_bytes() / layout.width();
        for (i, to) in room(&mut self.values, layout.width()).iter_mut().enumerate() {
            for (value, row) in values.iter_mut().zip(rows) {
                let bytes = row.get(i * step..(i + 1) * step).unwrap_or(&[]);
                *value = match *bytes {
                    [a, b] => isa.f16x4([u16::from_le_bytes([a, b]), 0, 0, 0])[0],
                    [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                    _ => 0.0,
                };
            }
            to.0 = values;
        }
    }
}

/// The bytes, then zeros.
#[inline(always)]
fn padded(bytes: Option<&[u8]>) -> [u8; 64] {
    let bytes = bytes.unwrap_or(&[]);
    match bytes.first_chunk() {
        Some(whole) => *whole,
        None => {
            let mut padded = [0; 64];
            padded[..bytes.len()].copy_from_slice(bytes);
            padded
        }
    }
}
