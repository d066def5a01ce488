//! [`Ops`] made of two backends: each operation goes to the side that has its weights.

use crate::array::{Array, Mix, Picks, Query, Routes, Sided};
use crate::lent::Berths;
use crate::matrix::Matrix;
use crate::parts::{OnHost, Part};
use crate::rows::Rows;
use crate::silent;
use crate::split::Split;
use gpu::Gpu;
use model::Config;
use model::kv::RowLayout;
use model::ops::{Blocks, DeviceError, IndexView, KvView, Leaders, LeadersAsk, Ops, Projected, Queries};
use model::rope::Angles;
use model::weights::{
    self, Attention, Compressor, Expert, Experts, Head, HyperConnection, MtpEntry, Norm, Router,
};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A backend on the CPU.
pub trait Host:
    Ops<Array = cpu::Array, Matrix = weights::Matrix, Rows = cpu::Rows, Routes = cpu::Routes> + 'static
{
}

impl Host for cpu::Cpu {}
impl Host for cpu::Reference {}

/// Some layers on a GPU, or all but their experts, and the rest on the CPU.
pub struct Hybrid<H: Host> {
    pub(crate) gpu: Gpu,
    host: H,
    split: Split,
    /// With experts on the CPU: what stands in for them on the GPU, and for the shared one on the CPU.
    silent: Option<(silent::Routed, Expert<H>)>,
    /// With experts on the CPU that are lent to the GPU: where they are there. Held from the loan until all that needs
    /// it has been asked for.
    berths: Option<Mutex<Berths>>,
    /// What went wrong between operations, which cannot say so. Once set, every read fails with it.
    fault: Mutex<Option<String>>,
    crossings: AtomicU64,
}

impl<H: Host> Hybrid<H> {
    /// A backend for one model.
    ///
    /// # Errors
    ///
    /// If the GPU has no room at all.
    pub fn new(gpu: Gpu, host: H, split: Split, config: &Config) -> Result<Hybrid<H>, DeviceError> {
        let silent = split
            .cpu_moe()
            .then(|| Ok((silent::Routed::new(&gpu, config.width)?, silent::shared(config.width))));
        Ok(Hybrid {
            silent: silent.transpose()?,
            berths: split.lends().then(|| Mutex::new(Berths::new(config))),
            gpu,
            host,
            split,
            fault: Mutex::default(),
            crossings: AtomicU64::new(0),
        })
    }

    /// As [`Gpu::compile`]. Does nothing if there are layers on the CPU, which would compute them.
    pub fn compile(&self, work: &mut dyn FnMut()) {
        if self.split.border() == 0 {
            self.gpu.compile(work);
        }
    }

    /// How often something went from one side to the other, results that were read aside.
    pub fn crossings(&self) -> u64 {
        self.crossings.load(Ordering::Relaxed)
    }

    /// The fewest rows of a batch for which experts on the CPU are lent to the GPU, if they ever are.
    pub fn lends_from(&self) -> Option<usize> {
        self.berths.as_ref().map(|berths| locked(berths).least())
    }

    fn crossed(&self) {
        self.crossings.fetch_add(1, Ordering::Relaxed);
    }

    /// Rows on the CPU, for the GPU.
    pub(crate) fn send(&self, array: &cpu::Array) -> gpu::Array {
        self.crossed();
        self.gpu.send(&array.data, array.width)
    }

    /// Rows on the GPU, for the CPU. If the device fails they are zeros, and every later read says why.
    pub(crate) fn fetch(&self, array: &gpu::Array) -> cpu::Array {
        self.crossed();
        let data = self.gpu.read(array).unwrap_or_else(|error| {
            self.fail(error);
            vec![0.0; array.rows() * array.width()]
        });
        cpu::Array::new(data, array.width())
    }

