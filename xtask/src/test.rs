//! `cargo xtask test`: everything that must hold, from nothing.

use crate::clients::Clients;
use crate::setup::{Setup, clang, tokenizer};
use crate::shell::{command, exists, run};
use anyhow::Result;

/// How many writers of the page store are killed: about a minute.
const KILL_ROUNDS: &str = "1000";

/// Run all tests: format, lints, unit and integration tests, the program as a process, real clients.
///
/// Fetches what it needs first; on a fresh machine with Rust nothing else has to be installed.
#[derive(clap::Args)]
pub struct Test {
    /// Do not check the format and lints.
    #[arg(long)]
    no_lint: bool,
}

impl Test {
    /// Runs everything; the first failure ends it.
    pub fn run(&self) -> Result<()> {
        Setup {}.run()?;
        if !self.no_lint {
            run(&mut command("cargo fmt --all --check"))?;
            run(&mut command("cargo clippy --workspace --all-targets --quiet -- -D warnings"))?;
        }
        let runner = if exists("cargo nextest --version") {
            "cargo nextest run"
        } else {
            "cargo test --lib --bins --tests"
        };
        let mut tests = command(runner);
        tests
            .args(["--workspace", "--no-fail-fast"])
            .env("DS4_TOKENIZER_JSON", tokenizer())
            .env("DS4_KILL_ROUNDS", KILL_ROUNDS);
        if let Some(clang) = clang() {
            tests.env("DS4_CLANG", clang);
        }
        run(&mut tests)?;
        run(&mut command("cargo test --workspace --doc --quiet"))?;
        Clients::all().run()
    }
}
