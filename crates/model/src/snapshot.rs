//! A whole timeline as bytes, and back: save + load is as if the conversation had never stopped.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `ds4 conv` |
//! | 4 | version, 1 |
//! | 4 | KV format: 0 f32, 1 f16, 2 f8 |
//! | 32 | fingerprint of the model |
//! | 8 | p, number of tokens |
//! | 8 | s, number of tokens by which the timeline can be cut back without recomputation |
//! | 4·p | token ids |
//! | … | rows of each finished page, then of the tail: see below |
//! | 32 | BLAKE3 hash of everything before |
//!
//! Integers are little-endian. A page's or the tail's rows go layer by layer: window rows, then for
//! attention's compressor and for the indexer's, where there are such, its rows and its frontier rows.
//! How many there are follows from p and s (the table at the top of [`crate::timeline`]), so a file is of
//! the right length or it is damaged. Rows are as [`RowLayout`] says, so a timeline saved by one backend
//! can be loaded by another.

use crate::config::{Config, Ratio};
use crate::kv::{KvFormat, RowLayout};
use crate::ops::{Ops, RowStore};
use crate::timeline::{
    CompressorTail, LayerTail, Log, PAGE, Page, PageLayer, PagePart, SLACK, Shape, Timeline,
};
use std::ops::Range;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"ds4 conv";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 4 + 32 + 8 + 8;
const HASH: usize = 32;

/// Why saved bytes are not a timeline of this model.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // the messages say what the fields are
pub enum SnapshotError {
    #[error("not a saved conversation")]
    Magic,
    #[error("a saved conversation of version {found}; this program reads version {VERSION}")]
    Version { found: u32 },
    #[error("a saved conversation of another model")]
    Model,
    #[error("a saved conversation with KV format {found}; {need} is needed")]
    Format { found: &'static str, need: &'static str },
    #[error("a damaged saved conversation: {found} bytes, where {need} are needed")]
    Length { found: u64, need: u64 },
    #[error("a damaged saved conversation: {0}")]
    Damaged(&'static str),
}

const FORMATS: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::F8];

impl<B: Ops> Timeline<B> {
    /// Saves the timeline. `fingerprint` is that of its model.
    pub fn to_bytes(&self, fingerprint: &[u8; 32]) -> Vec<u8> {
        let p = self.len();
        let slack = (0..=SLACK.min(p))
            .rev()
            .find(|s| self.reaches_back_to(p - s))
            .expect("it reaches back to itself");
        let format = FORMATS.iter().position(|&f| f == self.format()).expect("all formats are listed");
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((format as u32).to_le_bytes());
        out.extend(fingerprint);
        out.extend((p as u64).to_le_bytes());
        out.extend((slack as u64).to_le_bytes());
        out.extend(self.tokens().iter().flat_map(|t| t.to_le_bytes()));
        self.pages().iter().for_each(|page| page.write(&mut out));
        for (idx, &ratio) in self.shape().ratios.iter().enumerate() {
            let layer = self.layer(idx);
            out.extend(layer.window.last(self.shape().window_from(p - slack)).to_bytes());
            for part in layer.parts().into_iter().flatten() {
                out.extend(part.rows.to_bytes());
                out.extend(part.frontier.last(ratio.frontier_from(p - slack)).to_bytes());
            }
        }
        out.extend(blake3::hash(&out).as_bytes());
        out
    }

    /// Loads a timeline that was saved with the same model and KV format.
    ///
    /// # Errors
    ///
    /// If the bytes are anything else. Any bytes may be given; nothing is allocated for a length that
    /// they do not have.
    ///
    /// # Panics
    ///
    /// As [`Timeline::new`].
    pub fn from_bytes(
        ops: &B,
        config: &Config,
        format: KvFormat,
        fingerprint: &[u8; 32],
        bytes: &[u8],
    ) -> Result<Self, SnapshotError> {
        let mut timeline = Timeline::new(ops, config, format);
        let shape = timeline.shape().clone();
        let (p, slack) = check(&shape, format, fingerprint, bytes)?;
        let mut rest = Cursor(&bytes[HEADER..bytes.len() - HASH]);
        let tokens: Vec<u32> =
            rest.take(4 * p).chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if tokens.iter().any(|&t| t as usize >= config.vocab) {
            return Err(SnapshotError::Damaged("a token outside the vocabulary"));
        }
        let pages = (0..p / PAGE)
            .map(|i| Arc::new(Page::read(ops, &shape, i, &tokens[i * PAGE..(i + 1) * PAGE], &mut rest)));
        let pages = pages.collect();
        let layers =
            (0..shape.ratios.len()).map(|idx| read_tail(ops, &shape, idx, p, slack, &mut rest)).collect();
        timeline.replace(tokens, pages, layers);
        Ok(timeline)
    }
}

