//! `cargo xtask device-check`: is the GPU backend right on this machine's GPU, and how fast is it?
//!
//! Runs the backend's tests there, then measures slices of the real model with random weights, which are made
//! first.

use crate::shell::{command, output, run, target};
use anyhow::Result;
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
    /// Layers of a slice.
    #[arg(long, default_value = "6")]
    layers: usize,
    /// Experts of a layer.
    #[arg(long, default_value = "32")]
    experts: usize,
    /// Do not run the tests.
    #[arg(long)]
    no_tests: bool,
}

impl DeviceCheck {
    /// Runs everything; results go to `target/device-check`, one text for each recipe and context, whose last
    /// line is a JSON object.
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
        for recipe in &self.recipes {
            let model = dir.join(format!("slice-{recipe}-{}x{}.gguf", self.layers, self.experts));
            if !model.exists() {
                run(command(&release.join("ds4").to_string_lossy())
                    .args(["synth", "flash-slice", "--recipe", recipe, "--out"])
                    .arg(&model)
                    .args(["--layers", &self.layers.to_string(), "--experts", &self.experts.to_string()]))?;
            }
            for context in &self.contexts {
                let report = output(
                    command(&release.join("examples/report").to_string_lossy())
                        .arg(&model)
                        .args([context.to_string(), "1024".into()]),
                )?;
                fs::write(dir.join(format!("{recipe}-{context}.txt")), &report)?;
                println!("{recipe} at {context}: {}", report.lines().last().unwrap_or_default());
            }
        }
        Ok(())
    }
}
