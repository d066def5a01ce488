//! The scalar reference: every operation as plain loops in f32, over weights decoded row by row.
//!
//! This is the meaning of the operations, and the oracle of every faster backend. The formulas stand
//! at [`Ops`]; here they are only carried out, in that order and without tricks. Each output is
//! computed from its own row alone, in one fixed order, so a row's bits never depend on its batch.

use crate::array::{Array, Picks, Routes};
use crate::rows::{Rows, decode_blocks};
use crate::select::largest;
use model::kv::RowLayout;
use model::ops::{DeviceError, IndexQuery, IndexView, KvView, Ops, Projected, Queries, RowStore};
use model::rope::Angles;
use model::weights::{
    Attention, Compressor, Expert, Experts, Head, HyperConnection, Indexer, Matrix, MtpEntry, Norm, Router,
};
use std::ops::Range;

/// The scalar backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// What entering a sub-layer leaves for its exit.
#[derive(Clone, Debug, Default)]
pub struct Mix {
    /// `[n, hc]`
    pub post: Vec<f32>,
    /// `[n, hc, hc]`, source first.
    pub comb: Vec<f32>,
}

/// `Σ a·b`, in 16 interleaved partial sums that meet in a tree.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (mut sums, (a, rest_a), (b, rest_b)) = ([0.0f32; 16], a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in rest_a.iter().zip(rest_b).enumerate() {
        sums[lane] += a * b;
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    sums[0]
}

/// `1 / sqrt(mean(x^2) + eps)`
pub fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// The logistic function.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Sinkhorn's normalization of an `hc × hc` matrix; see [`Ops::hc_enter`].
pub fn sinkhorn(m: &mut [f32], hc: usize, iterations: usize, eps: f32) {
    for row in m.chunks_exact_mut(hc) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = (*x - max).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x = *x / sum + eps);
    }
    divide_columns(m, hc, eps);
    for _ in 1..iterations {
        for row in m.chunks_exact_mut(hc) {
            let sum = row.iter().sum::<f32>() + eps;
            row.iter_mut().for_each(|x| *x /= sum);
        }
        divide_columns(m, hc, eps);
    }
}

fn divide_columns(m: &mut [f32], hc: usize, eps: f32) {
    for k in 0..hc {
        let sum = (0..hc).map(|j| m[j * hc + k]).sum::<f32>() + eps;
        (0..hc).for_each(|j| m[j * hc + k] /= sum);
    }
}

/// What [`Ops::hc_enter`] makes of the `hc·(2 + hc)` products `z` of one row: `pre` is returned, `post`
/// and `comb` are appended to `mix`.
pub fn mix_row(
    z: &[f32],
    base: &[f32],
    scale: &[f32],
    hc: &HyperConnection<impl Ops>,
    mix: &mut Mix,
) -> Vec<f32> {
    let n = hc.hc;
    let term = |i: usize, part: usize| z[i] * scale[part] + base[i];
    mix.post.extend((n..2 * n).map(|i| 2.0 * sigmoid(term(i, 1))));
    let at = mix.comb.len();
    mix.comb.extend((2 * n..2 * n + n * n).map(|i| term(i, 2)));
    sinkhorn(&mut mix.comb[at..], n, hc.iterations, hc.eps);
    (0..n).map(|i| sigmoid(term(i, 0)) + hc.eps).collect()
}

/// `s = sqrt(softplus(x))`, the router's score.
fn router_score(x: f32) -> f32 {
    let softplus = if x > 20.0 { x } else { x.exp().ln_1p() };
    softplus.sqrt()
}

/// Chooses the experts of every row, given what the router's gate makes of it; see [`Ops::route`].
///
/// - `gate`: `[n, e]`
pub fn choose(gate: &Array, tokens: &[u32], router: &Router<impl Ops<Array = Array>>) -> Routes {
    let mut routes = Routes { chosen: vec![(0, 0.0); tokens.len() * router.used], used: router.used };
    let rows = routes.chosen.chunks_exact_mut(router.used);
    for ((gate, &token), chosen) in gate.rows().zip(tokens).zip(rows) {
        choose_row(gate, token, router, chosen);
    }
    routes
}

