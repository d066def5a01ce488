//! Attention over cached rows; see [`model::Ops::attend_out`] for the formula.
//!
//! What a token sees is one list of rows: window rows, oldest first, then compressed rows. They are widened to
//! f32 a block at a time, all heads use a block while it is in the cache, and it is widened again for the
//! values, which costs less than keeping it.
//!
//! Of many tokens an item does one. Of few, items share out a token: blocks of rows for the scores, groups of
//! heads for the softmax, components for the values. [`tiles`] says why both give the same bits.

#[cfg(test)]
mod tests;
mod tiles;

use crate::array::{Array, Picks};
use crate::dot::{ActRow, Acts, Rounding};
use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::{LANES, Line, floats};
use crate::ops::decode::load_row;
use crate::ops::linear::{Input, Product};
use crate::pool::Shards;
use crate::spares::room;
use model::ops::{KvView, RowStore};
use model::rope::Angles;
use model::weights::Attention;
use std::ops::Range;
use tiles::{BLOCK, SLACK, Shape};

/// Lines of a row of one item, where several items do one token.
const LINES: usize = 4;

/// What attention of one token needs.
#[derive(Default)]
pub struct Scratch {
    /// `[groups, width to whole lines]`
    q: Vec<Line>,
    /// `[rows + SLACK, stride]`
    rows: Vec<Line>,
    /// `[rows + SLACK, groups]`
    weights: Vec<Line>,
    /// `[heads to whole groups, stride]`
    out: Vec<Line>,
    /// `[heads, width]`
    heads: Vec<f32>,
}

