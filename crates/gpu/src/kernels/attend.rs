//! Launches `attend.wgsl`, `attend_few.wgsl`, `attend_matrix.wgsl` and `attend_merge.wgsl`.

use crate::array::{Array, Picks};
use crate::buffers::Slice;
use crate::gpu::{Counted, Inner};
use crate::kernels::linear::FEW;
use crate::kernels::{Side, teams, threads};
use crate::ops::Weights;
use crate::recorder::{Binding, Recorder};
use crate::rows::stride;
use crate::shader::Variant;
use model::RowLayout;
use model::ops::{KvView, RowStore};

/// The least keys of a stretch that are worth a workgroup.
const STRETCH: usize = 16;

/// The most stretches: whoever merges them reads a part of each. `attend_few` has room for so many, or for its teams, which are fewer.
const MOST_STRETCHES: usize = 26;

/// Few rows are given stretches for so many keys or a multiple of that. Some may have none then.
const ROUNDED: usize = 64;

/// How the heads and keys of a row are divided among workgroups.
struct Shape {
    variant: Variant,
    /// Heads of a workgroup.
    heads: usize,
    /// A stretch is so many keys, or a multiple of that.
    keys: usize,
    /// Workgroups that we would like to have, so that all cores have work.
    workgroups: usize,
    ends: Ends,
}

/// How stretches of keys become one result.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// In a launch of its own.
    Apart,
    /// The last workgroup of a head puts them together.
    Last,
    /// A workgroup goes over all keys.
    Whole,
}

/// What an attention needs beside queries and keys.
pub(crate) struct Attending<'a> {
    /// `[heads]`
    pub(crate) sinks: &'a Array,
    /// By which the result is turned back, and how many values of a head; if the queries are to be treated, theirs, too.
    pub(crate) angles: (&'a Slice, usize),
    /// Whether queries and the weights of keys may be rounded to f16: where the result is, too.
    pub(crate) rounds: bool,
}

impl Shape {
    /// Each team reads keys for itself: for few rows, where a team is a subgroup of eight threads or more.
    fn few(gpu: &Inner, n: usize, width: usize) -> Option<Shape> {
        const TEAMS: usize = 8;
        const KEYS: usize = 2;
        const HEADS: usize = 2;
        let wave = gpu.abilities.lanes as usize;
        let pieces = width / 16;
        let lanes = wave.min(pieces.next_power_of_two().max(8));
        let memory = TEAMS * 4 * width + HEADS * MOST_STRETCHES * 8;
        let fits = memory + 256 <= gpu.abilities.workgroup_memory as usize;
        (n <= FEW && gpu.abilities.subgroups && wave >= 8 && fits).then(|| Shape {
            variant: Variant::of("attend_few")
                .with("THREADS", TEAMS * lanes)
                .with("WAVE", wave)
                .with("LANES", lanes)
                .with("TEAMS", TEAMS)
                .with("KEYS", KEYS)
                .with("HEADS", HEADS)
                .with("PIECES", pieces.div_ceil(lanes))
                .with("MOST_PARTS", MOST_STRETCHES)
                .when("MERGE", gpu.abilities.merges),
            heads: HEADS,
            keys: TEAMS * KEYS,
            workgroups: 128,
            ends: if gpu.abilities.merges { Ends::Last } else { Ends::Apart },
        })
    }

    /// Through matrix units: for so many rows that all cores have work.
    fn on_units(gpu: &Inner, q: &Array, layout: RowLayout) -> Option<Shape> {
        const THREADS: usize = 256;
        const KEYS: usize = 16;
        const HEADS: usize = 32;
        let width = layout.width();
        let heads = q.width / width;
        let fits = heads.is_multiple_of(HEADS) && width.is_multiple_of(128) && width <= 512;
        let normed = q.treatment.as_ref().is_some_and(|treatment| treatment.eps.is_some());
        let narrow = !matches!(layout, RowLayout::F32 { .. }); // f16 loses nothing of such rows that counts
        let busy = q.n * heads / HEADS >= 128;
        let sixteen = gpu.abilities.matrices == Some(Side::Sixteen);
        (sixteen && fits && normed && narrow && busy).then(|| Shape {
            variant: Variant::of("attend_matrix")
                .with("THREADS", THREADS)
                .with("WHOLE", 1u32)
                .with("TILES", width / 128)
                .with("SPREAD", width / 64)
                .with("ITEMS", (KEYS * width / 16).div_ceil(THREADS)),
            heads: HEADS,
            keys: KEYS,
            workgroups: 1,
            ends: Ends::Whole,
        })
    }

