//! The residual streams: entering and leaving sub-layers; see [`model::Ops::hc_enter`] for the formulas.

use crate::array::Array;
use crate::dot;
use crate::dot::floats::COLS;
use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::{LANES, Vector, inverse_rms, rms_norm};
use crate::ops::linear::as_dot;
use crate::pool::Shards;
use crate::reference::{Mix, mix_row, sigmoid};
use model::Matrix;
use model::weights::{Head, HyperConnection, Norm};

/// The embeddings of some tokens, in every stream.
pub fn embed(cpu: &Cpu, embedding: &Matrix, tokens: &[u32], hc: usize) -> Array {
    let d = embedding.cols;
    let row_bytes = embedding.format.row_bytes(d).expect("checked when loaded");
    let mut streams = Array::unset(tokens.len(), hc * d);
    let parts = Shards::new(&mut streams.data);
    cpu.pool.each(tokens.len(), |i| {
        // SAFETY: one item a row.
        let row = unsafe { parts.part(i * hc * d, hc * d) };
        let (first, rest) = row.split_at_mut(d);
        embedding.format.decode_row(&embedding.bytes[tokens[i] as usize * row_bytes..][..row_bytes], first);
        rest.chunks_exact_mut(d).for_each(|stream| stream.copy_from_slice(first));
    });
    streams
}

/// x and mix of every row.
pub fn enter(cpu: &Cpu, streams: &Array, hc: &HyperConnection<Cpu>, norm: &Norm<Cpu>) -> (Array, Mix) {
    // The norm of the streams commutes with the product, so the product takes them as they are.
    let z = cpu.linear(&hc.weights, streams);
    let n = streams.n();
    let mut made = Entered::new(n, streams.width, hc);
    let parts = made.parts();
    cpu.pool.each(n, |i| {
        // SAFETY: one item a row.
        let to = unsafe { parts.row(i) };
        isa::dispatch(Enter { streams: streams.row(i), z: z.row(i), hc, norm, to });
    });
    (made.x, made.mix)
}

/// Leaves a sub-layer and enters the next: the same bits as [`leave`] and [`enter`], while a row of the
/// streams is in the cache.
pub fn turn(
    cpu: &Cpu,
    streams: &mut Array,
    y: &Array,
    mix: &Mix,
    hc: &HyperConnection<Cpu>,
    norm: &Norm<Cpu>,
) -> (Array, Mix) {
    let (n, width) = (streams.n(), streams.width);
    let floats = hc.weights.format.block_len() == 1;
    if n < COLS * cpu.threads() || !floats || !width.is_multiple_of(LANES) {
        leave(cpu, streams, y, mix);
        return enter(cpu, streams, hc, norm);
    }
    let mut data = std::mem::take(&mut streams.data);
    let all = Shards::new(&mut data);
    let mut made = Entered::new(n, width, hc);
    let parts = made.parts();
    cpu.pool.each(n.div_ceil(COLS), |item| {
        let first = item * COLS;
        let count = COLS.min(n - first);
        // SAFETY: an item owns its rows.
        let streams = unsafe { all.part(first * width, count * width) };
        for (i, streams) in (first..).zip(streams.chunks_exact_mut(width)) {
            isa::dispatch(Leave::new(streams, y, mix, i));
        }
        let mut z = vec![0.0; count * hc.weights.rows];
        isa::dispatch(Products { w: as_dot(&hc.weights), streams, count, z: &mut z });
        let rows = streams.chunks_exact(width).zip(z.chunks_exact(hc.weights.rows));
        for (i, (streams, z)) in (first..).zip(rows) {
            // SAFETY: as above.
            let to = unsafe { parts.row(i) };
            isa::dispatch(Enter { streams, z, hc, norm, to });
        }
    });
    *streams = Array::new(data, width);
    (made.x, made.mix)
}

/// What entering makes of all rows.
struct Entered {
    hc: usize,
    x: Array,
    mix: Mix,
}

impl Entered {
    fn new(n: usize, width: usize, hc: &HyperConnection<Cpu>) -> Entered {
        let hc = hc.hc;
        let mix = Mix { post: vec![0.0; n * hc], comb: vec![0.0; n * hc * hc] };
        Entered { hc, x: Array::unset(n, width / hc), mix }
    }

    fn parts(&mut self) -> Parts<'_> {
        let (post, comb) = (Shards::new(&mut self.mix.post), Shards::new(&mut self.mix.comb));
        Parts { hc: self.hc, width: self.x.width, x: Shards::new(&mut self.x.data), post, comb }
    }
}

/// [`Entered`], to be shared out by rows.
struct Parts<'a> {
    hc: usize,
    width: usize,
    x: Shards<'a, f32>,
    post: Shards<'a, f32>,
    comb: Shards<'a, f32>,
}

impl Parts<'_> {
    /// Where row `i` goes.
    ///
    /// # Safety
    ///
    /// Nobody else may use the row at the same time.
    unsafe fn row(&self, i: usize) -> RowParts<'_> {
        let hc = self.hc;
        // SAFETY: the caller owns the row.
        unsafe {
            RowParts {
                x: self.x.part(i * self.width, self.width),
                post: self.post.part(i * hc, hc),
                comb: self.comb.part(i * hc * hc, hc * hc),
            }
        }
    }
}

