//! `ds4 logits`: what the model expects after each token, as numbers, to hold it against another
//! implementation.

use crate::backend::{BackendArgs, Task};
use crate::drafts_arg::MtpFileArg;
use crate::model_arg::ModelArg;
use anyhow::{Context, ensure};
use engine::sampler::greedy;
use gguf::Gguf;
use model::{DraftEntry, DraftState, Entry, KvFormat, Model, NoTap, Ops, Timeline, Wanted, draft, forward};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Write a model's logits for given tokens, to compare it with another implementation.
///
/// Writes raw little-endian f32 rows [positions, vocabulary]; the row of position p is what the model
/// expects after tokens 0 to p.
#[derive(clap::Args)]
pub struct Logits {
    #[command(flatten)]
    model: ModelArg,
    /// The tokens: a JSON array of ids. Nothing is added, so the first is usually the BOS token.
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Where to write the rows.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which rows to write: all, last, or a file with a JSON array of ascending positions.
    #[arg(long, value_name = "all|last|FILE", default_value = "all")]
    positions: String,
    #[command(flatten)]
    backend: BackendArgs,
    /// How the KV cache is stored: f32, f16 or f8.
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = KvFormat::from_str)]
    kv: KvFormat,
    /// Tokens in a batch. Does not change the result.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: u32,
    /// Continue the tokens by N, each the most probable one, also after an end-of-text token. Writes the
    /// rows that chose them instead, and prints their ids as a JSON array.
    #[arg(long, value_name = "N", conflicts_with = "positions")]
    greedy: Option<usize>,
    /// Write the rows of the MTP block instead, which sees token p + 1 too: the row of position p is what it
    /// expects after that one. There is none for the last token.
    #[arg(long, conflicts_with = "greedy")]
    mtp: bool,
    #[command(flatten)]
    file: MtpFileArg,
}

impl Logits {
    /// Computes and writes the rows.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let tokens: Vec<u32> = read_json(&self.tokens)?;
        let rows = tokens.len().saturating_sub(usize::from(self.mtp));
        ensure!(rows > 0, "{}: too few tokens", self.tokens.display());
        let positions = self.positions(rows)?;
        let gguf = self.file.open(&self.model)?;
        self.backend.run(Dump { args: &self, gguf, tokens, positions, printed: out })?
    }

    /// The positions to write, ascending, of those that have a row.
    fn positions(&self, rows: usize) -> anyhow::Result<Vec<usize>> {
        match self.positions.as_str() {
            "all" => Ok((0..rows).collect()),
            "last" => Ok(vec![rows - 1]),
            file => {
                let positions: Vec<usize> = read_json(Path::new(file))?;
                ensure!(positions.is_sorted_by(|a, b| a < b), "{file}: positions must ascend");
                let last = positions.last().copied().unwrap_or_default();
                ensure!(last < rows, "{file}: position {last}, but there are only {rows} rows");
                Ok(positions)
            }
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
}

/// One command, once it is known where to compute.
struct Dump<'a> {
    args: &'a Logits,
    gguf: Gguf,
    tokens: Vec<u32>,
    positions: Vec<usize>,
    printed: &'a mut dyn Write,
}

impl Task for Dump<'_> {
    type Output = anyhow::Result<()>;

    fn file(&self) -> &Gguf {
        &self.gguf
    }

    fn on<B: Ops + 'static>(self, ops: B) -> anyhow::Result<()> {
        let model = model::load(&ops, &self.gguf).context("loading the model")?;
        self.args.kv.check(&model.config)?;
        ensure!(
            !self.args.mtp || model.mtp.is_some(),
            "this model has no MTP block; --mtp-file names the file that has it"
        );
        let timeline = Timeline::new(&ops, &model.config, self.args.kv);
        let mut feeder = Feeder { ops: &ops, model: &model, timeline };
        let path = &self.args.out;
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let mut rows = Rows { file: BufWriter::new(file) };
        match self.args.greedy {
            None if self.args.mtp => self.write_drafts(&mut feeder, &mut rows)?,
            None => self.write_positions(&mut feeder, &mut rows)?,
            Some(count) => {
                let ids = self.write_greedy(&mut feeder, count, &mut rows)?;
                writeln!(self.printed, "{}", serde_json::to_string(&ids)?)?;
            }
        }
        rows.file.flush().with_context(|| format!("writing {}", path.display()))
    }
}