    /// All teams of a workgroup share keys that it has decoded.
    fn many(gpu: &Inner, n: usize, width: usize, heads: usize) -> Shape {
        let lanes = gpu.abilities.lanes as usize;
        let teams_of = 256 / lanes;
        // Registers: a head's query and sum take two vectors for each stride of the lanes.
        let spread = (width / 4).div_ceil(lanes);
        let heads = if spread <= 4 && heads > teams_of && n > FEW { 2 } else { 1 };
        let keys = (gpu.abilities.workgroup_memory as usize / 2 / (4 * width)).clamp(1, 8);
        Shape {
            variant: teams(gpu, "attend", 256)
                .with("KEYS", keys)
                .with("ITEMS", (keys * width / 16).div_ceil(256))
                .with("HEADS", heads)
                .with("SPREAD", spread),
            heads: heads * teams_of,
            keys,
            workgroups: 256,
            ends: Ends::Apart,
        }
    }
}

/// Attention of every row of the batch, turned back: `[n, heads, D]`.
pub(crate) fn attend(
    gpu: &Inner,
    r: &mut Recorder,
    q: &Array,
    views: &[KvView<'_, Weights>],
    picks: Option<&Picks>,
    what: &Attending<'_>,
) -> Array {
    r.launch_beside(gpu);
    let layout = views[0].window.layout();
    let (n, width) = (q.n, layout.width());
    let heads = q.width / width;
    let mut blocks: Vec<u32> = Vec::new();
    let mut rows: Vec<u32> = Vec::with_capacity(5 * n);
    let mut most = 1;
    for view in views {
        let table = blocks.len() as u32;
        let (mut block_len, mut ratio) = (1, usize::MAX);
        if let Some((compressed, tokens)) = &view.compressed {
            blocks.extend(compressed.starts().map(|(block, row)| block.address(row)));
            (block_len, ratio) = (compressed.block_len, *tokens);
        }
        for i in view.rows.clone() {
            let position = view.start + i - view.rows.start;
            let first = view.first_visible(position);
            let window_len = position + 1 - first;
            let visible = (position + 1) / ratio;
            let compressed = picks.map_or(visible, |picks| picks.counts[i] as usize);
            rows.extend([
                view.window.address(first - view.window_base),
                window_len as u32,
                compressed as u32,
                table,
                block_len as u32,
            ]);
            most = most.max(window_len + compressed);
        }
    }
    let o = Array::empty(gpu, n, q.width);
    let Some(kv) = views[0].window.store() else {
        return o;
    };
    if blocks.is_empty() {
        blocks.push(0);
    }
    let (rows, blocks) = (r.put(gpu, &rows), r.put(gpu, &blocks));
    let on_units = || Shape::on_units(gpu, q, layout).filter(|_| what.rounds);
    let shape =
        on_units().or_else(|| Shape::few(gpu, n, width)).unwrap_or_else(|| Shape::many(gpu, n, width, heads));
    let head_groups = heads.div_ceil(shape.heads);
    // Rounded up, so that most tokens ask for the same launches as the one before.
    let most = most.next_multiple_of(if n <= FEW { ROUNDED } else { 1 });
    let splits = (shape.workgroups / (n * head_groups)).clamp(1, most.div_ceil(STRETCH)).min(MOST_STRETCHES);
    let stretch = most.div_ceil(splits).next_multiple_of(shape.keys);
    let splits = most.div_ceil(stretch);
    let mut bindings = vec![q.read(), Binding::Read(kv), Binding::Read(rows), Binding::Read(blocks)];
    let stretches = (shape.ends != Ends::Whole)
        .then(|| [width, 2].map(|values| Array::empty(gpu, n * heads, splits * values)));
    bindings.extend(stretches.iter().flatten().map(Array::write));
    let (angles, turned) = (Binding::Read(what.angles.0.clone()), what.angles.1);
    match shape.ends {
        Ends::Apart if q.treatment.is_none() => {}
        Ends::Apart => bindings.push(angles.clone()),
        _ => bindings.extend([what.sinks.read(), angles.clone(), o.write()]),
    }
    if shape.ends == Ends::Last {
        bindings.push(Binding::Write(gpu.counters(Counted::Attend)));
    }
    let picks_at = picks.map_or(0, |picks| {
        bindings.push(picks.rows.read());
        bindings.len() - 1
    });
    r.launch(
        gpu,
        shape
            .variant
            .rows(layout)
            .with("PICKS", picks_at)
            .when("NORM", q.treatment.is_some())
            .with("TURNED", turned),
        &bindings,
        &[
            heads as u32,
            stride(layout) as u32,
            stretch as u32,
            splits as u32,
            picks.map_or(0, |picks| picks.rows.width as u32),
            (1.0 / (width as f32).sqrt()).to_bits(),
            q.treatment.as_ref().and_then(|treatment| treatment.eps).unwrap_or(0.0).to_bits(),
        ],
        [head_groups as u32, splits as u32, n as u32],
    );
    if let (Ends::Apart, Some([parts, stats])) = (shape.ends, stretches) {
        r.launch(
            gpu,
            threads("attend_merge").with("WIDTH", width).with("ROPE", turned),
            &[parts.read(), stats.read(), what.sinks.read(), angles, o.write()],
            &[heads as u32, splits as u32],
            [heads as u32, n as u32, 1],
        );
    }
    o
}
