//! Attention over cached rows; see [`model::Ops::attend_out`] for the formula.
//!
//! Cached rows are decoded to f32 once for all heads and tokens of the batch, and only those that any
//! token sees. Then each item is one token and a few heads: scores row by row, softmax, and values in
//! blocks of rows that fit the first-level cache. The order of additions is that of the rows, for every
//! head and token, whatever the batch.

use crate::array::{Array, Picks};
use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::{LANES, add_scaled, dots, exp, fma};
use crate::ops::decode::decode;
use crate::ops::linear::Product;
use crate::pool::Shards;
use model::ops::{KvView, RowStore};
use model::rope::Angles;
use model::weights::Attention;

/// Heads that share a load of a row.
const HEADS: usize = 8;

/// Rows whose values are summed before the next part of the output is taken up.
const BLOCK: usize = 16;

/// Attention of every row of the batch, before the output projection: `[n, heads, D]`.
pub fn attend(
    cpu: &Cpu,
    q: &Array,
    caches: &[KvView<'_, Cpu>],
    picks: Option<&Picks>,
    attention: &Attention<Cpu>,
    angles: &Angles,
) -> Array {
    let width = attention.head_dim;
    let mut out = Array::zeros(q.n(), q.width);
    let shards = Shards::new(&mut out.data);
    let groups = attention.heads.div_ceil(HEADS);
    for view in caches {
        let decoded = Decoded::new(cpu, view, picks, width);
        cpu.pool.each(view.rows.len() * groups, |item| {
            let (i, first) = (view.rows.start + item / groups, item % groups * HEADS);
            let heads = HEADS.min(attention.heads - first);
            // SAFETY: an item owns the part of its token and heads.
            let out = unsafe { shards.part(i * q.width + first * width, heads * width) };
            isa::dispatch(AttendHeads {
                q: &q.row(i)[first * width..][..heads * width],
                sinks: &attention.sinks.data[first..][..heads],
                rows: &decoded.visible(view, picks, i),
                width,
                out,
            });
            out.chunks_exact_mut(width).for_each(|head| angles.rotate_back(i, head));
        });
    }
    out
}

/// The output projection: each group of heads through its own part of `out_a`, all of them through `out_b`.
///
/// - `heads`: `[n, heads, D]`; returns `[n, d]`
pub fn project_out(cpu: &Cpu, heads: &Array, attention: &Attention<Cpu>) -> Array {
    let (groups, out) = (attention.groups, attention.out_a.rows / attention.groups);
    let part = |g: usize| -> Vec<f32> {
        let width = heads.width / groups;
        heads.rows().flat_map(|row| &row[g * width..(g + 1) * width]).copied().collect()
    };
    let inputs: Vec<Array> = (0..groups).map(|g| Array::new(part(g), heads.width / groups)).collect();
    let product = |(g, x)| Product { w: &attention.out_a, rows: g * out..(g + 1) * out, x };
    let made = cpu.linears(&inputs.iter().enumerate().map(product).collect::<Vec<_>>());
    let low = (0..heads.n()).flat_map(|i| made.iter().flat_map(move |low| low.row(i))).copied().collect();
    cpu.linear(&attention.out_b, &Array::new(low, groups * out))
}

/// The rows of a view that any of its tokens sees, as f32.
struct Decoded {
    width: usize,
    /// From `view.window_base` on.
    window: Vec<f32>,
    /// From row 0 on; rows that nobody sees stay zero, and untouched.
    compressed: Vec<f32>,
}

impl Decoded {
    fn new(cpu: &Cpu, view: &KvView<'_, Cpu>, picks: Option<&Picks>, width: usize) -> Decoded {
        let end = view.start + view.rows.len();
        let first = view.first_visible(view.start) - view.window_base;
        let window: Vec<usize> = (first..end - view.window_base).collect();
        let compressed = view.compressed.as_ref().map_or(Vec::new(), |(_, ratio)| match picks {
            None => (0..end / ratio).collect(),
            Some(picks) => seen_by_any(&picks.rows[view.rows.clone()], end / ratio),
        });
        Decoded {
            width,
            window: decode(cpu, &window, view.window.len(), width, |i| (view.window, i)),
            compressed: match &view.compressed {
                Some((blocks, _)) => {
                    let count = compressed.last().map_or(0, |last| last + 1);
                    decode(cpu, &compressed, count, width, |i| blocks.find(i))
                }
                None => Vec::new(),
            },
        }
    }

    /// What row `i` of the batch sees, in order: window rows, oldest first, then compressed rows.
    fn visible(&self, view: &KvView<'_, Cpu>, picks: Option<&Picks>, i: usize) -> Vec<&[f32]> {
        let position = view.start + i - view.rows.start;
        let window = view.first_visible(position) - view.window_base..=position - view.window_base;
        let mut rows: Vec<&[f32]> = window.map(|r| &self.window[r * self.width..][..self.width]).collect();
        if let Some((_, ratio)) = view.compressed {
            let row = |w: usize| &self.compressed[w * self.width..][..self.width];
            match picks {
                Some(picks) => rows.extend(picks.rows[i].iter().map(|&w| row(w as usize))),
                None => rows.extend((0..(position + 1) / ratio).map(row)),
            }
        }
        rows
    }
}

/// Rows that occur in any of the lists, ascending.
fn seen_by_any(lists: &[Vec<u32>], rows: usize) -> Vec<usize> {
    let mut seen = vec![false; rows];
    lists.iter().flatten().for_each(|&w| seen[w as usize] = true);
    (0..rows).filter(|&w| seen[w]).collect()
}

/// One token, a few heads.
struct AttendHeads<'a> {
    /// `[heads, D]`
    q: &'a [f32],
    sinks: &'a [f32],
    rows: &'a [&'a [f32]],
    width: usize,
    /// `[heads, D]`
    out: &'a mut [f32],
}