/// Chooses the experts of a row.
///
/// - `gate`: `[e]`; `chosen`: as many as are used
pub fn choose_row(
    gate: &[f32],
    token: u32,
    router: &Router<impl Ops<Array = Array>>,
    chosen: &mut [(u32, f32)],
) {
    let used = router.used;
    let scores: Vec<f32> = gate.iter().map(|&x| router_score(x)).collect();
    let mut experts = match (&router.table, &router.bias) {
        (Some(table), _) => table[token as usize * used..][..used].to_vec(),
        (None, Some(bias)) => {
            largest(&scores.iter().zip(&bias.data).map(|(s, b)| s + b).collect::<Vec<_>>(), used)
        }
        (None, None) => largest(&scores, used),
    };
    experts.sort_unstable();
    let sum: f32 = experts.iter().map(|&i| scores[i as usize]).sum();
    let share = |i: u32| router.scale * scores[i as usize] / sum.max(f32::MIN_POSITIVE);
    chosen.iter_mut().zip(experts).for_each(|(to, i)| *to = (i, share(i)));
}

/// The gated activation `silu(min(gate, clamp)) · clamp(up, -clamp, clamp)`.
pub fn swiglu(gate: f32, up: f32, clamp: f32) -> f32 {
    let gate = gate.min(clamp);
    gate * sigmoid(gate) * up.clamp(-clamp, clamp)
}

/// `y = W x` for some rows of W and every row of x.
fn multiply(w: &Matrix, rows: Range<usize>, x: &Array) -> Array {
    assert_eq!(w.cols, x.width, "{}: input", w.name);
    let row_bytes = w.format.row_bytes(w.cols).expect("checked when loaded");
    let mut y = Array::zeros(x.n(), rows.len());
    let mut weights = vec![0.0; w.cols];
    for (o, row) in rows.enumerate() {
        w.format.decode_row(&w.bytes[row * row_bytes..(row + 1) * row_bytes], &mut weights);
        for (i, x) in x.rows().enumerate() {
            y.row_mut(i)[o] = dot(&weights, x);
        }
    }
    y
}

fn linear(w: &Matrix, x: &Array) -> Array {
    multiply(w, 0..w.rows, x)
}

fn rms_norm(x: &mut Array, norm: &Norm<Reference>) {
    for row in x.data.chunks_exact_mut(x.width) {
        let scale = inverse_rms(row, norm.eps);
        row.iter_mut().zip(&norm.weight.data).for_each(|(x, w)| *x = *x * scale * w);
    }
}

/// The weighted sum of a row's streams.
fn collapse(streams: &[f32], pre: &[f32], x: &mut [f32]) {
    x.fill(0.0);
    for (stream, p) in streams.chunks_exact(x.len()).zip(pre) {
        x.iter_mut().zip(stream).for_each(|(x, s)| *x += p * s);
    }
}

/// Each row divided by its RMS.
fn unit_rows(x: &Array, eps: f32) -> Array {
    let mut y = x.clone();
    for row in y.data.chunks_exact_mut(x.width) {
        let scale = inverse_rms(row, eps);
        row.iter_mut().for_each(|x| *x *= scale);
    }
    y
}

/// k and g of each row, side by side.
fn compressor_inputs(c: &Compressor<Reference>, x: &Array, positions: &[u32]) -> Array {
    let (k, g) = (linear(&c.kv, x), linear(&c.gate, x));
    let inner = c.inner_width();
    let mut both = Array::zeros(x.n(), 2 * inner);
    for (i, &position) in positions.iter().enumerate() {
        let ape = c.ape.row(position as usize % c.ratio);
        let (to_k, to_g) = both.row_mut(i).split_at_mut(inner);
        to_k.copy_from_slice(k.row(i));
        to_g.iter_mut().zip(g.row(i)).zip(ape).for_each(|((to, g), a)| *to = g + a);
    }
    both
}

