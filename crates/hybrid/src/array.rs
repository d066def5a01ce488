//! What travels between operations: on the side where it was made, and on the other once it was asked for there.

use crate::ops::{Host, Hybrid};
use std::sync::OnceLock;

/// Rows of f32.
pub struct Array {
    host: OnceLock<cpu::Array>,
    gpu: OnceLock<gpu::Array>,
}

impl From<cpu::Array> for Array {
    fn from(array: cpu::Array) -> Array {
        Array { host: array.into(), gpu: OnceLock::new() }
    }
}

impl From<gpu::Array> for Array {
    fn from(array: gpu::Array) -> Array {
        Array { host: OnceLock::new(), gpu: array.into() }
    }
}

impl Array {
    /// The rows on the CPU.
    pub(crate) fn host<H: Host>(&self, ops: &Hybrid<H>) -> &cpu::Array {
        self.host.get_or_init(|| ops.fetch(self.gpu.get().expect("on one side at least")))
    }

    /// The rows on the GPU.
    pub(crate) fn gpu<H: Host>(&self, ops: &Hybrid<H>) -> &gpu::Array {
        self.gpu.get_or_init(|| {
            let host = self.host.get().expect("on one side at least");
            ops.send(host)
        })
    }

    /// The rows on the CPU, to be changed there: the other side forgets them.
    pub(crate) fn host_mut<H: Host>(&mut self, ops: &Hybrid<H>) -> &mut cpu::Array {
        self.host(ops);
        self.gpu.take();
        self.host.get_mut().expect("just looked at")
    }

    /// The rows on the GPU, to be changed there: the other side forgets them.
    pub(crate) fn gpu_mut<H: Host>(&mut self, ops: &Hybrid<H>) -> &mut gpu::Array {
        self.gpu(ops);
        self.host.take();
        self.gpu.get_mut().expect("just looked at")
    }

    /// The rows, if they are on the GPU.
    pub(crate) fn if_gpu(&self) -> Option<&gpu::Array> {
        self.gpu.get()
    }

    /// The rows, if they are on the CPU.
    pub(crate) fn if_host(&self) -> Option<&cpu::Array> {
        self.host.get()
    }
}

/// Something that stays on the side where it was made.
pub enum Sided<A, B> {
    /// On the CPU.
    Host(A),
    /// On the GPU.
    Gpu(B),
}

/// What entering a sub-layer leaves for its exit.
pub type Mix<H> = Sided<<H as model::Ops>::Mix, gpu::Mix>;

/// One batch's queries to the lightning indexer.
pub type Query<H> = Sided<<H as model::Ops>::Query, <gpu::Gpu as model::Ops>::Query>;

/// The compressed rows chosen for each row of a batch.
pub type Picks<H> = Sided<<H as model::Ops>::Picks, gpu::Picks>;

/// The experts chosen for each row of a batch.
pub type Routes = Sided<cpu::Routes, gpu::Routes>;

impl<A, B> Sided<A, B> {
    /// What is on the CPU.
    pub(crate) fn host(&self) -> &A {
        match self {
            Sided::Host(it) => it,
            Sided::Gpu(_) => panic!("made on the GPU and needed on the CPU"),
        }
    }

    /// What is on the GPU.
    pub(crate) fn gpu(&self) -> &B {
        match self {
            Sided::Gpu(it) => it,
            Sided::Host(_) => panic!("made on the CPU and needed on the GPU"),
        }
    }
}
