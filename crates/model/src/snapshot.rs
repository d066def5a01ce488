//! Pages and tails as bytes, and back: save + load is as if the conversation had never stopped.
//!
//! Start at [`Codec`]. All integers are little-endian.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `ds4 page` or `ds4 tail` |
//! | 4 | version, 1 |
//! | 4 | KV format: 0 f32, 1 f16, 2 f8 |
//! | 32 | fingerprint of the model |
//! | 32 | key of the page before; for a first page, of no tokens ([`PageKey::root`]) |
//! | 8 | number of pages before |
//! | 8 | t, number of token ids: for a page 1024, for a tail fewer |
//! | 8 | for a page 1 if it has its end and else 0; for a tail s, the tokens by which it can be cut back |
//! | 4·t | token ids |
//! | … | rows, see below |
//! | 32 | BLAKE3 hash of everything before |
//!
//! A page's rows: layer by layer those of attention's compressor and of the indexer's, where there are such;
//! then, if it has its end, layer by layer window rows, and the frontier rows of both. A tail's rows: layer by
//! layer window rows, then for both compressors rows and frontier rows. How many there are follows from the
//! numbers above (the table at the top of [`crate::timeline`]), so bytes are of the right length or damaged.
//! Rows are as [`RowLayout`] says, so what one backend saved another can load.
//!
//! A whole conversation is `ds4 conv`, the version, 2, in 4 bytes, the number of pages in 8, and then each page
//! and the tail as above, with the length of each before it in 8 bytes.

use crate::config::{Config, Ratio};
use crate::kv::{KvFormat, RowLayout};
use crate::ops::{Ops, RowStore};
use crate::page::{Page, PageEnd, PageKey, PageRows};
use crate::tail::Tail;
use crate::timeline::{CompressorTail, LayerTail, Log, PAGE, SLACK, Shape, Timeline};
use std::ops::Range;
use std::sync::Arc;

const PAGE_MAGIC: &[u8; 8] = b"ds4 page";
const TAIL_MAGIC: &[u8; 8] = b"ds4 tail";
const VERSION: u32 = 1;
const HASH: usize = 32;

const CONVERSATION_MAGIC: &[u8; 8] = b"ds4 conv";
const CONVERSATION_VERSION: u32 = 2;

/// Bytes before the token ids.
const HEAD: usize = 8 + 4 + 4 + 32 + 32 + 8 + 8 + 8;

/// Why saved bytes are not what is needed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // the messages say what the fields are
pub enum SnapshotError {
    #[error("not a saved conversation")]
    Magic,
    #[error("saved in form {found}; this program reads form {need}")]
    Version { found: u32, need: u32 },
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

pub(crate) fn format_code(format: KvFormat) -> u32 {
    FORMATS.iter().position(|&f| f == format).expect("all formats are listed") as u32
}

/// What a saved page or tail says of itself before its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whether it is a page, or else a tail.
    pub is_page: bool,
    /// Key of the page before it, or of no tokens.
    pub parent: PageKey,
    /// Its own key.
    pub key: PageKey,
    /// Pages before it.
    pub pages: usize,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Whether a conversation can go on right after it; tails always let it.
    pub has_end: bool,
    /// By how many tokens a tail can be cut back; 0 for a page.
    pub slack: usize,
    /// Length of all of it, in bytes.
    pub bytes: u64,
}

/// Turns the pages and tails of one model in one KV format into bytes and back.
#[derive(Clone, Debug)]
pub struct Codec {
    shape: Shape,
    vocab: usize,
    fingerprint: [u8; 32],
}

impl Codec {
    /// - `fingerprint`: identifies the model, [`crate::Model::fingerprint`]
    ///
    /// # Panics
    ///
    /// If `format` does not suit the model; see [`KvFormat::check`].
    pub fn new(config: &Config, format: KvFormat, fingerprint: [u8; 32]) -> Codec {
        format.check(config).expect("the caller checks the KV format");
        Codec { shape: Shape::new(config, format), vocab: config.vocab, fingerprint }
    }

    /// The key of no tokens.
    pub fn root(&self) -> PageKey {
        PageKey::root(&self.fingerprint, self.shape.format)
    }