/// The indexer's query: u and a.
fn index_query(indexer: &Indexer<Reference>, x: &Array, r: &Array, angles: &Angles) -> IndexQuery<Array> {
    let mut u = linear(&indexer.q_b, r);
    rotate_heads(&mut u, indexer.width, angles);
    let mut a = linear(&indexer.proj, x);
    let scale = 1.0 / ((indexer.width * indexer.heads) as f32).sqrt();
    a.data.iter_mut().for_each(|a| *a *= scale);
    IndexQuery { u, a }
}

fn rotate_heads(x: &mut Array, head: usize, angles: &Angles) {
    for i in 0..x.n() {
        x.row_mut(i).chunks_exact_mut(head).for_each(|head| angles.rotate(i, head));
    }
}

/// The pooled sum of one window, before its norm; see [`Ops::compress`].
///
/// - `inputs(p)`: k and g of the token at position p
pub fn pool<'a>(c: &Compressor<impl Ops>, window: usize, inputs: impl Fn(usize) -> &'a [f32]) -> Vec<f32> {
    let (width, inner, start) = (c.width, c.inner_width(), window * c.ratio);
    // (position, offset of the half that speaks for this window)
    let mut slots: Vec<(usize, usize)> = Vec::with_capacity(2 * c.ratio);
    if c.overlap && window > 0 {
        slots.extend((start - c.ratio..start).map(|p| (p, 0)));
    }
    slots.extend((start..start + c.ratio).map(|p| (p, inner - width)));
    let slots: Vec<(&[f32], &[f32])> = slots
        .iter()
        .map(|&(p, half)| (&inputs(p)[half..][..width], &inputs(p)[inner + half..][..width]))
        .collect();
    (0..width)
        .map(|channel| {
            let max = slots.iter().map(|(_, g)| g[channel]).fold(f32::NEG_INFINITY, f32::max);
            let (mut sum, mut weights) = (0.0, 0.0);
            for (k, g) in &slots {
                let weight = (g[channel] - max).exp();
                sum += weight * k[channel];
                weights += weight;
            }
            sum / weights
        })
        .collect()
}

/// Attention of one head of one row over rows `[.., D]`, written to `out`.
fn attend_head(q: &[f32], sink: f32, rows: &[&[f32]], out: &mut [f32]) {
    let scale = 1.0 / (q.len() as f32).sqrt();
    let scores: Vec<f32> = rows.iter().map(|row| dot(q, row) * scale).collect();
    let max = scores.iter().copied().fold(sink, f32::max);
    let mut sum = (sink - max).exp();
    out.fill(0.0);
    for (row, score) in rows.iter().zip(scores) {
        let weight = (score - max).exp();
        sum += weight;
        out.iter_mut().zip(*row).for_each(|(o, v)| *o += weight * v);
    }
    out.iter_mut().for_each(|o| *o /= sum);
}

/// Attention of one timeline's rows, before the output projection.
fn attend(
    view: &KvView<'_, Reference>,
    q: &Array,
    picks: Option<&Picks>,
    attention: &Attention<Reference>,
    angles: &Angles,
    out: &mut Array,
) {
    let width = attention.head_dim;
    let window: Vec<f32> = decode_blocks(
        &model::ops::Blocks { blocks: vec![view.window], block_len: usize::MAX },
        view.window.len(),
    );
    let compressed =
        view.compressed.as_ref().map_or(Vec::new(), |(blocks, _)| decode_blocks(blocks, blocks.len()));
    for i in view.rows.clone() {
        let position = view.start + i - view.rows.start;
        let first = view.first_visible(position);
        let mut rows: Vec<&[f32]> =
            (first..=position).map(|p| &window[(p - view.window_base) * width..][..width]).collect();
        if let Some((_, ratio)) = view.compressed {
            let row = |w: usize| &compressed[w * width..][..width];
            match picks {
                Some(picks) => rows.extend(picks.row(i).iter().map(|&w| row(w as usize))),
                None => rows.extend((0..(position + 1) / ratio).map(row)),
            }
        }
        for (head, out) in out.row_mut(i).chunks_exact_mut(width).enumerate() {
            attend_head(&q.row(i)[head * width..][..width], attention.sinks.data[head], &rows, out);
            angles.rotate_back(i, out);
        }
    }
}

