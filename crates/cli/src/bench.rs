//! `ds4 bench`: how fast a model runs here.
//!
//! [`Bench`] is the command. `workload` is what is measured, `cost` what it takes on paper, `profile` where
//! the time goes, `contexts` keeps what took long to read, `sweep` and `plot` are about growing contexts,
//! `machine` what the machine could do, `gpu_plan` what a GPU is asked to do, `host` what it is, `report` what is told. `serve_sim` measures the engine
//! in service instead.

mod contexts;
mod cost;
#[cfg(feature = "gpu")]
mod gpu_plan;
mod host;
mod machine;
mod plot;
mod profile;
mod report;
mod serve_sim;
mod stats;
mod sweep;
mod workload;

use crate::backend::{BackendArgs, Task};
use crate::model_arg::ModelArg;
use anyhow::{Context, bail, ensure};
use contexts::Contexts;
use cost::{Batch, Cost, Work};
use engine::{Cancel, LoadedModel};
use gguf::Gguf;
use host::{Host, Others, in_large_pages};
use machine::{Limits, Machine};
use model::{KvFormat, Ops, Timeline};
use profile::Stopwatch;
use report::{ModelFacts, PerToken, Report, Roof, RunFacts, TestResult};
use serde::Serialize;
use serve_sim::ServeSimArgs;
use stats::Samples;
use std::io::{self, IsTerminal, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use sweep::{Plan, Sweep};
use workload::{Interrupted, Runner};

/// What Ctrl-C exits with, once it was pressed twice.
const INTERRUPTED: i32 = 130;

/// Others may take this share of the processors without a warning.
const QUIET: f64 = 0.05;

/// Measure how fast a model runs here.
///
/// Forward passes alone, without sampling and text: reading a prompt (pp) and writing a reply (tg), each at
/// every depth, that is with so many tokens of context before it. The context is read once for a depth, and
/// each repeat starts from a copy of it. Speeds are medians of the repeats, in tokens a second.
///
/// Tokens are arbitrary but always the same. Progress goes to standard error. Ctrl-C ends the run and shows what
/// is there by then.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArg,
    /// Lengths of the prompts to read; 0 for none
    #[arg(short = 'p', long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Lengths of the replies to write; 0 for none
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,
    /// Tokens of context before them
    #[arg(short = 'd', long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Repeats of each test
    #[arg(short = 'r', long, value_name = "N", default_value = "5")]
    repeats: NonZero<usize>,
    /// Tokens in a batch when a prompt is read. Default: the most that are worth one: 1024 on the CPU, up to 4096 on a
    /// GPU that has memory for them
    #[arg(long, value_name = "N")]
    chunk: Option<NonZero<usize>>,
    /// How the KV cache is stored: f32, f16 or f8. Default: f8, or f16 if the model's sizes do not allow that
    #[arg(long, value_name = "FORMAT", value_parser = KvFormat::from_str)]
    kv: Option<KvFormat>,
    /// Show where the time goes: the share of each operation, and what it reads and multiplies in a second.
    /// Speeds are measured without it; one more run of each test is watched
    #[arg(long)]
    profile: bool,
    /// Measure what the machine can do at most: how fast it reads memory and multiplies. Without -m that is all;
    /// with it, the model's speeds are held against these limits, measured before and after each test
    #[arg(long)]
    machine: bool,
    /// Keep the contexts that were read in this folder, and take them from there the next time
    #[arg(long, value_name = "FOLDER", conflicts_with = "sweep")]
    contexts: Option<PathBuf>,
    /// Measure at growing contexts instead, up to N tokens: reading each step, and writing -n tokens after it
    #[arg(long, value_name = "N", help_heading = "Sweep", conflicts_with_all = ["profile", "machine", "n_depth"])]
    sweep: Option<NonZero<usize>>,
    /// Tokens from one context to the next
    #[arg(long, value_name = "N", default_value = "2048", help_heading = "Sweep")]
    step: NonZero<usize>,
    /// Write the speeds as CSV
    #[arg(long, value_name = "FILE", help_heading = "Sweep", requires = "sweep")]
    csv: Option<PathBuf>,
    /// Draw the speeds
    #[arg(long, value_name = "FILE", help_heading = "Sweep", requires = "sweep")]
    svg: Option<PathBuf>,
    /// Show the speeds of an earlier sweep beside them: a file that --csv wrote
    #[arg(long, value_name = "CSV", help_heading = "Sweep", requires = "sweep")]
    compare: Option<PathBuf>,
    /// Show what one chunk of a prompt (-p, 0 for none) and one token ask of the GPU, both at the first depth (-d):
    /// launches and barriers in each kind of layer, the bytes that each kernel moves beside what the model needs, and
    /// the host's time to ask for it. Nothing of it depends on the device's speed, so one in software will do
    #[arg(long, conflicts_with_all = ["profile", "machine", "sweep", "contexts", "serve_sim", "gpu_layers", "cpu_moe"])]
    gpu_plan: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    serve: ServeSimArgs,
    #[command(flatten)]
    backend: BackendArgs,
}

