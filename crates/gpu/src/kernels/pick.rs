//! Launches the lightning indexer: `round_query.wgsl`, `index_scores.wgsl`, `top_k.wgsl`.

use crate::array::{Array, Picks};
use crate::gpu::Inner;
use crate::kernels::linear::FEW;
use crate::kernels::norm::{spread, treated};
use crate::kernels::{teams, threads};
use crate::ops::Weights;
use crate::recorder::{Binding, Recorder};
use crate::rows::stride;
use model::ops::{IndexQuery, IndexView, RowStore};

/// Bytes of scores that are held at a time.
const SCORES: usize = 64 << 20;

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
        for i in view.rows.clone() {
            let visible = (view.start + i - view.rows.start + 1) / view.ratio;
            rows.extend([0, visible as u32, table, view.keys.block_len as u32]);
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
    let mut u = None;
    if layout.is_rotated() {
        let mut variant = threads("round_query").rows(layout).with("READ_ONLY", 1u32);
        let (mut bindings, mut params) = (vec![query.u.write()], Vec::new());
        if let Some(treatment) = &query.u.treatment {
            variant = variant.with("TURNED", treatment.rope);
            bindings.push(Binding::Read(r.put(gpu, &treatment.angles)));
            params.push(heads as u32);
        }
        r.launch(gpu, variant, &bindings, &params, spread((n * heads) as u32));
    } else {
        u = treated(gpu, r, &query.u);
    }
    let u = u.as_ref().unwrap_or(&query.u);
    let (rows, blocks) = (r.put(gpu, &rows), r.put(gpu, &blocks));
    let keys: u32 = if n <= FEW { 16 } else { 64 };
    let step = (SCORES / 4 / most).clamp(1, n);
    let scores = Array::empty(gpu, step, most);
    for first in (0..n).step_by(step) {
        let count = step.min(n - first) as u32;
        r.launch(
            gpu,
            threads("index_scores").rows(layout).with("KEYS", keys).with("SLICES", 256 / keys),
            &[
                u.read(),
                query.a.read(),
                Binding::Read(kv.clone()),
                Binding::Read(rows.clone()),
                Binding::Read(blocks.clone()),
                scores.write(),
            ],
            &[first as u32, heads as u32, stride(layout) as u32, most as u32],
            [(most as u32).div_ceil(keys), count, 1],
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
