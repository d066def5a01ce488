//! Launches the lightning indexer: `round_query.wgsl`, `index_scores.wgsl` or `index_matrix.wgsl`, `top_k.wgsl`.

use crate::array::{Array, Picks};
use crate::gpu::Inner;
use crate::kernels::linear::FEW;
use crate::kernels::norm::{spread, treated};
use crate::kernels::{Side, teams, threads};
use crate::ops::Weights;
use crate::recorder::{Binding, Recorder};
use crate::rows::stride;
use crate::shader::Variant;
use model::RowLayout;
use model::ops::{IndexQuery, IndexView, RowStore};

/// Bytes of scores that are held at a time.
const SCORES: usize = 64 << 20;

/// The fewest rows whose scores go through matrix units.
const ON_UNITS: usize = 16;

/// Chooses at most `top_k` compressed rows for each row of the batch.
pub(crate) fn pick(
    gpu: &Inner,
    r: &mut Recorder,
    query: &IndexQuery<Array>,
    views: &[IndexView<'_, Weights>],
    top_k: usize,
) -> Picks {
    let layout = views[0].keys.blocks[0].layout();
    let (n, heads) = (query.u.n, query.a.width);
    let mut blocks: Vec<u32> = Vec::new();
    let mut rows: Vec<u32> = Vec::with_capacity(4 * n);
    for view in views {
        let table = blocks.len() as u32;
        blocks.extend(view.keys.starts().map(|(block, row)| block.address(row)));
        let visible = |i: usize| (view.start + i + 1) / view.ratio;
        let keys = visible(view.rows.len() - 1);
        for i in 0..view.rows.len() {
            rows.extend([keys, visible(i), table as usize, view.keys.block_len].map(|word| word as u32));
        }
    }
    let visible: Vec<u32> = rows.chunks_exact(4).map(|row| row[1]).collect();
    let counts: Vec<u32> = visible.iter().map(|&v| v.min(top_k as u32)).collect();
    let picks = Array::empty(gpu, n, top_k);
    // Rounded up, so that most tokens ask for the same launches as the one before.
    let most = visible.iter().copied().max().unwrap_or(0).max(1).next_multiple_of(256) as usize;
    let Some(kv) = views[0].keys.blocks[0].store() else {
        return Picks { rows: picks, counts };
    };
    let on_units = n >= ON_UNITS
        && gpu.abilities.matrices == Some(Side::Sixteen)
        && layout == RowLayout::Index4 { width: 128 }
        && heads.is_multiple_of(64);
    let made = match layout.is_rotated() {
        true => round(gpu, r, query, layout, on_units),
        false => (treated(gpu, r, &query.u), None),
    };
    let [u, a] = [made.0.as_ref().unwrap_or(&query.u), made.1.as_ref().unwrap_or(&query.a)];
    let (rows, blocks) = (r.put(gpu, &rows), r.put(gpu, &blocks));
    let (kernel, keys, rows_of_a_group) = match on_units {
        true => (Variant::of("index_matrix").with("ROWS", 8u32), 64u32, 8u32),
        false => {
            let keys = if n <= FEW { 16 } else { 64 };
            (threads("index_scores").with("KEYS", keys).with("SLICES", 256 / keys), keys, 1)
        }
    };
    let step = (SCORES / 4 / most).clamp(1, n);
    let scores = Array::empty(gpu, step, most);
    for first in (0..n).step_by(step) {
        let count = step.min(n - first) as u32;
        r.launch(
            gpu,
            kernel.clone().rows(layout),
            &[
                u.read(),
                a.read(),
                Binding::Read(kv.clone()),
                Binding::Read(rows.clone()),
                Binding::Read(blocks.clone()),
                scores.write(),
            ],
            &[first as u32, count, heads as u32, stride(layout) as u32, most as u32],
            [(most as u32).div_ceil(keys), count.div_ceil(rows_of_a_group), 1],
        );
        // Attention's queries need not be there before attention begins.
        r.launch_beside(gpu);
        r.launch(
            gpu,
            teams(gpu, "top_k", 256),
            &[scores.read(), Binding::Read(rows.clone()), picks.write()],
            &[first as u32, most as u32, top_k as u32],
            [count, 1, 1],
        );
    }
    Picks { rows: picks, counts }
}

/// Rounds queries as keys in FP4 were: in place; or, for matrix units, to halves, and gives weights that go with them.
fn round(
    gpu: &Inner,
    r: &mut Recorder,
    query: &IndexQuery<Array>,
    layout: RowLayout,
    halves: bool,
) -> (Option<Array>, Option<Array>) {
    let IndexQuery { u, a } = query;
    let made = [u.width / 2, a.width].map(|width| halves.then(|| Array::empty(gpu, u.n, width)));
    let mut variant = threads("round_query").rows(layout).with("READ_ONLY", 1u32).when("HALVES", halves);
    let (mut bindings, mut params) = (vec![], vec![]);
    match &made {
        [Some(to_u), Some(to_a)] => bindings.extend([u.read(), a.read(), to_u.write(), to_a.write()]),
        _ => bindings.push(u.write()),
    }
    if let Some(treatment) = &u.treatment {
        variant = variant.with("TURNED", treatment.rope).with("ANGLES", bindings.len());
        bindings.push(Binding::Read(r.put(gpu, &treatment.angles)));
        params.push(a.width as u32);
    }
    r.launch(gpu, variant, &bindings, &params, spread((u.n * a.width) as u32));
    made.into()
}