/// One gated feed-forward block on every row of x: rows `which` of the stacked experts.
fn feed_forward(expert: &Expert<Reference>, which: usize, x: &Array) -> Array {
    let (ff, d) = (expert.ff, x.width);
    let gate = multiply(&expert.gate, which * ff..(which + 1) * ff, x);
    let up = multiply(&expert.up, which * ff..(which + 1) * ff, x);
    let inner = gate.data.iter().zip(&up.data).map(|(&g, &u)| swiglu(g, u, expert.clamp)).collect();
    multiply(&expert.down, which * d..(which + 1) * d, &Array::new(inner, ff))
}

impl Ops for Reference {
    type Array = Array;
    type Matrix = Matrix;
    type Rows = Rows;
    type Mix = Mix;
    type Query = IndexQuery<Array>;
    type Picks = Picks;
    type Routes = Routes;

    fn matrix(&self, matrix: Matrix) -> Result<Matrix, DeviceError> {
        Ok(matrix)
    }

    fn array(&self, data: Vec<f32>, width: usize) -> Result<Array, DeviceError> {
        Ok(Array::new(data, width))
    }

    fn rows(&self, layout: RowLayout, _: usize) -> Rows {
        Rows::new(layout)
    }

    fn read(&self, array: &Array) -> Result<Vec<f32>, DeviceError> {
        Ok(array.data.clone())
    }

    fn read_picks(&self, picks: &Picks) -> Result<Vec<Vec<u32>>, DeviceError> {
        Ok(picks.rows().map(<[_]>::to_vec).collect())
    }

    fn read_routes(&self, routes: &Routes) -> Result<Vec<Vec<(u32, f32)>>, DeviceError> {
        Ok(routes.chosen.chunks(routes.used).map(<[_]>::to_vec).collect())
    }

    fn embed(&self, embedding: &Matrix, tokens: &[u32], hc: usize) -> Array {
        let (d, row_bytes) =
            (embedding.cols, embedding.format.row_bytes(embedding.cols).expect("checked when loaded"));
        let mut streams = Array::zeros(tokens.len(), hc * d);
        for (i, &token) in tokens.iter().enumerate() {
            let bytes = &embedding.bytes[token as usize * row_bytes..][..row_bytes];
            streams
                .row_mut(i)
                .chunks_exact_mut(d)
                .for_each(|stream| embedding.format.decode_row(bytes, stream));
        }
        streams
    }

    fn hc_enter(&self, streams: &Array, hc: &HyperConnection<Self>, norm: &Norm<Self>) -> (Array, Mix) {
        let z = linear(&hc.weights, &unit_rows(streams, hc.rms_eps));
        let mut mix = Mix::default();
        let mut x = Array::zeros(streams.n(), streams.width / hc.hc);
        for i in 0..streams.n() {
            let pre = mix_row(z.row(i), &hc.base.data, &hc.scale.data, hc, &mut mix);
            collapse(streams.row(i), &pre, x.row_mut(i));
        }
        rms_norm(&mut x, norm);
        (x, mix)
    }

