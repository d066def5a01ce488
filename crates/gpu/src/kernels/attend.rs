//! Launches `attend.wgsl` and `attend_merge.wgsl`.

use crate::array::{Array, Picks};
use crate::buffers::Slice;
use crate::gpu::Inner;
use crate::kernels::linear::FEW;
use crate::kernels::{teams, threads};
use crate::ops::Weights;
use crate::recorder::{Binding, Recorder};
use crate::rows::stride;
use model::ops::{KvView, RowStore};

/// Workgroups that we would like to have at least, so that all cores have work.
const WORKGROUPS: usize = 256;

/// The least keys of a stretch.
const STRETCH: usize = 16;

/// The most stretches: whoever merges them reads a part of each.
const MOST_STRETCHES: usize = 26;

/// Attention of every row of the batch, turned back: `[n, heads, D]`. If the queries are to be treated, `angles` are theirs.
pub(crate) fn attend(
    gpu: &Inner,
    r: &mut Recorder,
    q: &Array,
    views: &[KvView<'_, Weights>],
    picks: Option<&Picks>,
    sinks: &Array,
    angles: (&Slice, usize),
) -> Array {
    r.launch_beside(gpu);
    let layout = views[0].window.layout();
    let (n, width) = (q.n, layout.width());
    let heads = q.width / width;
    let mut blocks: Vec<u32> = Vec::new();
    let mut rows: Vec<u32> = Vec::with_capacity(6 * n);
    let mut most = 1;
    for view in views {
        let table = blocks.len() as u32;
        let (mut block_len, mut ratio) = (1, usize::MAX);
        if let Some((compressed, tokens)) = &view.compressed {
            blocks.extend(compressed.blocks.iter().map(|block| block.address(0)));
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
                0,
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
    let lanes = gpu.abilities.lanes as usize;
    let merges = gpu.abilities.merges && n <= FEW;
    let team_count = 256 / lanes;
    // Registers: a head's query and sum take two vectors for each stride of the lanes.
    let spread = (width / 4).div_ceil(lanes);
    let team_heads = if spread <= 4 && heads > team_count && n > FEW { 2 } else { 1 };
    let head_groups = heads.div_ceil(team_count * team_heads);
    let splits = (WORKGROUPS / (n * head_groups)).clamp(1, most.div_ceil(STRETCH)).min(MOST_STRETCHES);
    let keys = (gpu.abilities.workgroup_memory as usize / 2 / (4 * width)).clamp(1, 8);
    let stretch = most.div_ceil(splits).next_multiple_of(keys);
    let splits = most.div_ceil(stretch); // none without keys
    let parts = Array::empty(gpu, n * heads, splits * width);
    let stats = Array::empty(gpu, n * heads, splits * 2);
    let mut bindings = vec![
        q.read(),
        Binding::Read(kv),
        Binding::Read(rows),
        Binding::Read(blocks),
        parts.write(),
        stats.write(),
    ];
    let turned = angles.1;
    if merges {
        let counters = Binding::Write(gpu.counters(1));
        bindings.extend([sinks.read(), Binding::Read(angles.0.clone()), o.write(), counters]);
    } else if q.treatment.is_some() {
        bindings.push(Binding::Read(angles.0.clone()));
    }
    let picks_at = picks.map_or(0, |picks| {
        bindings.push(picks.rows.read());
        bindings.len() - 1
    });
    r.launch(
        gpu,
        teams(gpu, "attend", 256)
            .rows(layout)
            .with("KEYS", keys)
            .with("ITEMS", (keys * width / 16).div_ceil(256))
            .with("HEADS", team_heads)
            .with("SPREAD", spread)
            .with("PICKS", picks_at)
            .when("MERGE", merges)
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
    if !merges {
        r.launch(
            gpu,
            threads("attend_merge").with("WIDTH", width).with("ROPE", turned),
            &[parts.read(), stats.read(), sinks.read(), Binding::Read(angles.0.clone()), o.write()],
            &[heads as u32, splits as u32],
            [heads as u32, n as u32, 1],
        );
    }
    o
}