    /// How rows are stored.
    pub fn format(&self) -> KvFormat {
        self.shape.format
    }

    /// Length of a saved page, in bytes.
    ///
    /// - `index`: pages before it
    pub fn page_len(&self, index: usize, has_end: bool) -> u64 {
        let rows = self.page_rows_len() + if has_end { self.page_end_len((index + 1) * PAGE) } else { 0 };
        (HEAD + 4 * PAGE + HASH) as u64 + rows
    }

    /// Length of a saved tail, in bytes.
    ///
    /// - `position`: tokens up to its end; `slack`: tokens by which it can be cut back
    pub fn tail_len(&self, position: usize, slack: usize) -> u64 {
        let layer = |(idx, &ratio): (usize, &Ratio)| {
            let from = position - slack;
            let window = (position - self.shape.window_from(from)) * self.shape.latent.row_bytes();
            let part = |(ratio, row): (Ratio, RowLayout)| {
                position % PAGE / ratio.tokens() * row.row_bytes()
                    + (position - ratio.frontier_from(from)) * self.shape.frontier(ratio, row).row_bytes()
            };
            debug_assert_eq!(ratio, self.shape.ratios[idx]);
            (window + self.shape.compressors(idx).into_iter().flatten().map(part).sum::<usize>()) as u64
        };
        let rows: u64 = self.shape.ratios.iter().enumerate().map(layer).sum();
        (HEAD + 4 * (position % PAGE) + HASH) as u64 + rows
    }

    fn page_rows_len(&self) -> u64 {
        let part = |(ratio, row): (Ratio, RowLayout)| (PAGE / ratio.tokens() * row.row_bytes()) as u64;
        (0..self.shape.ratios.len()).flat_map(|idx| self.shape.compressors(idx)).flatten().map(part).sum()
    }

    fn page_end_len(&self, end: usize) -> u64 {
        let layer = |idx| {
            let part = |(ratio, row): (Ratio, RowLayout)| {
                (end - ratio.frontier_from(end)) * self.shape.frontier(ratio, row).row_bytes()
            };
            (end - self.shape.window_from(end)) * self.shape.latent.row_bytes()
                + self.shape.compressors(idx).into_iter().flatten().map(part).sum::<usize>()
        };
        (0..self.shape.ratios.len()).map(|idx| layer(idx) as u64).sum()
    }