    fn hc_leave(&self, streams: &mut Array, y: &Array, mix: &Mix) {
        let (d, hc) = (y.width, streams.width / y.width);
        for i in 0..y.n() {
            let old = streams.row(i).to_vec();
            let (post, comb) = (&mix.post[i * hc..][..hc], &mix.comb[i * hc * hc..][..hc * hc]);
            for (k, stream) in streams.row_mut(i).chunks_exact_mut(d).enumerate() {
                for (c, new) in stream.iter_mut().enumerate() {
                    *new = post[k] * y.row(i)[c]
                        + (0..hc).map(|j| comb[j * hc + k] * old[j * d + c]).sum::<f32>();
                }
            }
        }
    }

    fn take_rows(&self, streams: &Array, rows: &[usize]) -> Array {
        streams.take_rows(rows)
    }

    fn project(
        &self,
        x: &Array,
        attention: &Attention<Self>,
        positions: &[u32],
        angles: &Angles,
        queries: Queries,
    ) -> Projected<Array> {
        let mut r = linear(&attention.q_a, x);
        rms_norm(&mut r, &attention.q_a_norm);
        let q = (queries != Queries::None).then(|| {
            let mut q = linear(&attention.q_b, &r);
            for head in q.data.chunks_exact_mut(attention.head_dim) {
                let scale = inverse_rms(head, attention.q_a_norm.eps);
                head.iter_mut().for_each(|x| *x *= scale);
            }
            rotate_heads(&mut q, attention.head_dim, angles);
            q
        });
        let mut kv = linear(&attention.kv, x);
        rms_norm(&mut kv, &attention.kv_norm);
        rotate_heads(&mut kv, attention.head_dim, angles);
        let inputs = |c: &Compressor<Self>| compressor_inputs(c, x, positions);
        let indexer = attention.indexer.as_ref();
        Projected {
            q,
            kv,
            compressor: attention.compressor.as_ref().map(inputs),
            index_compressor: indexer.map(|i| inputs(&i.compressor)),
            indexer: indexer.filter(|_| queries == Queries::All).map(|i| index_query(i, x, &r, angles)),
        }
    }

    fn append(&self, values: &Array, rows: Range<usize>, store: &mut Rows) {
        rows.for_each(|i| store.push(values.row(i)));
    }

    fn compress(
        &self,
        compressor: &Compressor<Self>,
        frontier: &Rows,
        base: usize,
        windows: Range<usize>,
        angles: &Angles,
        into: &mut Rows,
    ) {
        let first = (windows.start * compressor.ratio).saturating_sub(if compressor.overlap {
            compressor.ratio
        } else {
            0
        });
        let width = frontier.layout().width();
        let mut inputs = vec![0.0; (windows.end * compressor.ratio - first) * width];
        for (i, out) in inputs.chunks_exact_mut(width).enumerate() {
            frontier.decode(first - base + i, out);
        }
        for (i, window) in windows.enumerate() {
            let mut row = pool(compressor, window, |p| &inputs[(p - first) * width..][..width]);
            let scale = inverse_rms(&row, compressor.norm.eps);
            row.iter_mut().zip(&compressor.norm.weight.data).for_each(|(x, w)| *x = *x * scale * w);
            angles.rotate(i, &mut row);
            into.push(&row);
        }
    }

