//! Launches `streams.wgsl`, `enter.wgsl` and `mixture.wgsl`: hyper-connections.

use crate::array::{Array, Mix};
use crate::gpu::{Counted, Inner};
use crate::kernels::linear::FEW;
use crate::kernels::{THREADS, large_threads, teams, threads};
use crate::matrix::Matrix;
use crate::ops::Weights;
use crate::recorder::{Binding, Recorder};
use crate::shader::Variant;
use model::weights::{Head, HyperConnection, Norm};

/// Columns of a workgroup: fewer where there are few rows, so that all cores have work.
fn chunk(rows: usize) -> usize {
    if rows <= FEW { 64 } else { 128 }
}

/// Rows of a workgroup: where there are many, some share one reading of the weights.
fn group_rows(rows: usize) -> usize {
    if rows <= FEW { 1 } else { 4 }
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
    fn variant(&self, gpu: &Inner, kernel: &'static str, threads: u32, d: usize, chunks: usize) -> Variant {
        teams(gpu, kernel, threads)
            .with("HC", self.hc)
            .with("CHUNKS", chunks)
            .with("OUT", self.weights.rows)
            .with("SPREAD", d.div_ceil(4 * threads as usize))
            .when("HEAD", self.head)
    }

    fn params(&self) -> [u32; 3] {
        [self.eps, self.rms_eps, self.norm.eps].map(f32::to_bits)
    }
}

/// A mixture that is to be made yet: it goes along with the next product of few rows, or else in a launch of its own,
/// ahead of whatever is asked for next. See `mixes.wgsl`.
pub(crate) struct Mixture {
    /// `[n, hc·(hc + 2) + 1]`. Both arrays are held, so that no product that this goes along with gets their buffers.
    entered: Array,
    mix: Array,
    base: Binding,
    scale: Binding,
    hc: usize,
    iterations: usize,
    eps: f32,
}

impl Mixture {
    pub(crate) const BINDINGS: usize = 4;

    /// Constants, bindings and parameters of a launch with those that `mixes.wgsl` needs.
    pub(crate) fn join(
        &self,
        variant: Variant,
        bindings: &mut Vec<Binding>,
        params: &mut Vec<u32>,
    ) -> Variant {
        let variant = variant.with("MIX", bindings.len()).with("HC", self.hc);
        bindings.extend([self.entered.read(), self.base.clone(), self.scale.clone(), self.mix.write()]);
        params.extend([self.entered.n as u32, self.iterations as u32, self.eps.to_bits()]);
        variant
    }

    pub(crate) fn launch(&self, gpu: &Inner, r: &mut Recorder) {
        let (mut bindings, mut params) = (Vec::new(), Vec::new());
        let variant = self.join(threads("mixture"), &mut bindings, &mut params);
        r.launch(gpu, variant, &bindings, &params, [1, 1, 1]);
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
    let finishes = gpu.abilities.merges && streams.n <= FEW;
    let threads = if finishes { large_threads(gpu) } else { THREADS };
    let rows = group_rows(streams.n);
    let of_pass = |variant: Variant| {
        let loads = (rows * hc * chunk / 4).div_ceil(threads as usize);
        let variant = variant.with("CHUNK", chunk).with("ROWS", rows).with("LOADS", loads);
        variant.when("LEAVE", leave.is_some()).when("DOTS", enter.is_some())
    };
    // Bindings that a variant does not use still need something.
    let (spare, unused) = (Array::empty(gpu, 1, 4), Array::empty(gpu, 1, 4));
    let (y, mix) = leave.map_or_else(|| (spare.read(), spare.read()), |(y, mix)| (y.read(), mix.0.read()));
    let groups = [chunks as u32, streams.n.div_ceil(rows) as u32, 1];
    let shape = [d as u32, streams.n as u32];
    let Some(entry) = enter else {
        let bindings = [streams.write(), y, mix, spare.read(), spare.read(), unused.write()];
        let variant = of_pass(teams(gpu, "streams", THREADS)).with("HC", hc).with("OUT", 1u32);
        r.launch(gpu, variant, &bindings, &shape, groups);
        return None;
    };
    let w = entry.weights;
    assert_eq!(w.parts.len(), 1, "{}: a few rows", w.name);
    let [bits, scales] = w.parts[0].bind();
    let dots = Array::empty(gpu, streams.n, chunks * (w.rows + 1));
    let x = Array::empty(gpu, streams.n, d);
    let mix_out = Array::empty(gpu, streams.n, hc + hc * hc);
    let params = entry.params();
    let variant = of_pass(entry.variant(gpu, "streams", threads, d, chunks)).format("w", w.format);
    let mut bindings = vec![streams.write(), y, mix, bits, scales, dots.write()];
    if finishes {
        let entered = Array::empty(gpu, streams.n, w.rows + 1);
        bindings.extend([
            Binding::Write(gpu.counters(Counted::Streams)),
            entry.base.read(),
            entry.scale.read(),
            entry.norm.weight.read(),
            x.write(),
            entered.write(),
        ]);
        let params: Vec<u32> = shape.into_iter().chain(params).collect();
        r.launch(gpu, variant.with("FINISH", 1u32), &bindings, &params, groups);
        if !entry.head {
            let mix = Array { buffer: mix_out.buffer.clone(), treatment: None, ..mix_out };
            let (base, scale) = (entry.base.read(), entry.scale.read());
            let (iterations, eps) = (entry.iterations, entry.eps);
            r.hold_mixture(gpu, Mixture { entered, mix, base, scale, hc, iterations, eps });
        }
    } else {
        r.launch(gpu, variant, &bindings, &shape, groups);
        let params: Vec<u32> = [d as u32, entry.iterations as u32].into_iter().chain(params).collect();
        r.launch(
            gpu,
            entry.variant(gpu, "enter", THREADS, d, chunks),
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