/// Attention of every row of the batch, projected: `[n, d]`.
pub fn attend_out(
    cpu: &Cpu,
    q: &Array,
    caches: &[KvView<'_, Cpu>],
    picks: Option<&Picks>,
    attention: &Attention<Cpu>,
    angles: &Angles,
) -> Array {
    let (n, groups) = (q.n(), attention.groups);
    let width = q.width / groups;
    let rounding = Rounding::of(attention.out_a.format);
    let mut inputs: Vec<Acts> = (0..groups).map(|_| Acts::unset(rounding, n, width)).collect();
    let mut rows: Vec<ActRow<'_>> = inputs.iter_mut().flat_map(Acts::rows_mut).collect();
    let parts = Shards::new(&mut rows);
    // SAFETY: each row of the batch is finished once, and each of its groups of heads is set once.
    let round = |i: usize, g: usize, heads: &[f32]| unsafe { parts.part(g * n + i, 1) }[0].set(heads);
    attend(cpu, q, caches, picks, attention, angles, &round);
    drop(rows);
    project_out(cpu, &inputs, attention)
}

/// Attention of every row of the batch, before the output projection.
///
/// - `finish`: gets every group of heads of every row, `[heads of the group, D]`, once and from any thread: it
///   is a row's part of the output projection, and is used up while it is in the cache
fn attend(
    cpu: &Cpu,
    q: &Array,
    caches: &[KvView<'_, Cpu>],
    picks: Option<&Picks>,
    attention: &Attention<Cpu>,
    angles: &Angles,
    finish: &(dyn Fn(usize, usize, &[f32]) + Sync),
) {
    let groups = attention.groups;
    let width = q.width / groups;
    let shape = Shape { heads: attention.heads, width: attention.head_dim };
    let sinks = &attention.sinks.data;
    for view in caches {
        let token = |i: usize| Token { shape, q: q.row(i), sinks, seen: Seen::new(view, picks, i) };
        if view.rows.len() >= 2 * cpu.threads() {
            cpu.pool.each(view.rows.len(), |row| {
                let i = view.rows.start + row;
                cpu.attention_scratch.with(|scratch| {
                    isa::dispatch(Whole { token: &token(i), scratch });
                    let heads = room(&mut scratch.heads, q.width);
                    token(i).finish(&scratch.out, |heads| angles.rotate_back(i, heads), 0, heads);
                    for (g, heads) in heads.chunks_exact(width).enumerate() {
                        finish(i, g, heads);
                    }
                });
            });
        } else {
            let mut heads = vec![0.0; q.width];
            for i in view.rows.clone() {
                attend_together(cpu, &token(i), &|head| angles.rotate_back(i, head), &mut heads);
                cpu.pool.each(groups, |g| finish(i, g, &heads[g * width..(g + 1) * width]));
            }
        }
    }
}

/// Attention of one token on all threads.
fn attend_together(cpu: &Cpu, token: &Token<'_>, turn: &(dyn Fn(&mut [f32]) + Sync), out: &mut [f32]) {
    let (shape, count) = (token.shape, token.seen.len());
    let (groups, stride) = (shape.groups(), shape.stride());
    cpu.attention_scratch.with(|Scratch { q, rows, weights, out: sums, .. }| {
        let lines = shape.lines() * LANES;
        let q = room(q, groups * lines);
        let parts = Shards::new(q);
        cpu.pool.each(groups, |group| {
            // SAFETY: an item owns its group's lines.
            isa::dispatch(LoadQueries { token, group, to: unsafe { parts.part(group * lines, lines) } });
        });
        let q = &*q;
        let rows = Shards::new(room(rows, (count + SLACK) * stride));
        let weights = Shards::new(room(weights, (count + SLACK) * groups));
        // Few rows are shared out, too, in whole tiles.
        let size = count.div_ceil(2 * cpu.threads()).next_multiple_of(SLACK).min(BLOCK);
        cpu.pool.each(count.div_ceil(size), |block| {
            let block = block * size..count.min((block + 1) * size);
            // The last block, and only that, is followed by the slack.
            let slack = if block.end == count { SLACK } else { 0 };
            let len = block.len() + slack;
            // SAFETY: an item owns its block of rows and their scores.
            let (rows, scores) = unsafe {
                (
                    rows.part(block.start * stride, len * stride),
                    weights.part(block.start * groups, len * groups),
                )
            };
            isa::dispatch(Scores { token, block, q, rows, scores });
        });
        cpu.pool.each(groups, |group| {
            // SAFETY: an item owns a group's column.
            isa::dispatch(Softmax { token, group, weights: &weights, count });
        });
        // SAFETY: from here on rows and weights are only read.
        let (rows, weights) = unsafe { (&*rows.part(0, count * stride), &*weights.part(0, count * groups)) };
        let sums = room(sums, groups * LANES * stride);
        let shards = Shards::new(sums);
        cpu.pool.each(shape.lines().div_ceil(LINES), |item| {
            let lines = item * LINES..shape.lines().min((item + 1) * LINES);
            isa::dispatch(Values { shape, rows, weights, count, lines, out: &shards });
        });
        let outs = Shards::new(out);
        cpu.pool.each(groups, |group| {
            let heads = group * LANES..shape.heads.min((group + 1) * LANES);
            let (start, len) = (heads.start * shape.width, heads.len() * shape.width);
            // SAFETY: an item owns its heads; the sums are only read now.
            let (sums, out) = unsafe { (&*shards.part(0, groups * LANES * stride), outs.part(start, len)) };
            token.finish(sums, turn, heads.start, out);
        });
    });
}

/// One token's attention.
struct Token<'a> {
    shape: Shape,
    /// `[heads, width]`
    q: &'a [f32],
    sinks: &'a [f32],
    seen: Seen<'a>,
}

impl Token<'_> {
    /// The sinks of a group of heads.
    fn sinks(&self, group: usize) -> &[f32] {
        &self.sinks[group * LANES..self.shape.heads.min((group + 1) * LANES)]
    }

    /// Hands out the finished heads from `first` on, as many as `out` has room for, each turned back.
    fn finish(&self, sums: &[Line], turn: impl Fn(&mut [f32]), first: usize, out: &mut [f32]) {
        let (width, stride) = (self.shape.width, self.shape.stride());
        let sums = sums.chunks_exact(stride).skip(first);
        for (head, sums) in out.chunks_exact_mut(width).zip(sums) {
            head.copy_from_slice(&floats(sums)[..width]);
            turn(head);
        }
    }
}

/// The rows that a token sees, in order.
struct Seen<'a> {
    view: &'a KvView<'a, Cpu>,
    /// In `view.window`.
    window: Range<usize>,
    compressed: usize,
    picked: Option<&'a [u32]>,
}

impl<'a> Seen<'a> {
    /// What row `i` of the batch sees.
    fn new(view: &'a KvView<'a, Cpu>, picks: Option<&'a Picks>, i: usize) -> Seen<'a> {
        let position = view.start + i - view.rows.start;
        let window = view.first_visible(position) - view.window_base..position + 1 - view.window_base;
        let picked = picks.map(|picks| picks.row(i));
        let compressed = match (&view.compressed, picked) {
            (None, _) => 0,
            (Some(_), Some(picked)) => picked.len(),
            (Some((_, ratio)), None) => (position + 1) / ratio,
        };
        Seen { view, window, compressed, picked }
    }

    /// Number of rows.
    fn len(&self) -> usize {
        self.window.len() + self.compressed
    }

    /// Widens some of the rows.
    ///
    /// - `to`: `[range or more, stride]`
    #[inline(always)]
    fn load<I: Isa>(&self, isa: I, range: Range<usize>, stride: usize, to: &mut [Line]) {
        let layout = self.view.window.layout();
        for (j, to) in range.zip(to.chunks_exact_mut(stride)) {
            let (rows, at) = match j.checked_sub(self.window.len()) {
                None => (self.view.window, self.window.start + j),
                Some(j) => {
                    let (blocks, _) = self.view.compressed.as_ref().expect("there are such rows");
                    blocks.find(self.picked.map_or(j, |picked| picked[j] as usize))
                }
            };
            load_row(isa, layout, rows.row(at), to);
        }
    }
}

/// All of a token's attention, but for turning back.
struct Whole<'a> {
    token: &'a Token<'a>,
    scratch: &'a mut Scratch,
}

