//! `--sweep`: speeds at growing contexts.
//!
//! The context grows by one step after another, as a conversation does. Each step is read from a copy, as often as
//! there are repeats, and the last reading is kept; after each, a reply is written on copies. So the speed at
//! a context is that of the tokens there, not an average over all before.

use super::host::Host;
use super::profile::Stopwatch;
use super::report::{ModelFacts, RunFacts};
use super::stats::Samples;
use super::workload::{Interrupted, Runner};
use anyhow::{Context, Result, bail, ensure};
use model::{Ops, Timeline};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

/// The columns of a CSV file.
const HEADER: &str = "context,prefill_tps,prefill_min,prefill_max,decode_tps,decode_min,decode_max";

/// What is swept.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The largest context.
    pub end: usize,
    /// Tokens from one context to the next.
    pub step: usize,
    /// Length of the replies.
    pub n_gen: usize,
    /// Repeats of everything.
    pub repeats: usize,
}

/// Speeds at one context.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Tokens of context.
    pub context: usize,
    /// Reading the tokens up to there, from the context before.
    pub prefill: Speed,
    /// Writing a reply after them.
    pub decode: Speed,
}

/// Tokens a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    pub tps: f64,
    pub min: f64,
    pub max: f64,
}

impl Speed {
    fn new(samples: Vec<f64>) -> Speed {
        let samples = Samples(samples);
        Speed { tps: samples.median(), min: samples.min(), max: samples.max() }
    }
}

/// Everything about a sweep.
#[derive(Debug, Serialize)]
pub struct Sweep {
    pub machine: Host,
    pub model: ModelFacts,
    pub run: RunFacts,
    pub rows: Vec<Row>,
    /// The rows of the file it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Vec<Row>>,
    /// Share of the processors that others took meanwhile.
    pub others: Option<f64>,
    /// Whether somebody stopped it before the end.
    pub interrupted: bool,
}

impl Plan {
    /// Measures; rows are added as they are known. False if somebody stopped it.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn run<B: Ops>(
        &self,
        runner: &Runner<'_, B>,
        rows: &mut Vec<Row>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<bool> {
        let mut context = runner.start();
        while context.len() < self.end {
            match self.step(runner, &mut context, progress) {
                Ok(row) => rows.push(row),
                Err(error) if error.is::<Interrupted>() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn step<B: Ops>(
        &self,
        runner: &Runner<'_, B>,
        context: &mut Timeline<B>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Row> {
        let len = self.step.min(self.end - context.len());
        let at = context.len() + len;
        let no_watch = || None::<&mut Stopwatch<'_>>;
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        let mut next = None;
        for i in 1..=self.repeats {
            progress(&format!("{at} of {}: reading, {i} of {}", self.end, self.repeats));
            let mut timeline = context.fork();
            let took = runner.prefill(&mut timeline, len, no_watch())?;
            prefill.push(len as f64 / took.as_secs_f64());
            next = Some(timeline);
        }
        *context = next.expect("at least one repeat");
        for i in 1..=self.repeats {
            progress(&format!("{at} of {}: writing, {i} of {}", self.end, self.repeats));
            let took = runner.decode(&mut context.fork(), self.n_gen, no_watch())?;
            decode.push(self.n_gen as f64 / took.as_secs_f64());
        }
        Ok(Row { context: at, prefill: Speed::new(prefill), decode: Speed::new(decode) })
    }
}

impl Sweep {
    /// A table for people; beside another sweep, with ratios to it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let speed = |speed: Speed| format!("{:>9.2}  {:>8.2} … {:<8.2}", speed.tps, speed.min, speed.max);
        let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("×{ratio:.2}"));
        let mut head = format!("| {:>9} | {:<30} | {:<30} |", "context", "prefill t/s", "decode t/s");
        let mut line = format!("|{:->10}:|:{:-<31}|:{:-<31}|", "", "", "");
        if self.compared.is_some() {
            let _ = write!(head, " {:<15} | {:<14} |", "prefill ÷ other", "decode ÷ other");
            let _ = write!(line, ":{:-<16}|:{:-<15}|", "", "");
        }
        writeln!(out, "{head}\n{line}")?;
        for row in &self.rows {
            write!(out, "| {:>9} | {:<30} | {:<30} |", row.context, speed(row.prefill), speed(row.decode))?;
            if self.compared.is_some() {
                let other = self.other(row.context);
                let prefill = ratio(other.map(|o| row.prefill.tps / o.prefill.tps));
                let decode = ratio(other.map(|o| row.decode.tps / o.decode.tps));
                write!(out, " {prefill:<15} | {decode:<14} |")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn other(&self, context: usize) -> Option<&Row> {
        self.compared.as_ref()?.iter().find(|row| row.context == context)
    }
}

/// Rows as CSV.
pub fn to_csv(rows: &[Row]) -> String {
    let mut text = format!("{HEADER}\n");
    for Row { context, prefill: p, decode: d } in rows {
        let _ = writeln!(
            text,
            "{context},{:.3},{:.3},{:.3},{:.3},{:.3},{:.3}",
            p.tps, p.min, p.max, d.tps, d.min, d.max
        );
    }
    text
}

/// The rows of a CSV file that [`to_csv`] made.
///
/// # Errors
///
/// If it cannot be read or is anything else.
pub fn read_csv(path: &Path) -> Result<Vec<Row>> {
    let read = || from_csv(&std::fs::read_to_string(path)?);
    read().with_context(|| format!("reading {}", path.display()))
}

fn from_csv(text: &str) -> Result<Vec<Row>> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    ensure!(header == HEADER, "the first line is {header:?}, but ds4 bench --sweep --csv writes {HEADER:?}");
    let mut rows = Vec::new();
    for (i, line) in lines.enumerate() {
        let numbers: Vec<f64> = line.split(',').map_while(|field| field.trim().parse().ok()).collect();
        let &[context, p, p_min, p_max, d, d_min, d_max] = numbers.as_slice() else {
            bail!("line {}: seven numbers needed, found {line:?}", i + 2);
        };
        rows.push(Row {
            context: context as usize,
            prefill: Speed { tps: p, min: p_min, max: p_max },
            decode: Speed { tps: d, min: d_min, max: d_max },
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_goes_there_and_back() {
        let speed = |tps: f64| Speed { tps, min: tps - 0.5, max: tps + 0.25 };
        let rows = [
            Row { context: 2048, prefill: speed(100.5), decode: speed(20.0) },
            Row { context: 4096, prefill: speed(90.0), decode: speed(19.125) },
        ];
        assert_eq!(from_csv(&to_csv(&rows)).unwrap(), rows);
        let error = from_csv("a,b\n1,2\n").unwrap_err().to_string();
        assert!(error.contains("the first line is \"a,b\""), "{error}");
        let error = from_csv(&format!("{HEADER}\n1,2,3,4,5,x,7\n")).unwrap_err().to_string();
        assert!(error.starts_with("line 2: seven numbers needed"), "{error}");
    }
}