    /// Saves a page.
    ///
    /// - `parent`: key of the page before it, or [`Codec::root`]; `index`: pages before it
    pub fn page_to_bytes<B: Ops>(&self, parent: &PageKey, index: usize, page: &Page<B>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.page_len(index, page.has_end()) as usize);
        self.head(PAGE_MAGIC, parent, index, page.tokens(), page.has_end().into(), &mut out);
        for layer in page.rows() {
            layer.parts().into_iter().flatten().for_each(|rows| out.extend(rows.to_bytes()));
        }
        for layer in page.end().into_iter().flatten() {
            out.extend(layer.window.to_bytes());
            layer.parts().into_iter().flatten().for_each(|rows| out.extend(rows.to_bytes()));
        }
        seal(out)
    }

    /// Saves a tail. `parent` is the key of the page before it, or [`Codec::root`].
    pub fn tail_to_bytes<B: Ops>(&self, parent: &PageKey, tail: &Tail<B>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.tail_len(tail.position(), tail.slack) as usize);
        self.head(TAIL_MAGIC, parent, tail.pages, &tail.tokens, tail.slack as u64, &mut out);
        for layer in &tail.layers {
            out.extend(layer.window.rows.to_bytes());
            for part in layer.parts().into_iter().flatten() {
                out.extend(part.rows.to_bytes());
                out.extend(part.frontier.rows.to_bytes());
            }
        }
        seal(out)
    }

    fn head(
        &self,
        magic: &[u8; 8],
        parent: &PageKey,
        pages: usize,
        tokens: &[u32],
        last: u64,
        out: &mut Vec<u8>,
    ) {
        out.extend(magic);
        out.extend(VERSION.to_le_bytes());
        out.extend(format_code(self.shape.format).to_le_bytes());
        out.extend(self.fingerprint);
        out.extend(parent.0);
        out.extend((pages as u64).to_le_bytes());
        out.extend((tokens.len() as u64).to_le_bytes());
        out.extend(last.to_le_bytes());
        out.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    }

    /// Saves the end of a page as a tail of no tokens, so that pages can be kept without it; `None` if it has
    /// none. For a conversation that goes on there it is the same.
    ///
    /// - `key`: of the page; `index`: pages before it
    pub fn end_to_bytes<B: Ops>(&self, key: &PageKey, index: usize, page: &Page<B>) -> Option<Vec<u8>> {
        let end = page.end()?;
        let mut out = Vec::with_capacity(self.tail_len((index + 1) * PAGE, 0) as usize);
        self.head(TAIL_MAGIC, key, index + 1, &[], 0, &mut out);
        for layer in end {
            out.extend(layer.window.to_bytes());
            layer.parts().into_iter().flatten().for_each(|rows| out.extend(rows.to_bytes()));
        }
        Some(seal(out))
    }

    /// Reads what a page or tail says of itself: `bytes` may be all of it or just its beginning, of at least
    /// [`Head::MOST_BYTES`] unless it is shorter. Neither rows nor the hash are looked at; whether the tokens
    /// are what was saved shows in the key.
    ///
    /// # Errors
    ///
    /// If the bytes are anything else than the beginning of a page or tail of this model and format.
    pub fn head_from_bytes(&self, bytes: &[u8]) -> Result<Head, SnapshotError> {
        let label = Label::from_bytes(bytes)?;
        if label.fingerprint != self.fingerprint {
            return Err(SnapshotError::Model);
        }
        if label.format != self.shape.format {
            return Err(SnapshotError::Format { found: label.format.name(), need: self.shape.format.name() });
        }
        let Label { is_page, key, parent, pages, tokens, has_end, slack, .. } = label;
        if tokens.iter().any(|&t| t as usize >= self.vocab) {
            return Err(SnapshotError::Damaged("a token outside the vocabulary"));
        }
        let bytes = match is_page {
            true => self.page_len(pages, has_end),
            false => self.tail_len(pages * PAGE + tokens.len(), slack),
        };
        Ok(Head { is_page, key, parent, pages, tokens, has_end, slack, bytes })
    }

    /// Checks everything about saved bytes but the rows themselves; returns what is between head and hash.
    fn open<'b>(&self, bytes: &'b [u8]) -> Result<(Head, Cursor<'b>), SnapshotError> {
        let head = self.head_from_bytes(bytes)?;
        if head.bytes != bytes.len() as u64 {
            return Err(SnapshotError::Length { found: bytes.len() as u64, need: head.bytes });
        }
        let (body, hash) = bytes.split_at(bytes.len() - HASH);
        if blake3::hash(body).as_bytes() != hash {
            return Err(SnapshotError::Damaged("the checksum does not match"));
        }
        Ok((head.clone(), Cursor(&body[HEAD + 4 * head.tokens.len()..])))
    }

    /// Loads a page.
    ///
    /// # Errors
    ///
    /// If the bytes are anything else. Any bytes may be given; nothing is allocated for a length that they do
    /// not have.
    pub fn page_from_bytes<B: Ops>(&self, ops: &B, bytes: &[u8]) -> Result<(Head, Page<B>), SnapshotError> {
        let (head, mut rest) = self.open(bytes)?;
        if !head.is_page {
            return Err(SnapshotError::Damaged("a tail where a page is needed"));
        }
        let (shape, end) = (&self.shape, (head.pages + 1) * PAGE);
        let layers = 0..shape.ratios.len();
        let rows = layers.clone().map(|idx| {
            let [compressor, indexer] = shape
                .compressors(idx)
                .map(|part| part.map(|(ratio, row)| rest.rows(ops, row, idx, 0..PAGE / ratio.tokens())));
            PageRows { compressor, indexer }
        });
        let rows = rows.collect();
        let ends = head.has_end.then(|| {
            let layer = |idx| {
                let window = rest.rows(ops, shape.latent, idx, shape.window_from(end)..end);
                let [compressor, indexer] = shape.compressors(idx).map(|part| {
                    part.map(|(ratio, row)| {
                        rest.rows(ops, shape.frontier(ratio, row), idx, ratio.frontier_from(end)..end)
                    })
                });
                PageEnd { window, compressor, indexer }
            };
            layers.map(layer).collect()
        });
        let page = Page::new(head.tokens.as_slice().into(), rows, ends);
        Ok((head, page))
    }

    /// Loads a tail.
    ///
    /// # Errors
    ///
    /// As [`Codec::page_from_bytes`].
    pub fn tail_from_bytes<B: Ops>(&self, ops: &B, bytes: &[u8]) -> Result<(Head, Tail<B>), SnapshotError> {
        let (head, mut rest) = self.open(bytes)?;
        if head.is_page {
            return Err(SnapshotError::Damaged("a page where a tail is needed"));
        }
        let (shape, p) = (&self.shape, head.pages * PAGE + head.tokens.len());
        let from = p - head.slack;
        let layers = (0..shape.ratios.len()).map(|idx| {
            let log = |layout, base: usize, rest: &mut Cursor<'_>| Log {
                rows: rest.rows(ops, layout, idx, base..p),
                base,
            };
            let window = log(shape.latent, shape.window_from(from), &mut rest);
            let [compressor, indexer] = shape.compressors(idx).map(|part| {
                part.map(|(ratio, row)| CompressorTail {
                    rows: rest.rows(ops, row, idx, 0..p % PAGE / ratio.tokens()),
                    frontier: log(shape.frontier(ratio, row), ratio.frontier_from(from), &mut rest),
                })
            });
            LayerTail { window, compressor, indexer }
        });
        let layers = layers.collect();
        let (tokens, slack) = (head.tokens.clone(), head.slack);
        let tail = Tail { pages: head.pages, tokens, slack, layers, shape: shape.clone() };
        Ok((head, tail))
    }
}