impl Kernel for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (Token { shape, q, seen, .. }, scratch) = (self.token, self.scratch);
        let (groups, stride, count) = (shape.groups(), shape.stride(), seen.len());
        let queries = room(&mut scratch.q, groups * shape.lines() * LANES);
        tiles::load_queries(isa, *shape, q, queries);
        let rows = room(&mut scratch.rows, (BLOCK + SLACK) * stride);
        let weights = room(&mut scratch.weights, (count + SLACK) * groups);
        for start in (0..count).step_by(BLOCK) {
            let block = start..count.min(start + BLOCK);
            let len = block.len();
            seen.load(isa, block, stride, rows);
            tiles::scores(isa, *shape, queries, rows, len, &mut weights[start * groups..]);
        }
        let shards = Shards::new(weights);
        for group in 0..groups {
            // SAFETY: nobody else is here.
            unsafe { tiles::softmax(isa, *shape, group, self.token.sinks(group), &shards, count) };
        }
        let weights = &scratch.weights;
        let out = room(&mut scratch.out, groups * LANES * stride);
        let out = Shards::new(out);
        for start in (0..count).step_by(BLOCK) {
            let block = start..count.min(start + BLOCK);
            let len = block.len();
            seen.load(isa, block, stride, rows);
            // SAFETY: nobody else is here.
            unsafe {
                let (weights, lines, fresh) = (&weights[start * groups..], 0..shape.lines(), start == 0);
                tiles::values(isa, *shape, rows, weights, len, lines, fresh, &out);
            }
        }
    }
}

/// The queries of a group of a token's heads, in lanes.
struct LoadQueries<'a> {
    token: &'a Token<'a>,
    group: usize,
    to: &'a mut [Line],
}

impl Kernel for LoadQueries<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let shape = self.token.shape;
        let heads = self.group * LANES..shape.heads.min((self.group + 1) * LANES);
        let q = &self.token.q[heads.start * shape.width..heads.end * shape.width];
        tiles::load_queries(isa, shape, q, self.to);
    }
}

/// Widens a block of rows and multiplies it with every head.
struct Scores<'a> {
    token: &'a Token<'a>,
    block: Range<usize>,
    q: &'a [Line],
    rows: &'a mut [Line],
    scores: &'a mut [Line],
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (shape, len) = (self.token.shape, self.block.len());
        self.token.seen.load(isa, self.block, shape.stride(), self.rows);
        tiles::scores(isa, shape, self.q, self.rows, len, self.scores);
    }
}

/// The weights of a group of heads, whose column this kernel owns.
struct Softmax<'a> {
    token: &'a Token<'a>,
    group: usize,
    weights: &'a Shards<'a, Line>,
    count: usize,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { token, group, weights, count } = self;
        // SAFETY: this kernel owns the column.
        unsafe { tiles::softmax(isa, token.shape, group, token.sinks(group), weights, count) };
    }
}

/// Some lines of every head's output, which this kernel owns.
struct Values<'a> {
    shape: Shape,
    rows: &'a [Line],
    weights: &'a [Line],
    count: usize,
    lines: Range<usize>,
    out: &'a Shards<'a, Line>,
}

impl Kernel for Values<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { shape, rows, weights, count, lines, out } = self;
        // SAFETY: this kernel owns these lines.
        unsafe { tiles::values(isa, shape, rows, weights, count, lines, true, out) };
    }
}

/// The output projection: each group of heads through its own part of `out_a`, all of them through `out_b`.
///
/// - `inputs`: by group, `[n, heads of the group * D]`; returns `[n, d]`
fn project_out(cpu: &Cpu, inputs: &[Acts], attention: &Attention<Cpu>) -> Array {
    let out = attention.out_a.rows / attention.groups;
    let product = |(g, x)| Product { w: &attention.out_a, rows: g * out..(g + 1) * out, x: Input::Acts(x) };
    let low = cpu.linears_beside(&inputs.iter().enumerate().map(product).collect::<Vec<_>>());
    cpu.linear(&attention.out_b, &low)
}