    fn fail(&self, error: DeviceError) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.0);
    }

    fn check(&self) -> Result<(), DeviceError> {
        match &*self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => Err(DeviceError(fault.clone())),
            None => Ok(()),
        }
    }

    fn on_host(&self) -> OnHost<H> {
        OnHost(PhantomData)
    }

    /// Experts on the CPU, everything around them on the GPU: there and back once. While the CPU works on the
    /// routed experts, the GPU does the shared one.
    fn moe_apart(
        &self,
        x: &gpu::Array,
        routes: &gpu::Routes,
        experts: &Experts<Self>,
        shared: &Expert<Self>,
    ) -> Array {
        let (all, none) = self.silent.as_ref().expect("made for experts on the CPU");
        self.crossed();
        // In a rehearsal nothing is computed, on this side either.
        let read = (!self.gpu.rehearses()).then(|| self.gpu.read_routed(x, routes));
        let to_shared = self.gpu.route(x, &vec![0; x.rows()], &all.router);
        let shared = shared.gate.part(|| shared.there(&self.gpu));
        let mut y = self.gpu.moe(x, &to_shared, &all.experts, shared);
        self.gpu.begin();
        match read {
            None => self.gpu.add(&mut y, x), // as below, for its kernel
            Some(Ok(gpu::Routed { x: values, chosen })) => {
                let experts = experts.stack.gate.part(|| experts.there(&self.on_host()));
                let x = cpu::Array::new(values, x.width());
                let routes = cpu::Routes { chosen, used: routes.used() };
                let routed = self.host.moe(&x, &routes, experts, none);
                self.gpu.add(&mut y, &self.send(&routed));
            }
            Some(Err(error)) => self.fail(error),
        }
        y.into()
    }

    /// Experts of the CPU on the GPU, for as long as this takes.
    fn moe_lent(
        &self,
        berths: &Mutex<Berths>,
        x: &gpu::Array,
        routes: &gpu::Routes,
        experts: &Experts<Self>,
        shared: &Expert<Self>,
    ) -> Array {
        self.crossed();
        let berths = locked(berths);
        match berths.lend(&self.gpu, experts) {
            Ok(experts) => {
                let shared = shared.gate.part(|| shared.there(&self.gpu));
                self.gpu.moe(x, routes, &experts, shared).into()
            }
            Err(error) => {
                self.fail(error);
                self.gpu.send(&vec![0.0; x.rows() * x.width()], x.width()).into()
            }
        }
    }
}

fn locked(berths: &Mutex<Berths>) -> MutexGuard<'_, Berths> {
    berths.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks of rows as one side knows them.
fn blocks<'a, R>(blocks: &Blocks<'a, Rows>, there: impl Fn(&'a Rows) -> &'a R) -> Blocks<'a, R> {
    Blocks { blocks: blocks.blocks.iter().map(|rows| there(rows)).collect(), block_len: blocks.block_len }
}

fn kv_views<'a, H: Host, B: Ops>(
    views: &[KvView<'a, Hybrid<H>>],
    there: impl Fn(&'a Rows) -> &'a B::Rows + Copy,
) -> Vec<KvView<'a, B>> {
    let view = |view: &KvView<'a, Hybrid<H>>| KvView {
        rows: view.rows.clone(),
        start: view.start,
        window: there(view.window),
        window_base: view.window_base,
        window_len: view.window_len,
        compressed: view.compressed.as_ref().map(|(rows, ratio)| (blocks(rows, there), *ratio)),
    };
    views.iter().map(view).collect()
}

fn index_views<'a, H: Host, B: Ops>(
    views: &[IndexView<'a, Hybrid<H>>],
    there: impl Fn(&'a Rows) -> &'a B::Rows + Copy,
) -> Vec<IndexView<'a, B>> {
    let view = |view: &IndexView<'a, Hybrid<H>>| IndexView {
        rows: view.rows.clone(),
        start: view.start,
        ratio: view.ratio,
        keys: blocks(&view.keys, there),
    };
    views.iter().map(view).collect()
}

