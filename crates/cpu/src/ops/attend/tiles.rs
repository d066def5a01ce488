//! The parts of attention: scores, softmax, values.
//!
//! All heads share the rows, so both halves are matrix products. Scores have sixteen heads in the lanes of
//! a vector and broadcast components of a row; values have sixteen components in the lanes and broadcast
//! weights. Each score is one sum over the components in order, and each output one sum over the rows in
//! order, by fused multiply-add: how the work is cut into tiles changes no bits.

use crate::isa::Isa;
use crate::lanes::{LANES, Line, Vector, exp};
use crate::ops::heads::to_lanes;
use crate::pool::Shards;

/// Rows that are taken up together.
pub const BLOCK: usize = 64;

/// Rows of one tile of scores, at most: so many rows more can be read and so many scores more be written
/// than there are.
pub const SLACK: usize = 8;

/// Lines of a row that meet the queries before the next row does: their part of the queries stays in the
/// first-level cache.
const DEPTH: usize = 8;

/// The sizes of one layer's attention.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub heads: usize,
    /// Components of a head, and of a row.
    pub width: usize,
}

impl Shape {
    /// Groups of sixteen heads.
    pub fn groups(self) -> usize {
        self.heads.div_ceil(LANES)
    }

    /// Lines that a row fills.
    pub fn lines(self) -> usize {
        self.width.div_ceil(LANES)
    }

    /// Lines from a row to the next: odd, so that a column of rows does not crowd into a few sets of the cache.
    pub fn stride(self) -> usize {
        self.lines() | 1
    }
}

/// The queries of a token in lanes.
///
/// - `q`: `[heads, width]`; `to`: `[groups, width to whole lines]`
#[inline(always)]
pub fn load_queries<I: Isa>(isa: I, shape: Shape, q: &[f32], to: &mut [Line]) {
    for (q, to) in q.chunks(LANES * shape.width).zip(to.chunks_exact_mut(shape.lines() * LANES)) {
        to_lanes(isa, q, shape.width, to);
    }
}

/// The products of every head with some rows.
///
/// - `q`: as [`load_queries`] left them
/// - `rows`: `[count + SLACK, stride]`; `scores`: `[count + SLACK, groups]`; what is beyond `count` is read
///   and written, and has no meaning
#[inline(always)]
pub fn scores<I: Isa>(isa: I, shape: Shape, q: &[Line], rows: &[Line], count: usize, scores: &mut [Line]) {
    let (groups, lines) = (shape.groups(), shape.lines());
    for depth in (0..lines).step_by(DEPTH) {
        let part = depth..lines.min(depth + DEPTH);
        let mut group = 0;
        if I::WIDE {
            while group + 2 <= groups {
                for row in (0..count).step_by(8) {
                    score_tile::<I, 2, 8>(isa, shape, q, rows, row, group, part.clone(), scores);
                }
                group += 2;
            }
            if group < groups {
                for row in (0..count).step_by(8) {
                    score_tile::<I, 1, 8>(isa, shape, q, rows, row, group, part.clone(), scores);
                }
            }
        } else {
            for group in 0..groups {
                for row in (0..count).step_by(4) {
                    score_tile::<I, 1, 4>(isa, shape, q, rows, row, group, part.clone(), scores);
                }
            }
        }
    }
}

/// `G` groups of heads, `R` rows, some lines of each.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a tile is cut out of everything")]
fn score_tile<I: Isa, const G: usize, const R: usize>(
    isa: I,
    shape: Shape,
    q: &[Line],
    rows: &[Line],
    first: usize,
    group: usize,
    part: std::ops::Range<usize>,
    scores: &mut [Line],
) {
    let (groups, lines, stride) = (shape.groups(), shape.lines(), shape.stride());
    let q: [&[[Line; LANES]]; G] = std::array::from_fn(|g| {
        let q = &q[(group + g) * lines * LANES..][..lines * LANES];
        &q.as_chunks::<LANES>().0[part.clone()]
    });
    let rows: [&[Line]; R] = std::array::from_fn(|r| &rows[(first + r) * stride..][part.clone()]);
    let scores = &mut scores[first * groups..][..R * groups];
    let mut sums = [[isa.no_floats(); R]; G];
    if part.start > 0 {
        for r in 0..R {
            for g in 0..G {
                sums[g][r] = isa.floats(&scores[r * groups + group + g].0);
            }
        }
    }
    for i in 0..part.len() {
        #[expect(clippy::needless_range_loop, reason = "a lane of the queries and of the rows")]
        for lane in 0..LANES {
            let mut queries = [isa.no_floats(); G];
            for g in 0..G {
                queries[g] = isa.floats(&q[g][i][lane].0);
            }
            for r in 0..R {
                let x = isa.splat_float(rows[r][i].0[lane]);
                for g in 0..G {
                    sums[g][r] = isa.fused(sums[g][r], x, queries[g]);
                }
            }
        }
    }
    for r in 0..R {
        for g in 0..G {
            isa.put_floats(sums[g][r], &mut scores[r * groups + group + g].0);
        }
    }
}

