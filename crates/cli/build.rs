//! Tells the program which source it was built from: the environment's `DS4_COMMIT`, else what git says, else nothing.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=DS4_COMMIT");
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // Written whenever another commit is checked out or made.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = std::env::var("DS4_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=DS4_COMMIT={}", commit.unwrap_or_default());
}
