//! The lightning indexer; see [`model::Ops::pick`] for the formula.
//!
//! Keys are decoded to f32 once for the batch. An item is one token and a stretch of keys; a second
//! region selects, one item a token.

use crate::Array;
use crate::array::Picks;
use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::dots;
use crate::ops::decode::decode;
use crate::pool::Shards;
use crate::select::largest;
use model::ops::{IndexQuery, IndexView, RowStore};

/// Keys of one item.
const KEYS: usize = 256;

/// Heads that share a load of a key.
const HEADS: usize = 8;

/// The picks of every row of the batch.
pub fn pick(cpu: &Cpu, query: &IndexQuery<Array>, views: &[IndexView<'_, Cpu>], top_k: usize) -> Picks {
    let mut picks = Picks { rows: vec![Vec::new(); query.u.n()] };
    for view in views {
        pick_view(cpu, query, view, top_k, &mut picks.rows[view.rows.clone()]);
    }
    picks
}

fn pick_view(
    cpu: &Cpu,
    query: &IndexQuery<Array>,
    view: &IndexView<'_, Cpu>,
    top_k: usize,
    picks: &mut [Vec<u32>],
) {
    let layout = view.keys.blocks[0].layout();
    let (width, total) = (layout.width(), (view.start + view.rows.len()) / view.ratio);
    let all: Vec<usize> = (0..total).collect();
    let keys = decode(cpu, &all, total, width, |i| view.keys.find(i));
    let stretches = total.div_ceil(KEYS);
    let mut scores = vec![0.0; view.rows.len() * total];
    let shards = Shards::new(&mut scores);
    cpu.pool.each(view.rows.len() * stretches, |item| {
        let (row, first) = (item / stretches, item % stretches * KEYS);
        let i = view.rows.start + row;
        let visible = (view.start + row + 1) / view.ratio;
        let count = visible.min(first + KEYS).saturating_sub(first);
        if visible <= top_k || count == 0 {
            return;
        }
        let mut u = query.u.row(i).to_vec();
        if layout.is_rotated() {
            u.chunks_exact_mut(width).for_each(|u| layout.round(u));
        }
        // SAFETY: an item owns its stretch of its token's scores.
        let scores = unsafe { shards.part(row * total + first, count) };
        isa::dispatch(Score {
            u: &u,
            a: query.a.row(i),
            keys: &keys[first * width..][..count * width],
            width,
            scores,
        });
    });
    let shards = Shards::new(picks);
    cpu.pool.each(view.rows.len(), |row| {
        let visible = (view.start + row + 1) / view.ratio;
        // SAFETY: one item a token.
        let picks = unsafe { &mut shards.part(row, 1)[0] };
        *picks = if visible <= top_k {
            (0..visible as u32).collect()
        } else {
            largest(&scores[row * total..][..visible], top_k)
        };
    });
}

/// `scores[w] = Σ_h a[h]·max(0, u[h]·keys[w])`, heads in order.
struct Score<'a> {
    u: &'a [f32],
    a: &'a [f32],
    keys: &'a [f32],
    width: usize,
    scores: &'a mut [f32],
}

impl Kernel for Score<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let width = self.width;
        let whole = self.a.len() / HEADS * HEADS;
        for (score, key) in self.scores.iter_mut().zip(self.keys.chunks_exact(width)) {
            let mut sum = 0.0f32;
            for first in (0..whole).step_by(HEADS) {
                let u: [&[f32]; HEADS] = std::array::from_fn(|h| &self.u[(first + h) * width..][..width]);
                for (h, dot) in dots(u, key).into_iter().enumerate() {
                    sum = self.a[first + h].mul_add(dot.max(0.0), sum);
                }
            }
            for h in whole..self.a.len() {
                let [dot] = dots([&self.u[h * width..][..width]], key);
                sum = self.a[h].mul_add(dot.max(0.0), sum);
            }
            *score = sum;
        }
    }
}
