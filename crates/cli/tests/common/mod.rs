//! Running `ds4` as a process.
#![allow(dead_code)] // not every test binary uses all of it

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// What a process said, and whether it was content.
#[derive(Debug)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub status: i32,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().expect("not killed"),
        }
    }
}

/// `ds4` where nobody has configured anything.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ds4"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in ["DS4_MODEL", "XDG_DATA_HOME", "COLUMNS"] {
        command.env_remove(variable);
    }
    command.env("DS4_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Runs `ds4` without input.
pub fn ds4(args: &[&str]) -> Said {
    command(args).output().unwrap().into()
}

/// Runs `ds4` with this on standard input.
pub fn ds4_reading(input: &str, args: &[&str]) -> Said {
    let mut process = command(args).stdin(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    process.wait_with_output().unwrap().into()
}

/// A file of tests/goldens.
pub fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(name);
    path.to_str().unwrap().to_owned()
}
