//! [`Ops`] on the device. The formulas stand at the trait; each method here says which kernels do it, and
//! the files in `kernels` what goes where.

use crate::adapter::Kind;
use crate::array::{Array, Mix, Picks, Routes, Treatment};
use crate::buffers::{Pooled, Slice};
use crate::gpu::{Gpu, Inner};
use crate::kernels::{
    self, Attending, Linear, Norm, Output, linear, linear_beside, linear_into, linears, norm_row,
};
use crate::matrix::{self, Matrix};
use crate::recorder::Recorder;
use crate::rows::Rows;
use model::kv::RowLayout;
use model::ops::{DeviceError, IndexQuery, IndexView, KvView, Leaders, LeadersAsk, Ops, Projected, Queries};
use model::rope::Angles;
use model::weights::{
    self, Attention, Compressor, Expert, Experts, Head, HyperConnection, Indexer, MtpEntry, Router,
};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The backend as the model's weights know it.
pub(crate) type Weights = Gpu;

/// The first `count` entries of a list of angles: `[count, pairs]` of (cos, sin), as bits.
fn angle_words(angles: &Angles, count: usize) -> Vec<u32> {
    (0..count).flat_map(|i| angles.row(i)).flatten().map(|x| x.to_bits()).collect()
}

/// The same on the device.
pub(crate) fn angles_slice(gpu: &Inner, r: &mut Recorder, angles: &Angles, count: usize) -> Slice {
    r.put(gpu, &angle_words(angles, count))
}

/// Launches after which work is handed over, so that the device need not wait for the whole step: few at first, for it
/// has nothing to do yet, then more, since handing over costs time too.
const SOME: [usize; 4] = [4, 12, 24, 48];

/// Rows of a batch from which on each sub-layer is enough work to be handed over.
const MANY_ROWS: usize = 64;

impl Gpu {
    /// Hands over what was recorded if that is worth it.
    fn pace(&self, r: &mut Recorder, rows: usize) {
        if r.foresees() {
            return;
        }
        if rows >= MANY_ROWS || r.commands.len() >= SOME[r.handed.min(SOME.len() - 1)] {
            // A mixture goes along with the product to come.
            let mixture = r.mixture.take();
            r.flush(&self.0);
            r.mixture = mixture;
        }
    }

    fn floats(&self, array: &Array) -> Result<Vec<f32>, DeviceError> {
        self.read_words(array, f32::from_le_bytes)
    }

    fn words(&self, array: &Array) -> Result<Vec<u32>, DeviceError> {
        self.read_words(array, u32::from_le_bytes)
    }

    fn read_words<T>(&self, array: &Array, word: impl Fn([u8; 4]) -> T) -> Result<Vec<T>, DeviceError> {
        let mut r = self.0.recorder();
        r.launch_beside(&self.0);
        let treated = kernels::treated(&self.0, &mut r, array);
        let parts = [treated.as_ref().unwrap_or(array).slice()];
        self.0.read_as(&mut r, &parts, |bytes| bytes.as_chunks().0.iter().map(|&bytes| word(bytes)).collect())
    }
}

impl Ops for Gpu {
    type Array = Array;
    type Matrix = Matrix;
    type Rows = Rows;
    type Mix = Mix;
    type Query = IndexQuery<Array>;
    type Picks = Picks;
    type Routes = Routes;

    fn scratch(&self) -> u64 {
        self.memory()[2]
    }

    fn most_rows(&self) -> usize {
        self.0.most_rows.load(Ordering::Relaxed)
    }

    /// Not on software that stands in for a device: its kernels are compiled when they run.
    fn rehearse(&self, work: &mut dyn FnMut()) {
        if self.0.about.kind != Kind::Software {
            self.compile(work);
        }
    }

