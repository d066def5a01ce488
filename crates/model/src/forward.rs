//! The forward pass: the model, written once.
//!
//! Start at [`forward`]. A batch is a list of [`Entry`]s, each some consecutive tokens of one timeline;
//! weights are read once for all of them. Prefill and decode, CPU and GPU all run these lines.

use crate::ops::{Blocks, IndexView, KvView, Ops, Projected, Queries};
use crate::rope::Angles;
use crate::tap::{Place, Seen, Tap};
use crate::timeline::Timeline;
use crate::weights::{Attention, Layer, Model};
use std::ops::Range;

/// Some next tokens of one timeline.
pub struct Entry<'a, B: Ops> {
    /// The conversation; extended by the tokens.
    pub timeline: &'a mut Timeline<B>,
    /// At least one.
    pub tokens: &'a [u32],
    /// Of which tokens logits are wanted.
    pub wanted: Wanted,
}

/// What is wanted of an [`Entry`]'s tokens, besides a longer timeline: logits, which say what the model expects
/// after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    None,
    /// Logits of the last one.
    Last,
    /// Logits of the last one; and its streams and those of the tokens before it, so many altogether, for the MTP block.
    LastAndStreams(usize),
    /// Logits of all of them.
    All,
    /// No logits, but the streams of all of them, for the MTP block.
    Streams,
}

impl Wanted {
    /// Of which of `n` tokens something is wanted: of the last so many.
    pub fn kept(self, n: usize) -> usize {
        match self {
            Wanted::None => 0,
            Wanted::Last => 1,
            Wanted::LastAndStreams(rows) => rows.clamp(1, n),
            Wanted::All | Wanted::Streams => n,
        }
    }

    /// Of which of `n` tokens logits are wanted: of the last so many.
    pub fn logits(self, n: usize) -> usize {
        match self {
            Wanted::None | Wanted::Streams => 0,
            Wanted::Last | Wanted::LastAndStreams(_) => 1,
            Wanted::All => n,
        }
    }
}

/// What a forward pass leaves besides longer timelines.
pub struct Output<A> {
    /// `[wanted rows, vocab]`, in batch order; `None` if nobody wanted any.
    pub logits: Option<A>,
    /// `[rows, hc, d]`: the streams after the last layer of the rows of which anything was wanted, in batch order;
    /// `None` if there is no such row.
    pub streams: Option<A>,
}

/// A batch that cannot be run. No timeline has changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// There is nothing to do.
    #[error("a batch entry without tokens")]
    Empty,
    /// Not a token of this model.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Token {
        /// The offending id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The model knows no positions beyond its context length.
    #[error("{need} tokens of context needed, but the model's context ends at {context}")]
    Context {
        /// Tokens after this batch.
        need: usize,
        /// The model's limit.
        context: usize,
    },
}

/// What is the same for every layer of one pass.
pub(crate) struct Step {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) plain: Angles,
    compressed: Angles,
}

/// Where one entry's rows lie in the batch.
pub(crate) struct Segment {
    pub(crate) rows: Range<usize>,
    pub(crate) start: usize,
}

impl Segment {
    /// Position after the last row.
    pub(crate) fn end(&self) -> usize {
        self.start + self.rows.len()
    }

    /// Windows of `ratio` tokens that these rows complete.
    fn completed(&self, ratio: usize) -> Range<usize> {
        self.start / ratio..self.end() / ratio
    }
}