/// What entering makes of a row.
struct RowParts<'a> {
    x: &'a mut [f32],
    post: &'a mut [f32],
    comb: &'a mut [f32],
}

/// Enters with a row of the streams.
struct Enter<'a> {
    streams: &'a [f32],
    /// The products with the weights.
    z: &'a [f32],
    hc: &'a HyperConnection<Cpu>,
    norm: &'a Norm<Cpu>,
    to: RowParts<'a>,
}

impl Kernel for Enter<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { streams, z, hc, norm, to } = self;
        let scale = inverse_rms(isa, streams, hc.rms_eps);
        let z: Vec<f32> = z.iter().map(|z| z * scale).collect();
        let mut row = Mix::default();
        let pre = mix_row(&z, &hc.base.data, &hc.scale.data, hc, &mut row);
        to.post.copy_from_slice(&row.post);
        to.comb.copy_from_slice(&row.comb);
        Collapse { streams, pre: &pre, norm: &norm.weight.data, eps: norm.eps, x: to.x }.eval(isa);
    }
}

/// The products of the weights with some rows of the streams, `[count, rows]`.
struct Products<'a> {
    w: dot::Matrix<'a>,
    streams: &'a [f32],
    count: usize,
    z: &'a mut [f32],
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let vectors: &[Vector] = self.streams.as_chunks().0;
        let width = vectors.len() / self.count;
        let mut cols = [&vectors[..width]; COLS];
        for (col, vectors) in cols.iter_mut().zip(vectors.chunks_exact(width)) {
            *col = vectors;
        }
        dot::floats::multiply(isa, &self.w, 0..self.w.rows(), cols, self.count, self.z);
    }
}

/// Writes a sub-layer's output back into the streams.
pub fn leave(cpu: &Cpu, streams: &mut Array, y: &Array, mix: &Mix) {
    let width = streams.width;
    let mut data = std::mem::take(&mut streams.data);
    let parts = Shards::new(&mut data);
    cpu.pool.each(y.n(), |i| {
        // SAFETY: one item a row.
        isa::dispatch(Leave::new(unsafe { parts.part(i * width, width) }, y, mix, i));
    });
    // A new array, since what was rounded of the old one is no longer true.
    *streams = Array::new(data, width);
}

/// The normed input of the output matrix, for some rows of the streams.
pub fn collapse_head(cpu: &Cpu, streams: &Array, wanted: &[usize], head: &Head<Cpu>) -> Array {
    let streams = streams.take_rows(wanted);
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
    fn eval<I: Isa>(self, isa: I) -> f32 {
        inverse_rms(isa, self.x, self.eps)
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
    fn eval<I: Isa>(self, isa: I) {
        match self.pre.len() {
            4 => self.fixed::<I, 4>(isa),
            _ => self.any(isa),
        }
    }
}

impl Collapse<'_> {
    /// All streams of sixteen columns at once.
    #[inline(always)]
    fn fixed<I: Isa, const HC: usize>(self, isa: I) {
        let Self { streams, pre, norm, eps, x } = self;
        let d = x.len();
        let mut weights = [isa.no_floats(); HC];
        for j in 0..HC {
            weights[j] = isa.splat_float(pre[j]);
        }
        let (vectors, rest) = x.as_chunks_mut::<LANES>();
        let whole = d - rest.len();
        for (v, to) in vectors.iter_mut().enumerate() {
            let mut sum = isa.no_floats();
            for j in 0..HC {
                sum = isa.fused(sum, weights[j], isa.floats(vector(&streams[j * d..], v)));
            }
            isa.put_floats(sum, to);
        }
        for (c, x) in (whole..).zip(rest) {
            *x = 0.0;
            for j in 0..HC {
                *x = pre[j].mul_add(streams[j * d + c], *x);
            }
        }
        rms_norm(isa, x, norm, eps);
    }

    /// Any number of streams.
    #[inline(always)]
    fn any<I: Isa>(self, isa: I) {
        let Self { streams, pre, norm, eps, x } = self;
        x.fill(0.0);
        for (stream, pre) in streams.chunks_exact(x.len()).zip(pre) {
            for (x, s) in x.iter_mut().zip(stream) {
                *x = pre.mul_add(*s, *x);
            }
        }
        rms_norm(isa, x, norm, eps);
    }
}

/// Vector `v` of a row.
#[inline(always)]
fn vector(row: &[f32], v: usize) -> &Vector {
    row[v * LANES..].first_chunk().expect("a whole vector")
}

/// `streams'[k] = post[k]·y + Σ_j comb[j,k]·streams[j]`
struct Leave<'a> {
    streams: &'a mut [f32],
    y: &'a [f32],
    post: &'a [f32],
    comb: &'a [f32],
}

