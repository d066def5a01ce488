//! The residual streams: entering and leaving sub-layers; see [`model::Ops::hc_enter`] for the formulas.

use crate::array::Array;
use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::{inverse_rms, rms_norm};
use crate::pool::Shards;
use crate::reference::{Mix, mix_row, sigmoid};
use model::weights::{Head, HyperConnection, Norm};

/// x and mix of every row.
pub fn enter(cpu: &Cpu, streams: &Array, hc: &HyperConnection<Cpu>, norm: &Norm<Cpu>) -> (Array, Mix) {
    // The norm of the streams commutes with the product, so the product takes them as they are.
    let z = cpu.linear(&hc.weights, streams);
    let (n, count) = (streams.n(), hc.hc);
    let mut x = Array::zeros(n, streams.width / count);
    let mut mix = Mix { post: vec![0.0; n * count], comb: vec![0.0; n * count * count] };
    let (width, parts) = (x.width, Shards::new(&mut x.data));
    let (post, comb) = (Shards::new(&mut mix.post), Shards::new(&mut mix.comb));
    cpu.pool.each(n, |i| {
        let mut row = Mix::default();
        let scale = isa::dispatch(InverseRms { x: streams.row(i), eps: hc.rms_eps });
        let z: Vec<f32> = z.row(i).iter().map(|z| z * scale).collect();
        let pre = mix_row(&z, &hc.base.data, &hc.scale.data, hc, &mut row);
        // SAFETY: one item a row.
        unsafe {
            post.part(i * count, count).copy_from_slice(&row.post);
            comb.part(i * count * count, count * count).copy_from_slice(&row.comb);
            collapse(streams.row(i), &pre, norm, parts.part(i * width, width));
        }
    });
    (x, mix)
}

/// Writes a sub-layer's output back into the streams.
pub fn leave(cpu: &Cpu, streams: &mut Array, y: &Array, mix: &Mix) {
    let (width, hc) = (streams.width, streams.width / y.width);
    let mut data = std::mem::take(&mut streams.data);
    let parts = Shards::new(&mut data);
    cpu.pool.each(y.n(), |i| {
        isa::dispatch(Leave {
            // SAFETY: one item a row.
            streams: unsafe { parts.part(i * width, width) },
            y: y.row(i),
            post: &mix.post[i * hc..][..hc],
            comb: &mix.comb[i * hc * hc..][..hc * hc],
        });
    });
    // A new array, since what was rounded of the old one is no longer true.
    *streams = Array::new(data, width);
}

/// The normed input of the output matrix, for some rows of the streams.
pub fn collapse_head(cpu: &Cpu, streams: &Array, wanted: &[usize], head: &Head<Cpu>) -> Array {
    let data = wanted.iter().flat_map(|&i| streams.row(i)).copied().collect();
    let streams = Array::new(data, streams.width);
    let z = cpu.linear(&head.weights, &streams);
    let mut x = Array::zeros(wanted.len(), streams.width / head.hc);
    let (width, parts) = (x.width, Shards::new(&mut x.data));
    cpu.pool.each(wanted.len(), |i| {
        let scale = isa::dispatch(InverseRms { x: streams.row(i), eps: head.rms_eps });
        let pre = |(z, b): (&f32, &f32)| sigmoid(z * scale * head.scale.data[0] + b) + head.eps;
        let pre: Vec<f32> = z.row(i).iter().zip(&head.base.data).map(pre).collect();
        // SAFETY: one item a row.
        collapse(streams.row(i), &pre, &head.norm, unsafe { parts.part(i * width, width) });
    });
    x
}

/// The weighted sum of a row's streams, normed.
fn collapse(streams: &[f32], pre: &[f32], norm: &Norm<Cpu>, x: &mut [f32]) {
    isa::dispatch(Collapse { streams, pre, norm: &norm.weight.data, eps: norm.eps, x });
}

struct InverseRms<'a> {
    x: &'a [f32],
    eps: f32,
}

impl Kernel for InverseRms<'_> {
    type Output = f32;

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> f32 {
        inverse_rms(self.x, self.eps)
    }
}

struct Collapse<'a> {
    streams: &'a [f32],
    pre: &'a [f32],
    norm: &'a [f32],
    eps: f32,
    x: &'a mut [f32],
}

impl Kernel for Collapse<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let x = self.x;
        x.fill(0.0);
        for (stream, pre) in self.streams.chunks_exact(x.len()).zip(self.pre) {
            for (x, s) in x.iter_mut().zip(stream) {
                *x = pre.mul_add(*s, *x);
            }
        }
        rms_norm(x, self.norm, self.eps);
    }
}

/// `streams'[k] = post[k]·y + Σ_j comb[j,k]·streams[j]`
struct Leave<'a> {
    streams: &'a mut [f32],
    y: &'a [f32],
    post: &'a [f32],
    comb: &'a [f32],
}

impl Kernel for Leave<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        match self.post.len() {
            4 => self.fixed::<4>(),
            _ => self.any(),
        }
    }
}

impl Leave<'_> {
    /// All streams of a column at once.
    #[inline(always)]
    fn fixed<const HC: usize>(self) {
        let d = self.y.len();
        for (c, y) in self.y.iter().enumerate() {
            let old: [f32; HC] = std::array::from_fn(|j| self.streams[j * d + c]);
            for k in 0..HC {
                let mut new = self.post[k] * y;
                for (j, old) in old.iter().enumerate() {
                    new = self.comb[j * HC + k].mul_add(*old, new);
                }
                self.streams[k * d + c] = new;
            }
        }
    }

    /// Any number of streams.
    #[inline(always)]
    fn any(self) {
        let (d, hc) = (self.y.len(), self.post.len());
        let mut old = vec![0.0; hc];
        for (c, y) in self.y.iter().enumerate() {
            (0..hc).for_each(|j| old[j] = self.streams[j * d + c]);
            for k in 0..hc {
                let mut new = self.post[k] * y;
                for (j, old) in old.iter().enumerate() {
                    new = self.comb[j * hc + k].mul_add(*old, new);
                }
                self.streams[k * d + c] = new;
            }
        }
    }
}