fn projected<A: Into<Array>, Q, S>(made: Projected<A, Q>, query: impl FnOnce(Q) -> S) -> Projected<Array, S> {
    Projected {
        q: made.q.map(Into::into),
        kv: made.kv.into(),
        compressor: made.compressor.map(Into::into),
        index_compressor: made.index_compressor.map(Into::into),
        indexer: made.indexer.map(query),
    }
}

impl<H: Host> Ops for Hybrid<H> {
    type Array = Array;
    type Matrix = Matrix;
    type Rows = Rows;
    type Mix = Mix<H>;
    type Query = Query<H>;
    type Picks = Picks<H>;
    type Routes = Routes;

    fn scratch(&self) -> u64 {
        self.gpu.scratch() + self.host.scratch()
    }

    /// As the GPU does; not if there are layers on the CPU, which would compute them.
    fn rehearse(&self, work: &mut dyn FnMut()) {
        if self.split.border() == 0 {
            self.gpu.rehearse(work);
        }
    }

    /// With experts that are lent, as many as there may be: their way to the GPU takes as long for any number of rows.
    fn worthwhile_rows(&self) -> usize {
        if self.lends_from().is_some_and(|least| least <= self.most_rows()) { self.most_rows() } else { 1 }
    }

    fn most_rows(&self) -> usize {
        self.gpu.most_rows()
    }

    fn matrix(&self, matrix: weights::Matrix) -> Result<Matrix, DeviceError> {
        if self.split.has_tensor(&matrix.name) {
            return Ok(Matrix::new(Sided::Gpu(self.gpu.matrix(matrix)?)));
        }
        if let Some(berths) = self.berths.as_ref().filter(|_| self.split.lends_tensor(&matrix.name)) {
            locked(berths).make_room(&self.gpu, &matrix)?;
        }
        Ok(Matrix::new(Sided::Host(self.host.matrix(matrix)?)))
    }

    fn array(&self, values: Vec<f32>, width: usize) -> Result<Array, DeviceError> {
        Ok(self.host.array(values, width)?.into())
    }

    fn rows(&self, layout: RowLayout, layer: usize) -> Rows {
        match self.split.has_layer(layer) {
            true => Rows::Gpu(self.gpu.rows(layout, layer)),
            false => Rows::Host(self.host.rows(layout, layer)),
        }
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.check()?;
        self.gpu.wait()
    }

    fn read(&self, array: &Array) -> Result<Vec<f32>, DeviceError> {
        self.check()?;
        match array.if_gpu() {
            Some(array) => self.gpu.read(array),
            None => self.host.read(array.host(self)),
        }
    }

    fn read_leaders(
        &self,
        logits: &Array,
        asks: &[LeadersAsk],
    ) -> Result<Option<Vec<Option<Leaders>>>, DeviceError> {
        self.check()?;
        match logits.if_gpu() {
            Some(logits) => self.gpu.read_leaders(logits, asks),
            None => self.host.read_leaders(logits.host(self), asks),
        }
    }

    fn read_picks(&self, picks: &Picks<H>) -> Result<Vec<Vec<u32>>, DeviceError> {
        self.check()?;
        match picks {
            Sided::Host(picks) => self.host.read_picks(picks),
            Sided::Gpu(picks) => self.gpu.read_picks(picks),
        }
    }

    fn read_routes(&self, routes: &Routes) -> Result<Vec<Vec<(u32, f32)>>, DeviceError> {
        self.check()?;
        match routes {
            Sided::Host(routes) => self.host.read_routes(routes),
            Sided::Gpu(routes) => self.gpu.read_routes(routes),
        }
    }

    fn embed(&self, embedding: &Matrix, tokens: &[u32], hc: usize) -> Array {
        match &embedding.held {
            Sided::Host(embedding) => self.host.embed(embedding, tokens, hc).into(),
            Sided::Gpu(embedding) => self.gpu.embed(embedding, tokens, hc).into(),
        }
    }

