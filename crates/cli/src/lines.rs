//! `--lines`: one JSON object a line in, one out, in order, each as soon as it is known.

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, Write};

/// Answers every line of `input`. What cannot be answered is `{"error": "…"}` on its line.
pub fn answer<Q: DeserializeOwned, A: Serialize>(
    input: &mut dyn BufRead,
    out: &mut dyn Write,
    answer: impl Fn(Q) -> anyhow::Result<A>,
) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Error {
        error: String,
    }
    let mut line = Vec::new();
    while read_line(input, &mut line)? {
        match serde_json::from_slice(&line).map_err(anyhow::Error::from).and_then(&answer) {
            Ok(answer) => serde_json::to_writer(&mut *out, &answer)?,
            Err(error) => serde_json::to_writer(&mut *out, &Error { error: crate::story(&error) })?,
        }
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

/// Reads the next line; false at the end.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> anyhow::Result<bool> {
    line.clear();
    Ok(input.read_until(b'\n', line).context("reading standard input")? > 0)
}