/// What a saved page or tail says of itself, whatever model it is of. Unlike [`Head`] it does not know how long
/// the whole should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in `Head`
pub struct Label {
    pub is_page: bool,
    /// Of the model.
    pub fingerprint: [u8; 32],
    pub format: KvFormat,
    pub parent: PageKey,
    pub key: PageKey,
    pub pages: usize,
    pub tokens: Vec<u32>,
    pub has_end: bool,
    pub slack: usize,
}

impl Label {
    /// As [`Codec::head_from_bytes`], for any model.
    ///
    /// # Errors
    ///
    /// If the bytes are anything else than the beginning of a page or tail.
    pub fn from_bytes(bytes: &[u8]) -> Result<Label, SnapshotError> {
        let is_page = bytes.starts_with(PAGE_MAGIC);
        if !is_page && !bytes.starts_with(TAIL_MAGIC) {
            return Err(SnapshotError::Magic);
        }
        let short = |need: usize| SnapshotError::Length { found: bytes.len() as u64, need: need as u64 };
        if bytes.len() < HEAD {
            return Err(short(HEAD));
        }
        let mut rest = Cursor(&bytes[PAGE_MAGIC.len()..]);
        let (version, format) = (rest.u32(), rest.u32());
        if version != VERSION {
            return Err(SnapshotError::Version { found: version, need: VERSION });
        }
        let format = *FORMATS.get(format as usize).ok_or(SnapshotError::Damaged("unknown KV format"))?;
        let fingerprint = rest.take(32).try_into().expect("32 bytes");
        let parent = PageKey(rest.take(32).try_into().expect("32 bytes"));
        let (pages, count, last) = (rest.u64(), rest.u64(), rest.u64());
        // Positions are u32 in the forward pass, so this also keeps sums from overflowing.
        if pages > (u32::MAX as usize / PAGE) as u64 {
            return Err(SnapshotError::Damaged("impossible number of pages"));
        }
        let pages = pages as usize;
        if count > PAGE as u64 || (count == PAGE as u64) != is_page {
            return Err(SnapshotError::Damaged("impossible number of tokens"));
        }
        let (count, position) = (count as usize, pages * PAGE + count as usize);
        let most = if is_page { 1 } else { SLACK.min(position) as u64 };
        if last > most {
            return Err(SnapshotError::Damaged("impossible slack"));
        }
        if rest.0.len() < 4 * count {
            return Err(short(HEAD + 4 * count));
        }
        let tokens = rest.take(4 * count).chunks_exact(4);
        let tokens: Vec<u32> = tokens.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let (has_end, slack) = if is_page { (last == 1, 0) } else { (true, last as usize) };
        let key = parent.child(&tokens);
        Ok(Label { is_page, fingerprint, format, parent, key, pages, tokens, has_end, slack })
    }

