//! `cargo xtask bench-peers`: ds4 and llama.cpp on the same files, in turns.
//!
//! What counts are ratios: absolute speeds of one machine drift by tens of percent within minutes. So the two
//! engines take turns, every number is kept in a file, and the table is made of medians of all that is in
//! there. A run can therefore be cut into pieces: each adds to the file.
//!
//! `run` starts the engines and looks after them, `table` says what the numbers come to.

mod run;
mod table;

use crate::peers;
use crate::setup::{Setup, tokenizer};
use crate::shell::{command, run as must_run, target};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use run::{Engine, Samples, Spinner, others_now};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Others may take this share of the processors.
const QUIET: f64 = 0.05;

/// GB/s that two cores can read here when other users of the machine leave them what is theirs; with less, both
/// engines wait for memory and little else is compared.
const PLENTY: f64 = 38.0;

/// How often a turn is taken that others disturb, and how many times the rounds that are wanted there are, until that
/// many had plenty of bandwidth.
const PATIENCE: usize = 4;

/// Measure ds4 beside llama.cpp: speeds, speeds at depth, with a core taken away, start, memory.
///
/// Builds ds4, and llama.cpp (outside the project) if it is not there; synthesizes the models if they are not
/// there. Adds what it measures to a file and prints the table of all that is in it. Speeds are held against
/// bandwidth and arithmetic of the machine, measured in the same process.
///
/// Other users of a virtual machine's host can take half of its memory bandwidth, for seconds or minutes, which no counter
/// shows. So bandwidth is measured before and after each turn of decode, and its speeds are also told apart by that.
#[derive(clap::Args)]
pub struct BenchPeers {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "speed,depth,stolen,start,memory")]
    only: Vec<Measure>,
    /// Recipes of the models
    #[arg(long, value_delimiter = ',', default_value = "q2,mxfp4,q4")]
    recipe: Vec<String>,
    /// How often each engine has its turn
    #[arg(long, default_value = "3")]
    rounds: usize,
    /// One round, and llama.cpp not at depth, where reading the context takes it minutes
    #[arg(long)]
    quick: bool,
    /// Threads of both
    #[arg(long, short, default_value = "2")]
    threads: usize,
    /// Folder of the models slice-RECIPE.gguf. Default: models in the folder of peers
    #[arg(long)]
    models: Option<PathBuf>,
    /// File of the samples. Delete it to begin anew. Default: bench-peers.json under target
    #[arg(long)]
    samples: Option<PathBuf>,
    /// Measure nothing, print the table
    #[arg(long)]
    table: bool,
    /// Measure this program instead of building ds4 as it is now
    #[arg(long, value_name = "FILE")]
    ds4: Option<PathBuf>,
    /// Measure although other programs are busy
    #[arg(long)]
    force: bool,
}

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Decode and prefill of 512, and the shares of the machine's limits.
    Speed,
    /// Decode and prefill after 512 and after 16384 tokens.
    Depth,
    /// Decode while another process keeps one core busy.
    Stolen,
    /// From the start of the program to the first token, files in memory.
    Start,
    /// Peak of memory beyond the mapped file, with 16384 tokens of context.
    Memory,
}

impl BenchPeers {
    /// Measures, and prints the table.
    pub fn run(&self) -> Result<()> {
        let path = self.samples.clone().unwrap_or_else(|| target().join("bench-peers.json"));
        let mut samples = Samples::open(&path)?;
        if !self.table {
            let (ds4, llama) = self.engines()?;
            for recipe in &self.recipe {
                let model = self.model(recipe, &ds4)?;
                let run = Run { args: self, ds4: &ds4, llama: &llama, model: &model, recipe };
                for measure in &self.only {
                    self.check_quiet()?;
                    run.measure(*measure, &mut samples)?;
                    samples.save()?;
                }
            }
        }
        print!("{}", table::table(&samples, &self.recipe));
        Ok(())
    }

    /// Programs, built if need be.
    fn engines(&self) -> Result<(Engine, Engine)> {
        let ds4 = match &self.ds4 {
            Some(program) => program.clone(),
            None => {
                must_run(&mut command("cargo build --release --quiet --bin ds4"))?;
                target().join("release/ds4")
            }
        };
        let bin = peers::folder()?.join("build/bin");
        if !bin.join("llama-bench").exists() {
            (peers::Peers {}).run()?;
        }
        Ok((Engine { name: "ds4", bench: ds4 }, Engine { name: "llama", bench: bin.join("llama-bench") }))
    }