/// Feeds a batch to the model: every timeline grows by its tokens.
///
/// # Errors
///
/// If the batch is malformed; then no timeline has changed.
pub fn forward<B: Ops>(
    model: &Model<B>,
    ops: &B,
    batch: &mut [Entry<'_, B>],
    tap: &mut dyn Tap<B>,
) -> Result<Output<B::Array>, BatchError> {
    check(model, batch)?;
    let mut step = Step::new(model, batch.iter().map(|entry| (entry.timeline.len(), entry.tokens)));
    let kept = kept_rows(batch, &step);
    let mut streams = ops.embed(&model.embedding, &step.tokens, model.config.hc);
    let first = model.layers.first().expect("a model has layers");
    let (mut x, mut mix) = ops.hc_enter(&streams, &first.attn_hc, &first.attn_norm);
    for (idx, layer) in model.layers.iter().enumerate() {
        let mut see = |name, seen: Seen<'_, B>| tap.see(ops, Place { layer: Some(idx), name }, seen);
        see("attn_x", Seen::Array(&x));
        // In the last layer, rows of which nothing is wanted only leave what later tokens attend to.
        let fewer = idx + 1 == model.layers.len() && kept.len() < step.tokens.len();
        let mut made = project(ops, &step, &layer.attn, &x, !fewer, &mut see);
        remember(model, ops, batch, &step, idx, &made);
        see("cached", Seen::Done);
        if fewer {
            if kept.is_empty() {
                settle(batch, idx);
                break;
            }
            step = Step::new(model, batch.iter().map(kept_part));
            streams = ops.take_rows(&streams, &kept);
            (x, mix) = ops.hc_enter(&streams, &layer.attn_hc, &layer.attn_norm);
            see("attn_x", Seen::Array(&x));
            made = project(ops, &step, &layer.attn, &x, true, &mut see);
        }
        let y = attend(ops, &step, batch, idx, &layer.attn, &made, &mut see);
        see("attn_y", Seen::Array(&y));
        settle(batch, idx);
        (x, mix) = ops.hc_turn(&mut streams, &y, &mix, &layer.ffn_hc, &layer.ffn_norm);
        see("ffn_x", Seen::Array(&x));
        let y = experts(ops, &step, layer, &x, &mut see);
        see("ffn_y", Seen::Array(&y));
        match model.layers.get(idx + 1) {
            Some(next) => (x, mix) = ops.hc_turn(&mut streams, &y, &mix, &next.attn_hc, &next.attn_norm),
            None => ops.hc_leave(&mut streams, &y, &mix),
        }
        see("streams", Seen::Array(&streams));
    }
    let wanted = wanted_rows(batch);
    let logits = (!wanted.is_empty()).then(|| ops.head(&streams, &wanted, &model.head));
    if let Some(logits) = &logits {
        tap.see(ops, Place { layer: None, name: "logits" }, Seen::Array(logits));
    }
    for entry in batch {
        entry.timeline.commit(entry.tokens);
    }
    Ok(Output { logits, streams: (!kept.is_empty()).then_some(streams) })
}

/// What attention computes from each row alone, with queries if it is to attend. `see` is shown it.
fn project<B: Ops>(
    ops: &B,
    step: &Step,
    attn: &Attention<B>,
    x: &B::Array,
    attends: bool,
    see: &mut dyn FnMut(&'static str, Seen<'_, B>),
) -> Projected<B::Array, B::Query> {
    let queries = match &attn.indexer {
        _ if !attends => Queries::None,
        Some(indexer) if step.selects(attn, indexer.top_k) => Queries::All,
        _ => Queries::Attention,
    };
    let made = ops.project(x, attn, &step.positions, step.angles(attn), queries);
    if let Some(q) = &made.q {
        see("q", Seen::Array(q));
    }
    see("kv", Seen::Array(&made.kv));
    made
}

/// Attention of the rows of a step over what their timelines remember. `see` is shown the intermediates.
fn attend<B: Ops>(
    ops: &B,
    step: &Step,
    batch: &[Entry<'_, B>],
    layer: usize,
    attn: &Attention<B>,
    made: &Projected<B::Array, B::Query>,
    see: &mut dyn FnMut(&'static str, Seen<'_, B>),
) -> B::Array {
    let parts = || batch.iter().zip(&step.segments).filter(|(_, segment)| !segment.rows.is_empty());
    let picks = made.indexer.as_ref().map(|query| {
        let keys: Vec<_> = parts().map(|(e, s)| index_view(e.timeline, s, layer)).collect();
        ops.pick(query, &keys, attn.indexer.as_ref().expect("it made the query").top_k)
    });
    if let Some(picks) = &picks {
        see("picks", Seen::Picks(picks));
    }
    let caches: Vec<_> = parts().map(|(e, s)| kv_view(e.timeline, s, layer)).collect();
    let q = made.q.as_ref().expect("asked for");
    ops.attend_out(q, &caches, picks.as_ref(), attn, step.angles(attn))
}

/// A layer is done with the rows of a batch.
fn settle<B: Ops>(batch: &mut [Entry<'_, B>], layer: usize) {
    for entry in batch {
        let end = entry_end(entry);
        entry.timeline.settle(layer, end);
    }
}

/// Appends what this layer made of the tokens to their timelines: window rows and compressor inputs of all of them, then a
/// compressed row for each window that is complete.
fn remember<B: Ops>(
    model: &Model<B>,
    ops: &B,
    batch: &mut [Entry<'_, B>],
    step: &Step,
    layer: usize,
    made: &Projected<B::Array, B::Query>,
) {
    let attn = &model.layers[layer].attn;
    let inputs = [&made.compressor, &made.index_compressor];
    for (entry, segment) in batch.iter_mut().zip(&step.segments) {
        let tail = entry.timeline.layer_mut(layer);
        ops.append(&made.kv, segment.rows.clone(), &mut tail.window.rows);
        for (inputs, part) in inputs.into_iter().zip([&mut tail.compressor, &mut tail.indexer]) {
            if let Some(inputs) = inputs {
                let part = part.as_mut().expect("the tail has this layer's shape");
                ops.append(inputs, segment.rows.clone(), &mut part.frontier.rows);
            }
        }
    }
    let compressors = [attn.compressor.as_ref(), attn.indexer.as_ref().map(|indexer| &indexer.compressor)];
    for (entry, segment) in batch.iter_mut().zip(&step.segments) {
        let tail = entry.timeline.layer_mut(layer);
        for (compressor, part) in compressors.into_iter().zip([&mut tail.compressor, &mut tail.indexer]) {
            let Some(compressor) = compressor else { continue };
            let part = part.as_mut().expect("the tail has this layer's shape");
            let windows = segment.completed(compressor.ratio);
            if !windows.is_empty() {
                let angles = model.compressed_rope.angles(windows.clone().map(|w| w * compressor.ratio));
                let (frontier, base) = (&part.frontier.rows, part.frontier.base);
                ops.compress(compressor, frontier, base, windows, &angles, &mut part.rows);
            }
        }
    }
}

/// Routed and shared experts over a batch. `see` is shown the intermediates.
pub(crate) fn experts<B: Ops>(
    ops: &B,
    step: &Step,
    layer: &Layer<B>,
    x: &B::Array,
    see: &mut dyn FnMut(&'static str, Seen<'_, B>),
) -> B::Array {
    let routes = ops.route(x, &step.tokens, &layer.router);
    see("routes", Seen::Routes(&routes));
    ops.moe(x, &routes, &layer.experts, &layer.shared)
}

impl Step {
    /// The rows of a batch: for each timeline the position of its first row, and its tokens.
    pub(crate) fn new<'a, B: Ops>(
        model: &Model<B>,
        batch: impl IntoIterator<Item = (usize, &'a [u32])>,
    ) -> Step {
        let mut tokens = Vec::new();
        let mut segments = Vec::new();
        for (start, next) in batch {
            segments.push(Segment { rows: tokens.len()..tokens.len() + next.len(), start });
            tokens.extend_from_slice(next);
        }
        let positions: Vec<usize> = segments.iter().flat_map(|s| s.start..s.end()).collect();
        Step {
            plain: model.plain_rope.angles(positions.iter().copied()),
            compressed: model.compressed_rope.angles(positions.iter().copied()),
            positions: positions.iter().map(|&p| p as u32).collect(),
            tokens,
            segments,
        }
    }

    fn angles<B: Ops>(&self, attn: &Attention<B>) -> &Angles {
        if attn.compressor.is_some() { &self.compressed } else { &self.plain }
    }

    /// Whether any row sees more compressed rows than the indexer keeps.
    fn selects<B: Ops>(&self, attn: &Attention<B>, top_k: usize) -> bool {
        let ratio = attn.compressor.as_ref().map_or(1, |c| c.ratio);
        self.segments.iter().any(|s| !s.rows.is_empty() && s.end() / ratio > top_k)
    }
}

fn check<B: Ops>(model: &Model<B>, batch: &[Entry<'_, B>]) -> Result<(), BatchError> {
    if batch.is_empty() {
        return Err(BatchError::Empty);
    }
    for entry in batch {
        let (context, need) = (model.config.context, entry_end(entry));
        check_tokens(model, entry.tokens)?;
        if need > context {
            return Err(BatchError::Context { need, context });
        }
    }
    Ok(())
}

pub(crate) fn check_tokens<B: Ops>(model: &Model<B>, tokens: &[u32]) -> Result<(), BatchError> {
    let vocab = model.config.vocab;
    if tokens.is_empty() {
        return Err(BatchError::Empty);
    }
    match tokens.iter().find(|&&t| t as usize >= vocab) {
        Some(&token) => Err(BatchError::Token { token, vocab }),
        None => Ok(()),
    }
}

/// Position after an entry's last token.
fn entry_end<B: Ops>(entry: &Entry<'_, B>) -> usize {
    entry.timeline.len() + entry.tokens.len()
}

/// The rows of a batch of which anything is wanted.
fn kept_rows<B: Ops>(batch: &[Entry<'_, B>], step: &Step) -> Vec<usize> {
    let rows = |(entry, segment): (&Entry<'_, B>, &Segment)| {
        segment.rows.end - entry.wanted.kept(entry.tokens.len())..segment.rows.end
    };
    batch.iter().zip(&step.segments).flat_map(rows).collect()
}

/// The tokens of an entry of which anything is wanted, and the position of the first.
fn kept_part<'a, B: Ops>(entry: &'a Entry<'_, B>) -> (usize, &'a [u32]) {
    let skipped = entry.tokens.len() - entry.wanted.kept(entry.tokens.len());
    (entry.timeline.len() + skipped, &entry.tokens[skipped..])
}

/// The rows whose logits are wanted, among those of which anything is.
fn wanted_rows<B: Ops>(batch: &[Entry<'_, B>]) -> Vec<usize> {
    wanted_among_kept(batch.iter().map(|entry| (entry.wanted, entry.tokens.len())))
}

/// The same, by what is wanted of each entry, and its tokens.
pub(crate) fn wanted_among_kept(entries: impl Iterator<Item = (Wanted, usize)>) -> Vec<usize> {
    let (mut rows, mut end) = (Vec::new(), 0);
    for (wanted, tokens) in entries {
        end += wanted.kept(tokens);
        rows.extend(end - wanted.logits(tokens)..end);
    }
    rows
}

fn index_view<'a, B: Ops>(timeline: &'a Timeline<B>, segment: &Segment, layer: usize) -> IndexView<'a, B> {
    IndexView {
        rows: segment.rows.clone(),
        start: segment.start,
        ratio: timeline.shape().ratios[layer].tokens(),
        keys: timeline.index_keys(layer).expect("a ratio-4 layer has index rows"),
    }
}

fn kv_view<'a, B: Ops>(timeline: &'a Timeline<B>, segment: &Segment, layer: usize) -> KvView<'a, B> {
    let window = &timeline.layer(layer).window;
    let compressed: Option<Blocks<'_, B::Rows>> = timeline.compressed(layer);
    KvView {
        rows: segment.rows.clone(),
        start: segment.start,
        window: &window.rows,
        window_base: window.base,
        window_len: timeline.shape().window,
        compressed: compressed.map(|rows| (rows, timeline.shape().ratios[layer].tokens())),
    }
}
