//! [`Cpu`]: the fast backend.
//!
//! Each operation is a few parallel regions over a [`Pool`]; see [`crate::ops`]. Weights are multiplied
//! as they lie in the file ([`crate::dot`]), activations in 8 bits where the weights are quantized and in
//! f32 where they are not.

use crate::array::{Array, Picks, Routes};
use crate::ops::linear::{self, blocks};
use crate::ops::{attend, compress, moe, pick, project, streams};
use crate::pool::{Pool, Shards, default_threads};
use crate::reference::{Mix, Reference, choose_row};
use crate::rows::Rows;
use crate::spares::Spares;
use model::kv::RowLayout;
use model::ops::{DeviceError, IndexQuery, IndexView, KvView, Ops, Projected, Queries};
use model::rope::Angles;
use model::weights::{
    Attention, Compressor, Expert, Experts, Head, HyperConnection, Matrix, MtpEntry, Norm, Router,
};
use std::ops::Range;

/// Rows for which a thread chooses experts one after the other.
const ROUTED: usize = 16;

/// The fast backend: a pool of threads and the best instruction set of this CPU.
pub struct Cpu {
    pub(crate) pool: Pool,
    pub(crate) tiles: linear::Tiles,
    pub(crate) index_scratch: Spares<pick::Scratch>,
    pub(crate) attention_scratch: Spares<attend::Scratch>,
}

impl Cpu {
    /// A backend with so many threads; by default one for each physical core this process may use.
    pub fn new(threads: Option<usize>) -> Cpu {
        Cpu {
            pool: Pool::new(threads.unwrap_or_else(default_threads)),
            tiles: Spares::default(),
            index_scratch: Spares::default(),
            attention_scratch: Spares::default(),
        }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Ops for Cpu {
    type Array = Array;
    type Matrix = Matrix;
    type Rows = Rows;
    type Mix = Mix;
    type Query = IndexQuery<Array>;
    type Picks = Picks;
    type Routes = Routes;

    fn scratch(&self) -> u64 {
        crate::memory::kept_bytes()
    }

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
        Reference.read_picks(picks)
    }

    fn read_routes(&self, routes: &Routes) -> Result<Vec<Vec<(u32, f32)>>, DeviceError> {
        Reference.read_routes(routes)
    }

    fn embed(&self, embedding: &Matrix, tokens: &[u32], hc: usize) -> Array {
        streams::embed(self, embedding, tokens, hc)
    }

    fn hc_enter(&self, streams: &Array, hc: &HyperConnection<Self>, norm: &Norm<Self>) -> (Array, Mix) {
        streams::enter(self, streams, hc, norm)
    }

    fn hc_leave(&self, streams: &mut Array, y: &Array, mix: &Mix) {
        streams::leave(self, streams, y, mix);
    }

    fn hc_turn(
        &self,
        streams: &mut Array,
        y: &Array,
        mix: &Mix,
        next: &HyperConnection<Self>,
        norm: &Norm<Self>,
    ) -> (Array, Mix) {
        streams::turn(self, streams, y, mix, next, norm)
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
        project::project(self, x, attention, positions, angles, queries)
    }

    fn append(&self, values: &Array, rows: Range<usize>, store: &mut Rows) {
        store.extend(&self.pool, values, rows);
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
        compress::compress(self, compressor, frontier, base, windows, angles, into);
    }

    fn pick(&self, indexer: &IndexQuery<Array>, keys: &[IndexView<'_, Self>], top_k: usize) -> Picks {
        pick::pick(self, indexer, keys, top_k)
    }

    fn attend_out(
        &self,
        q: &Array,
        caches: &[KvView<'_, Self>],
        picks: Option<&Picks>,
        attention: &Attention<Self>,
        angles: &Angles,
    ) -> Array {
        attend::attend_out(self, q, caches, picks, attention, angles)
    }

    fn route(&self, x: &Array, tokens: &[u32], router: &Router<Self>) -> Routes {
        let gate = self.linear(&router.gate, x);
        let mut routes = Routes { chosen: vec![(0, 0.0); tokens.len() * router.used], used: router.used };
        let parts = Shards::new(&mut routes.chosen);
        let blocks: Vec<_> = blocks(tokens.len(), ROUTED).collect();
        self.pool.each(blocks.len(), |block| {
            for i in blocks[block].clone() {
                // SAFETY: an item owns its rows.
                let chosen = unsafe { parts.part(i * router.used, router.used) };
                choose_row(gate.row(i), tokens[i], router, chosen);
            }
        });
        routes
    }

    fn moe(&self, x: &Array, routes: &Routes, experts: &Experts<Self>, shared: &Expert<Self>) -> Array {
        moe::moe(self, x, routes, experts, shared)
    }

    fn head(&self, streams: &Array, wanted: &[usize], head: &Head<Self>) -> Array {
        self.linear(&head.output, &streams::collapse_head(self, streams, wanted, head))
    }

    fn mtp_enter(
        &self,
        streams: &Array,
        tokens: &[u32],
        embedding: &Matrix,
        entry: &MtpEntry<Self>,
    ) -> Array {
        let mut e = self.embed(embedding, tokens, 1);
        project::norm_rows(self, &mut e, &entry.enorm);
        let d = e.width;
        let mut h = Array::new(streams.data.clone(), d);
        project::norm_rows(self, &mut h, &entry.hnorm);
        let data =
            h.rows().enumerate().flat_map(|(j, h)| e.row(j / entry.hc).iter().chain(h).copied()).collect();
        let mut x = self.linear(&entry.eh_proj, &Array::new(data, 2 * d));
        Array::new(std::mem::take(&mut x.data), streams.width)
    }
}