impl Kernel for AttendHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, _: I) {
        let heads = self.sinks.len();
        let mut done = 0;
        while heads - done >= HEADS {
            self.heads::<HEADS>(done);
            done += HEADS;
        }
        while done < heads {
            self.heads::<1>(done);
            done += 1;
        }
    }
}

impl AttendHeads<'_> {
    /// Heads `first..first + H`.
    #[inline(always)]
    fn heads<const H: usize>(&mut self, first: usize) {
        let (width, n) = (self.width, self.rows.len());
        let q: [&[f32]; H] = std::array::from_fn(|h| &self.q[(first + h) * width..][..width]);
        let scale = 1.0 / (width as f32).sqrt();
        let mut weights = vec![0.0; H * n];
        for (j, row) in self.rows.iter().enumerate() {
            for (h, score) in dots(q, row).into_iter().enumerate() {
                weights[h * n + j] = score * scale;
            }
        }
        let mut weights: [&mut [f32]; H] = split(&mut weights, n);
        let sums: [f32; H] = std::array::from_fn(|h| softmax(weights[h], self.sinks[first + h]));
        let out = &mut self.out[first * width..][..H * width];
        out.fill(0.0);
        add_values(&weights.map(|w| &*w), self.rows, out);
        for (out, sum) in out.chunks_exact_mut(width).zip(sums) {
            out.iter_mut().for_each(|x| *x /= sum);
        }
    }
}

/// `H` parts of `n`.
#[inline(always)]
fn split<const H: usize>(mut all: &mut [f32], n: usize) -> [&mut [f32]; H] {
    std::array::from_fn(|_| {
        let (part, rest) = std::mem::take(&mut all).split_at_mut(n);
        all = rest;
        part
    })
}

/// Scores to weights that are not yet divided by their sum, which is returned. The sink takes part.
#[inline(always)]
fn softmax(scores: &mut [f32], sink: f32) -> f32 {
    let max = scores.iter().copied().fold(sink, f32::max);
    let mut sum = exp(sink - max);
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    for weight in scores.iter() {
        sum += weight;
    }
    sum
}

/// `out[h] += Σ_j weights[h][j]·rows[j]`, in the order of j.
#[inline(always)]
fn add_values<const H: usize>(weights: &[&[f32]; H], rows: &[&[f32]], out: &mut [f32]) {
    let width = out.len() / H;
    for start in (0..rows.len()).step_by(BLOCK) {
        let block = &rows[start..rows.len().min(start + BLOCK)];
        for at in (0..width / LANES * LANES).step_by(LANES) {
            let mut sums: [[f32; LANES]; H] =
                std::array::from_fn(|h| *out[h * width + at..].first_chunk().expect("a whole vector"));
            for (j, row) in block.iter().enumerate() {
                let row: &[f32; LANES] = row[at..].first_chunk().expect("a whole vector");
                for h in 0..H {
                    fma(&[weights[h][start + j]; LANES], row, &mut sums[h]);
                }
            }
            for h in 0..H {
                out[h * width + at..][..LANES].copy_from_slice(&sums[h]);
            }
        }
        let tail = width / LANES * LANES;
        for (j, row) in block.iter().enumerate() {
            for h in 0..H {
                add_scaled(&mut out[h * width + tail..(h + 1) * width], weights[h][start + j], &row[tail..]);
            }
        }
    }
}
