//! Parts of the model in the form that one of the two backends knows. Matrices are shared; the few small vectors
//! are copied.

use crate::array::Array;
use crate::matrix::Matrix;
use crate::ops::{Host, Hybrid};
use gpu::Gpu;
use model::Ops;
use model::weights::{
    Attention, Compressor, Expert, Experts, Head, HyperConnection, Indexer, MtpEntry, Norm, Router,
};
use std::marker::PhantomData;
use std::sync::Arc;

/// One of the two backends, as the model's weights know it.
pub(crate) trait Side {
    /// The backend.
    type Ops: Ops;
    fn matrix(&self, matrix: &Matrix) -> <Self::Ops as Ops>::Matrix;
    fn array(&self, array: &Array) -> <Self::Ops as Ops>::Array;
}

/// The CPU.
pub(crate) struct OnHost<H>(pub(crate) PhantomData<H>);

impl<H: Host> Side for OnHost<H> {
    type Ops = H;

    fn matrix(&self, matrix: &Matrix) -> model::Matrix {
        matrix.held.host().clone()
    }

    fn array(&self, array: &Array) -> cpu::Array {
        array.if_host().expect("vectors of the model begin on the CPU").clone()
    }
}

impl Side for Gpu {
    type Ops = Gpu;

    fn matrix(&self, matrix: &Matrix) -> gpu::Matrix {
        matrix.held.gpu().clone()
    }

    fn array(&self, array: &Array) -> gpu::Array {
        let host = array.if_host().expect("vectors of the model begin on the CPU");
        self.send(&host.data, host.width)
    }
}

/// A part of the model that can be brought into the form of one side.
pub(crate) trait Part<S: Side> {
    type There;
    fn there(&self, side: &S) -> Self::There;
}

impl<H: Host, S: Side> Part<S> for Norm<Hybrid<H>> {
    type There = Norm<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        Norm { weight: side.array(&self.weight), eps: self.eps }
    }
}

impl<H: Host, S: Side> Part<S> for HyperConnection<Hybrid<H>> {
    type There = HyperConnection<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        HyperConnection {
            weights: side.matrix(&self.weights),
            base: side.array(&self.base),
            scale: side.array(&self.scale),
            hc: self.hc,
            iterations: self.iterations,
            eps: self.eps,
            rms_eps: self.rms_eps,
        }
    }
}

impl<H: Host, S: Side> Part<S> for Attention<Hybrid<H>> {
    type There = Attention<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        Attention {
            q_a: side.matrix(&self.q_a),
            q_a_norm: self.q_a_norm.there(side),
            q_b: side.matrix(&self.q_b),
            kv: side.matrix(&self.kv),
            kv_norm: self.kv_norm.there(side),
            sinks: side.array(&self.sinks),
            out_a: side.matrix(&self.out_a),
            out_b: side.matrix(&self.out_b),
            heads: self.heads,
            head_dim: self.head_dim,
            groups: self.groups,
            compressor: self.compressor.as_ref().map(|compressor| compressor.there(side)),
            indexer: self.indexer.as_ref().map(|indexer| indexer.there(side)),
        }
    }
}

impl<H: Host, S: Side> Part<S> for Compressor<Hybrid<H>> {
    type There = Compressor<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        Compressor {
            kv: side.matrix(&self.kv),
            gate: side.matrix(&self.gate),
            ape: side.array(&self.ape),
            norm: self.norm.there(side),
            ratio: self.ratio,
            width: self.width,
            overlap: self.overlap,
        }
    }
}

impl<H: Host, S: Side> Part<S> for Indexer<Hybrid<H>> {
    type There = Indexer<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        Indexer {
            q_b: side.matrix(&self.q_b),
            proj: side.matrix(&self.proj),
            heads: self.heads,
            width: self.width,
            top_k: self.top_k,
            compressor: self.compressor.there(side),
        }
    }
}

impl<H: Host, S: Side> Part<S> for Router<Hybrid<H>> {
    type There = Router<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        Router {
            gate: side.matrix(&self.gate),
            bias: self.bias.as_ref().map(|bias| side.array(bias)),
            table: self.table.clone(),
            used: self.used,
            scale: self.scale,
        }
    }
}

impl<H: Host, S: Side> Part<S> for Expert<Hybrid<H>> {
    type There = Expert<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        Expert {
            gate: side.matrix(&self.gate),
            up: side.matrix(&self.up),
            down: side.matrix(&self.down),
            ff: self.ff,
            clamp: self.clamp,
        }
    }
}

impl<H: Host, S: Side> Part<S> for Experts<Hybrid<H>> {
    type There = Experts<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        Experts { stack: self.stack.there(side), count: self.count }
    }
}

impl<H: Host, S: Side> Part<S> for Head<Hybrid<H>> {
    type There = Head<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        Head {
            weights: side.matrix(&self.weights),
            base: side.array(&self.base),
            scale: side.array(&self.scale),
            hc: self.hc,
            eps: self.eps,
            rms_eps: self.rms_eps,
            norm: self.norm.there(side),
            output: Arc::new(side.matrix(&self.output)),
        }
    }
}

impl<H: Host, S: Side> Part<S> for MtpEntry<Hybrid<H>> {
    type There = MtpEntry<S::Ops>;

    fn there(&self, side: &S) -> Self::There {
        MtpEntry {
            eh_proj: side.matrix(&self.eh_proj),
            enorm: self.enorm.there(side),
            hnorm: self.hnorm.there(side),
            hc: self.hc,
        }
    }
}
