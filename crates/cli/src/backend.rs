//! `--ops`, `--threads` and `--isa`: where the model is computed.
//!
//! Backends are types and the choice is made at run time, so a command hands over its work as a [`Task`]
//! that can be done on any of them.

use clap::ValueEnum;
use cpu::isa::{self, Level};
use cpu::{Cpu, Reference};
use model::Ops;
use std::num::NonZero;

/// Which implementation of the model's operations computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OpsChoice {
    /// All cores and vector units, with 8-bit activations where weights have few bits.
    Fast,
    /// Plain loops in f32 on one core: slow, and the yardstick for the other.
    Reference,
}

/// Where the model is computed.
#[derive(clap::Args)]
pub struct BackendArgs {
    /// Which implementation of the model's operations computes.
    #[arg(long, value_enum, default_value = "fast")]
    ops: OpsChoice,
    /// Threads that compute. Default: one for each physical core
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Instruction set of the fast operations: scalar, avx2, avx512 or neon. Default: the best one this
    /// CPU has. All give the same bits
    #[arg(long, env = "DS4_ISA", value_name = "NAME", value_parser = isa::choose)]
    isa: Option<Level>,
}

/// Work that can be done on any backend.
pub trait Task {
    /// What comes out.
    type Output;
    /// Does the work on one backend.
    fn on<B: Ops + 'static>(self, ops: B) -> Self::Output;
}

impl BackendArgs {
    /// What computes, for people.
    pub fn describe(&self) -> String {
        match self.ops {
            OpsChoice::Fast => {
                let threads = self.threads.map_or_else(cpu::pool::default_threads, NonZero::get);
                format!("CPU, {threads} threads, {}", isa::level())
            }
            OpsChoice::Reference => "reference loops, 1 thread".into(),
        }
    }

    /// Does the work on the chosen backend.
    pub fn run<T: Task>(&self, task: T) -> T::Output {
        match self.ops {
            OpsChoice::Fast => task.on(Cpu::new(self.threads.map(NonZero::get))),
            OpsChoice::Reference => task.on(Reference),
        }
    }
}