const EXAMPLES: &str = "\
Examples:
  ds4 bench -m model.gguf                          # pp512 and tg128
  ds4 bench -m model.gguf -p 512 -n 32 -d 0,16384  # both at the start and at 16k of context
  ds4 bench -m model.gguf -p 0 -n 64 --profile     # where the time of a token goes
  ds4 bench -m model.gguf --serve-sim -n 32        # as a server: many sessions, agents
  ds4 bench -m model.gguf --machine                # how close that is to the machine's limits
  ds4 bench --machine                              # the limits alone
  ds4 bench -m model.gguf --gpu-plan -d 4096       # what a chunk and a token ask of the GPU
  ds4 bench -m model.gguf --json > speed.json
  ds4 bench -m model.gguf --sweep 32768 -n 32 -r 3 --csv new.csv --svg new.svg --compare old.csv";

impl Bench {
    /// Measures and tells.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        ensure!(
            !self.serve.is_in_vain(),
            "--drafts and --mtp-file need --serve-sim: forward passes alone guess nothing"
        );
        if self.machine && !self.model.is_given() {
            return self.limits(out);
        }
        let gguf = self.serve.drafts.file.open(&self.model)?;
        if self.gpu_plan {
            return self.gpu_plan(&gguf, out);
        }
        self.backend.run(Job { args: &self, gguf, out })?
    }

    /// Measures the machine alone.
    fn limits(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Alone {
            machine: Host,
            limits: Limits,
            others: Option<f64>,
        }
        let others = Others::watch();
        let mut machine = Machine::new(self.backend.cpu_threads())?;
        for _ in 0..self.repeats.get() {
            machine.look();
        }
        let found = Alone { machine: Host::here(), limits: machine.limits(), others: others.share() };
        warn_of_others(found.others);
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &found)?;
            return Ok(writeln!(out)?);
        }
        found.machine.print(out)?;
        Ok(found.limits.print(out)?)
    }

    /// What a step asks of the GPU.
    #[cfg(feature = "gpu")]
    fn gpu_plan(&self, gguf: &Gguf, out: &mut dyn Write) -> anyhow::Result<()> {
        let ops = self.backend.open_gpu(gguf)?;
        let model = model::load(&ops, gguf).context("loading the model")?;
        let kv = self.kv.unwrap_or_else(|| KvFormat::usual(&model.config));
        kv.check(&model.config)?;
        let (depth, chunk) = (self.n_depth[0], self.n_prompt[0]);
        let (need, context) = (depth.saturating_add(chunk.max(1)), model.config.context);
        ensure!(need <= context, "--gpu-plan needs {need} positions, and this model knows {context}");
        let cancel = Cancel::new();
        stop_on_ctrl_c(&cancel)?;
        let runner = Runner { ops: &ops, model: &model, kv, chunk: self.chunk(&ops), cancel: &cancel };
        let cost = Cost::new(gguf, &model.config, kv);
        let facts = ModelFacts::new(gguf, &model.config);
        let plan = gpu_plan::plan(&runner, &cost, facts, depth, chunk)?;
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &plan)?;
            return Ok(writeln!(out)?);
        }
        Ok(plan.print(out)?)
    }

    #[cfg(not(feature = "gpu"))]
    fn gpu_plan(&self, _: &Gguf, _: &mut dyn Write) -> anyhow::Result<()> {
        bail!("--gpu-plan: this ds4 was built without its GPU backend (cargo feature `gpu`)")
    }

    /// Tokens in a batch.
    fn chunk(&self, ops: &impl Ops) -> usize {
        self.chunk.map_or(ops.most_rows(), NonZero::get)
    }

    /// The tests, by depth, and by length as they were given.
    fn tests(&self) -> Vec<Test> {
        let mut depths = self.n_depth.clone();
        depths.sort_unstable();
        depths.dedup();
        let prompts = self.n_prompt.iter().map(|&n| Phase::Prompt(n));
        let phases: Vec<Phase> = prompts
            .chain(self.n_gen.iter().map(|&n| Phase::Gen(n)))
            .filter(|phase| phase.len() > 0)
            .collect();
        depths.iter().flat_map(|&depth| phases.iter().map(move |&phase| Test { phase, depth })).collect()
    }
}