    /// Whether saved bytes are as they were written: their hash matches.
    pub fn is_sealed(bytes: &[u8]) -> bool {
        bytes.split_last_chunk::<HASH>().is_some_and(|(body, hash)| blake3::hash(body).as_bytes() == hash)
    }
}

impl Head {
    /// The most bytes that a head can have.
    pub const MOST_BYTES: usize = HEAD + 4 * PAGE;
}

/// Ends saved bytes with their hash.
fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

impl<B: Ops> Timeline<B> {
    /// Saves the whole timeline. `fingerprint` is that of its model.
    pub fn to_bytes(&self, fingerprint: &[u8; 32]) -> Vec<u8> {
        let codec = Codec { shape: self.shape().clone(), vocab: usize::MAX, fingerprint: *fingerprint };
        let mut out = Vec::new();
        out.extend(CONVERSATION_MAGIC);
        out.extend(CONVERSATION_VERSION.to_le_bytes());
        out.extend((self.pages().len() as u64).to_le_bytes());
        let mut put = |bytes: Vec<u8>| {
            out.extend((bytes.len() as u64).to_le_bytes());
            out.extend(bytes);
        };
        let mut key = codec.root();
        for (index, page) in self.pages().iter().enumerate() {
            put(codec.page_to_bytes(&key, index, page));
            key = key.child(page.tokens());
        }
        put(codec.tail_to_bytes(&key, &self.tail(SLACK)));
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
        let codec = Codec::new(config, format, *fingerprint);
        if !bytes.starts_with(CONVERSATION_MAGIC) {
            return Err(SnapshotError::Magic);
        }
        let mut rest = Cursor(&bytes[CONVERSATION_MAGIC.len()..]);
        if rest.0.len() < 4 + 8 {
            return Err(SnapshotError::Damaged("cut off"));
        }
        let (version, count) = (rest.u32(), rest.u64());
        if version != CONVERSATION_VERSION {
            return Err(SnapshotError::Version { found: version, need: CONVERSATION_VERSION });
        }
        let (mut key, mut pages) = (codec.root(), Vec::new());
        let in_order = |head: &Head, key, index| head.parent == key && head.pages == index;
        for index in 0..count {
            let (head, page) = codec.page_from_bytes(ops, rest.part()?)?;
            if !in_order(&head, key, index as usize) {
                return Err(SnapshotError::Damaged("a page is out of place"));
            }
            key = head.key;
            pages.push(Arc::new(page));
        }
        let (head, tail) = codec.tail_from_bytes(ops, rest.part()?)?;
        if !in_order(&head, key, pages.len()) || !rest.0.is_empty() {
            return Err(SnapshotError::Damaged("the end is out of place"));
        }
        Ok(Timeline::from_tail(pages, &tail))
    }
}

/// Bytes whose length has been checked, except where said.
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

    /// A length and as many bytes; checked here.
    fn part(&mut self) -> Result<&'a [u8], SnapshotError> {
        if self.0.len() < 8 {
            return Err(SnapshotError::Damaged("cut off"));
        }
        let need = self.u64();
        if need > self.0.len() as u64 {
            return Err(SnapshotError::Length { found: self.0.len() as u64, need });
        }
        Ok(self.take(need as usize))
    }

    /// The next rows of a layer, one for each position of the range.
    fn rows<B: Ops>(&mut self, ops: &B, layout: RowLayout, layer: usize, positions: Range<usize>) -> B::Rows {
        let mut rows = ops.rows(layout, layer);
        rows.extend_from_bytes(self.take(positions.len() * layout.row_bytes()));
        rows
    }
}