impl<'a> Leave<'a> {
    /// Of row `i`, which is `streams`.
    fn new(streams: &'a mut [f32], y: &'a Array, mix: &'a Mix, i: usize) -> Self {
        let hc = streams.len() / y.width;
        Leave {
            streams,
            y: y.row(i),
            post: &mix.post[i * hc..][..hc],
            comb: &mix.comb[i * hc * hc..][..hc * hc],
        }
    }
}

impl Kernel for Leave<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        match self.post.len() {
            4 => self.fixed::<I, 4>(isa),
            _ => self.any(0),
        }
    }
}

impl Leave<'_> {
    /// All streams of sixteen columns at once.
    #[inline(always)]
    fn fixed<I: Isa, const HC: usize>(self, isa: I) {
        let d = self.y.len();
        let mut comb = [[isa.no_floats(); HC]; HC];
        let mut post = [isa.no_floats(); HC];
        for k in 0..HC {
            post[k] = isa.splat_float(self.post[k]);
            for (j, comb) in comb[k].iter_mut().enumerate() {
                *comb = isa.splat_float(self.comb[j * HC + k]);
            }
        }
        let vectors = self.y.as_chunks::<LANES>().0;
        for (v, y) in vectors.iter().enumerate() {
            let y = isa.floats(y);
            let mut old = [isa.no_floats(); HC];
            for (j, old) in old.iter_mut().enumerate() {
                *old = isa.floats(vector(&self.streams[j * d..], v));
            }
            for k in 0..HC {
                let mut new = isa.product(post[k], y);
                for j in 0..HC {
                    new = isa.fused(new, comb[k][j], old[j]);
                }
                let to = &mut self.streams[k * d + v * LANES..];
                isa.put_floats(new, to.first_chunk_mut().expect("a whole vector"));
            }
        }
        let done = vectors.len() * LANES;
        self.any(done);
    }

    /// Any number of streams, from a column on.
    #[inline(always)]
    fn any(self, from: usize) {
        let (d, hc) = (self.y.len(), self.post.len());
        let mut old = vec![0.0; hc];
        for (c, y) in self.y.iter().enumerate().skip(from) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;
    use quants::Format;

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    fn connection(format: Format, hc: usize, d: usize, random: &mut Random) -> HyperConnection<Cpu> {
        let rows = hc * (2 + hc);
        let mut bytes = vec![0; format.row_bytes(hc * d).unwrap() * rows];
        format.encode_row(&random.floats(rows * hc * d), &mut bytes).unwrap();
        HyperConnection {
            weights: Matrix { name: "fn".to_owned(), format, rows, cols: hc * d, bytes: bytes.into() },
            base: Array::new(random.floats(rows), rows),
            scale: Array::new(random.floats(3), 3),
            hc,
            iterations: 4,
            eps: 1e-6,
            rms_eps: 1e-6,
        }
    }

    /// Also where a row ends within a vector, and with weights that are not floats.
    #[test]
    fn turning_is_leaving_and_entering_to_the_bit() {
        let cpu = Cpu::new(Some(2));
        for (format, hc, d) in [
            (Format::F16, 4, 64),
            (Format::F32, 4, 40),
            (Format::BF16, 2, 48),
            (Format::F32, 4, 37),
            (Format::Q8_0, 4, 64),
        ] {
            let mut random = Random(d as u64);
            let next = connection(format, hc, d, &mut random);
            let norm = Norm { weight: Array::new(random.floats(d), d), eps: 1e-6 };
            for n in [1, 12, 17, 40] {
                let before = Array::new(random.floats(n * hc * d), hc * d);
                let y = Array::new(random.floats(n * d), d);
                let mix = Mix { post: random.floats(n * hc), comb: random.floats(n * hc * hc) };
                let mut streams = before.clone();
                leave(&cpu, &mut streams, &y, &mix);
                let (x, left) = enter(&cpu, &streams, &next, &norm);
                let mut turned = before;
                let (also_x, also_left) = turn(&cpu, &mut turned, &y, &mix, &next, &norm);
                let what = format!("{format}, {hc} streams of {d}, {n} rows");
                assert!(bits(&turned.data) == bits(&streams.data), "{what}: streams");
                assert!(bits(&also_x.data) == bits(&x.data), "{what}: x");
                assert!(bits(&also_left.post) == bits(&left.post), "{what}: post");
                assert!(bits(&also_left.comb) == bits(&left.comb), "{what}: comb");
            }
        }
    }

    #[test]
    fn tokens_are_embedded_in_every_stream() {
        let mut random = Random(7);
        let table = random.floats(5 * 24);
        let bytes: Vec<u8> = table.iter().flat_map(|x| x.to_le_bytes()).collect();
        let embedding = Matrix {
            name: "embedding".to_owned(),
            format: Format::F32,
            rows: 5,
            cols: 24,
            bytes: bytes.into(),
        };
        let streams = embed(&Cpu::new(Some(2)), &embedding, &[3, 0, 3], 2);
        let want: Vec<f32> =
            [3, 3, 0, 0, 3, 3].iter().flat_map(|&t| &table[t * 24..][..24]).copied().collect();
        assert_eq!(streams.data, want);
    }
}
