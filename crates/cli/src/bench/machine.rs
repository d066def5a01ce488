//! `--machine`: what the machine can do at most, and how close a model comes to it.
//!
//! Decode is a read of weights, prefill is arithmetic: each is held against its own roof, measured in the
//! same process between the tests, since both move with clocks and neighbours.

use super::stats::{Samples, median};
use anyhow::Context;
use cpu::isa;
use cpu::probe::{Probe, READ_BYTES};
use indicatif::BinaryBytes;
use serde::Serialize;
use std::io::{self, Write};

/// Reads of memory, and runs of arithmetic, in one look at the machine.
const ROUNDS: usize = 5;

/// Measures the machine again and again.
pub struct Machine {
    probe: Probe,
    limits: Limits,
}

/// What was measured so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Limits {
    /// Threads that measured, all at once.
    pub threads: usize,
    /// Instruction set of the arithmetic.
    pub isa: &'static str,
    /// Bytes read from memory, 1e9 a second.
    pub read_gb_s: Rate,
    /// Products of 8-bit numbers, 1e9 a second.
    pub int8_gmac_s: Rate,
    /// Fused multiply-adds of f32, 1e9 a second.
    pub f32_gmac_s: Rate,
    /// Products of bf16, 1e9 a second, where there is an instruction for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bf16_gmac_s: Option<Rate>,
}

/// A rate that was measured several times, 1e9 a second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rate {
    /// The middle one.
    pub median: f64,
    /// The largest.
    pub best: f64,
    samples: Vec<f64>,
}

impl Rate {
    fn add(&mut self, per_second: f64) {
        self.samples.push(per_second / 1e9);
        let samples = Samples(self.samples.clone());
        (self.median, self.best) = (samples.median(), samples.max());
    }

    /// Median of the latest `n`.
    fn last(&self, n: usize) -> f64 {
        median(&self.samples[self.samples.len().saturating_sub(n)..])
    }
}

/// The medians of one look, 1e9 a second.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub read: f64,
    pub int8: f64,
}

impl Machine {
    /// Takes the memory that is read.
    ///
    /// # Errors
    ///
    /// If there is not as much.
    pub fn new(threads: usize) -> anyhow::Result<Machine> {
        let limits = Limits { threads, isa: isa::level().name(), ..Limits::default() };
        let probe = Probe::new(threads).context("memory for a probe of its bandwidth")?;
        Ok(Machine { probe, limits })
    }

    /// Looks at the machine; what is seen is added to what was seen before.
    pub fn look(&mut self) -> Look {
        for _ in 0..ROUNDS {
            self.limits.read_gb_s.add(self.probe.read());
            self.limits.int8_gmac_s.add(self.probe.int8());
            self.limits.f32_gmac_s.add(self.probe.f32());
            if let Some(rate) = self.probe.bf16() {
                self.limits.bf16_gmac_s.get_or_insert_default().add(rate);
            }
        }
        Look { read: self.limits.read_gb_s.last(ROUNDS), int8: self.limits.int8_gmac_s.last(ROUNDS) }
    }

    /// All that was seen.
    pub fn limits(&self) -> Limits {
        self.limits.clone()
    }
}

impl Look {
    /// Between this one and a later one.
    pub fn mean(self, later: Look) -> Look {
        Look { read: (self.read + later.read) / 2.0, int8: (self.int8 + later.int8) / 2.0 }
    }
}

impl Limits {
    /// A table for people.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let bf16 = self.bf16_gmac_s.as_ref().map(|rate| ("bf16 products, GMAC/s", rate));
        let rates = [
            ("memory read, GB/s", &self.read_gb_s),
            ("int8 products, GMAC/s", &self.int8_gmac_s),
            ("f32 products, GMAC/s", &self.f32_gmac_s),
        ];
        writeln!(
            out,
            "limits of {} threads, {}, reading {} of memory:\n",
            self.threads,
            self.isa,
            BinaryBytes(READ_BYTES as u64)
        )?;
        writeln!(out, "| limit                 |   median |     best |")?;
        writeln!(out, "|:----------------------|---------:|---------:|")?;
        for (name, rate) in rates.into_iter().chain(bf16) {
            writeln!(out, "| {name:<21} | {:>8.1} | {:>8.1} |", rate.median, rate.best)?;
        }
        Ok(())
    }
}
