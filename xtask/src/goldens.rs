//! `cargo xtask goldens DIR`: the program against a folder of reference outputs.
//!
//! A golden is `NAME.json` beside the model it names and a script `check_golden.py`, which holds a dump
//! of logits against it. Every golden is run in every mode that its model allows, with several chunk
//! sizes, whose dumps must be equal to the byte.

use crate::setup::{Setup, python};
use crate::shell::{command, output, run, target};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Hold `ds4 logits` against a folder of reference outputs.
#[derive(clap::Args)]
pub struct Goldens {
    /// Folder with goldens, their models and `check_golden.py`.
    dir: PathBuf,
    /// Only goldens whose name begins with this.
    #[arg(long, default_value = "")]
    only: String,
}

/// One way to run a golden: arguments for `ds4 logits`, arguments for the script.
struct Mode {
    logits: &'static str,
    check: &'static str,
    /// Whether only goldens with a reference in rounded KV mode have it.
    faithful: bool,
}

const MODES: [Mode; 4] = [
    Mode { logits: "--ops reference --kv f32", check: "--class float", faithful: false },
    Mode { logits: "--ops fast --kv f32", check: "--class quant", faithful: false },
    Mode { logits: "--ops reference --kv f16", check: "--class half", faithful: false },
    Mode {
        logits: "--ops reference --kv f8",
        check: "--which faithful --class faithful-bf16",
        faithful: true,
    },
];

const CHUNKS: [&str; 4] = ["512", "1", "7", "97"];

impl Goldens {
    /// Runs everything and reports all failures.
    pub fn run(&self) -> Result<()> {
        Setup {}.run()?;
        run(command(&path(&python())).args(["-m", "pip", "install", "--quiet", "numpy"]))?;
        run(&mut command("cargo build --release --quiet --bin ds4"))?;
        let mut failures = Vec::new();
        let mut names: Vec<_> = fs::read_dir(&self.dir)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
        names.sort();
        for file in names.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let golden: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
            if golden["format"] == "dsv4-kv-rounding-1" && name.starts_with(&self.only) {
                self.check_rounding(file).unwrap_or_else(|error| failures.push(format!("{name}: {error:#}")));
            }
            if golden["format"] != "dsv4-golden-1" || !name.starts_with(&self.only) {
                continue;
            }
            for mode in MODES.iter().filter(|mode| !mode.faithful || golden.get("faithful").is_some()) {
                if let Err(error) = self.check(file, &golden, mode) {
                    failures.push(format!("{name} {}: {error:#}", mode.logits));
                }
            }
            if let Err(error) = self.check_greedy(file, &golden) {
                failures.push(format!("{name} greedy: {error:#}"));
            }
            if golden.get("mtp").is_some()
                && let Err(error) = self.check_mtp(file, &golden)
            {
                failures.push(format!("{name} mtp: {error:#}"));
            }
        }
        ensure!(failures.is_empty(), "{} of the runs failed:\n{}", failures.len(), failures.join("\n"));
        println!("all goldens agree");
        Ok(())
    }

    fn check(&self, file: &Path, golden: &Value, mode: &Mode) -> Result<()> {
        let dump = |chunk: &str| -> Result<PathBuf> {
            let out = work_file(&format!("chunk-{chunk}.f32"));
            self.logits(golden, &out, &format!("{} --chunk {chunk}", mode.logits))?;
            Ok(out)
        };
        let first = dump(CHUNKS[0])?;
        self.compare(file, &first, mode.check)?;
        for chunk in &CHUNKS[1..] {
            ensure!(fs::read(dump(chunk)?)? == fs::read(&first)?, "chunks of {chunk} give other bits");
        }
        Ok(())
    }

    fn check_greedy(&self, file: &Path, golden: &Value) -> Result<()> {
        let out = work_file("greedy.f32");
        let ids = self.logits(golden, &out, "--ops reference --kv f32 --greedy 32")?;
        let ids: Value = serde_json::from_str(&ids).context("the ids that ds4 logits printed")?;
        if ids != golden["greedy"]["tokens"] {
            bail!("other tokens: {ids}");
        }
        self.compare(file, &out, "--which greedy --class float")
    }

    /// The draft block's logits.
    fn check_mtp(&self, file: &Path, golden: &Value) -> Result<()> {
        let out = work_file("mtp.f32");
        self.logits(golden, &out, "--ops reference --kv f32 --mtp")?;
        self.compare(file, &out, "--which mtp --class float")
    }

    /// The rounding of the KV cache, bit for bit.
    fn check_rounding(&self, file: &Path) -> Result<()> {
        let out = work_file("rounding.f32");
        output(
            command(&path(&target().join("release/ds4"))).arg("kv-rounding").arg(file).arg("--out").arg(&out),
        )?;
        self.compare(file, &out, "")
    }

    /// Runs `ds4 logits`; returns what it printed.
    fn logits(&self, golden: &Value, out: &Path, arguments: &str) -> Result<String> {
        let (tokens, positions) = (work_file("tokens.json"), work_file("positions.json"));
        let wanted =
            if arguments.contains("--mtp") { &golden["mtp"]["positions"] } else { &golden["positions"] };
        fs::write(&tokens, golden["tokens"].to_string())?;
        fs::write(&positions, wanted.to_string())?;
        let model = self.dir.join(golden["model"].as_str().context("the golden names no model")?);
        let mut ds4 = command(&path(&target().join("release/ds4")));
        ds4.arg("logits")
            .arg("-m")
            .arg(model)
            .arg("--tokens")
            .arg(tokens)
            .arg("--out")
            .arg(out)
            .args(arguments.split_whitespace());
        if !arguments.contains("--greedy") {
            ds4.arg("--positions").arg(positions);
        }
        output(&mut ds4)
    }

    fn compare(&self, golden: &Path, dump: &Path, arguments: &str) -> Result<()> {
        let script = self.dir.join("check_golden.py");
        let said = output(
            command(&path(&python())).arg(script).arg(golden).arg(dump).args(arguments.split_whitespace()),
        )?;
        print!("{said}");
        Ok(())
    }
}

fn work_file(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("ds4-goldens-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the temporary folder can be written");
    dir.join(name)
}

fn path(path: &Path) -> String {
    path.to_str().expect("a UTF-8 path").to_owned()
}