impl Dump<'_> {
    fn write_positions<B: Ops>(&self, feeder: &mut Feeder<'_, B>, rows: &mut Rows) -> anyhow::Result<()> {
        let mut wanted = self.positions.iter().copied().peekable();
        while let Some(chunk) = feeder.next_chunk(&self.tokens, self.args.chunk as usize) {
            let last = chunk.end - 1;
            let which = match wanted.peek() {
                Some(&p) if p < last => Wanted::All,
                Some(&p) if p == last => Wanted::Last,
                _ => Wanted::None,
            };
            let logits = feeder.feed(&self.tokens[chunk.clone()], which)?;
            let first = if which == Wanted::All { chunk.start } else { last };
            while let Some(position) = wanted.next_if(|p| chunk.contains(p)) {
                rows.write(feeder.row(&logits, position - first))?;
            }
        }
        Ok(())
    }

    fn write_drafts<B: Ops>(&self, feeder: &mut Feeder<'_, B>, rows: &mut Rows) -> anyhow::Result<()> {
        let mut wanted = self.positions.iter().copied().peekable();
        let mut state = DraftState::new(feeder.ops, feeder.model, self.args.kv, 1);
        let tokens = &self.tokens[..self.tokens.len() - 1];
        while let Some(chunk) = feeder.next_chunk(tokens, self.args.chunk as usize) {
            let logits = feeder.draft(&self.tokens, chunk.clone(), &mut state)?;
            while let Some(position) = wanted.next_if(|p| chunk.contains(p)) {
                rows.write(feeder.row(&logits, position - chunk.start))?;
            }
        }
        Ok(())
    }

    fn write_greedy<B: Ops>(
        &self,
        feeder: &mut Feeder<'_, B>,
        count: usize,
        rows: &mut Rows,
    ) -> anyhow::Result<Vec<u32>> {
        let mut logits = Vec::new();
        while let Some(chunk) = feeder.next_chunk(&self.tokens, self.args.chunk as usize) {
            logits = feeder.feed(&self.tokens[chunk], Wanted::Last)?;
        }
        let mut ids = Vec::new();
        for _ in 0..count {
            if let Some(&token) = ids.last() {
                logits = feeder.feed(&[token], Wanted::Last)?;
            }
            rows.write(&logits)?;
            ids.push(greedy(&logits)?);
        }
        Ok(ids)
    }
}

/// A timeline and what extends it.
struct Feeder<'a, B: Ops> {
    ops: &'a B,
    model: &'a Model<B>,
    timeline: Timeline<B>,
}

impl<B: Ops> Feeder<'_, B> {
    /// The tokens to feed next; `None` at their end.
    fn next_chunk(&self, tokens: &[u32], most: usize) -> Option<Range<usize>> {
        let done = self.timeline.len();
        let len = (tokens.len() - done).min(most);
        (len > 0).then(|| done..done + len)
    }

    /// Logits of the wanted tokens, `[wanted, vocab]`.
    fn feed(&mut self, tokens: &[u32], wanted: Wanted) -> anyhow::Result<Vec<f32>> {
        let mut batch = [Entry { timeline: &mut self.timeline, tokens, wanted }];
        let output = forward(self.model, self.ops, &mut batch, &mut NoTap)?;
        Ok(output.logits.map(|logits| self.ops.read(&logits)).transpose()?.unwrap_or_default())
    }

    /// The MTP block's logits of a chunk, `[chunk, vocab]`: it is given the token after each.
    fn draft(
        &mut self,
        tokens: &[u32],
        chunk: Range<usize>,
        state: &mut DraftState<B>,
    ) -> anyhow::Result<Vec<f32>> {
        let (now, next) = (&tokens[chunk.clone()], &tokens[chunk.start + 1..=chunk.end]);
        let mut batch = [Entry { timeline: &mut self.timeline, tokens: now, wanted: Wanted::Streams }];
        let streams = forward(self.model, self.ops, &mut batch, &mut NoTap)?.streams.expect("asked for");
        let mut batch = [DraftEntry { state, tokens: next, wanted: Wanted::All }];
        let output = draft(self.model, self.ops, &streams, &mut batch, &mut NoTap)?;
        Ok(self.ops.read(&output.logits.expect("a draft gives logits of every row"))?)
    }

    fn row<'r>(&self, logits: &'r [f32], idx: usize) -> &'r [f32] {
        let vocab = self.model.config.vocab;
        &logits[idx * vocab..][..vocab]
    }
}

struct Rows {
    file: BufWriter<File>,
}

impl Rows {
    fn write(&mut self, row: &[f32]) -> anyhow::Result<()> {
        for logit in row {
            self.file.write_all(&logit.to_le_bytes())?;
        }
        Ok(())
    }
}