/// Checks everything about saved bytes but the rows themselves; returns p and s.
fn check(
    shape: &Shape,
    format: KvFormat,
    fingerprint: &[u8; 32],
    bytes: &[u8],
) -> Result<(usize, usize), SnapshotError> {
    let length = |need: u64| SnapshotError::Length { found: bytes.len() as u64, need };
    if !bytes.starts_with(MAGIC) {
        return Err(SnapshotError::Magic);
    }
    if bytes.len() < HEADER + HASH {
        return Err(length((HEADER + HASH) as u64));
    }
    let mut header = Cursor(&bytes[MAGIC.len()..HEADER]);
    let version = header.u32();
    if version != VERSION {
        return Err(SnapshotError::Version { found: version });
    }
    let found = FORMATS.get(header.u32() as usize).ok_or(SnapshotError::Damaged("unknown KV format"))?;
    if header.take(32) != fingerprint {
        return Err(SnapshotError::Model);
    }
    if *found != format {
        return Err(SnapshotError::Format { found: found.name(), need: format.name() });
    }
    let (p, slack) = (header.u64(), header.u64());
    if p > (bytes.len() / 4) as u64 || slack > p.min(SLACK as u64) {
        return Err(SnapshotError::Damaged("impossible number of tokens"));
    }
    let (p, slack) = (p as usize, slack as usize);
    let need = total_len(shape, p, slack);
    if need != bytes.len() as u64 {
        return Err(length(need));
    }
    let (body, hash) = bytes.split_at(bytes.len() - HASH);
    if blake3::hash(body).as_bytes() != hash {
        return Err(SnapshotError::Damaged("the checksum does not match"));
    }
    Ok((p, slack))
}

/// Length of the saved form of p tokens with slack s, in bytes.
fn total_len(shape: &Shape, p: usize, s: usize) -> u64 {
    let page = |i: usize| page_rows(shape, (i + 1) * PAGE, 0, PAGE);
    let tail = page_rows(shape, p, s, p % PAGE);
    let rows: u64 = (0..p / PAGE).map(page).sum::<u64>() + tail;
    (HEADER + HASH + 4 * p) as u64 + rows
}

/// Bytes of all rows of a page or tail that ends at `end`, with `tokens` of its own.
fn page_rows(shape: &Shape, end: usize, slack: usize, tokens: usize) -> u64 {
    let layer = |(idx, &ratio): (usize, &Ratio)| {
        let window = (end - shape.window_from(end - slack)) * shape.latent.row_bytes();
        let part = |(ratio, row): (Ratio, RowLayout)| {
            tokens / ratio.tokens() * row.row_bytes()
                + (end - ratio.frontier_from(end - slack)) * shape.frontier(ratio, row).row_bytes()
        };
        debug_assert_eq!(ratio, shape.ratios[idx]);
        (window + shape.compressors(idx).into_iter().flatten().map(part).sum::<usize>()) as u64
    };
    shape.ratios.iter().enumerate().map(layer).sum()
}

impl<B: Ops> Page<B> {
    fn write(&self, out: &mut Vec<u8>) {
        for layer in &self.layers {
            out.extend(layer.window.to_bytes());
            for part in layer.parts().into_iter().flatten() {
                out.extend(part.rows.to_bytes());
                out.extend(part.frontier.to_bytes());
            }
        }
    }

    /// Page `index` of a timeline; the lengths have been checked.
    fn read(ops: &B, shape: &Shape, index: usize, tokens: &[u32], rest: &mut Cursor<'_>) -> Self {
        let end = (index + 1) * PAGE;
        let layers = (0..shape.ratios.len()).map(|idx| {
            let window = rest.rows(ops, shape.latent, shape.window_from(end)..end);
            let [compressor, indexer] = shape.compressors(idx).map(|part| {
                part.map(|(ratio, row)| PagePart {
                    rows: rest.rows(ops, row, 0..PAGE / ratio.tokens()),
                    frontier: rest.rows(ops, shape.frontier(ratio, row), ratio.frontier_from(end)..end),
                })
            });
            PageLayer { window, compressor, indexer }
        });
        Page { layers: layers.collect(), tokens: tokens.to_vec() }
    }
}

fn read_tail<B: Ops>(
    ops: &B,
    shape: &Shape,
    idx: usize,
    p: usize,
    slack: usize,
    rest: &mut Cursor<'_>,
) -> LayerTail<B> {
    let log =
        |layout, base: usize, rest: &mut Cursor<'_>| Log { rows: rest.rows(ops, layout, base..p), base };
    let window = log(shape.latent, shape.window_from(p - slack), rest);
    let [compressor, indexer] = shape.compressors(idx).map(|part| {
        part.map(|(ratio, row)| CompressorTail {
            rows: rest.rows(ops, row, 0..p % PAGE / ratio.tokens()),
            frontier: log(shape.frontier(ratio, row), ratio.frontier_from(p - slack), rest),
        })
    });
    LayerTail { window, compressor, indexer }
}

/// Bytes whose length has been checked.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(n);
        self.0 = later;
        now
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("4 bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("8 bytes"))
    }

    /// The next rows, one for each position of the range.
    fn rows<B: Ops>(&mut self, ops: &B, layout: RowLayout, positions: Range<usize>) -> B::Rows {
        let mut rows = ops.rows(layout);
        rows.extend_from_bytes(self.take(positions.len() * layout.row_bytes()));
        rows
    }
}
