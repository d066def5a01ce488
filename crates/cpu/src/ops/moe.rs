//! Routed and shared experts; see [`model::Ops::moe`] for the formula.
//!
//! Batch rows are grouped by expert, so that the weights of an expert are read once for all its rows.
//! Two regions: gate and up of every expert, with the activation; then down, where an item owns some
//! outputs of every batch row and adds up all experts in ascending order, the shared one last.

use crate::array::{Array, Routes};
use crate::dot::{self, Acts, Rounding};
use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::silu;
use crate::ops::linear::{COLS, TALLEST, as_dot, blocks};
use crate::pool::Shards;
use crate::spares::room;
use model::Matrix;
use model::weights::{Expert, Experts};
use std::cmp::Reverse;
use std::ops::Range;

/// An expert with the batch rows it works for.
struct Group<'a> {
    expert: &'a Expert<Cpu>,
    /// Which of the stacked experts.
    index: usize,
    /// Batch rows, ascending.
    rows: Vec<usize>,
    /// Their shares.
    shares: Vec<f32>,
    /// Its rows of the inner activations.
    inner: Range<usize>,
}

impl Group<'_> {
    /// Rows of gate and up for a range of the inner width.
    fn inner_rows(&self, block: &Range<usize>) -> Range<usize> {
        let at = self.index * self.expert.ff;
        at + block.start..at + block.end
    }
}

/// See [`model::Ops::moe`].
pub fn moe(cpu: &Cpu, x: &Array, routes: &Routes, experts: &Experts<Cpu>, shared: &Expert<Cpu>) -> Array {
    let n = x.n();
    let mut groups = group(n, routes, experts);
    groups.push(Group {
        expert: shared,
        index: 0,
        rows: (0..n).collect(),
        shares: vec![1.0; n],
        inner: 0..n,
    });
    // Two arrays, since the shared expert may have another format and so another rounding.
    let mut inner = [Array::unset(n * routes.used, experts.stack.ff), Array::unset(n, shared.ff)];
    fill_inner(cpu, x, &groups, &mut inner);
    down(cpu, x, &groups, &inner)
}

/// Groups of the routed experts, ascending.
fn group<'a>(n: usize, routes: &Routes, experts: &'a Experts<Cpu>) -> Vec<Group<'a>> {
    let mut lists = vec![(Vec::new(), Vec::new()); experts.count];
    for i in 0..n {
        for &(expert, share) in routes.row(i) {
            let (rows, shares) = &mut lists[expert as usize];
            rows.push(i);
            shares.push(share);
        }
    }
    let mut at = 0;
    let chosen = lists.into_iter().enumerate().filter(|(_, (rows, _))| !rows.is_empty());
    let group = |(index, (rows, shares)): (usize, (Vec<usize>, _))| {
        let inner = at..at + rows.len();
        at = inner.end;
        Group { expert: &experts.stack, index, rows, shares, inner }
    };
    chosen.map(group).collect()
}

/// Computes the inner activations of every group, `[rows, ff]`: of the routed experts, and of the shared one,
/// which is the last group.
fn fill_inner(cpu: &Cpu, x: &Array, groups: &[Group<'_>], inner: &mut [Array; 2]) {
    let parts = inner.each_mut().map(|inner| Shards::new(&mut inner.data));
    let all: usize = groups.iter().map(|g| 2 * g.expert.ff).sum();
    let mut items: Vec<(usize, Range<usize>, Range<usize>)> = Vec::new();
    for (g, group) in groups.iter().enumerate() {
        for matrix in [&group.expert.gate, &group.expert.up] {
            x.rounded(Rounding::of(matrix.format), &cpu.pool);
        }
        let row_bytes = [&group.expert.gate, &group.expert.up].map(|w| as_dot(w).row_bytes()).iter().sum();
        for rows in cpu.row_blocks(group.expert.ff, all, x.n(), row_bytes, TALLEST) {
            items.extend(blocks(group.rows.len(), COLS).map(|cols| (g, rows.clone(), cols)));
        }
    }
    // The largest first, so that all threads end at about the same time.
    items.sort_by_key(|(_, _, cols)| Reverse(cols.len()));
    cpu.each_block(x.n() == 1, items.len(), |item| {
        let (g, block, cols) = &items[item];
        let group = &groups[*g];
        let multiply = |matrix: &Matrix, tile: &mut [f32]| {
            let acts = x.rounded(Rounding::of(matrix.format), &cpu.pool);
            dot::matmul(&as_dot(matrix), group.inner_rows(block), acts, &group.rows[cols.clone()], tile);
        };
        cpu.tiles.with(|tiles| {
            let [gate, up] = tiles.each_mut().map(|tile| room(tile, cols.len() * block.len()));
            multiply(&group.expert.gate, gate);
            multiply(&group.expert.up, up);
            isa::dispatch(SwiGlu { gate, up, clamp: group.expert.clamp });
            let to = &parts[usize::from(*g == groups.len() - 1)];
            for (col, inner) in cols.clone().zip(gate.chunks_exact(block.len())) {
                let at = (group.inner.start + col) * group.expert.ff + block.start;
                // SAFETY: an item owns its rows and its part of the inner width.
                unsafe { to.part(at, block.len()) }.copy_from_slice(inner);
            }
        });
    });
}

/// `y = Σ share · down · inner`, groups in order.
fn down(cpu: &Cpu, x: &Array, groups: &[Group<'_>], inner: &[Array; 2]) -> Array {
    let (n, d) = (x.n(), x.width);
    let inner_of = |g: usize| &inner[usize::from(g == groups.len() - 1)];
    let acts: Vec<&Acts> = groups
        .iter()
        .enumerate()
        .map(|(g, group)| inner_of(g).rounded(Rounding::of(group.expert.down.format), &cpu.pool))
        .collect();
    let cols: Vec<usize> = (0..inner[0].n().max(n)).collect();
    let mut y = Array::zeros(n, d);
    let parts = Shards::new(&mut y.data);
    let row_bytes = groups.iter().map(|g| as_dot(&g.expert.down).row_bytes()).sum();
    let blocks: Vec<Range<usize>> = cpu.row_blocks(d, d, n, row_bytes, TALLEST).collect();
    cpu.each_block(n == 1, blocks.len(), |item| {
        let block = &blocks[item];
        cpu.tiles.with(|[tile, _]| {
            for (group, acts) in groups.iter().zip(&acts) {
                let rows = group.index * d + block.start..group.index * d + block.end;
                let tile = room(tile, group.rows.len() * block.len());
                dot::matmul(&as_dot(&group.expert.down), rows, acts, &cols[group.inner.clone()], tile);
                let outs = tile.chunks_exact(block.len());
                for ((&i, share), out) in group.rows.iter().zip(&group.shares).zip(outs) {
                    // SAFETY: an item owns its outputs of every row.
                    let y = unsafe { parts.part(i * d + block.start, block.len()) };
                    y.iter_mut().zip(out).for_each(|(y, out)| *y += share * out);
                }
            }
        });
    });
    y
}

/// `gate = silu(min(gate, clamp)) · clamp(up, -clamp, clamp)`
struct SwiGlu<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
    clamp: f32,
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            *gate = silu(gate.min(self.clamp)) * up.clamp(-self.clamp, self.clamp);
        }
    }
}
