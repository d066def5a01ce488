//! What attention computes from a row alone; see [`model::Ops::project`] for the formulas.
//!
//! Two regions of products: everything that multiplies x, then everything that multiplies r.

use crate::array::Array;
use crate::fast::Cpu;
use crate::isa::{self, Isa, Kernel};
use crate::lanes::{inverse_rms, rms_norm};
use crate::ops::linear::Product;
use crate::pool::Shards;
use model::ops::{IndexQuery, Projected, Queries};
use model::rope::Angles;
use model::weights::{Attention, Compressor, Indexer, Norm};

/// Heads that one item norms and rotates.
const HEADS: usize = 8;

/// See [`model::Ops::project`].
pub fn project(
    cpu: &Cpu,
    x: &Array,
    attention: &Attention<Cpu>,
    positions: &[u32],
    angles: &Angles,
    queries: Queries,
) -> Projected<Array> {
    let indexer = attention.indexer.as_ref();
    let compressors = [attention.compressor.as_ref(), indexer.map(|i| &i.compressor)];
    let asked = queries != Queries::None;
    let mut products = vec![Product::new(&attention.kv, x)];
    products.extend(asked.then(|| Product::new(&attention.q_a, x)));
    products.extend(compressors.iter().flatten().flat_map(|c| [&c.kv, &c.gate]).map(|w| Product::new(w, x)));
    let selecting = indexer.filter(|_| queries == Queries::All);
    products.extend(selecting.map(|i| Product::new(&i.proj, x)));
    let mut made = cpu.linears(&products).into_iter();
    let mut next = || made.next().expect("one array a product");
    let mut kv = next();
    let r = asked.then(&mut next);
    norm_rows(cpu, &mut kv, &attention.kv_norm);
    finish_heads(cpu, &mut kv, attention.head_dim, None, angles);
    let mut inputs =
        |c: Option<&Compressor<Cpu>>| c.map(|c| side_by_side(cpu, c, &next(), &next(), positions));
    let (compressor, index_compressor) = (inputs(compressors[0]), inputs(compressors[1]));
    let a = selecting.map(|i| scaled(next(), 1.0 / ((i.width * i.heads) as f32).sqrt()));
    let (q, u) = r.map(|r| make_queries(cpu, r, attention, selecting, angles)).unzip();
    let indexer = u.flatten().zip(a).map(|(u, a)| IndexQuery { u, a });
    Projected { q, kv, compressor, index_compressor, indexer }
}

/// The queries from r before its norm: attention's, and the indexer's if there is one.
fn make_queries(
    cpu: &Cpu,
    mut r: Array,
    attention: &Attention<Cpu>,
    indexer: Option<&Indexer<Cpu>>,
    angles: &Angles,
) -> (Array, Option<Array>) {
    norm_rows(cpu, &mut r, &attention.q_a_norm);
    let mut products = vec![Product::new(&attention.q_b, &r)];
    products.extend(indexer.map(|i| Product::new(&i.q_b, &r)));
    let mut made = cpu.linears(&products).into_iter();
    let mut q = made.next().expect("one array a product");
    finish_heads(cpu, &mut q, attention.head_dim, Some(attention.q_a_norm.eps), angles);
    let u = indexer.zip(made.next()).map(|(indexer, mut u)| {
        finish_heads(cpu, &mut u, indexer.width, None, angles);
        u
    });
    (q, u)
}

fn scaled(mut x: Array, factor: f32) -> Array {
    x.data.iter_mut().for_each(|x| *x *= factor);
    x
}

/// k and g of each row side by side, with the gate's term for the position.
fn side_by_side(cpu: &Cpu, c: &Compressor<Cpu>, k: &Array, g: &Array, positions: &[u32]) -> Array {
    let width = k.width;
    let mut both = Array::unset(k.n(), 2 * width);
    let parts = Shards::new(&mut both.data);
    cpu.pool.each(k.n(), |i| {
        let ape = c.ape.row(positions[i] as usize % c.ratio);
        // SAFETY: one item a row.
        let (to_k, to_g) = unsafe { parts.part(i * 2 * width, 2 * width) }.split_at_mut(width);
        to_k.copy_from_slice(k.row(i));
        to_g.iter_mut().zip(g.row(i)).zip(ape).for_each(|((to, g), a)| *to = g + a);
    });
    both
}

/// RMS norm of every row.
pub fn norm_rows(cpu: &Cpu, x: &mut Array, norm: &Norm<Cpu>) {
    let (n, width) = (x.n(), x.width);
    let parts = Shards::new(&mut x.data);
    cpu.pool.each(n, |i| {
        // SAFETY: one item a row.
        let x = unsafe { parts.part(i * width, width) };
        isa::dispatch(RmsNorm { x, weight: &norm.weight.data, eps: norm.eps });
    });
}

/// Divides every head by its RMS, if `eps` is given, and rotates it.
fn finish_heads(cpu: &Cpu, x: &mut Array, head: usize, eps: Option<f32>, angles: &Angles) {
    let (n, width) = (x.n(), x.width);
    let (groups, parts) = ((width / head).div_ceil(HEADS), Shards::new(&mut x.data));
    cpu.pool.each(n * groups, |item| {
        let (i, first) = (item / groups, item % groups * HEADS * head);
        // SAFETY: an item owns its heads of its row.
        let heads = unsafe { parts.part(i * width + first, (HEADS * head).min(width - first)) };
        isa::dispatch(FinishHeads { heads, head, eps, angles, row: i });
    });
}

struct RmsNorm<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        rms_norm(isa, self.x, self.weight, self.eps);
    }
}

struct FinishHeads<'a> {
    heads: &'a mut [f32],
    head: usize,
    eps: Option<f32>,
    angles: &'a Angles,
    row: usize,
}

impl Kernel for FinishHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        for head in self.heads.chunks_exact_mut(self.head) {
            if let Some(eps) = self.eps {
                let scale = inverse_rms(isa, head, eps);
                head.iter_mut().for_each(|x| *x *= scale);
            }
            self.angles.rotate(self.row, head);
        }
    }
}