    /// The model of a recipe, synthesized if need be.
    fn model(&self, recipe: &str, ds4: &Engine) -> Result<PathBuf> {
        let folder = self.models.clone().map_or_else(|| peers::folder().map(|dir| dir.join("models")), Ok)?;
        let path = folder.join(format!("slice-{recipe}.gguf"));
        if !path.exists() {
            Setup {}.run()?;
            std::fs::create_dir_all(&folder)?;
            must_run(
                command(utf8(&ds4.bench)?)
                    .args(["synth", "flash-slice", "--layers", "6", "--experts", "32", "--recipe", recipe])
                    .arg("--tokenizer")
                    .arg(tokenizer())
                    .arg("--out")
                    .arg(&path),
            )?;
        }
        Ok(path)
    }

    fn check_quiet(&self) -> Result<()> {
        /// Seconds that others are given to end what they do.
        const WAIT: usize = 5;
        let mut share = 1.0;
        for _ in 0..WAIT {
            share = others_now();
            if share <= QUIET {
                return Ok(());
            }
        }
        let found = format!("other programs take {:.0}% of the processors", 100.0 * share);
        if !self.force {
            bail!("{found}: wait until they are done, or --force measures all the same");
        }
        eprintln!("WARNING: {found}: what is measured now will be too low");
        Ok(())
    }

    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds }
    }
}

/// Measures one model.
struct Run<'a> {
    args: &'a BenchPeers,
    ds4: &'a Engine,
    llama: &'a Engine,
    model: &'a Path,
    recipe: &'a str,
}

