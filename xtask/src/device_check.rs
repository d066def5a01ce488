//! `cargo xtask device-check`: is the GPU backend right on this machine's GPU, and how fast is it?
//!
//! Runs the backend's tests there, then measures slices of the real model with random weights, which are made
//! first. With `--pack` it puts everything into a folder for a machine without cargo, where its program `check`
//! does the same.

use crate::shell::{command, output, root, run, target};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Test the GPU backend on this machine's GPU and measure it; under ten minutes once everything is built.
#[derive(clap::Args)]
pub struct DeviceCheck {
    /// Recipes of the weights to measure with.
    #[arg(long, value_delimiter = ',', default_value = "q2,q4,mxfp4")]
    recipes: Vec<String>,
    /// Tokens of context to measure at.
    #[arg(long, value_delimiter = ',', default_value = "512,4096,16384")]
    contexts: Vec<usize>,
    /// Layers of a slice; those after the first number are measured with the first recipe only.
    #[arg(long, value_delimiter = ',', default_value = "6,12")]
    layers: Vec<usize>,
    /// Experts of a layer.
    #[arg(long, default_value = "64")]
    experts: usize,
    /// Layers of one more slice, of the first recipe, with as many experts as the published model: of the rows of a
    /// prompt each has few then. 0 for none.
    #[arg(long, value_name = "LAYERS", default_value = "4")]
    all_experts: usize,
    /// Do not run the tests.
    #[arg(long)]
    no_tests: bool,
    /// No slice is begun after so many minutes.
    #[arg(long, default_value = "8")]
    minutes: u64,
    /// Where slices and results go. Default: `target/device-check`, or `results` in the pack.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Run nothing, but put programs, tests and models into this folder, with a program `check` that runs them.
    #[arg(long, value_name = "FOLDER")]
    pack: Option<PathBuf>,
    /// A folder of Debian packages with a Vulkan loader, for a machine that has none; goes into the pack.
    #[arg(long, value_name = "FOLDER", requires = "pack")]
    loaders: Option<PathBuf>,
    /// Build without link-time optimization: the programs are built sooner, and the host is slower.
    #[arg(long)]
    dev: bool,
    /// Run what was packed there.
    #[arg(long, value_name = "FOLDER", hide = true, conflicts_with = "pack")]
    packed: Option<PathBuf>,
}

/// Experts of a layer of the published model.
const ALL_EXPERTS: usize = 256;

/// A part of the model to measure.
struct Slice<'a> {
    recipe: &'a str,
    layers: usize,
    experts: usize,
}

impl Slice<'_> {
    fn name(&self) -> String {
        format!("{}-{}x{}", self.recipe, self.layers, self.experts)
    }
}

/// What is run.
struct Programs {
    ds4: PathBuf,
    report: PathBuf,
    /// Test programs of the crate `gpu`.
    tests: Vec<PathBuf>,
    goldens: PathBuf,
}

