//! What `ds4 bench` tells: a table for people, or JSON.

use super::cost::Work;
use super::host::Host;
use super::machine::{Limits, Look};
use super::profile::Profile;
use super::stats::Samples;
use gguf::Gguf;
use indicatif::BinaryBytes;
use model::Config;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Host,
    pub model: ModelFacts,
    pub run: RunFacts,
    /// What the machine can do at most, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    pub results: Vec<TestResult>,
    /// Share of the mapped files that lay in large pages at the end, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_large_pages: Option<f64>,
    /// Share of the processors that others took meanwhile, 0 to 1.
    pub others: Option<f64>,
    /// Whether somebody stopped it before the end.
    pub interrupted: bool,
}

/// The model that was measured.
#[derive(Debug, Serialize)]
pub struct ModelFacts {
    pub name: String,
    pub files: Vec<PathBuf>,
    /// Size of the files.
    pub bytes: u64,
    pub parameters: u64,
    pub layers: usize,
    pub experts: usize,
    pub experts_used: usize,
    /// Bytes by type of tensor.
    pub types: BTreeMap<&'static str, u64>,
}

/// How it was measured.
#[derive(Debug, Serialize)]
pub struct RunFacts {
    /// What computed.
    pub backend: String,
    /// Format of the KV cache.
    pub kv: &'static str,
    /// Tokens in a batch of prefill.
    pub chunk: usize,
    pub repeats: usize,
}

/// One test.
#[derive(Debug, Serialize)]
pub struct TestResult {
    /// Such as `pp512`, `tg32`, `pp512@d16384`.
    pub test: String,
    pub n_prompt: usize,
    pub n_gen: usize,
    pub n_depth: usize,
    /// Tokens a second: the median of the repeats.
    pub tps: f64,
    pub tps_stddev: f64,
    pub tps_mean: f64,
    pub tps_min: f64,
    pub tps_max: f64,
    /// Each repeat, in the order they were made.
    pub samples: Samples,
    /// What a token needs on average.
    pub per_token: PerToken,
    /// How close that comes to the machine's limits, if they were measured.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub roof: Option<Roof>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// Work of a token.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PerToken {
    pub weight_bytes: f64,
    pub cached_bytes: f64,
    pub int8_macs: f64,
    pub float_macs: f64,
}

impl PerToken {
    /// The share of each of `n` tokens.
    pub fn new(work: Work, n: usize) -> PerToken {
        let each = |amount: u64| amount as f64 / n as f64;
        PerToken {
            weight_bytes: each(work.weights),
            cached_bytes: each(work.cached),
            int8_macs: each(work.int8),
            float_macs: each(work.float),
        }
    }
}

/// A speed held against the machine's limits, measured just before and just after.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Roof {
    /// Weights read, 1e9 bytes a second.
    pub weight_gb_s: f64,
    /// Their share of what can be read.
    pub of_bandwidth: f64,
    /// Products of quantized weights, 1e9 a second.
    pub int8_gmac_s: f64,
    /// Their share of what can be computed.
    pub of_int8: f64,
}

impl Roof {
    /// Of a speed in tokens a second.
    pub fn new(tps: f64, per_token: &PerToken, limits: Look) -> Roof {
        let weight_gb_s = tps * per_token.weight_bytes / 1e9;
        let int8_gmac_s = tps * per_token.int8_macs / 1e9;
        Roof {
            weight_gb_s,
            of_bandwidth: weight_gb_s / limits.read,
            int8_gmac_s,
            of_int8: int8_gmac_s / limits.int8,
        }
    }
}

impl ModelFacts {
    /// Of an open model.
    pub fn new(gguf: &Gguf, config: &Config) -> ModelFacts {
        let mut types = BTreeMap::new();
        gguf.tensors().for_each(|t| *types.entry(t.kind.name()).or_default() += t.bytes);
        ModelFacts {
            name: config.name.clone(),
            files: gguf.files().map(Into::into).collect(),
            bytes: gguf.file_len(),
            parameters: gguf.tensors().map(|t| t.elements()).sum(),
            layers: config.layers(),
            experts: config.experts,
            experts_used: config.experts_used,
            types,
        }
    }
}

impl Report {
    /// One JSON object.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn print_json(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        Ok(writeln!(out)?)
    }

    /// Tables, in Markdown.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let (host, model, run) = (&self.machine, &self.model, &self.run);
        host.print(out)?;
        let types: Vec<_> = by_size(&model.types).map(|(kind, bytes)| format!("{kind} {bytes}")).collect();
        writeln!(
            out,
            "model:   {}, {}, {} weights, {} layers, {} of {} experts; {}",
            if model.name.is_empty() { "unnamed" } else { &model.name },
            BinaryBytes(model.bytes),
            count(model.parameters),
            model.layers,
            model.experts_used,
            model.experts,
            types.join(", "),
        )?;
        writeln!(
            out,
            "run:     ds4 {}, {}, KV cache {}, chunks of {}, medians of {}",
            host.ds4, run.backend, run.kv, run.chunk, run.repeats
        )?;
        if let Some(large) = self.in_large_pages {
            let slow =
                if large < 0.5 { "; the others are slower to read, see docs/performance.md" } else { "" };
            writeln!(out, "pages:   {:.0}% of the mapped weights in large ones{slow}", 100.0 * large)?;
        }
        writeln!(out, "\n| test           |      t/s |   stddev |      min |      max |")?;
        writeln!(out, "|:---------------|---------:|---------:|---------:|---------:|")?;
        for r in &self.results {
            let numbers = [r.tps, r.tps_stddev, r.tps_min, r.tps_max].map(|x| format!("{x:>8.2}"));
            writeln!(out, "| {:<14} | {} |", r.test, numbers.join(" | "))?;
        }
        if let Some(limits) = &self.limits {
            writeln!(out)?;
            limits.print(out)?;
            writeln!(out, "\n| test           | weights GB/s | of bandwidth | int8 GMAC/s | of int8 peak |")?;
            writeln!(out, "|:---------------|-------------:|-------------:|------------:|-------------:|")?;
        }
        for r in &self.results {
            if let Some(roof) = &r.roof {
                let [read, int8] = [roof.of_bandwidth, roof.of_int8].map(|x| format!("{:.1}%", 100.0 * x));
                let (gb, gmac) = (roof.weight_gb_s, roof.int8_gmac_s);
                writeln!(out, "| {:<14} | {gb:>12.1} | {read:>12} | {gmac:>11.1} | {int8:>12} |", r.test)?;
            }
        }
        for r in &self.results {
            if let Some(profile) = &r.profile {
                writeln!(out, "\n{}: where the time goes", r.test)?;
                profile.print(out)?;
            }
        }
        Ok(())
    }
}

/// In billions or millions.
fn count(parameters: u64) -> String {
    let (size, unit) = if parameters < 1_000_000_000 { (1e6, "M") } else { (1e9, "B") };
    format!("{:.1} {unit}", parameters as f64 / size)
}

/// The types with the most bytes first.
fn by_size<'a>(
    types: &'a BTreeMap<&'static str, u64>,
) -> impl Iterator<Item = (&'static str, BinaryBytes)> + 'a {
    let mut types: Vec<_> = types.iter().filter(|(_, bytes)| **bytes > 1 << 20).collect();
    types.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    types.into_iter().map(|(kind, bytes)| (*kind, BinaryBytes(*bytes)))
}
