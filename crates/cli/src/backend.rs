//! `--backend` and what goes with it: where the model is computed.
//!
//! Backends are types and the choice is made at run time, so a command hands over its work as a [`Task`]
//! that can be done on any of them.

use clap::ValueEnum;
use cpu::isa::{self, Level};
use cpu::{Cpu, Reference};
use gguf::Gguf;
use model::Ops;
use std::num::NonZero;

/// On what a model is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    /// The GPU, if there is one that holds the model; else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, through Metal, Vulkan or DX12.
    Gpu,
}

/// Which implementation of the model's operations computes on the CPU.
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
    /// On what the model is computed. Options that speak of the CPU choose it, --device chooses a GPU
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendChoice,
    /// Which GPU: a number that `ds4 inspect --devices` lists
    #[arg(long, value_name = "N", conflicts_with_all = ["ops", "threads"])]
    device: Option<usize>,
    /// Which implementation of the model's operations computes on the CPU [default: fast]
    #[arg(long, value_enum)]
    ops: Option<OpsChoice>,
    /// Threads that compute. Default: one for each physical core
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Instruction set of the fast operations: scalar, avx2, avx512, neon or neon-dotprod. Default: the best one this
    /// CPU has. All give the same bits
    #[arg(long, env = "DS4_ISA", value_name = "NAME", value_parser = isa::choose)]
    isa: Option<Level>,
}

/// Work that can be done on any backend.
pub trait Task {
    /// What comes out.
    type Output;
    /// The model that it is about, so that a device can be asked beforehand whether it has room.
    fn file(&self) -> &Gguf;
    /// Does the work on one backend.
    fn on<B: Ops + 'static>(self, ops: B) -> Self::Output;
}

impl BackendArgs {
    /// How many threads the CPU would compute with.
    pub fn cpu_threads(&self) -> usize {
        self.threads.map_or_else(cpu::pool::default_threads, NonZero::get)
    }

    /// What computes, for people.
    pub fn describe(&self) -> String {
        #[cfg(feature = "gpu")]
        if let Some(name) = gpu_backend::in_use() {
            return name;
        }
        match self.ops {
            Some(OpsChoice::Reference) => "reference loops, 1 thread".into(),
            _ => format!("CPU, {} threads, {}", self.cpu_threads(), isa::level()),
        }
    }

    /// Whether the work is done on a GPU. Known once it has begun.
    pub fn is_on_gpu(&self) -> bool {
        #[cfg(feature = "gpu")]
        if gpu_backend::in_use().is_some() {
            return true;
        }
        false
    }

    /// Does the work on the chosen backend.
    ///
    /// # Errors
    ///
    /// If that is a GPU, and there is none, or it has no room for the model.
    pub fn run<T: Task>(&self, task: T) -> anyhow::Result<T::Output> {
        let about_cpu = self.ops.is_some() || self.threads.is_some() || self.isa.is_some();
        match (self.backend, self.device) {
            (BackendChoice::Cpu, Some(device)) => {
                anyhow::bail!("--device {device} names a GPU, and --backend cpu uses none")
            }
            (BackendChoice::Gpu, _) if self.ops.is_some() => {
                anyhow::bail!(
                    "--ops chooses between implementations on the CPU; leave it out with --backend gpu"
                )
            }
            (BackendChoice::Gpu, _) | (BackendChoice::Auto, Some(_)) => self.on_gpu(task),
            (BackendChoice::Auto, None) if !about_cpu => self.on_the_best(task),
            _ => Ok(self.on_cpu(task)),
        }
    }

    fn on_cpu<T: Task>(&self, task: T) -> T::Output {
        match self.ops {
            Some(OpsChoice::Reference) => task.on(Reference),
            _ => task.on(Cpu::new(self.threads.map(NonZero::get))),
        }
    }

