//! `--backend` and what goes with it: where the model is computed.
//!
//! Backends are types and the choice is made at run time, so a command hands over its work as a [`Task`]
//! that can be done on any of them.

#[cfg(feature = "gpu")]
use anyhow::Context;
use clap::ValueEnum;
use cpu::isa::{self, Level};
use cpu::{Cpu, Reference};
use gguf::Gguf;
#[cfg(feature = "gpu")]
use hybrid::{Hybrid, Split};
#[cfg(feature = "gpu")]
use model::Config;
use model::Ops;
use std::num::NonZero;

/// On what a model is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    /// The GPU, if one holds the model or all but its experts; else the CPU.
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
    #[arg(long, value_name = "N")]
    device: Option<usize>,
    #[command(flatten)]
    split: SplitArgs,
    /// Do without the GPU's matrix units: prompts are read in f32, more slowly
    #[arg(long)]
    no_matrix_units: bool,
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

/// Which part of a model is on the GPU.
#[derive(clap::Args, Clone, Copy)]
pub struct SplitArgs {
    /// Keep the last N layers on the GPU, and the others on the CPU
    #[arg(long, value_name = "N")]
    pub gpu_layers: Option<usize>,
    /// Keep the routed experts on the CPU, and the rest of the layers on the GPU. For long batches of a prompt, the
    /// GPU is lent the experts: their weights are brought over, a layer at a time
    #[arg(long)]
    pub cpu_moe: bool,
    /// With --cpu-moe, lend nothing: the CPU computes its experts for long batches, too
    #[arg(long, requires = "cpu_moe")]
    pub no_lending: bool,
}

impl SplitArgs {
    /// Whether anything was asked for.
    pub fn is_given(self) -> bool {
        self.gpu_layers.is_some() || self.cpu_moe
    }

    /// The split of a model with so many layers.
    ///
    /// # Errors
    ///
    /// If it makes no sense.
    #[cfg(feature = "gpu")]
    pub fn of(self, layers: usize) -> Result<Split, hybrid::SplitError> {
        let split = Split::new(layers, self.gpu_layers.unwrap_or(layers), self.cpu_moe)?;
        Ok(if self.no_lending { split.without_lending() } else { split })
    }
}

