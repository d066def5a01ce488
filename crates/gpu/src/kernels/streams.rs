//! Launches `streams.wgsl` and `enter.wgsl`: hyper-connections.

use crate::array::{Array, Mix};
use crate::gpu::Inner;
use crate::kernels::linear::FEW;
use crate::kernels::teams;
use crate::matrix::Matrix;
use crate::ops::Weights;
use crate::recorder::Recorder;
use model::weights::{Head, HyperConnection, Norm};

/// Columns of a workgroup: fewer where there are few rows, so that all cores have work.
fn chunk(rows: usize) -> usize {
    if rows <= FEW { 64 } else { 128 }
}

/// One pass over the streams: leaving, dot products for the next entry, or both. Returns the products of
/// each chunk, `[n, chunks, outputs + 1]`.
fn pass(
    gpu: &Inner,
    r: &mut Recorder,
    streams: &Array,
    hc: usize,
    leave: Option<(&Array, &Mix)>,
    next: Option<&Matrix>,
) -> Option<(Array, usize)> {
    let d = streams.width / hc;
    let chunk = chunk(streams.n);
    let chunks = d.div_ceil(chunk);
    let dots = next.map(|w| Array::empty(gpu, streams.n, chunks * (w.rows + 1)));
    let mut variant = teams(gpu, "streams", 256)
        .with("HC", hc)
        .with("CHUNK", chunk)
        .with("OUT", next.map_or(1, |w| w.rows))
        .when("LEAVE", leave.is_some())
        .when("DOTS", next.is_some());
    // Bindings that a variant does not use still need something.
    let (spare, unused) = (Array::empty(gpu, 1, 4), Array::empty(gpu, 1, 4));
    let mut planes = [spare.read(), spare.read()];
    if let Some(w) = next {
        assert_eq!(w.parts.len(), 1, "{}: a few rows", w.name);
        variant = variant.format("w", w.format);
        planes = w.parts[0].bind();
    }
    let (y, mix) = leave.map_or_else(|| (spare.read(), spare.read()), |(y, mix)| (y.read(), mix.0.read()));
    let [bits, scales] = planes;
    r.launch(
        gpu,
        variant,
        &[streams.write(), y, mix, bits, scales, dots.as_ref().unwrap_or(&unused).write()],
        &[d as u32],
        [chunks as u32, streams.n as u32, 1],
    );
    dots.map(|dots| (dots, chunks))
}

fn finish(
    gpu: &Inner,
    r: &mut Recorder,
    streams: &Array,
    dots: (Array, usize),
    hc: &HyperConnection<Weights>,
    norm: &Norm<Weights>,
) -> (Array, Mix) {
    let d = streams.width / hc.hc;
    let x = Array::empty(gpu, streams.n, d);
    let mix = Array::empty(gpu, streams.n, hc.hc + hc.hc * hc.hc);
    r.launch(
        gpu,
        teams(gpu, "enter", 256)
            .with("HC", hc.hc)
            .with("OUT", hc.weights.rows)
            .with("SPREAD", d.div_ceil(4 * 256)),
        &[
            dots.0.read(),
            hc.base.read(),
            hc.scale.read(),
            streams.read(),
            norm.weight.read(),
            x.write(),
            mix.write(),
        ],
        &[
            d as u32,
            dots.1 as u32,
            hc.iterations as u32,
            hc.eps.to_bits(),
            hc.rms_eps.to_bits(),
            norm.eps.to_bits(),
        ],
        [streams.n as u32, 2, 1],
    );
    (x, Mix(mix))
}

/// Enters a sub-layer.
pub(crate) fn enter(
    gpu: &Inner,
    r: &mut Recorder,
    streams: &Array,
    hc: &HyperConnection<Weights>,
    norm: &Norm<Weights>,
) -> (Array, Mix) {
    let dots = pass(gpu, r, streams, hc.hc, None, Some(&hc.weights)).expect("asked for");
    finish(gpu, r, streams, dots, hc, norm)
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
    let dots = pass(gpu, r, streams, next.hc, Some((y, mix)), Some(&next.weights)).expect("asked for");
    finish(gpu, r, streams, dots, next, norm)
}

/// What the head multiplies: the streams' weighted sum, normed.
pub(crate) fn collapse(gpu: &Inner, r: &mut Recorder, streams: &Array, head: &Head<Weights>) -> Array {
    let d = streams.width / head.hc;
    let dots = pass(gpu, r, streams, head.hc, None, Some(&head.weights)).expect("asked for");
    let (x, unused) = (Array::empty(gpu, streams.n, d), Array::empty(gpu, 1, 4));
    r.launch(
        gpu,
        teams(gpu, "enter", 256)
            .with("HC", head.hc)
            .with("OUT", head.weights.rows)
            .with("SPREAD", d.div_ceil(4 * 256))
            .with("HEAD", 1u32),
        &[
            dots.0.read(),
            head.base.read(),
            head.scale.read(),
            streams.read(),
            head.norm.weight.read(),
            x.write(),
            unused.write(),
        ],
        &[d as u32, dots.1 as u32, 0, head.eps.to_bits(), head.rms_eps.to_bits(), head.norm.eps.to_bits()],
        [streams.n as u32, 1, 1],
    );
    x
}