/// Scores of a group of heads to weights that add up to one, together with that of the sink.
///
/// - `scores`: `[count.., groups]`; `sinks`: of the group's heads
///
/// # Safety
///
/// Nobody else may use this group's column at the same time.
#[inline(always)]
pub unsafe fn softmax<I: Isa>(
    isa: I,
    shape: Shape,
    group: usize,
    sinks: &[f32],
    scores: &Shards<'_, Line>,
    count: usize,
) {
    let scale = 1.0 / (shape.width as f32).sqrt();
    // SAFETY: the caller owns the column.
    let line = |row: usize| unsafe { &mut scores.part(row * shape.groups() + group, 1)[0].0 };
    let mut largest = isa.splat_float(f32::NEG_INFINITY);
    for row in 0..count {
        largest = isa.larger(isa.floats(line(row)), largest);
    }
    let mut max: Vector = [0.0; LANES];
    isa.put_floats(largest, &mut max);
    let mut sink: Vector = [0.0; LANES];
    sink[..sinks.len()].copy_from_slice(sinks);
    let mut sum: Vector = [0.0; LANES];
    for lane in 0..LANES {
        max[lane] = (max[lane] * scale).max(sink[lane]);
        sum[lane] = exp(sink[lane] - max[lane]);
    }
    for row in 0..count {
        let line = line(row);
        for lane in 0..LANES {
            let weight = exp(line[lane].mul_add(scale, -max[lane]));
            sum[lane] += weight;
            line[lane] = weight;
        }
    }
    let inverse = sum.map(|sum| 1.0 / sum);
    let inverse = isa.floats(&inverse);
    for row in 0..count {
        let line = line(row);
        isa.put_floats(isa.product(isa.floats(line), inverse), line);
    }
}

/// Adds weighted rows: `out[h] += Σ_j weights[j][h]·rows[j]`, for some lines of the rows.
///
/// - `rows`: `[count, stride]`; `weights`: `[count, groups]`; `out`: `[heads to whole groups, stride]`
/// - `fresh`: whether `out` has yet to be set, and is taken for zeros
///
/// # Safety
///
/// Nobody else may use these lines of `out` at the same time.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a part is cut out of everything")]
pub unsafe fn values<I: Isa>(
    isa: I,
    shape: Shape,
    rows: &[Line],
    weights: &[Line],
    count: usize,
    lines: std::ops::Range<usize>,
    fresh: bool,
    out: &Shards<'_, Line>,
) {
    for start in (0..count).step_by(BLOCK) {
        let block = start..count.min(start + BLOCK);
        let fresh = fresh && start == 0;
        let mut line = lines.start;
        while line < lines.end {
            let wide = if I::WIDE { 4 } else { 1 };
            let step = if line + wide <= lines.end { wide } else { 1 };
            for head in (0..shape.heads).step_by(4) {
                // SAFETY: the caller owns these lines.
                unsafe {
                    if step == 4 {
                        value_tile::<I, 4>(isa, shape, rows, weights, block.clone(), head, line, fresh, out);
                    } else {
                        value_tile::<I, 1>(isa, shape, rows, weights, block.clone(), head, line, fresh, out);
                    }
                }
            }
            line += step;
        }
    }
}

/// Four heads, `L` lines.
///
/// # Safety
///
/// As [`values`].
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a tile is cut out of everything")]
unsafe fn value_tile<I: Isa, const L: usize>(
    isa: I,
    shape: Shape,
    rows: &[Line],
    weights: &[Line],
    block: std::ops::Range<usize>,
    head: usize,
    line: usize,
    fresh: bool,
    out: &Shards<'_, Line>,
) {
    let (groups, stride) = (shape.groups(), shape.stride());
    // SAFETY: the caller owns these lines.
    let out = |h: usize| unsafe { out.part((head + h) * stride + line, L) };
    let mut sums = [[isa.no_floats(); L]; 4];
    if !fresh {
        for (h, sums) in sums.iter_mut().enumerate() {
            for (sum, line) in sums.iter_mut().zip(out(h)) {
                *sum = isa.floats(&line.0);
            }
        }
    }
    let weights = weights[block.start * groups..block.end * groups].chunks_exact(groups);
    let rows = rows[block.start * stride..block.end * stride].chunks_exact(stride);
    for (weights, row) in weights.zip(rows) {
        let weights: &[f32; 4] =
            weights[head / LANES].0[head % LANES..].first_chunk().expect("a group is four times four heads");
        let row: &[Line; L] = row[line..].first_chunk().expect("lines of the row");
        let mut x = [isa.no_floats(); L];
        for l in 0..L {
            x[l] = isa.floats(&row[l].0);
        }
        for h in 0..4 {
            let weight = isa.splat_float(weights[h]);
            for l in 0..L {
                sums[h][l] = isa.fused(sums[h][l], weight, x[l]);
            }
        }
    }
    for (h, sums) in sums.into_iter().enumerate() {
        for (sum, line) in sums.into_iter().zip(out(h)) {
            isa.put_floats(sum, &mut line.0);
        }
    }
}
