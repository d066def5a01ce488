//! Launches what writes cached rows: `append.wgsl`, `compress.wgsl`, `move_rows.wgsl`.

use crate::array::Array;
use crate::buffers::Slice;
use crate::gpu::Inner;
use crate::kernels::linear::FEW;
#[cfg(doc)]
use crate::kernels::norm_row;
use crate::kernels::{THREADS, teams, threads};
use crate::ops::{Weights, angles_slice};
use crate::recorder::{Binding, Recorder};
use crate::rows::{Rows, stride};
use model::RowLayout;
use model::ops::RowStore;
use model::rope::Angles;
use model::weights::Compressor;
use std::ops::Range;

/// Appends rows of a batch.
pub(crate) fn append(gpu: &Inner, r: &mut Recorder, x: &Array, rows: Range<usize>, to: &mut Rows) {
    let layout = to.layout();
    assert_eq!(x.width, layout.width(), "cached row");
    let (Some(at), Some(store)) = (to.extend(r, rows.len()), to.store()) else {
        return;
    };
    let (store, first) = (Binding::Write(store), rows.start as u32);
    r.append(gpu, Append { x: x.slice(), store, layout, rows: rows.len() as u32, first, at });
}

/// Rows on their way to a store. What one layer appends goes in one launch, for all timelines, so it is held back until
/// something else is launched; behind norms that are held back in one launch with them, see [`norm_row`].
pub(crate) struct Append {
    pub(crate) x: Slice,
    pub(crate) store: Binding,
    pub(crate) layout: RowLayout,
    rows: u32,
    /// First row of x.
    first: u32,
    /// Where the rows go, in vectors.
    at: u32,
}

impl Append {
    /// Whether it can go in the same launch behind those that are held.
    pub(crate) fn goes_with(&self, held: &[Append]) -> bool {
        let Some(one) = held.first() else { return true };
        let kinds = kinds(held);
        let known = kinds.iter().find(|kind| same(&kind.x, &self.x));
        let fits = match known {
            Some(kind) => kind.layout == self.layout,
            None => kinds.len() < APPENDS && matches!(self.layout, RowLayout::F32 { .. }),
        };
        let few = |append: &Append| append.rows as usize <= FEW;
        fits && self.store.slice().buffer.id == one.store.slice().buffer.id
            && (self.rows == one.rows || few(self) && held.iter().all(few))
    }

    /// How far apart rows of the store are, in words.
    pub(crate) fn stride(&self) -> u32 {
        4 * stride(self.layout) as u32
    }

    /// Where row `i` of x goes, if it is one of these: a word of the store.
    pub(crate) fn place(&self, i: u32) -> Option<u32> {
        let mine = i.checked_sub(self.first).filter(|&i| i < self.rows)?;
        Some(4 * self.at + mine * self.stride())
    }

    /// Words of the places of its rows, as shaders have them; of every `span` rows that of the first.
    pub(crate) fn places(&self, span: u32, kinds: &[&Append]) -> impl Iterator<Item = [u32; 4]> {
        let kind = kinds.iter().position(|kind| same(&kind.x, &self.x)).expect("one of them") as u32;
        let rows = (self.first..self.first + self.rows).step_by(span as usize);
        rows.filter_map(move |i| Some([kind, i, self.place(i)?, 0]))
    }
}

/// Whether these are the same bytes.
pub(crate) fn same(a: &Slice, b: &Slice) -> bool {
    (a.buffer.id, a.offset) == (b.buffer.id, b.offset)
}

/// The first append of each array whose rows are appended.
pub(crate) fn kinds(held: &[Append]) -> Vec<&Append> {
    let mut kinds: Vec<&Append> = Vec::with_capacity(APPENDS);
    for append in held {
        if !kinds.iter().any(|kind| same(&kind.x, &append.x)) {
            kinds.push(append);
        }
    }
    kinds
}

/// The most arrays of one launch.
const APPENDS: usize = 3;

/// Launches what was held back.
pub(crate) fn append_all(gpu: &Inner, r: &mut Recorder, held: &[Append]) {
    let kinds = kinds(held);
    let rows = held[0].rows;
    let span = if held.iter().all(|append| append.rows == rows) { rows } else { 1 };
    // It is host data, since it changes with every token.
    let mut places = Vec::new();
    for append in held {
        places.extend(append.places(span, &kinds).flatten());
    }
    let jobs = places.len() as u32 / 4;
    let (one, more) = kinds.split_first().expect("something to append");
    let mut bindings =
        vec![Binding::Read(one.x.clone()), one.store.clone(), Binding::Read(r.put(gpu, &places))];
    bindings.extend(more.iter().map(|kind| Binding::Read(kind.x.clone())));
    let params: Vec<u32> = kinds.iter().map(|kind| kind.stride()).collect();
    let variant = threads("append").rows(one.layout).with("MORE", more.len());
    r.launch(gpu, variant, &bindings, &params, [span, jobs, 1]);
}

/// Compresses windows into one row each.
pub(crate) fn compress(
    gpu: &Inner,
    r: &mut Recorder,
    c: &Compressor<Weights>,
    frontier: (&Rows, usize),
    windows: Range<usize>,
    angles: &Angles,
    into: &mut Rows,
) {
    let layout = into.layout();
    assert_eq!(frontier.0.layout(), RowLayout::F32 { width: 2 * c.inner_width() }, "frontier");
    // The frontier may move when the store grows, so its address is taken afterwards.
    let (Some(at), Some(store)) = (into.extend(r, windows.len()), into.store()) else {
        return;
    };
    let rope = 2 * angles.row(0).len();
    let angles = angles_slice(gpu, r, angles, windows.len());
    let place = [4 * frontier.0.address(0), frontier.1 as u32, windows.start as u32, 4 * at];
    let place = r.put(gpu, &place);
    r.launch(
        gpu,
        teams(gpu, "compress", 256)
            .rows(layout)
            .with("ROPE", rope)
            .with("INNER", c.inner_width())
            .with("RATIO", c.ratio)
            .when("OVERLAP", c.overlap),
        &[Binding::Write(store), c.norm.weight.read(), Binding::Read(angles), Binding::Read(place)],
        &[4 * stride(layout) as u32, c.norm.eps.to_bits()],
        [windows.len() as u32, 1, 1],
    );
}

/// Copies rows inside a store; all three in vectors.
pub(crate) fn move_rows(gpu: &Inner, r: &mut Recorder, store: Slice, from: u32, to: u32, count: u32) {
    let words = 4 * count;
    r.launch(
        gpu,
        threads("move_rows"),
        &[Binding::Write(store)],
        &[4 * from, 4 * to, words],
        [words.div_ceil(THREADS).min(4096), 1, 1],
    );
}
