//! `--ops` and `--threads`: where the model is computed.
//!
//! Backends are types and the choice is made at run time, so a command hands over its work as a [`Task`]
//! that can be done on any of them.

use clap::ValueEnum;
use cpu::Reference;
use model::Ops;

/// Which implementation of the model's operations computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OpsChoice {
    /// Plain loops in f32: slow, and the yardstick for the others.
    Reference,
}

/// Where the model is computed.
#[derive(clap::Args)]
pub struct BackendArgs {
    /// Which implementation of the model's operations computes.
    #[arg(long, value_enum, default_value = "reference")]
    ops: OpsChoice,
}

/// Work that can be done on any backend.
pub trait Task {
    /// What comes out.
    type Output;
    /// Does the work on one backend.
    fn on<B: Ops + 'static>(self, ops: B) -> Self::Output;
}

impl BackendArgs {
    /// Does the work on the chosen backend.
    pub fn run<T: Task>(&self, task: T) -> T::Output {
        match self.ops {
            OpsChoice::Reference => task.on(Reference),
        }
    }
}