    fn hc_enter(&self, streams: &Array, hc: &HyperConnection<Self>, norm: &Norm<Self>) -> (Array, Mix<H>) {
        if hc.weights.is_on_gpu() {
            let (hc, norm) = hc.weights.part(|| (hc.there(&self.gpu), norm.there(&self.gpu)));
            let (x, mix) = self.gpu.hc_enter(streams.gpu(self), hc, norm);
            (x.into(), Sided::Gpu(mix))
        } else {
            let side = self.on_host();
            let (hc, norm) = hc.weights.part(|| (hc.there(&side), norm.there(&side)));
            let (x, mix) = self.host.hc_enter(streams.host(self), hc, norm);
            (x.into(), Sided::Host(mix))
        }
    }

    fn hc_leave(&self, streams: &mut Array, y: &Array, mix: &Mix<H>) {
        match mix {
            Sided::Host(mix) => self.host.hc_leave(streams.host_mut(self), y.host(self), mix),
            Sided::Gpu(mix) => self.gpu.hc_leave(streams.gpu_mut(self), y.gpu(self), mix),
        }
    }

    /// Between two layers on different sides the streams are left on one and entered on the other.
    fn hc_turn(
        &self,
        streams: &mut Array,
        y: &Array,
        mix: &Mix<H>,
        next: &HyperConnection<Self>,
        norm: &Norm<Self>,
    ) -> (Array, Mix<H>) {
        match mix {
            Sided::Gpu(mix) if next.weights.is_on_gpu() => {
                let (next, norm) = next.weights.part(|| (next.there(&self.gpu), norm.there(&self.gpu)));
                let streams = streams.gpu_mut(self);
                let (x, mix) = self.gpu.hc_turn(streams, y.gpu(self), mix, next, norm);
                (x.into(), Sided::Gpu(mix))
            }
            Sided::Host(mix) if !next.weights.is_on_gpu() => {
                let side = self.on_host();
                let (next, norm) = next.weights.part(|| (next.there(&side), norm.there(&side)));
                let streams = streams.host_mut(self);
                let (x, mix) = self.host.hc_turn(streams, y.host(self), mix, next, norm);
                (x.into(), Sided::Host(mix))
            }
            _ => {
                self.hc_leave(streams, y, mix);
                self.hc_enter(streams, next, norm)
            }
        }
    }

    /// Where they are.
    fn take_rows(&self, streams: &Array, rows: &[usize]) -> Array {
        match streams.if_gpu() {
            Some(streams) => self.gpu.take_rows(streams, rows).into(),
            None => self.host.take_rows(streams.host(self), rows).into(),
        }
    }

    fn project(
        &self,
        x: &Array,
        attention: &Attention<Self>,
        positions: &[u32],
        angles: &Angles,
        queries: Queries,
    ) -> Projected<Array, Query<H>> {
        let first = &attention.q_a;
        if first.is_on_gpu() {
            let attention = first.part(|| attention.there(&self.gpu));
            projected(self.gpu.project(x.gpu(self), attention, positions, angles, queries), Sided::Gpu)
        } else {
            let attention = first.part(|| attention.there(&self.on_host()));
            projected(self.host.project(x.host(self), attention, positions, angles, queries), Sided::Host)
        }
    }

    fn append(&self, values: &Array, rows: Range<usize>, store: &mut Rows) {
        match store {
            Rows::Host(store) => self.host.append(values.host(self), rows, store),
            Rows::Gpu(store) => self.gpu.append(values.gpu(self), rows, store),
        }
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
        let first = &compressor.kv;
        match into {
            Rows::Host(into) => {
                let compressor = first.part(|| compressor.there(&self.on_host()));
                self.host.compress(compressor, frontier.host(), base, windows, angles, into);
            }
            Rows::Gpu(into) => {
                let compressor = first.part(|| compressor.there(&self.gpu));
                self.gpu.compress(compressor, frontier.gpu(), base, windows, angles, into);
            }
        }
    }