/// What starts the check where there is no cargo.
const CHECK: &str = r#"#!/bin/sh
# Tests and measures the GPU backend on this machine. Options: ./check --help
here=$(cd "$(dirname "$0")" && pwd)
# A Vulkan loader, where the machine has none and the pack has one.
if ! ldconfig -p 2>/dev/null | grep -q libvulkan.so.1; then
    for package in "$here"/loaders/*.deb; do
        [ -e "$package" ] && dpkg -x "$package" "$here/unpacked"
    done
    for folder in "$here"/unpacked/usr/lib/*-linux-gnu; do
        [ -d "$folder" ] && export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    done
fi
exec "$here/xtask" device-check --packed "$here" "$@"
"#;

impl DeviceCheck {
    /// Runs everything, or packs it. Results: one text for each slice and context, and all results as
    /// `results.json`. A table of them is printed.
    pub fn run(&self) -> Result<()> {
        match (&self.pack, &self.packed) {
            (Some(pack), _) => self.pack(pack),
            (_, Some(packed)) => self.check(&unpacked(packed)?, &self.results(&packed.join("results"))),
            _ => self.check(&self.build(self.no_tests)?, &self.results(&target().join("device-check"))),
        }
    }

    fn results(&self, usual: &Path) -> PathBuf {
        self.out.clone().unwrap_or_else(|| usual.to_owned())
    }

    fn build(&self, no_tests: bool) -> Result<Programs> {
        let (profile, folder) = if self.dev { ("", "debug") } else { ("--release", "release") };
        let built = target().join(folder);
        run(&mut command(&format!("cargo build {profile} --bin ds4")))?;
        run(&mut command(&format!("cargo build {profile} -p gpu --example report")))?;
        let mut tests = Vec::new();
        if !no_tests {
            let line = format!(
                "cargo test {profile} -p gpu -p hybrid --lib --test model --no-run --message-format=json"
            );
            let messages = output(&mut command(&line))?;
            let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let of_tests = messages.filter(|message| message["profile"]["test"] == true);
            tests.extend(of_tests.filter_map(|message| message["executable"].as_str().map(PathBuf::from)));
            ensure!(!tests.is_empty(), "`{line}` built no test program");
        }
        let goldens = root().join("tests/goldens");
        Ok(Programs { ds4: built.join("ds4"), report: built.join("examples/report"), tests, goldens })
    }

    fn pack(&self, pack: &Path) -> Result<()> {
        let programs = self.build(false)?;
        for folder in ["tests", "goldens", "loaders"] {
            let folder = pack.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let own = std::env::current_exe().context("finding this program")?;
        let mut copies = vec![
            (own, pack.join("xtask")),
            (programs.ds4, pack.join("ds4")),
            (programs.report, pack.join("report")),
        ];
        for test in programs.tests {
            let name = test.file_name().context("a test program has a name")?.to_owned();
            copies.push((test, pack.join("tests").join(name)));
        }
        for (from, to) in &copies {
            fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
            run(Command::new("strip").arg(to))?;
        }
        copy_files(&programs.goldens, &pack.join("goldens"))?;
        if let Some(loaders) = &self.loaders {
            copy_files(loaders, &pack.join("loaders"))?;
        }
        let check = pack.join("check");
        fs::write(&check, CHECK)?;
        run(Command::new("chmod").args(["+x"]).arg(&check))?;
        println!("{} runs the check on a machine without cargo", check.display());
        Ok(())
    }

    fn check(&self, programs: &Programs, dir: &Path) -> Result<()> {
        let start = Instant::now();
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        run(Command::new(&programs.ds4).args(["inspect", "--devices"]))?;
        let mut failed = Vec::new();
        for test in programs.tests.iter().filter(|_| !self.no_tests) {
            // Speeds are worth knowing also where a result is wrong.
            if let Err(error) = run(Command::new(test).env("DS4_GOLDENS", &programs.goldens)) {
                failed.push(error.to_string());
            }
        }
        let tests = start.elapsed();
        let (mut results, mut missing) = (Vec::new(), Vec::new());
        for slice in self.slices() {
            if start.elapsed() > Duration::from_secs(60 * self.minutes) {
                missing.push(slice.name());
                continue;
            }
            // The first is measured with a part on the CPU, too.
            self.slice(programs, dir, &slice, results.is_empty(), &mut results)?;
        }
        let all = json!({
            "tests_failed": failed,
            "tests_seconds": tests.as_secs_f64(),
            "seconds": start.elapsed().as_secs_f64(),
            "not_measured_for_lack_of_time": missing,
            "results": results,
        });
        fs::write(dir.join("results.json"), serde_json::to_string_pretty(&all)?)?;
        print_table(&results);
        if !missing.is_empty() {
            println!("not measured, since {} minutes were over: {}", self.minutes, missing.join(", "));
        }
        ensure!(failed.is_empty(), "tests failed: {}", failed.join("; "));
        Ok(())
    }

    fn slices(&self) -> Vec<Slice<'_>> {
        let Some((first, first_layers)) = self.recipes.first().zip(self.layers.first()) else {
            return vec![];
        };
        let slice = |recipe, layers, experts| Slice { recipe, layers, experts };
        let recipes = self.recipes.iter().map(|recipe| slice(recipe, *first_layers, self.experts));
        let deeper = self.layers.iter().skip(1).map(|&layers| slice(first, layers, self.experts));
        let whole = (self.all_experts > 0).then(|| slice(first, self.all_experts, ALL_EXPERTS));
        recipes.chain(deeper).chain(whole).collect()
    }

    fn slice(
        &self,
        programs: &Programs,
        dir: &Path,
        what: &Slice<'_>,
        on_both: bool,
        results: &mut Vec<Value>,
    ) -> Result<()> {
        let slice = what.name();
        let model = dir.join(format!("slice-{slice}.gguf"));
        if !model.exists() {
            run(Command::new(&programs.ds4)
                .args(["synth", "flash-slice", "--recipe", what.recipe, "--out"])
                .arg(&model)
                .args(["--layers", &what.layers.to_string(), "--experts", &what.experts.to_string()]))?;
        }
        for context in &self.contexts {
            let report =
                output(Command::new(&programs.report).arg(&model).args([&context.to_string(), "4096"]))?;
            fs::write(dir.join(format!("{slice}-{context}.txt")), &report)?;
            let last = report.lines().last().unwrap_or_default();
            let mut result: Value = serde_json::from_str(last)
                .with_context(|| format!("the report on {slice} ends with {last:?}"))?;
            result["slice"] = slice.clone().into();
            println!("{slice} at {context}: {result}");
            results.push(result);
        }
        let plan = output(Command::new(&programs.ds4).args(["bench", "--gpu-plan", "-m"]).arg(&model))?;
        fs::write(dir.join(format!("{slice}-plan.txt")), plan)?;
        if on_both {
            let half = (what.layers / 2).to_string();
            for split in [&["--gpu-layers", &half][..], &["--cpu-moe"]] {
                let mut bench = Command::new(&programs.ds4);
                bench
                    .args(["bench", "--json", "-p", "512", "-n", "32", "-r", "2", "-m"])
                    .arg(&model)
                    .args(split);
                let bench: Value = serde_json::from_str(&output(&mut bench)?)?;
                let speed = |at: usize| bench["results"][at]["tps"].as_f64();
                let result = json!({
                    "slice": format!("{slice} {}", split.join(" ")),
                    "context": 512,
                    "prefill_t_s": speed(0),
                    "decode_t_s": speed(1),
                });
                println!("{result}");
                results.push(result);
            }
        }
        Ok(())
    }
}

fn unpacked(pack: &Path) -> Result<Programs> {
    let tests = fs::read_dir(pack.join("tests")).context("reading the pack")?;
    let mut tests = tests.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    tests.sort();
    Ok(Programs { ds4: pack.join("ds4"), report: pack.join("report"), tests, goldens: pack.join("goldens") })
}

/// The files of a folder, without those in folders of it.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            fs::copy(&path, to.join(name)).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}

fn print_table(results: &[Value]) {
    println!(
        "\n| slice | context | prefill t/s | TFLOP/s | of the f32 peak | decode t/s | of a copy | launches | waiting | µs of one | with recording | of the device's time | host ms | device ms | of it at work |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for r in results {
        let number = |key: &str, digits: usize, unit: &str, factor: f64| {
            r[key].as_f64().map_or("–".to_owned(), |x| format!("{:.digits$}{unit}", factor * x))
        };
        let of_peak = r["prefill_tflop_s"].as_f64().zip(r["peak_tflop_s"].as_f64());
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            r["slice"].as_str().unwrap_or_default(),
            number("context", 0, "", 1.0),
            number("prefill_t_s", 0, "", 1.0),
            number("prefill_tflop_s", 1, "", 1.0),
            of_peak.map_or("–".to_owned(), |(speed, peak)| format!("{:.0}%", 100.0 * speed / peak)),
            number("decode_t_s", 1, "", 1.0),
            number("decode_share", 0, "%", 100.0),
            number("launches", 0, "", 1.0),
            number("waiting", 0, "", 1.0),
            number("launch_device_us", 2, "", 1.0),
            number("launch_us", 2, "", 1.0),
            number("launch_share", 0, "%", 100.0),
            number("host_ms", 2, "", 1.0),
            number("device_ms", 2, "", 1.0),
            number("busy_ms", 2, "", 1.0),
        );
    }
}
