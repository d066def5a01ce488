//! `ds4 kv-rounding`: the roundings of the `f8` KV cache, one operator at a time.

use anyhow::{Context, bail, ensure};
use quants::{hadamard, kv_rounding};
use serde::Deserialize;
use std::io::Write;
use std::path::PathBuf;

/// Round values as the f8 KV cache does, to compare with another implementation.
///
/// The file is a JSON object {"cases": [{"op": NAME, "in": [NUMBERS]}]}. The rounded values of all cases are
/// written one after another. Operators: fp8q64 (FP8 E4M3, blocks of 64), fp4q32 (FP4 E2M1, blocks of 32),
/// hadamard_fp4q32 (Hadamard transform, then fp4q32).
#[derive(clap::Args)]
pub struct KvRounding {
    /// The cases, in JSON.
    file: PathBuf,
    /// Where to write the values, as raw little-endian f32.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    op: String,
    #[serde(rename = "in")]
    values: Vec<f32>,
}

impl KvRounding {
    /// Rounds every case.
    pub fn run(self, _: &mut dyn Write) -> anyhow::Result<()> {
        let text = std::fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))?;
        let cases: Cases =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", self.file.display()))?;
        let mut bytes = Vec::new();
        for (idx, case) in cases.cases.into_iter().enumerate() {
            let rounded = round(case).with_context(|| format!("case {idx}"))?;
            bytes.extend(rounded.into_iter().flat_map(f32::to_le_bytes));
        }
        std::fs::write(&self.out, bytes).with_context(|| format!("writing {}", self.out.display()))
    }
}

fn round(case: Case) -> anyhow::Result<Vec<f32>> {
    let (op, mut values) = (case.op.as_str(), case.values);
    let block = if op == "fp8q64" { 64 } else { 32 };
    ensure!(values.len().is_multiple_of(block), "{op}: {} values, not a multiple of {block}", values.len());
    match op {
        "fp8q64" => kv_rounding::round_fp8(&mut values, block),
        "fp4q32" => kv_rounding::round_fp4(&mut values, block),
        "hadamard_fp4q32" => {
            ensure!(values.len().is_power_of_two(), "{op}: {} values, not a power of two", values.len());
            hadamard::transform(&mut values);
            kv_rounding::round_fp4(&mut values, block);
        }
        _ => bail!("unknown operator {op:?}: there are fp8q64, fp4q32 and hadamard_fp4q32"),
    }
    Ok(values)
}
