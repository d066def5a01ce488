//! Compressing windows of tokens; see [`model::Ops::compress`] for the formula.

use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::{LANES, exp, rms_norm};
use crate::pool::Shards;
use crate::rows::Rows;
use model::ops::RowStore;
use model::rope::Angles;
use model::weights::Compressor;
use std::ops::Range;

/// See [`model::Ops::compress`].
pub fn compress(
    cpu: &Cpu,
    compressor: &Compressor<Cpu>,
    frontier: &Rows,
    base: usize,
    windows: Range<usize>,
    angles: &Angles,
    into: &mut Rows,
) {
    let overlap = if compressor.overlap { compressor.ratio } else { 0 };
    let width = frontier.layout().width();
    let (first, row_len) = (windows.start, compressor.width);
    let mut made = vec![0.0; windows.len() * row_len];
    let parts = Shards::new(&mut made);
    cpu.pool.each(windows.len(), |i| {
        let window = first + i;
        let start = (window * compressor.ratio).saturating_sub(overlap);
        let mut inputs = vec![0.0; ((window + 1) * compressor.ratio - start) * width];
        for (j, out) in inputs.chunks_exact_mut(width).enumerate() {
            frontier.decode(start - base + j, out);
        }
        // SAFETY: one item a window.
        let row = unsafe { parts.part(i * row_len, row_len) };
        isa::dispatch(Pool { compressor, inputs: &inputs, row });
        angles.rotate(i, row);
    });
    made.chunks_exact(row_len).for_each(|row| into.push(row));
}

/// The pooled and normed row of one window.
struct Pool<'a> {
    compressor: &'a Compressor<Cpu>,
    /// k and g of the tokens of the window before, if there is one, and of the window.
    inputs: &'a [f32],
    row: &'a mut [f32],
}

impl Kernel for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let c = self.compressor;
        let (inner, width) = (c.inner_width(), c.width);
        let tokens = self.inputs.len() / (2 * inner);
        // The window before speaks through its first halves, the window itself through the second.
        let half = |token: usize| if token + c.ratio < tokens { 0 } else { inner - width };
        let (whole, row) = (width / LANES * LANES, self.row);
        for at in (0..whole).step_by(LANES) {
            let slot = |token: usize, part: usize| -> &[f32; LANES] {
                self.inputs[token * 2 * inner + part * inner + half(token) + at..]
                    .first_chunk()
                    .expect("a whole vector")
            };
            let mut max = [f32::NEG_INFINITY; LANES];
            for token in 0..tokens {
                let g = slot(token, 1);
                (0..LANES).for_each(|i| max[i] = max[i].max(g[i]));
            }
            let (mut sum, mut weights) = ([0.0f32; LANES], [0.0f32; LANES]);
            for token in 0..tokens {
                let (k, g) = (slot(token, 0), slot(token, 1));
                for i in 0..LANES {
                    let weight = exp(g[i] - max[i]);
                    sum[i] = weight.mul_add(k[i], sum[i]);
                    weights[i] += weight;
                }
            }
            (0..LANES).for_each(|i| row[at + i] = sum[i] / weights[i]);
        }
        for (at, out) in row.iter_mut().enumerate().skip(whole) {
            let slot =
                |token: usize, part: usize| self.inputs[token * 2 * inner + part * inner + half(token) + at];
            let max = (0..tokens).map(|t| slot(t, 1)).fold(f32::NEG_INFINITY, f32::max);
            let (mut sum, mut weights) = (0.0f32, 0.0f32);
            for token in 0..tokens {
                let weight = exp(slot(token, 1) - max);
                sum = weight.mul_add(slot(token, 0), sum);
                weights += weight;
            }
            *out = sum / weights;
        }
        rms_norm(isa, row, &c.norm.weight.data, c.norm.eps);
    }
}
