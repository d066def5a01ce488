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

/// What can be brought into the form of one side: a matrix, a vector, a number, and what is made of these.
pub(crate) trait Part<S: Side> {
    type There;
    fn there(&self, side: &S) -> Self::There;
}

impl<S: Side> Part<S> for Matrix {
    type There = <S::Ops as Ops>::Matrix;

    fn there(&self, side: &S) -> Self::There {
        side.matrix(self)
    }
}

impl<S: Side> Part<S> for Array {
    type There = <S::Ops as Ops>::Array;

    fn there(&self, side: &S) -> Self::There {
        side.array(self)
    }
}

impl<S: Side, P: Part<S>> Part<S> for Option<P> {
    type There = Option<P::There>;

    fn there(&self, side: &S) -> Self::There {
        self.as_ref().map(|part| part.there(side))
    }
}

impl<S: Side, P: Part<S>> Part<S> for Arc<P> {
    type There = Arc<P::There>;

    fn there(&self, side: &S) -> Self::There {
        Arc::new((**self).there(side))
    }
}

/// What is the same on both sides.
macro_rules! same {
    ($($kind:ty),*) => {$(
        impl<S: Side> Part<S> for $kind {
            type There = $kind;

            fn there(&self, _: &S) -> $kind {
                Clone::clone(self)
            }
        }
    )*};
}

same!(bool, usize, f32, Arc<[u32]>);

/// Parts of the model, with all their fields.
macro_rules! parts {
    ($($part:ident { $($field:ident),* })*) => {$(
        impl<H: Host, S: Side> Part<S> for $part<Hybrid<H>> {
            type There = $part<S::Ops>;

            fn there(&self, side: &S) -> Self::There {
                $part { $($field: self.$field.there(side)),* }
            }
        }
    )*};
}

parts! {
    Norm { weight, eps }
    HyperConnection { weights, base, scale, hc, iterations, eps, rms_eps }
    Attention {
        q_a, q_a_norm, q_b, kv, kv_norm, sinks, out_a, out_b, heads, head_dim, groups, compressor, indexer
    }
    Compressor { kv, gate, ape, norm, ratio, width, overlap }
    Indexer { q_b, proj, heads, width, top_k, compressor }
    Router { gate, bias, table, used, scale }
    Expert { gate, up, down, ff, clamp }
    Experts { stack, count }
    Head { weights, base, scale, hc, eps, rms_eps, norm, output }
    MtpEntry { eh_proj, enorm, hnorm, hc }
}
