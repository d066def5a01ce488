//! The lightning indexer; see [`model::Ops::pick`] for the formula.
//!
//! Keys are taken sixteen at a time, a lane each, and meet every head while they are in the first-level
//! cache. FP4 keys and the queries rounded as they are give products of small integers, which are exact;
//! other keys give f32 products, added in the order of the components. Either way a score is added up head
//! after head, so it has the same bits in any batch.
//!
//! Of many tokens an item scores some and selects; of few, items score stretches of keys and a second region
//! selects.

mod keys;
mod query;
#[cfg(test)]
mod tests;

use crate::Array;
use crate::array::Picks;
use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::{LANES, Line, floats};
use crate::pool::Shards;
use crate::select::largest_into;
use crate::spares::room;
use keys::Keys;
use model::ops::{IndexQuery, IndexView, RowStore};
use query::Queries;
use std::ops::Range;

/// Tokens that share unpacked keys.
const TOKENS: usize = 8;

/// Keys of one item where several items score for the same tokens, in vectors.
const STRETCH: usize = 16;

/// What scoring some tokens needs.
#[derive(Default)]
pub struct Scratch {
    queries: Queries,
    keys: Keys,
    /// `[tokens, keys]`, a token's keys in whole lines.
    scores: Vec<Line>,
}

/// The picks of every row of the batch.
pub fn pick(cpu: &Cpu, query: &IndexQuery<Array>, views: &[IndexView<'_, Cpu>], top_k: usize) -> Picks {
    let lengths = views.iter().flat_map(|view| view.rows.clone().map(|i| visible(view, i).min(top_k)));
    let mut picks = Picks::with_lengths(lengths);
    let mut chosen = std::mem::take(&mut picks.chosen);
    let lists = Lists { chosen: &Shards::new(&mut chosen), picks: &picks };
    for view in views {
        if view.rows.len() >= 2 * cpu.threads() {
            pick_many(cpu, query, view, &lists);
        } else {
            pick_few(cpu, query, view, &lists);
        }
    }
    Picks { chosen, ..picks }
}

/// How many keys row `i` of the batch sees.
fn visible(view: &IndexView<'_, Cpu>, i: usize) -> usize {
    (view.start + i - view.rows.start + 1) / view.ratio
}

/// The lists to be filled.
struct Lists<'a> {
    chosen: &'a Shards<'a, u32>,
    picks: &'a Picks,
}

impl Lists<'_> {
    /// Whether row `i` of the batch sees no more keys than it may choose.
    fn takes_all(&self, i: usize, visible: usize) -> bool {
        self.picks.range(i).len() == visible
    }

    /// Chooses for row `i` of the batch.
    ///
    /// # Safety
    ///
    /// Nobody else may do so at the same time.
    unsafe fn choose(&self, i: usize, scores: &[Line], visible: usize) {
        let range = self.picks.range(i);
        // SAFETY: a row's own range.
        let chosen = unsafe { self.chosen.part(range.start, range.len()) };
        largest_into(&floats(scores)[..visible], chosen);
    }
}

/// An item scores a few tokens against all keys they see, and selects.
fn pick_many(cpu: &Cpu, query: &IndexQuery<Array>, view: &IndexView<'_, Cpu>, lists: &Lists<'_>) {
    let tokens = (view.rows.len() / (4 * cpu.threads())).clamp(1, TOKENS);
    cpu.pool.each(view.rows.len().div_ceil(tokens), |item| {
        let first = view.rows.start + item * tokens;
        let rows = first..view.rows.end.min(first + tokens);
        cpu.index_scratch.with(|scratch| {
            let vectors = visible(view, rows.end - 1).div_ceil(LANES);
            let scores = room(&mut scratch.scores, rows.len() * vectors);
            isa::dispatch(Prepare { query, view, rows: rows.clone(), queries: &mut scratch.queries });
            isa::dispatch(Score {
                view,
                rows: rows.clone(),
                vectors: 0..vectors,
                queries: &scratch.queries,
                keys: &mut scratch.keys,
                lists,
                scores: &Shards::new(scores),
                stride: vectors,
            });
            for (i, scores) in rows.zip(scores.chunks_exact(vectors.max(1))) {
                // SAFETY: an item owns its rows.
                unsafe { lists.choose(i, scores, visible(view, i)) };
            }
        });
    });
}

/// Items score stretches of keys for all tokens; then each token selects.
fn pick_few(cpu: &Cpu, query: &IndexQuery<Array>, view: &IndexView<'_, Cpu>, lists: &Lists<'_>) {
    cpu.index_scratch.with(|Scratch { queries, scores, .. }| {
        let vectors = visible(view, view.rows.end - 1).div_ceil(LANES);
        let scores = room(scores, view.rows.len() * vectors);
        isa::dispatch(Prepare { query, view, rows: view.rows.clone(), queries });
        let shards = Shards::new(scores);
        cpu.pool.each(vectors.div_ceil(STRETCH), |item| {
            let vectors_of_item = item * STRETCH..vectors.min((item + 1) * STRETCH);
            cpu.index_scratch.with(|own| {
                isa::dispatch(Score {
                    view,
                    rows: view.rows.clone(),
                    vectors: vectors_of_item,
                    queries,
                    keys: &mut own.keys,
                    lists,
                    scores: &shards,
                    stride: vectors,
                });
            });
        });
        cpu.pool.each(view.rows.len(), |row| {
            let i = view.rows.start + row;
            // SAFETY: one item a row; the scores are only read now.
            unsafe { lists.choose(i, shards.part(row * vectors, vectors), visible(view, i)) };
        });
    });
}

/// Brings the queries of some rows into the form that the keys of this view want.
struct Prepare<'a> {
    query: &'a IndexQuery<Array>,
    view: &'a IndexView<'a, Cpu>,
    rows: Range<usize>,
    queries: &'a mut Queries,
}

impl Kernel for Prepare<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        self.queries.set(isa, self.query, self.rows, self.view.keys.blocks[0].layout());
    }
}

/// Scores some vectors of keys for some rows.
struct Score<'a> {
    view: &'a IndexView<'a, Cpu>,
    rows: Range<usize>,
    vectors: Range<usize>,
    /// Of `rows`.
    queries: &'a Queries,
    keys: &'a mut Keys,
    lists: &'a Lists<'a>,
    /// `[rows, stride]`; the vectors are this kernel's own.
    scores: &'a Shards<'a, Line>,
    stride: usize,
}

impl Kernel for Score<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let count = self.view.keys.len();
        for vector in self.vectors {
            let keys = vector * LANES..count.min((vector + 1) * LANES);
            let first = keys.start;
            self.keys.load(isa, keys.map(|key| self.view.keys.find(key)));
            for (row, i) in self.rows.clone().enumerate() {
                let visible = visible(self.view, i);
                if visible <= first || self.lists.takes_all(i, visible) {
                    continue;
                }
                // SAFETY: this kernel owns its vectors of keys.
                let to = unsafe { &mut self.scores.part(row * self.stride + vector, 1)[0] };
                isa.put_floats(self.queries.score(isa, row, self.keys), &mut to.0);
            }
        }
    }
}