/// Work that can be done on any backend.
#[cfg_attr(not(feature = "gpu"), allow(dead_code))] // who has no GPU need not plan for one
pub trait Task {
    /// What comes out.
    type Output;
    /// The model that it is about, so that a device can be asked beforehand whether it has room.
    fn file(&self) -> &Gguf;
    /// Tokens of context asked for, if it was.
    fn context(&self) -> Option<u32> {
        None
    }
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
        if let Some(device) = gpu_backend::in_use() {
            return device.what.clone();
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

    /// Whether the CPU has any of the weights to read. Known once the work has begun.
    pub fn is_on_cpu(&self) -> bool {
        #[cfg(feature = "gpu")]
        if gpu_backend::in_use().is_some_and(|device| device.holds_all) {
            return false;
        }
        true
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
            (BackendChoice::Cpu, _) if self.split.is_given() => {
                anyhow::bail!("--gpu-layers and --cpu-moe speak of a GPU, and --backend cpu uses none")
            }
            _ if self.split.is_given() && self.ops == Some(OpsChoice::Reference) => {
                anyhow::bail!(
                    "--ops reference computes all of a model on the CPU: leave out --gpu-layers and --cpu-moe"
                )
            }
            _ if self.split.is_given() => self.on_both(task),
            (_, Some(device)) if self.ops.is_some() || self.threads.is_some() => anyhow::bail!(
                "--device {device} computes on a GPU, and --ops and --threads speak of the CPU; \
                 --gpu-layers and --cpu-moe use both"
            ),
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

    /// Opens the GPU that was asked for, or the best one, for a whole model.
    ///
    /// # Errors
    ///
    /// If the CPU was asked for, there is no GPU, or it has no room.
    #[cfg(feature = "gpu")]
    pub fn open_gpu(&self, gguf: &Gguf) -> anyhow::Result<gpu::Gpu> {
        anyhow::ensure!(self.backend != BackendChoice::Cpu, "--backend cpu uses no GPU: leave it out");
        gpu_backend::open(self.gpu_options(), gguf, None)
    }

    fn on_cpu<T: Task>(&self, task: T) -> T::Output {
        match self.ops {
            Some(OpsChoice::Reference) => task.on(Reference),
            _ => task.on(Cpu::new(self.threads.map(NonZero::get))),
        }
    }

    /// The device that was asked for; if none was named, the best one, in software if need be.
    #[cfg(feature = "gpu")]
    fn gpu_options(&self) -> gpu::Options {
        gpu::Options {
            device: self.device.map_or(gpu::Choice::First, gpu::Choice::Index),
            matrices: !self.no_matrix_units,
            ..gpu::Options::default()
        }
    }

    #[cfg(feature = "gpu")]
    fn on_gpu<T: Task>(&self, task: T) -> anyhow::Result<T::Output> {
        let gpu = gpu_backend::open(self.gpu_options(), task.file(), task.context())?;
        Ok(task.on(gpu))
    }

    #[cfg(feature = "gpu")]
    fn on_the_best<T: Task>(&self, task: T) -> anyhow::Result<T::Output> {
        match gpu_backend::if_it_holds(self.gpu_options(), task.file(), task.context()) {
            Some(gpu_backend::Held::All(gpu)) => Ok(task.on(gpu)),
            Some(gpu_backend::Held::Some(gpu, split, config)) => self.on_hybrid(task, gpu, split, &config),
            None => Ok(self.on_cpu(task)),
        }
    }

    /// Some layers on the GPU and the rest on the CPU.
    #[cfg(feature = "gpu")]
    fn on_both<T: Task>(&self, task: T) -> anyhow::Result<T::Output> {
        let config = model::load::check(task.file()).context("loading the model")?.config;
        let layers = config.layers();
        let split = self.split.of(layers)?;
        match split.on_gpu() {
            0 => Ok(self.on_cpu(task)),
            on_gpu if on_gpu == layers && !split.cpu_moe() => self.on_gpu(task),
            _ => {
                let options = self.gpu_options();
                let (gpu, split) =
                    gpu_backend::open_for(options, task.file(), &config, split, task.context())?;
                self.on_hybrid(task, gpu, split, &config)
            }
        }
    }

    #[cfg(feature = "gpu")]
    fn on_hybrid<T: Task>(
        &self,
        task: T,
        gpu: gpu::Gpu,
        split: Split,
        config: &Config,
    ) -> anyhow::Result<T::Output> {
        let host = Cpu::new(self.threads.map(NonZero::get));
        let ops = Hybrid::new(gpu, host, split, config).context("opening the GPU")?;
        Ok(task.on(ops))
    }

    #[cfg(not(feature = "gpu"))]
    fn on_both<T: Task>(&self, task: T) -> anyhow::Result<T::Output> {
        self.on_gpu(task)
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
pub use gpu_backend::plan_both;

#[cfg(feature = "gpu")]
mod gpu_backend {
    //! Opening a GPU for a model: the plan comes first, and is shown.

    use crate::inspect::cache_bytes;
    use anyhow::Context;
    use gguf::Gguf;
    use gpu::{Choice, Gpu, Kind, Options, Plan};
    use hybrid::Split;
    use indicatif::{ProgressBar, ProgressStyle};
    use model::Config;
    use std::sync::OnceLock;

    /// A device that computes.
    pub struct InUse {
        /// What it has, and which it is, for people.
        pub what: String,
        /// Whether it has all weights.
        pub holds_all: bool,
    }

    static IN_USE: OnceLock<InUse> = OnceLock::new();

    /// The device that computes, if one was opened.
    pub fn in_use() -> Option<&'static InUse> {
        IN_USE.get()
    }

    /// Opens a device.
    ///
    /// # Errors
    ///
    /// If there is none, or it has no room for the model.
    pub fn open(options: Options, gguf: &Gguf, context: Option<u32>) -> anyhow::Result<Gpu> {
        let gpu = Gpu::open(options).context("opening the GPU")?;
        let config = model::load::check(gguf).context("loading the model")?.config;
        let plan = plan(&gpu, gguf, &config, context);
        eprintln!("GPU: {}; {plan}", name(&gpu));
        plan.check()?;
        Ok(ready(gpu, &plan, None))
    }

    /// Opens a device for a part of the model: as asked for, but that no experts are lent if there is no room for that.
    ///
    /// # Errors
    ///
    /// If there is none, or it has no room for that part.
    pub fn open_for(
        options: Options,
        gguf: &Gguf,
        config: &Config,
        split: Split,
        context: Option<u32>,
    ) -> anyhow::Result<(Gpu, Split)> {
        let gpu = Gpu::open(options).context("opening the GPU")?;
        let at = |split| plan_both(gpu.device(), gguf, config, split, context);
        let plan = at(split).or_without_lending(at);
        eprintln!("GPU: {}; {plan}", name(&gpu));
        plan.check(at)?;
        Ok((ready(gpu, &plan.gpu, Some(plan.split)), plan.split))
    }

    /// What goes where, if a model is on both sides.
    pub fn plan_both(
        device: &gpu::Device,
        gguf: &Gguf,
        config: &Config,
        split: Split,
        context: Option<u32>,
    ) -> hybrid::Plan {
        hybrid::Plan::new(device, gguf, config, split, |layers| cache_bytes(config, layers, context))
    }

    /// How much of a model a GPU has room for.
    pub enum Held {
        /// All of it.
        All(Gpu),
        /// A part of it.
        Some(Gpu, Split, Box<Config>),
    }

    /// The best GPU that is no software, if there is one and it has room for the model, or, if it has memory of its
    /// own, for all but the experts. Says what was chosen, and why not more.
    pub fn if_it_holds(options: Options, gguf: &Gguf, context: Option<u32>) -> Option<Held> {
        if !gpu::hardware_may_exist() {
            return None;
        }
        let gpu = Gpu::open(Options { device: Choice::Hardware, ..options }).ok()?;
        // A file that is no model of ours is refused by whoever loads it.
        let config = model::load::check(gguf).ok()?.config;
        let plan = plan(&gpu, gguf, &config, context);
        let Err(refusal) = plan.check() else {
            eprintln!("GPU: {}; {plan}", name(&gpu));
            return Some(Held::All(ready(gpu, &plan, None)));
        };
        let split = Split::new(config.layers(), config.layers(), true).expect("all layers");
        let at = |split| plan_both(gpu.device(), gguf, &config, split, context);
        let plan = at(split).or_without_lending(at);
        let split = plan.split;
        if gpu.device().kind == Kind::Discrete && plan.gpu.check().is_ok() {
            eprintln!("{refusal}\nGPU: {}; --cpu-moe was chosen: {plan}", name(&gpu));
            return Some(Held::Some(ready(gpu, &plan.gpu, Some(split)), split, config.into()));
        }
        eprintln!("on the CPU: {refusal}");
        None
    }

    fn plan(gpu: &Gpu, gguf: &Gguf, config: &Config, context: Option<u32>) -> Plan {
        let layer = |layer| cache_bytes(config, layer..layer + 1, context);
        let cache: Vec<u64> = (0..config.layers()).map(layer).collect();
        Plan::new(gpu.device(), gguf, config, &cache, |_| true)
    }

    fn name(gpu: &Gpu) -> String {
        format!("{} ({})", gpu.device().name, gpu.device().api)
    }

    /// Says what a device turned out not to do, and shows the weights' way to it, on a terminal.
    fn ready(gpu: Gpu, plan: &Plan, split: Option<Split>) -> Gpu {
        if let Some(why) = gpu.refused_matrices() {
            eprintln!(
                "{}: prompts are read without matrix units, whose first product failed: {why}",
                name(&gpu)
            );
        }
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
        let what = match split {
            None => format!("GPU, {}", name(&gpu)),
            Some(split) => {
                let experts = match (split.cpu_moe(), split.lends()) {
                    (false, _) => "",
                    (true, false) => ", but for their experts",
                    (true, true) => ", but for their experts, lent to it for long batches",
                };
                let (on_gpu, layers) = (split.on_gpu(), split.layers());
                format!("GPU and CPU, {}: {on_gpu} of {layers} layers{experts}", name(&gpu))
            }
        };
        gpu.plan_for(plan.rows());
        IN_USE.get_or_init(|| InUse { what, holds_all: split.is_none() });
        gpu
    }
}