/// What a test does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reads so many tokens in chunks.
    Prompt(usize),
    /// Reads so many tokens one by one.
    Gen(usize),
}

impl Phase {
    fn len(self) -> usize {
        let (Phase::Prompt(n) | Phase::Gen(n)) = self;
        n
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Test {
    phase: Phase,
    depth: usize,
}

impl Test {
    /// As llama-bench calls it.
    fn name(self) -> String {
        let depth = if self.depth > 0 { format!("@d{}", self.depth) } else { String::new() };
        match self.phase {
            Phase::Prompt(n) => format!("pp{n}{depth}"),
            Phase::Gen(n) => format!("tg{n}{depth}"),
        }
    }

    /// Runs it once on a timeline of its depth.
    fn run<B: Ops>(
        self,
        runner: &Runner<'_, B>,
        timeline: &mut Timeline<B>,
        watch: Option<&mut Stopwatch<'_>>,
    ) -> anyhow::Result<Duration> {
        match self.phase {
            Phase::Prompt(n) => runner.prefill(timeline, n, watch),
            Phase::Gen(n) => runner.decode(timeline, n, watch),
        }
    }

    /// All work of it, in batches of `chunk`.
    fn work(self, cost: &Cost, chunk: usize) -> Work {
        let (start, end) = (self.depth, self.depth + self.phase.len());
        let (step, each) = match self.phase {
            Phase::Prompt(_) => (chunk, 0),
            Phase::Gen(_) => (1, 1),
        };
        let batches = (start..end).step_by(step).map(|at| at..end.min(at + step));
        batches
            .map(|positions| {
                let wanted = if positions.end == end { 1 } else { each };
                cost.pass(&Batch { positions, wanted })
            })
            .sum()
    }
}

/// One command, once it is known where to compute.
struct Job<'a> {
    args: &'a Bench,
    gguf: Gguf,
    out: &'a mut dyn Write,
}

impl Task for Job<'_> {
    type Output = anyhow::Result<()>;

    fn file(&self) -> &Gguf {
        &self.gguf
    }

    fn on<B: Ops + 'static>(self, ops: B) -> anyhow::Result<()> {
        let args = self.args;
        if args.serve.serve_sim {
            return self.serve(ops);
        }
        let model = model::load(&ops, &self.gguf).context("loading the model")?;
        let kv = args.kv.unwrap_or_else(|| KvFormat::usual(&model.config));
        kv.check(&model.config)?;
        let cancel = Cancel::new();
        stop_on_ctrl_c(&cancel)?;
        let chunk = args.chunk(&ops);
        let runner = Runner { ops: &ops, model: &model, kv, chunk, cancel: &cancel };
        let run =
            RunFacts { backend: args.backend.describe(), kv: kv.name(), chunk, repeats: args.repeats.get() };
        match args.sweep {
            Some(end) => self.sweep(&runner, run, end.get()),
            None => self.tests(&runner, run),
        }
    }
}