    fn pick(&self, indexer: &IndexQuery<Array>, keys: &[IndexView<'_, Self>], top_k: usize) -> Picks {
        let heads = indexer.a.width;
        let mut picks = Picks::default();
        for view in keys {
            let layout = view.keys.blocks[0].layout();
            let width = layout.width();
            let rows = decode_blocks(&view.keys, view.keys.len());
            for i in view.rows.clone() {
                let visible = (view.start + i - view.rows.start + 1) / view.ratio;
                let mut u = indexer.u.row(i).to_vec();
                if layout.is_rotated() {
                    u.chunks_exact_mut(width).for_each(|u| layout.round(u));
                }
                let score = |key: &[f32]| {
                    (0..heads)
                        .map(|h| indexer.a.row(i)[h] * dot(&u[h * width..][..width], key).max(0.0))
                        .sum::<f32>()
                };
                let scores: Vec<f32> = rows[..visible * width].chunks_exact(width).map(score).collect();
                picks.push(&largest(&scores, top_k));
            }
        }
        picks
    }

    fn attend_out(
        &self,
        q: &Array,
        caches: &[KvView<'_, Self>],
        picks: Option<&Picks>,
        attention: &Attention<Self>,
        angles: &Angles,
    ) -> Array {
        let mut out = Array::zeros(q.n(), q.width);
        for view in caches {
            attend(view, q, picks, attention, angles, &mut out);
        }
        let group_in = q.width / attention.groups;
        let group_out = attention.out_a.rows / attention.groups;
        let mut low = Array::zeros(q.n(), attention.out_a.rows);
        for group in 0..attention.groups {
            let input =
                out.rows().flat_map(|row| row[group * group_in..][..group_in].iter().copied()).collect();
            let part = multiply(
                &attention.out_a,
                group * group_out..(group + 1) * group_out,
                &Array::new(input, group_in),
            );
            for i in 0..q.n() {
                low.row_mut(i)[group * group_out..][..group_out].copy_from_slice(part.row(i));
            }
        }
        linear(&attention.out_b, &low)
    }

    fn route(&self, x: &Array, tokens: &[u32], router: &Router<Self>) -> Routes {
        choose(&linear(&router.gate, x), tokens, router)
    }

    fn moe(&self, x: &Array, routes: &Routes, experts: &Experts<Self>, shared: &Expert<Self>) -> Array {
        let mut y = Array::zeros(x.n(), x.width);
        for expert in 0..experts.count {
            let users: Vec<(usize, f32)> = (0..x.n())
                .flat_map(|i| {
                    routes
                        .row(i)
                        .iter()
                        .filter(|&&(e, _)| e as usize == expert)
                        .map(move |&(_, share)| (i, share))
                })
                .collect();
            if users.is_empty() {
                continue;
            }
            let input = users.iter().flat_map(|&(i, _)| x.row(i).iter().copied()).collect();
            let out = feed_forward(&experts.stack, expert, &Array::new(input, x.width));
            for (&(i, share), out) in users.iter().zip(out.rows()) {
                y.row_mut(i).iter_mut().zip(out).for_each(|(y, o)| *y += share * o);
            }
        }
        let shared = feed_forward(shared, 0, x);
        y.data.iter_mut().zip(&shared.data).for_each(|(y, s)| *y += s);
        y
    }

    fn head(&self, streams: &Array, wanted: &[usize], head: &Head<Self>) -> Array {
        let data = wanted.iter().flat_map(|&i| streams.row(i).iter().copied()).collect();
        let streams = Array::new(data, streams.width);
        let z = linear(&head.weights, &unit_rows(&streams, head.rms_eps));
        let mut x = Array::zeros(wanted.len(), streams.width / head.hc);
        for i in 0..wanted.len() {
            let pre: Vec<f32> = z
                .row(i)
                .iter()
                .zip(&head.base.data)
                .map(|(z, b)| sigmoid(z * head.scale.data[0] + b) + head.eps)
                .collect();
            collapse(streams.row(i), &pre, x.row_mut(i));
        }
        rms_norm(&mut x, &head.norm);
        linear(&head.output, &x)
    }

    fn mtp_enter(
        &self,
        streams: &Array,
        tokens: &[u32],
        embedding: &Matrix,
        entry: &MtpEntry<Self>,
    ) -> Array {
        let mut e = self.embed(embedding, tokens, 1);
        rms_norm(&mut e, &entry.enorm);
        let d = e.width;
        let mut h = Array::new(streams.data.clone(), d);
        rms_norm(&mut h, &entry.hnorm);
        let data =
            h.rows().enumerate().flat_map(|(j, h)| e.row(j / entry.hc).iter().chain(h).copied()).collect();
        let mut x = linear(&entry.eh_proj, &Array::new(data, 2 * d));
        Array::new(std::mem::take(&mut x.data), streams.width)
    }
}