    fn pick(&self, indexer: &Query<H>, keys: &[IndexView<'_, Self>], top_k: usize) -> Picks<H> {
        match indexer {
            Sided::Host(query) => {
                Sided::Host(self.host.pick(query, &index_views::<H, H>(keys, Rows::host), top_k))
            }
            Sided::Gpu(query) => {
                Sided::Gpu(self.gpu.pick(query, &index_views::<H, Gpu>(keys, Rows::gpu), top_k))
            }
        }
    }

    fn attend_out(
        &self,
        q: &Array,
        caches: &[KvView<'_, Self>],
        picks: Option<&Picks<H>>,
        attention: &Attention<Self>,
        angles: &Angles,
    ) -> Array {
        let first = &attention.q_a;
        if first.is_on_gpu() {
            let attention = first.part(|| attention.there(&self.gpu));
            let (caches, picks) = (kv_views::<H, Gpu>(caches, Rows::gpu), picks.map(Sided::gpu));
            self.gpu.attend_out(q.gpu(self), &caches, picks, attention, angles).into()
        } else {
            let attention = first.part(|| attention.there(&self.on_host()));
            let (caches, picks) = (kv_views::<H, H>(caches, Rows::host), picks.map(Sided::host));
            self.host.attend_out(q.host(self), &caches, picks, attention, angles).into()
        }
    }

    fn route(&self, x: &Array, tokens: &[u32], router: &Router<Self>) -> Routes {
        let first = &router.gate;
        if first.is_on_gpu() {
            Sided::Gpu(self.gpu.route(x.gpu(self), tokens, first.part(|| router.there(&self.gpu))))
        } else {
            let router = first.part(|| router.there(&self.on_host()));
            Sided::Host(self.host.route(x.host(self), tokens, router))
        }
    }

    fn moe(&self, x: &Array, routes: &Routes, experts: &Experts<Self>, shared: &Expert<Self>) -> Array {
        let (first, second) = (&experts.stack.gate, &shared.gate);
        match routes {
            Sided::Gpu(routes) if !first.is_on_gpu() => {
                let x = x.gpu(self);
                match self.berths.as_ref().filter(|berths| x.rows() >= locked(berths).least()) {
                    Some(berths) => self.moe_lent(berths, x, routes, experts, shared),
                    None => self.moe_apart(x, routes, experts, shared),
                }
            }
            Sided::Gpu(routes) => {
                let experts = first.part(|| experts.there(&self.gpu));
                let shared = second.part(|| shared.there(&self.gpu));
                self.gpu.moe(x.gpu(self), routes, experts, shared).into()
            }
            Sided::Host(routes) => {
                let experts = first.part(|| experts.there(&self.on_host()));
                let shared = second.part(|| shared.there(&self.on_host()));
                self.host.moe(x.host(self), routes, experts, shared).into()
            }
        }
    }

    fn head(&self, streams: &Array, wanted: &[usize], head: &Head<Self>) -> Array {
        let first = &head.weights;
        if first.is_on_gpu() {
            let head = first.part(|| head.there(&self.gpu));
            self.gpu.head(streams.gpu(self), wanted, head).into()
        } else {
            let head = first.part(|| head.there(&self.on_host()));
            self.host.head(streams.host(self), wanted, head).into()
        }
    }

    /// Where the embeddings are: on the CPU.
    fn mtp_enter(
        &self,
        streams: &Array,
        tokens: &[u32],
        embedding: &Matrix,
        entry: &MtpEntry<Self>,
    ) -> Array {
        let there = entry.eh_proj.part(|| entry.there(&self.on_host()));
        self.host.mtp_enter(streams.host(self), tokens, embedding.held.host(), there).into()
    }
}