impl Job<'_> {
    /// Speeds at given depths.
    fn tests<B: Ops>(self, runner: &Runner<'_, B>, run: RunFacts) -> anyhow::Result<()> {
        let (args, model) = (self.args, runner.model);
        let tests = args.tests();
        ensure!(
            !(args.machine && args.backend.is_on_gpu()),
            "--machine knows the limits of the CPU only: leave it out, or add --backend cpu"
        );
        ensure!(!tests.is_empty(), "nothing to measure: -p and -n are both 0");
        for test in &tests {
            let (need, context) = (test.depth.saturating_add(test.phase.len()), model.config.context);
            ensure!(
                need <= context,
                "{} needs {need} positions, and this model knows {context}",
                test.name()
            );
        }
        let cost = Cost::new(&self.gguf, &model.config, runner.kv);
        let mut report = Report {
            machine: Host::here(),
            model: ModelFacts::new(&self.gguf, &model.config),
            run,
            limits: None,
            results: Vec::new(),
            in_large_pages: None,
            others: None,
            interrupted: false,
        };
        let measured = measure(args, runner, &cost, &tests, &mut report);
        report.in_large_pages = in_large_pages().filter(|_| args.backend.is_on_cpu());
        if let Err(error) = measured {
            if !error.is::<Interrupted>() {
                return Err(error);
            }
            report.interrupted = true;
        }
        match args.json {
            true => report.print_json(self.out)?,
            false => report.print(self.out)?,
        }
        warn_of_others(report.others);
        if report.interrupted {
            bail!("interrupted: {} of {} tests were done", report.results.len(), tests.len());
        }
        Ok(())
    }
}

impl Job<'_> {
    /// Speeds at growing contexts.
    fn sweep<B: Ops>(self, runner: &Runner<'_, B>, run: RunFacts, end: usize) -> anyhow::Result<()> {
        let args = self.args;
        let compared = args.compare.as_deref().map(sweep::read_csv).transpose()?;
        let n_gen = args.n_gen.iter().copied().find(|&n| n > 0).context("--sweep needs -n of at least 1")?;
        let (need, context) = (end.saturating_add(n_gen), runner.model.config.context);
        ensure!(need <= context, "--sweep {end} needs {need} positions, and this model knows {context}");
        let plan = Plan { end, step: args.step.get(), n_gen, repeats: args.repeats.get() };
        let model = ModelFacts::new(&self.gguf, &runner.model.config);
        let mut status = Status::new();
        warm_up(runner, n_gen, &mut status)?;
        let others = Others::watch();
        let mut rows = Vec::new();
        let done = plan.run(runner, &mut rows, &mut |text| status.show(text))?;
        drop(status);
        let (machine, others) = (Host::here(), others.share());
        let sweep = Sweep { machine, model, run, rows, compared, others, interrupted: !done };
        if let Some(path) = &args.csv {
            write_file(path, &sweep::to_csv(&sweep.rows))?;
        }
        if let Some(path) = &args.svg {
            plot::svg(&sweep, path)?;
        }
        match args.json {
            true => {
                serde_json::to_writer_pretty(&mut *self.out, &sweep)?;
                writeln!(self.out)?;
            }
            false => sweep.print(self.out)?,
        }
        warn_of_others(sweep.others);
        ensure!(done, "interrupted: the context was to reach {end}");
        Ok(())
    }

    /// Simulates a server.
    fn serve<B: Ops + 'static>(self, ops: B) -> anyhow::Result<()> {
        let args = self.args;
        let loaded = LoadedModel::load(ops, &self.gguf, None).context("loading the model")?;
        let kv = args.kv.unwrap_or_else(|| loaded.usual_kv());
        kv.check(&loaded.model.config)?;
        let first = |lengths: &[usize]| lengths.iter().copied().find(|&len| len > 0);
        let lengths = first(&args.n_prompt).zip(first(&args.n_gen));
        let lengths = lengths.context("nothing to serve: -p and -n need a length each")?;
        serve_sim::run(loaded, kv, &args.serve, lengths, args.json, self.out)
    }
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Says so if others took the processors away.
fn warn_of_others(share: Option<f64>) {
    if let Some(share) = share.filter(|share| *share > QUIET) {
        eprintln!(
            "warning: other programs took {:.0}% of the processors meanwhile: these speeds are too low",
            100.0 * share
        );
    }
}