    #[cfg(feature = "gpu")]
    fn on_gpu<T: Task>(&self, task: T) -> anyhow::Result<T::Output> {
        let gpu = gpu_backend::open(self.device, task.file())?;
        Ok(task.on(gpu))
    }

    #[cfg(feature = "gpu")]
    fn on_the_best<T: Task>(&self, task: T) -> anyhow::Result<T::Output> {
        match gpu_backend::if_it_holds(task.file()) {
            Some(gpu) => Ok(task.on(gpu)),
            None => Ok(self.on_cpu(task)),
        }
    }

    #[cfg(not(feature = "gpu"))]
    fn on_gpu<T: Task>(&self, _: T) -> anyhow::Result<T::Output> {
        anyhow::bail!("this ds4 was built without its GPU backend (cargo feature `gpu`); use --backend cpu")
    }

    #[cfg(not(feature = "gpu"))]
    fn on_the_best<T: Task>(&self, task: T) -> anyhow::Result<T::Output> {
        Ok(self.on_cpu(task))
    }
}

#[cfg(feature = "gpu")]
mod gpu_backend {
    //! Opening a GPU for a model: the plan comes first, and is shown.

    use crate::inspect::cache_bytes;
    use anyhow::Context;
    use gguf::Gguf;
    use gpu::{Choice, Gpu, Options, Plan};
    use indicatif::{ProgressBar, ProgressStyle};
    use std::sync::OnceLock;

    static IN_USE: OnceLock<String> = OnceLock::new();

    /// The device that computes, if one was opened.
    pub fn in_use() -> Option<String> {
        IN_USE.get().cloned()
    }

    /// Opens the device that was asked for; if none was named, the best one, in software if need be.
    ///
    /// # Errors
    ///
    /// If there is none, or it has no room for the model.
    pub fn open(device: Option<usize>, gguf: &Gguf) -> anyhow::Result<Gpu> {
        let choice = device.map_or(Choice::First, Choice::Index);
        let gpu = Gpu::open(options(choice)).context("opening the GPU")?;
        let plan = plan(&gpu, gguf)?;
        eprintln!("GPU: {}; {plan}", name(&gpu));
        plan.check()?;
        Ok(ready(gpu, &plan))
    }

    /// The best GPU, if there is one and it has room; says why not, if it has none.
    pub fn if_it_holds(gguf: &Gguf) -> Option<Gpu> {
        if !gpu::hardware_may_exist() {
            return None;
        }
        let gpu = Gpu::open(options(Choice::Hardware)).ok()?;
        // A file that is no model of ours is refused by whoever loads it.
        let plan = plan(&gpu, gguf).ok()?;
        match plan.check() {
            Ok(()) => {
                eprintln!("GPU: {}; {plan}", name(&gpu));
                Some(ready(gpu, &plan))
            }
            Err(refusal) => {
                eprintln!("on the CPU: {refusal}");
                None
            }
        }
    }

    fn options(device: Choice) -> Options {
        Options { device, ..Options::default() }
    }

    fn plan(gpu: &Gpu, gguf: &Gguf) -> anyhow::Result<Plan> {
        let config = model::load::check(gguf).context("loading the model")?.config;
        Ok(Plan::new(gpu.device(), gguf, &config, cache_bytes(&config)))
    }

    fn name(gpu: &Gpu) -> String {
        format!("{} ({})", gpu.device().name, gpu.device().api)
    }

    /// Shows the weights' way to the device, on a terminal.
    fn ready(gpu: Gpu, plan: &Plan) -> Gpu {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}")
            .expect("a template that was tried");
        let bar = ProgressBar::new(plan.weights).with_style(style).with_message("weights to the GPU");
        let total = plan.weights;
        gpu.on_upload(move |bytes| {
            bar.inc(bytes);
            if bar.position() + (bytes / 2) >= total {
                bar.finish_and_clear();
            }
        });
        IN_USE.get_or_init(|| format!("GPU, {}", name(&gpu)));
        gpu
    }
}
