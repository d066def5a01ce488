//! `cargo xtask device-check`: is the GPU backend right on this machine's GPU, and how fast is it?
//!
//! Runs the backend's tests there, then measures slices of the real model with random weights, which are made
//! first.

use crate::shell::{command, output, run, target};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;

/// Test the GPU backend on this machine's GPU and measure it; under ten minutes once everything is built.
#[derive(clap::Args)]
pub struct DeviceCheck {
    /// Recipes of the weights to measure with.
    #[arg(long, value_delimiter = ',', default_value = "q2,q4,mxfp4")]
    recipes: Vec<String>,
    /// Tokens of context to measure at.
    #[arg(long, value_delimiter = ',', default_value = "512,4096,16384")]
    contexts: Vec<usize>,
    /// Layers of a slice: one number or several.
    #[arg(long, value_delimiter = ',', default_value = "6")]
    layers: Vec<usize>,
    /// Experts of a layer.
    #[arg(long, default_value = "32")]
    experts: usize,
    /// Do not run the tests.
    #[arg(long)]
    no_tests: bool,
}

impl DeviceCheck {
    /// Runs everything; results go to `target/device-check`: one text for each slice and context, and all their
    /// last lines, which are JSON objects, as the array `results.json`. A table of them is printed.
    pub fn run(&self) -> Result<()> {
        run(&mut command("cargo build --release --bin ds4"))?;
        run(&mut command("cargo build --release -p gpu --example report"))?;
        let release = target().join("release");
        run(command(&release.join("ds4").to_string_lossy()).args(["inspect", "--devices"]))?;
        if !self.no_tests {
            run(&mut command("cargo test --release -p gpu"))?;
        }
        let dir = target().join("device-check");
        fs::create_dir_all(&dir)?;
        let mut results = Vec::new();
        for recipe in &self.recipes {
            for layers in &self.layers {
                let slice = format!("{recipe}-{layers}x{}", self.experts);
                let model = dir.join(format!("slice-{slice}.gguf"));
                if !model.exists() {
                    run(command(&release.join("ds4").to_string_lossy())
                        .args(["synth", "flash-slice", "--recipe", recipe, "--out"])
                        .arg(&model)
                        .args(["--layers", &layers.to_string(), "--experts", &self.experts.to_string()]))?;
                }
                for context in &self.contexts {
                    let report = output(
                        command(&release.join("examples/report").to_string_lossy())
                            .arg(&model)
                            .args([context.to_string(), "1024".into()]),
                    )?;
                    fs::write(dir.join(format!("{slice}-{context}.txt")), &report)?;
                    let last = report.lines().last().unwrap_or_default();
                    let mut result: Value = serde_json::from_str(last)
                        .with_context(|| format!("the report on {slice} ends with {last:?}"))?;
                    result["slice"] = slice.clone().into();
                    println!("{slice} at {context}: {result}");
                    results.push(result);
                }
            }
        }
        fs::write(dir.join("results.json"), serde_json::to_string_pretty(&results)?)?;
        println!(
            "\n| slice | context | prefill t/s | decode t/s | of a copy's bandwidth | launches | host ms |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|");
        for r in &results {
            let number = |key: &str| r[key].as_f64().unwrap_or(f64::NAN);
            println!(
                "| {} | {} | {:.0} | {:.1} | {:.0}% | {} | {:.2} |",
                r["slice"].as_str().unwrap_or_default(),
                number("context"),
                number("prefill_t_s"),
                number("decode_t_s"),
                100.0 * number("decode_share"),
                number("launches"),
                number("host_ms")
            );
        }
        Ok(())
    }
}