/// Runs the tests in order, and fills the report.
fn measure<B: Ops>(
    args: &Bench,
    runner: &Runner<'_, B>,
    cost: &Cost,
    tests: &[Test],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut status = Status::new();
    let mut context = runner.start();
    let replies = tests.iter().filter(|t| matches!(t.phase, Phase::Gen(_)));
    warm_up(runner, replies.map(|t| t.phase.len()).max().unwrap_or(0), &mut status)?;
    let contexts = args.contexts.as_deref().map(Contexts::new);
    let others = Others::watch();
    let mut machine = args.machine.then(|| Machine::new(args.backend.cpu_threads())).transpose()?;
    let mut before = None;
    for &test in tests {
        let name = test.name();
        if context.len() == test.depth {
            // It is there.
        } else if let Some(kept) = contexts.as_ref().and_then(|contexts| contexts.load(runner, test.depth)) {
            context = kept;
        } else {
            before = None; // this may take minutes
            runner.fill(&mut context, test.depth, &mut |len| {
                status.show(&format!("{name}: reading the context, {len} of {}", test.depth));
            })?;
            contexts.as_ref().map_or(Ok(()), |contexts| contexts.save(runner, &context))?;
        }
        before = before.or_else(|| machine.as_mut().map(Machine::look));
        let mut samples = Vec::new();
        for i in 1..=args.repeats.get() {
            status.show(&format!("{name}: {i} of {}", args.repeats));
            let took = test.run(runner, &mut context.fork(), None)?;
            samples.push(test.phase.len() as f64 / took.as_secs_f64());
        }
        let mut watch = Stopwatch::new(cost);
        if args.profile {
            status.show(&format!("{name}: profile"));
            test.run(runner, &mut context.fork(), Some(&mut watch))?;
        }
        let after = machine.as_mut().map(Machine::look);
        let limits = before.zip(after).map(|(before, after)| before.mean(after));
        before = after;
        let samples = Samples(samples);
        let per_token = PerToken::new(test.work(cost, runner.chunk), test.phase.len());
        let (n_prompt, n_gen) = match test.phase {
            Phase::Prompt(n) => (n, 0),
            Phase::Gen(n) => (0, n),
        };
        report.results.push(TestResult {
            test: name,
            n_prompt,
            n_gen,
            n_depth: test.depth,
            tps: samples.median(),
            tps_stddev: samples.stddev(),
            tps_mean: samples.mean(),
            tps_min: samples.min(),
            tps_max: samples.max(),
            roof: limits.map(|limits| Roof::new(samples.median(), &per_token, limits)),
            per_token,
            samples,
            profile: args.profile.then(|| watch.report()),
        });
        report.others = others.share();
        report.limits = machine.as_ref().map(Machine::limits);
    }
    Ok(())
}

/// Has kernels compiled and touches the weights, so that no test pays for that: also not one that reads no prompt,
/// since a few tokens alone would meet few of the experts.
fn warm_up<B: Ops>(runner: &Runner<'_, B>, n_gen: usize, status: &mut Status) -> anyhow::Result<()> {
    /// Enough rows that nearly every expert has one.
    const ROWS: usize = 128;
    status.show("warming up");
    runner.ops.rehearse(&mut || model::rehearsal(runner.model, runner.ops, runner.kv, 1));
    let mut timeline = runner.start();
    let context = runner.model.config.context;
    runner.prefill(&mut timeline, ROWS.min(context), None)?;
    let room = context - timeline.len();
    runner.decode(&mut timeline, n_gen.min(8).min(room), None)?;
    Ok(())
}

/// The first Ctrl-C stops between two batches, the second one leaves at once.
fn stop_on_ctrl_c(cancel: &Cancel) -> anyhow::Result<()> {
    let switch = cancel.clone();
    ctrlc::set_handler(move || match switch.is_stopped() {
        false => switch.stop(),
        true => std::process::exit(INTERRUPTED),
    })
    .context("taking over Ctrl-C")
}

/// A line on the terminal that says what is going on; nothing elsewhere.
struct Status {
    terminal: bool,
    shown: usize,
}

impl Status {
    fn new() -> Status {
        Status { terminal: io::stderr().is_terminal(), shown: 0 }
    }

    fn show(&mut self, text: &str) {
        if self.terminal {
            let rest = self.shown.saturating_sub(text.len());
            eprint!("\r{text}{:rest$}", "");
            self.shown = text.len();
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if self.shown > 0 {
            eprint!("\r{:1$}\r", "", self.shown);
        }
    }
}
