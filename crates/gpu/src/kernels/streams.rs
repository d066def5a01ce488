//! Launches `streams.wgsl` and `enter.wgsl`: hyper-connections.

use crate::array::{Array, Mix};
use crate::gpu::Inner;
use crate::kernels::linear::FEW;
use crate::kernels::teams;
use crate::matrix::Matrix;
use crate::ops::Weights;
use crate::recorder::{Binding, Recorder};
use crate::shader::Variant;
use model::weights::{Head, HyperConnection, Norm};

/// Columns of a workgroup: fewer where there are few rows, so that all cores have work.
fn chunk(rows: usize) -> usize {
    if rows <= FEW { 64 } else { 128 }
}

/// What enters next: a sub-layer, or the head.
struct Entry<'a> {
    hc: usize,
    weights: &'a Matrix,
    base: &'a Array,
    scale: &'a Array,
    norm: &'a Norm<Weights>,
    iterations: usize,
    eps: f32,
    rms_eps: f32,
    head: bool,
}

impl<'a> Entry<'a> {
    fn layer(hc: &'a HyperConnection<Weights>, norm: &'a Norm<Weights>) -> Entry<'a> {
        Entry {
            hc: hc.hc,
            weights: &hc.weights,
            base: &hc.base,
            scale: &hc.scale,
            norm,
            iterations: hc.iterations,
            eps: hc.eps,
            rms_eps: hc.rms_eps,
            head: false,
        }
    }

    /// Constants, bindings and parameters of what `entry.wgsl` does.
    fn variant(&self, variant: Variant, d: usize, chunks: usize) -> Variant {
        variant
            .with("HC", self.hc)
            .with("CHUNKS", chunks)
            .with("OUT", self.weights.rows)
            .with("SPREAD", d.div_ceil(4 * 256))
            .when("HEAD", self.head)
    }

    fn params(&self, d: usize) -> [u32; 5] {
        [
            d as u32,
            self.iterations as u32,
            self.eps.to_bits(),
            self.rms_eps.to_bits(),
            self.norm.eps.to_bits(),
        ]
    }
}

/// One pass over the streams: leaving, entering, or both. Returns what entering makes.
fn pass(
    gpu: &Inner,
    r: &mut Recorder,
    streams: &Array,
    hc: usize,
    leave: Option<(&Array, &Mix)>,
    enter: Option<&Entry<'_>>,
) -> Option<(Array, Mix)> {
    let d = streams.width / hc;
    let chunk = chunk(streams.n);
    let chunks = d.div_ceil(chunk);
    let mut variant = teams(gpu, "streams", 256)
        .with("CHUNK", chunk)
        .when("LEAVE", leave.is_some())
        .when("DOTS", enter.is_some());
    // Bindings that a variant does not use still need something.
    let (spare, unused) = (Array::empty(gpu, 1, 4), Array::empty(gpu, 1, 4));
    let (y, mix) = leave.map_or_else(|| (spare.read(), spare.read()), |(y, mix)| (y.read(), mix.0.read()));
    let groups = [chunks as u32, streams.n as u32, 1];
    let Some(entry) = enter else {
        let bindings = [streams.write(), y, mix, spare.read(), spare.read(), unused.write()];
        r.launch(gpu, variant.with("HC", hc).with("OUT", 1u32), &bindings, &[d as u32], groups);
        return None;
    };
    let w = entry.weights;
    assert_eq!(w.parts.len(), 1, "{}: a few rows", w.name);
    let [bits, scales] = w.parts[0].bind();
    let dots = Array::empty(gpu, streams.n, chunks * (w.rows + 1));
    let x = Array::empty(gpu, streams.n, d);
    let mix_out = Array::empty(gpu, streams.n, hc + hc * hc);
    let params = entry.params(d);
    variant = entry.variant(variant.format("w", w.format), d, chunks);
    let mut bindings = vec![streams.write(), y, mix, bits, scales, dots.write()];
    if gpu.abilities.merges && streams.n <= FEW {
        bindings.extend([
            Binding::Write(gpu.counters(0)),
            entry.base.read(),
            entry.scale.read(),
            entry.norm.weight.read(),
            x.write(),
            mix_out.write(),
        ]);
        r.launch(gpu, variant.with("FINISH", 1u32), &bindings, &params, groups);
    } else {
        r.launch(gpu, variant, &bindings, &params[..1], groups);
        r.launch(
            gpu,
            entry.variant(teams(gpu, "enter", 256), d, chunks),
            &[
                dots.read(),
                entry.base.read(),
                entry.scale.read(),
                streams.read(),
                entry.norm.weight.read(),
                x.write(),
                mix_out.write(),
            ],
            &params,
            [streams.n as u32, if entry.head { 1 } else { 2 }, 1],
        );
    }
    Some((x, Mix(mix_out)))
}

/// Enters a sub-layer.
pub(crate) fn enter(
    gpu: &Inner,
    r: &mut Recorder,
    streams: &Array,
    hc: &HyperConnection<Weights>,
    norm: &Norm<Weights>,
) -> (Array, Mix) {
    pass(gpu, r, streams, hc.hc, None, Some(&Entry::layer(hc, norm))).expect("asked for")
}

/// Leaves a sub-layer.
pub(crate) fn leave(gpu: &Inner, r: &mut Recorder, streams: &Array, y: &Array, mix: &Mix) {
    pass(gpu, r, streams, streams.width / y.width, Some((y, mix)), None);
}

/// Leaves one sub-layer and enters the next.
pub(crate) fn turn(
    gpu: &Inner,
    r: &mut Recorder,
    streams: &Array,
    y: &Array,
    mix: &Mix,
    next: &HyperConnection<Weights>,
    norm: &Norm<Weights>,
) -> (Array, Mix) {
    pass(gpu, r, streams, next.hc, Some((y, mix)), Some(&Entry::layer(next, norm))).expect("asked for")
}

/// What the head multiplies: the streams' weighted sum, normed.
pub(crate) fn collapse(gpu: &Inner, r: &mut Recorder, streams: &Array, head: &Head<Weights>) -> Array {
    let entry = Entry {
        hc: head.hc,
        weights: &head.weights,
        base: &head.base,
        scale: &head.scale,
        norm: &head.norm,
        iterations: 0,
        eps: head.eps,
        rms_eps: head.rms_eps,
        head: true,
    };
    pass(gpu, r, streams, head.hc, None, Some(&entry)).expect("asked for").0
}
