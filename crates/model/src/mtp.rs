//! The multi-token-prediction block: one more layer that guesses the token after the next.
//!
//! It is fed the main model's streams at position p, before the head, together with the token at p + 1,
//! and gives logits for p + 2. Its own output streams can be fed in again with a guessed token, for a
//! longer guess. Its layer sees its own window only; the token's position counts.
//!
//! The pairing of streams and tokens is that of the DeepSeek-V3 report, section 2.2.

use crate::forward::{BatchError, Output, Segment, Step, Wanted, check_tokens, experts, wanted_among_kept};
use crate::kv::KvFormat;
use crate::ops::{KvView, Ops, Queries};
use crate::tap::{Place, Seen, Tap};
use crate::timeline::{Log, SLACK, Shape};
use crate::weights::Model;

/// What the block remembers of one conversation.
pub struct DraftState<B: Ops> {
    window: Log<B>,
    shape: Shape,
}

impl<B: Ops> DraftState<B> {
    /// Nothing yet; the first token to come is at position `start`.
    ///
    /// # Panics
    ///
    /// If `format` does not suit the model; see [`KvFormat::check`].
    pub fn new(ops: &B, model: &Model<B>, format: KvFormat, start: usize) -> Self {
        format.check(&model.config).expect("the caller checks the KV format");
        let shape = Shape::new(&model.config, format);
        DraftState { window: Log::new(ops, shape.latent, model.layers.len(), start), shape }
    }

    /// Position of the next token.
    pub fn len(&self) -> usize {
        self.window.end()
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.window.end() == self.window.base
    }

    /// Forgets the tokens from position `to` on: guesses that were not taken.
    ///
    /// # Panics
    ///
    /// If that is more than [`SLACK`] tokens back: drafts are never longer.
    pub fn cut_back(&mut self, to: usize) {
        self.window.truncate(to);
    }

    /// Forgets what no later token sees, not even after cutting back.
    fn forget(&mut self) {
        self.window.trim(self.shape.window_from(self.len()).saturating_sub(SLACK));
    }

    /// What the rows of a segment attend to.
    fn view(&self, segment: &Segment) -> KvView<'_, B> {
        KvView {
            rows: segment.rows.clone(),
            start: segment.start,
            window: &self.window.rows,
            window_base: self.window.base,
            window_len: self.shape.window,
            compressed: None,
        }
    }
}

/// Some next tokens of one conversation.
pub struct DraftEntry<'a, B: Ops> {
    /// What the block remembers; extended by the tokens.
    pub state: &'a mut DraftState<B>,
    /// The token after each row of the streams.
    pub tokens: &'a [u32],
    /// Of which of them logits and streams are wanted; the others are only remembered.
    pub wanted: Wanted,
}

impl<B: Ops> DraftEntry<'_, B> {
    /// Of how many of the tokens anything is wanted: of the last so many.
    fn kept(&self) -> usize {
        self.wanted.kept(self.tokens.len())
    }
}

/// Runs the MTP block on a batch.
///
/// - `streams`: `[n, hc, d]`, one row a token of the batch, of the position before it
/// - returns what is wanted: logits, and the block's own streams
///
/// # Errors
///
/// If the batch is malformed; then no state has changed.
///
/// # Panics
///
/// If the model has no such block.
pub fn draft<B: Ops>(
    model: &Model<B>,
    ops: &B,
    streams: &B::Array,
    batch: &mut [DraftEntry<'_, B>],
    tap: &mut dyn Tap<B>,
) -> Result<Output<B::Array>, BatchError> {
    let mtp = model.mtp.as_ref().expect("the caller checks that there is an MTP block");
    batch.iter().try_for_each(|entry| check_tokens(model, entry.tokens))?;
    let mut see =
        |name, seen: Seen<'_, B>| tap.see(ops, Place { layer: Some(model.layers.len()), name }, seen);
    let attn = &mtp.layer.attn;
    let mut step = Step::new(model, batch.iter().map(|entry| (entry.state.len(), entry.tokens)));
    let kept_step = Step::new(model, batch.iter().map(kept_part));
    let fewer = kept_step.tokens.len() < step.tokens.len();
    let mut streams = ops.mtp_enter(streams, &step.tokens, &model.embedding, &mtp.entry);
    let (mut x, mut mix) = ops.hc_enter(&streams, &mtp.layer.attn_hc, &mtp.layer.attn_norm);
    // Rows of which nothing is wanted only leave what later tokens attend to.
    let queries = if fewer { Queries::None } else { Queries::Attention };
    let mut made = ops.project(&x, attn, &step.positions, &step.plain, queries);
    for (entry, segment) in batch.iter_mut().zip(&step.segments) {
        ops.append(&made.kv, segment.rows.clone(), &mut entry.state.window.rows);
    }
    if fewer {
        let kept = kept_rows(batch, &step);
        if kept.is_empty() {
            batch.iter_mut().for_each(|entry| entry.state.forget());
            return Ok(Output { logits: None, streams: None });
        }
        step = kept_step;
        streams = ops.take_rows(&streams, &kept);
        (x, mix) = ops.hc_enter(&streams, &mtp.layer.attn_hc, &mtp.layer.attn_norm);
        made = ops.project(&x, attn, &step.positions, &step.plain, Queries::Attention);
    }
    let views = batch.iter().zip(&step.segments).filter(|(_, segment)| !segment.rows.is_empty());
    let views: Vec<_> = views.map(|(entry, segment)| entry.state.view(segment)).collect();
    let y = ops.attend_out(made.q.as_ref().expect("asked for"), &views, None, attn, &step.plain);
    batch.iter_mut().for_each(|entry| entry.state.forget());
    see("attn_y", Seen::Array(&y));
    (x, mix) = ops.hc_turn(&mut streams, &y, &mix, &mtp.layer.ffn_hc, &mtp.layer.ffn_norm);
    let y = experts(ops, &step, &mtp.layer, &x, &mut see);
    ops.hc_leave(&mut streams, &y, &mix);
    see("streams", Seen::Array(&streams));
    let rows = wanted_among_kept(batch.iter().map(|entry| (entry.wanted, entry.tokens.len())));
    let logits = (!rows.is_empty()).then(|| ops.head(&streams, &rows, &mtp.head));
    Ok(Output { logits, streams: Some(streams) })
}

/// The rows of a batch of which anything is wanted.
fn kept_rows<B: Ops>(batch: &[DraftEntry<'_, B>], step: &Step) -> Vec<usize> {
    let rows =
        |(entry, segment): (&DraftEntry<'_, B>, &Segment)| segment.rows.end - entry.kept()..segment.rows.end;
    batch.iter().zip(&step.segments).flat_map(rows).collect()
}

/// The tokens of an entry of which anything is wanted, and the position of the first. Before they are remembered.
fn kept_part<'a, B: Ops>(entry: &'a DraftEntry<'_, B>) -> (usize, &'a [u32]) {
    let skipped = entry.tokens.len() - entry.kept();
    (entry.state.len() + skipped, &entry.tokens[skipped..])
}