impl Run<'_> {
    fn measure(&self, measure: Measure, samples: &mut Samples) -> Result<()> {
        match measure {
            Measure::Speed => self.speed(samples),
            Measure::Depth => self.depth(samples),
            Measure::Stolen => self.stolen(samples),
            Measure::Start => self.start(samples),
            Measure::Memory => self.memory(samples),
        }
    }

    /// Prefill, and decode: the bandwidth decides that, so it is probed around each turn, and turns are short.
    fn speed(&self, samples: &mut Samples) -> Result<()> {
        for _ in 0..self.args.rounds() {
            for engine in [self.ds4, self.llama] {
                self.speeds(engine, &["-p", "512", "-n", "0"], samples)?;
            }
        }
        let mut before = self.bandwidth()?;
        let mut had_plenty = [0, 0];
        for _ in 0..PATIENCE * self.args.rounds() {
            for (engine, had_plenty) in [self.ds4, self.llama].into_iter().zip(&mut had_plenty) {
                let found = self.speeds(engine, &["-p", "0", "-n", "32"], samples)?;
                let after = self.bandwidth()?;
                let name = decode_name(before, after);
                before = after;
                let speed = found.iter().find(|(test, _)| test == "tg32");
                if let Some((name, (_, speed))) = name.zip(speed) {
                    samples.add(self.recipe, engine.name, name, *speed);
                    *had_plenty += usize::from(name == table::PLENTY);
                }
            }
            samples.save()?;
            if had_plenty.into_iter().all(|turns| turns >= self.args.rounds()) {
                break;
            }
        }
        Ok(())
    }

    /// One turn; ds4 is held against the machine's limits, too.
    fn speeds(&self, engine: &Engine, test: &[&str], samples: &mut Samples) -> Result<Vec<(String, f64)>> {
        let more: &[&str] = if engine.name == "ds4" { &["--machine"] } else { &[] };
        self.tests(engine, test, more, "", samples)
    }

    /// GB/s that all threads together read now.
    fn bandwidth(&self) -> Result<f64> {
        let mut probe = Command::new(&self.ds4.bench);
        probe.args(["bench", "--machine", "--json", "-r", "1", "-t", &self.args.threads.to_string()]);
        let (said, _) = run::output(probe)?;
        let found = run::bandwidth(&said).with_context(|| format!("reading {said}"))?;
        eprintln!("  {found:.1} GB/s");
        Ok(found)
    }

    fn depth(&self, samples: &mut Samples) -> Result<()> {
        let engines = if self.args.quick { vec![self.ds4] } else { vec![self.ds4, self.llama] };
        let contexts = utf8(&target().join("bench-contexts"))?.to_owned();
        for engine in engines {
            let more: Vec<&str> = if engine.name == "ds4" { vec!["--contexts", &contexts] } else { vec![] };
            for depth in ["512", "16384"] {
                self.tests(engine, &["-p", "512", "-n", "32", "-d", depth], &more, "", samples)?;
            }
        }
        Ok(())
    }

    fn stolen(&self, samples: &mut Samples) -> Result<()> {
        for _ in 0..self.args.rounds() {
            for engine in [self.ds4, self.llama] {
                self.tests(engine, &["-p", "0", "-n", "16"], &[], "alone", samples)?;
                let _spinner = Spinner::start()?;
                self.tests(engine, &["-p", "0", "-n", "16"], &[], "stolen", samples)?;
            }
        }
        Ok(())
    }

    fn start(&self, samples: &mut Samples) -> Result<()> {
        let threads = self.args.threads.to_string();
        for _ in 0..2 * self.args.rounds() + 1 {
            let mut ds4 = Command::new(&self.ds4.bench);
            ds4.args(["run", "--raw", "--temp", "0", "-n", "1", "--stats", "off", "-t", &threads, "-m"]);
            ds4.arg(self.model).arg("Hello");
            samples.add(self.recipe, "ds4", "start", run::wall(ds4)?);
            // Loads the model and computes the logits of one token.
            let mut llama = Command::new(&self.llama.bench);
            llama.args(["-p", "1", "-n", "0", "-r", "1", "--no-warmup", "-o", "json", "-t", &threads, "-m"]);
            llama.arg(self.model);
            samples.add(self.recipe, "llama", "start", run::wall(llama)?);
        }
        Ok(())
    }

    fn memory(&self, samples: &mut Samples) -> Result<()> {
        let contexts = target().join("bench-contexts");
        for engine in [self.ds4, self.llama] {
            let mut bench = self.bench(engine, &["-p", "512", "-n", "4", "-d", "16384", "-r", "1"]);
            // llama.cpp takes its memory before it begins, so that need not be waited for.
            let limit = if engine.name == "llama" { Some(20.0) } else { None };
            if engine.name == "ds4" {
                bench.arg("--contexts").arg(&contexts);
            }
            samples.add(self.recipe, engine.name, "memory", run::peak_memory(bench, limit)?);
        }
        Ok(())
    }

    fn bench(&self, engine: &Engine, args: &[&str]) -> Command {
        let mut bench = Command::new(&engine.bench);
        if engine.name == "ds4" {
            bench.args(["bench", "--json"]);
        } else {
            bench.args(["-o", "json"]);
        }
        bench.args(["-t", &self.args.threads.to_string(), "-m"]).arg(self.model).args(args);
        bench
    }

    /// What a program says of a turn that others left it alone in, if that is wanted: one that they disturbed is
    /// taken again a few times.
    fn undisturbed(
        &self,
        engine: &Engine,
        quiet_wanted: bool,
        program: impl Fn() -> Command,
    ) -> Result<String> {
        for _ in 0..PATIENCE {
            let (said, others) = run::output(program())?;
            if !quiet_wanted || others <= QUIET {
                return Ok(said);
            }
            eprintln!(
                "  other programs took {:.0}% of the processors during {}",
                100.0 * others,
                engine.name
            );
            if self.args.force {
                return Ok(said);
            }
        }
        bail!("other programs are busy: wait until they are done, or --force counts such turns too");
    }

    /// Runs some tests and adds their speeds under their names, or under `name`. What was added.
    fn tests(
        &self,
        engine: &Engine,
        args: &[&str],
        more: &[&str],
        name: &str,
        samples: &mut Samples,
    ) -> Result<Vec<(String, f64)>> {
        let said = self.undisturbed(engine, name != "stolen", || {
            let mut bench = self.bench(engine, args);
            bench.args(["-r", "1"]).args(more);
            bench
        })?;
        let mut found = run::speeds(engine, &said).with_context(|| format!("reading {said}"))?;
        for (test, value) in &mut found {
            if !name.is_empty() {
                name.clone_into(test);
            }
            eprintln!("  {} {} {test}: {value:.3}", self.recipe, engine.name);
            samples.add(self.recipe, engine.name, test, *value);
        }
        Ok(found)
    }
}

/// The measure that a turn of decode counts for, too, by the bandwidth before and after, GB/s; none if it changed
/// meanwhile.
fn decode_name(before: f64, after: f64) -> Option<&'static str> {
    match (before >= PLENTY, after >= PLENTY) {
        (true, true) => Some(table::PLENTY),
        (false, false) => Some(table::SCARCE),
        _ => None,
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Keep one core busy until killed.
#[derive(clap::Args)]
pub struct Spin {}

impl Spin {
    /// Never returns.
    pub fn run(&self) -> Result<()> {
        loop {
            std::hint::black_box(());
        }
    }
}
