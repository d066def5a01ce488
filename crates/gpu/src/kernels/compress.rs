//! Launches what writes cached rows: `append.wgsl`, `compress.wgsl`, `move_rows.wgsl`.

use crate::array::Array;
use crate::buffers::Slice;
use crate::gpu::Inner;
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
    let append = Append { x: x.slice(), store, layout, rows: rows.len() as u32, first, at };
    r.append(gpu, append);
}

/// Rows on their way to a store. What one layer appends for one timeline goes in one launch, so it is held
/// back until something else is launched; behind norms that are held back in one launch with them, see [`norm_row`].
pub(crate) struct Append {
    pub(crate) x: Slice,
    pub(crate) store: Binding,
    pub(crate) layout: RowLayout,
    pub(crate) rows: u32,
    /// First row of x.
    first: u32,
    /// Where the rows go, in vectors.
    at: u32,
}

impl Append {
    /// Whether `other` can go in the same launch behind this one.
    pub(crate) fn takes_along(&self, other: &Append) -> bool {
        let same = |a: &Slice, b: &Slice| a.buffer.id == b.buffer.id;
        matches!(other.layout, RowLayout::F32 { .. })
            && other.rows == self.rows
            && same(self.store.slice(), other.store.slice())
    }

    /// How far apart rows of the store are, in words.
    pub(crate) fn stride(&self) -> u32 {
        4 * stride(self.layout) as u32
    }
}

/// Of each the first row of x and where it goes, in words: it is host data, since it changes with every token.
pub(crate) fn places(gpu: &Inner, r: &mut Recorder, held: &[Append]) -> Binding {
    let words: Vec<u32> = held.iter().flat_map(|append| [append.first, 4 * append.at]).collect();
    Binding::Read(r.put(gpu, &words))
}

/// The most stores of one launch.
pub(crate) const APPENDS: usize = 3;

/// Launches what was held back.
pub(crate) fn append_all(gpu: &Inner, r: &mut Recorder, held: &[Append]) {
    let (one, more) = held.split_first().expect("something to append");
    let mut bindings = vec![Binding::Read(one.x.clone()), one.store.clone(), places(gpu, r, held)];
    bindings.extend(more.iter().map(|other| Binding::Read(other.x.clone())));
    let params: Vec<u32> = held.iter().map(Append::stride).collect();
    let variant = threads("append").rows(one.layout).with("MORE", more.len());
    r.launch(gpu, variant, &bindings, &params, [one.rows, held.len() as u32, 1]);
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
