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
use crate::ops::linear::{as_dot, blocks};
use crate::pool::Shards;
use model::Matrix;
use model::weights::{Expert, Experts};
use std::ops::Range;

/// Batch rows of one tile.
const COLS: usize = 64;

/// An expert with the batch rows it works for.
struct Group<'a> {
    expert: &'a Expert<Cpu>,
    /// Which of the stacked experts.
    index: usize,
    /// Batch rows.
    rows: Vec<usize>,
    /// Their shares.
    shares: Vec<f32>,
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
    let mut groups = group(x.n(), routes, experts);
    groups.push(Group { expert: shared, index: 0, rows: (0..x.n()).collect(), shares: vec![1.0; x.n()] });
    let inner = inner(cpu, x, &groups);
    down(cpu, x, &groups, &inner)
}

/// Groups of the routed experts, ascending; rows of a group ascending.
fn group<'a>(n: usize, routes: &Routes, experts: &'a Experts<Cpu>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = (0..experts.count)
        .map(|index| Group { expert: &experts.stack, index, rows: Vec::new(), shares: Vec::new() })
        .collect();
    for i in 0..n {
        for &(expert, share) in routes.row(i) {
            groups[expert as usize].rows.push(i);
            groups[expert as usize].shares.push(share);
        }
    }
    groups.retain(|group| !group.rows.is_empty());
    groups
}

/// The inner activations of each group, `[rows of the group, ff]`.
fn inner(cpu: &Cpu, x: &Array, groups: &[Group<'_>]) -> Vec<Array> {
    let mut made: Vec<Array> = groups.iter().map(|g| Array::zeros(g.rows.len(), g.expert.ff)).collect();
    let parts: Vec<_> = made.iter_mut().map(|inner| Shards::new(&mut inner.data)).collect();
    let all: usize = groups.iter().map(|g| 2 * g.expert.ff).sum();
    let mut items: Vec<(usize, Range<usize>, Range<usize>)> = Vec::new();
    for (g, group) in groups.iter().enumerate() {
        for matrix in [&group.expert.gate, &group.expert.up] {
            x.rounded(Rounding::of(matrix.format), &cpu.pool);
        }
        for rows in cpu.row_blocks(group.expert.ff, all, x.n()) {
            items.extend(blocks(group.rows.len(), COLS).map(|cols| (g, rows.clone(), cols)));
        }
    }
    cpu.pool.each(items.len(), |item| {
        let (g, block, cols) = &items[item];
        let group = &groups[*g];
        let tile = |matrix: &Matrix| {
            let acts = x.rounded(Rounding::of(matrix.format), &cpu.pool);
            let mut tile = vec![0.0; cols.len() * block.len()];
            dot::matmul(&as_dot(matrix), group.inner_rows(block), acts, &group.rows[cols.clone()], &mut tile);
            tile
        };
        let (mut gate, up) = (tile(&group.expert.gate), tile(&group.expert.up));
        isa::dispatch(SwiGlu { gate: &mut gate, up: &up, clamp: group.expert.clamp });
        for (col, inner) in cols.clone().zip(gate.chunks_exact(block.len())) {
            // SAFETY: an item owns its rows and its part of the inner width.
            unsafe { parts[*g].part(col * group.expert.ff + block.start, block.len()) }
                .copy_from_slice(inner);
        }
    });
    made
}

/// `y = Σ share · down · inner`, groups in order.
fn down(cpu: &Cpu, x: &Array, groups: &[Group<'_>], inner: &[Array]) -> Array {
    let (n, d) = (x.n(), x.width);
    let acts: Vec<&Acts> = groups
        .iter()
        .zip(inner)
        .map(|(g, inner)| inner.rounded(Rounding::of(g.expert.down.format), &cpu.pool))
        .collect();
    let mut y = Array::zeros(n, d);
    let parts = Shards::new(&mut y.data);
    let blocks: Vec<Range<usize>> = cpu.row_blocks(d, d, n).collect();
    cpu.pool.each(blocks.len(), |item| {
        let block = &blocks[item];
        for (group, acts) in groups.iter().zip(&acts) {
            let rows = group.index * d + block.start..group.index * d + block.end;
            let mut tile = vec![0.0; group.rows.len() * block.len()];
            let cols: Vec<usize> = (0..group.rows.len()).collect();
            dot::matmul(&as_dot(&group.expert.down), rows, acts, &cols, &mut tile);
            for ((&i, share), out) in group.rows.iter().zip(&group.shares).zip(tile.chunks_exact(block.len()))
            {
                // SAFETY: an item owns its outputs of every row.
                let y = unsafe { parts.part(i * d + block.start, block.len()) };
                y.iter_mut().zip(out).for_each(|(y, out)| *y += share * out);
            }
        }
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