    fn foresee(&self, work: &mut dyn FnMut()) -> bool {
        if self.0.profile.is_some() {
            return false; // which looks at every launch as it is handed over
        }
        self.0.recorder().begin_foreseen(&self.0);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            self.0.recorder().give_up();
            self.0.gone_on.notify_all();
            resume_unwind(panic);
        }
        self.0.recorder().end_foreseen(&self.0);
        true
    }

    fn go_on(&self, tokens: &[u32]) {
        self.0.recorder().go_on(&self.0, tokens);
        self.0.gone_on.notify_all();
    }

    fn matrix(&self, matrix: weights::Matrix) -> Result<Matrix, DeviceError> {
        matrix::upload(&self.0, matrix)
    }

    fn array(&self, values: Vec<f32>, width: usize) -> Result<Array, DeviceError> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let buffer = self.0.try_storage("a vector of the model", (bytes.len() as u64).max(16))?;
        self.0.queue.write_buffer(&buffer.raw, 0, &bytes);
        Ok(Array {
            buffer: Arc::new(Pooled::owned(buffer)),
            offset: 0,
            n: values.len() / width,
            width,
            treatment: None,
        })
    }

    fn rows(&self, layout: RowLayout, layer: usize) -> Rows {
        Rows::new(&self.0, layout, layer)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.0.wait(&mut self.0.recorder())
    }

    fn read(&self, array: &Array) -> Result<Vec<f32>, DeviceError> {
        self.floats(array)
    }

    fn read_leaders(
        &self,
        logits: &Array,
        asks: &[LeadersAsk],
    ) -> Result<Option<Vec<Option<Leaders>>>, DeviceError> {
        kernels::read_leaders(&self.0, &mut self.0.recorder(), logits, asks).map(Some)
    }

    fn read_picks(&self, picks: &Picks) -> Result<Vec<Vec<u32>>, DeviceError> {
        let rows = self.words(&picks.rows)?;
        let some = |(row, &count): (&[u32], &u32)| row[..count as usize].to_vec();
        Ok(rows.chunks_exact(picks.rows.width).zip(&picks.counts).map(some).collect())
    }

    fn read_routes(&self, routes: &Routes) -> Result<Vec<Vec<(u32, f32)>>, DeviceError> {
        let (ids, shares) = (self.words(&routes.ids)?, self.floats(&routes.shares)?);
        let used = routes.ids.width;
        let row = |(ids, shares): (&[u32], &[f32])| ids.iter().copied().zip(shares.iter().copied()).collect();
        Ok(ids.chunks_exact(used).zip(shares.chunks_exact(used)).map(row).collect())
    }

    fn embed(&self, embedding: &Matrix, tokens: &[u32], hc: usize) -> Array {
        kernels::embed(&self.0, &mut self.0.recorder(), embedding, tokens, hc)
    }

    fn hc_enter(
        &self,
        streams: &Array,
        hc: &HyperConnection<Self>,
        norm: &weights::Norm<Self>,
    ) -> (Array, Mix) {
        kernels::enter(&self.0, &mut self.0.recorder(), streams, hc, norm)
    }

    fn hc_leave(&self, streams: &mut Array, y: &Array, mix: &Mix) {
        kernels::leave(&self.0, &mut self.0.recorder(), streams, y, mix);
    }

    fn hc_turn(
        &self,
        streams: &mut Array,
        y: &Array,
        mix: &Mix,
        next: &HyperConnection<Self>,
        norm: &weights::Norm<Self>,
    ) -> (Array, Mix) {
        let mut r = self.0.recorder();
        let entered = kernels::turn(&self.0, &mut r, streams, y, mix, next, norm);
        self.pace(&mut r, streams.n);
        entered
    }

    fn take_rows(&self, streams: &Array, rows: &[usize]) -> Array {
        let rows: Vec<u32> = rows.iter().map(|&i| i as u32).collect();
        kernels::gather(&self.0, &mut self.0.recorder(), streams, &rows)
    }

    fn project(
        &self,
        x: &Array,
        attention: &Attention<Self>,
        positions: &[u32],
        angles: &Angles,
        queries: Queries,
    ) -> Projected<Array> {
        let (gpu, mut r) = (&*self.0, self.0.recorder());
        let r = &mut *r;
        let rope = 2 * angles.row(0).len();
        let turns = Arc::new(angle_words(angles, x.n));
        let angles = r.put(gpu, &turns);
        let rows_of = |c: &Compressor<Self>| positions.iter().map(|p| p % c.ratio as u32).collect::<Vec<_>>();
        let compressors: Vec<(&Compressor<Self>, Vec<u32>)> = attention
            .compressor
            .iter()
            .chain(attention.indexer.iter().map(|i| &i.compressor))
            .map(|c| (c, rows_of(c)))
            .collect();
        let indexer = attention.indexer.as_ref().filter(|_| queries == Queries::All);
        let asked = (queries != Queries::None).then_some(());
        let mut shapes = vec![(x.n, attention.kv.rows)];
        shapes.extend(asked.map(|()| (x.n, attention.q_a.rows)));
        shapes.extend(compressors.iter().map(|(c, _)| (x.n, 2 * c.inner_width())));
        shapes.extend(indexer.map(|i| (x.n, i.proj.rows)));
        let mut made = Array::several(gpu, &shapes).into_iter();
        let mut next = || made.next().expect("as many as shapes");
        let raw = next();
        let low = asked.map(|()| next());
        let inputs: Vec<Array> = compressors.iter().map(|_| next()).collect();
        let scores = indexer.map(|i: &Indexer<Self>| (i, next()));
        let plain = |(w, y)| Output { what: Linear::new(w), y, offset: 0 };
        let mut outputs: Vec<_> = low.iter().map(|low| plain((&attention.q_a, low))).collect();
        outputs.push(plain((&attention.kv, &raw)));
        for ((c, rows), both) in compressors.iter().zip(&inputs) {
            let gate = Linear { bias: Some((&c.ape, rows)), ..Linear::new(&c.gate) };
            outputs.push(Output { what: Linear::new(&c.kv), y: both, offset: 0 });
            outputs.push(Output { what: gate, y: both, offset: c.inner_width() });
        }
        outputs.extend(scores.as_ref().map(|(i, a)| {
            let scale = 1.0 / ((i.width * i.heads) as f32).sqrt();
            Output { what: Linear { scale, ..Linear::new(&i.proj) }, y: a, offset: 0 }
        }));
        linears(gpu, r, x, &outputs);
        drop(outputs);
        let mut inputs = inputs.into_iter();
        let compressor = attention.compressor.as_ref().and_then(|_| inputs.next());
        let index_compressor = inputs.next();
        let normed =
            |w| Linear { norm: Some((&attention.q_a_norm.weight, attention.q_a_norm.eps)), ..Linear::new(w) };
        // Queries: whoever reads them norms and turns them. Where there is an indexer, its own come first.
        let treated = |width, eps| Some(Arc::new(Treatment { width, eps, rope, angles: turns.clone() }));
        let head = attention.head_dim;
        let mut indexer_query = None;
        let mut q = None;
        if let Some(low) = &low {
            let y = Array {
                treatment: treated(head, Some(attention.q_a_norm.eps)),
                ..Array::empty(gpu, x.n, attention.q_b.rows)
            };
            if let Some(indexer) = indexer {
                let u = linear(gpu, r, &normed(&indexer.q_b), low);
                indexer_query = Some(Array { treatment: treated(indexer.width, None), ..u });
                linear_beside(gpu, r, &normed(&attention.q_b), low, &y);
            } else {
                linear_into(gpu, r, &normed(&attention.q_b), low, &y, 0);
            }
            q = Some(y);
        }
        // The cached row waits for nothing that the queries' products make, so they run at the same time.
        let kv = Array::empty(gpu, x.n, head);
        let (eps, weight) = (Some(attention.kv_norm.eps), Some(&attention.kv_norm.weight));
        let kv_norm = Norm { width: head, eps, weight, rotate: Some((&angles, rope)), repeat: 1 };
        norm_row(gpu, r, &kv_norm, &raw, &kv);
        let indexer = scores.zip(indexer_query).map(|((_, a), u)| IndexQuery { u, a });
        Projected { q, kv, compressor, index_compressor, indexer }
    }

    fn append(&self, values: &Array, rows: Range<usize>, store: &mut Rows) {
        kernels::append(&self.0, &mut self.0.recorder(), values, rows, store);
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
        let r = &mut self.0.recorder();
        kernels::compress(&self.0, r, compressor, (frontier, base), windows, angles, into);
    }

    fn pick(&self, indexer: &IndexQuery<Array>, keys: &[IndexView<'_, Self>], top_k: usize) -> Picks {
        kernels::pick(&self.0, &mut self.0.recorder(), indexer, keys, top_k)
    }

    fn attend_out(
        &self,
        q: &Array,
        caches: &[KvView<'_, Self>],
        picks: Option<&Picks>,
        attention: &Attention<Self>,
        angles: &Angles,
    ) -> Array {
        let (gpu, mut r) = (&*self.0, self.0.recorder());
        let r = &mut *r;
        let rope = 2 * angles.row(0).len();
        let angles = angles_slice(gpu, r, angles, q.n);
        let format = attention.out_a.format;
        let rounds = kernels::on_matrix_units(gpu, format) && !kernels::whole_rows(format);
        let what = Attending { sinks: &attention.sinks, angles: (&angles, rope), rounds };
        let o = kernels::attend(gpu, r, q, caches, picks, &what);
        let grouped = Linear { groups: attention.groups, ..Linear::new(&attention.out_a) };
        let low = linear(gpu, r, &grouped, &o);
        linear(gpu, r, &Linear::new(&attention.out_b), &low)
    }

    fn route(&self, x: &Array, tokens: &[u32], router: &Router<Self>) -> Routes {
        kernels::route(&self.0, &mut self.0.recorder(), x, tokens, router)
    }

    fn moe(&self, x: &Array, routes: &Routes, experts: &Experts<Self>, shared: &Expert<Self>) -> Array {
        kernels::moe(&self.0, &mut self.0.recorder(), x, routes, experts, shared)
    }

    fn head(&self, streams: &Array, wanted: &[usize], head: &Head<Self>) -> Array {
        let (gpu, mut r) = (&*self.0, self.0.recorder());
        let r = &mut *r;
        let x = match wanted.iter().copied().eq(0..streams.n) {
            true => kernels::collapse(gpu, r, streams, head),
            false => {
                let rows: Vec<u32> = wanted.iter().map(|&i| i as u32).collect();
                let streams = kernels::gather(gpu, r, streams, &rows);
                kernels::collapse(gpu, r, &streams, head)
            }
        };
        linear(gpu, r, &Linear::new(&head.output), &x)
    }

    fn mtp_enter(
        &self,
        streams: &Array,
        tokens: &[u32],
        embedding: &Matrix,
        entry: &MtpEntry<Self>,
    ) -> Array {
        let (gpu, mut r) = (&*self.0, self.0.recorder());
        let r = &mut *r;
        let (n, hc, d) = (streams.n, entry.hc, embedding.cols);
        let tokens = kernels::embed(gpu, r, embedding, tokens, 1);
        let both = Array::empty(gpu, n * hc, 2 * d);
        let part = |norm: &'_ weights::Norm<Self>, repeat| (norm.eps, repeat);
        let (eps, repeat) = part(&entry.enorm, hc);
        let e = Norm { width: d, eps: Some(eps), weight: Some(&entry.enorm.weight), rotate: None, repeat };
        kernels::norm(gpu, r, &e, &tokens, &both, [2 * d, 0]);
        let (eps, repeat) = part(&entry.hnorm, 1);
        let h = Norm { width: d, eps: Some(eps), weight: Some(&entry.hnorm.weight), rotate: None, repeat };
        kernels::norm(gpu, r, &h, streams, &both, [2 * d, d]);
        let x = linear(gpu, r, &Linear::new(&entry.eh_proj), &both);
        Array { n, width: hc * d, ..x }
    }
}
