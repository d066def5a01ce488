//! The multi-token-prediction block: one more layer that guesses the token after the next.
//!
//! It is fed the main model's streams at position p, before the head, together with the token at p + 1,
//! and gives logits for p + 2. Its own output streams can be fed in again with a guessed token, for a
//! longer guess. Its layer sees its own window only; the token's position counts.
//!
//! The pairing of streams and tokens is that of the DeepSeek-V3 report, section 2.2.

use crate::forward::{BatchError, Output, Step, check_tokens, experts};
use crate::kv::KvFormat;
use crate::ops::{KvView, Ops, Queries};
use crate::tap::{Place, Seen, Tap};
use crate::timeline::{Log, SLACK, Shape};
use crate::weights::{Model, Mtp};

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
}

/// Some next tokens of one conversation.
pub struct DraftEntry<'a, B: Ops> {
    /// What the block remembers; extended by the tokens.
    pub state: &'a mut DraftState<B>,
    /// The token after each row of the streams.
    pub tokens: &'a [u32],
}

/// Runs the MTP block on a batch.
///
/// - `streams`: `[n, hc, d]`, one row a token of the batch, of the position before it
/// - returns logits of every row, and the block's own streams
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
    let step = Step::new(model, batch.iter().map(|entry| (entry.state.len(), entry.tokens)));
    let mut see =
        |name, seen: Seen<'_, B>| tap.see(ops, Place { layer: Some(model.layers.len()), name }, seen);
    let mut streams = ops.mtp_enter(streams, &step.tokens, &model.embedding, &mtp.entry);
    let (x, mix) = ops.hc_enter(&streams, &mtp.layer.attn_hc, &mtp.layer.attn_norm);
    let y = attention(ops, &step, mtp, batch, &x);
    see("attn_y", Seen::Array(&y));
    let (x, mix) = ops.hc_turn(&mut streams, &y, &mix, &mtp.layer.ffn_hc, &mtp.layer.ffn_norm);
    let y = experts(ops, &step, &mtp.layer, &x, &mut see);
    ops.hc_leave(&mut streams, &y, &mix);
    see("streams", Seen::Array(&streams));
    let rows: Vec<usize> = (0..step.tokens.len()).collect();
    let logits = (!rows.is_empty()).then(|| ops.head(&streams, &rows, &mtp.head));
    Ok(Output { logits, streams: Some(streams) })
}

/// Attention over the block's own window.
fn attention<B: Ops>(
    ops: &B,
    step: &Step,
    mtp: &Mtp<B>,
    batch: &mut [DraftEntry<'_, B>],
    x: &B::Array,
) -> B::Array {
    let attn = &mtp.layer.attn;
    let made = ops.project(x, attn, &step.positions, &step.plain, Queries::Attention);
    for (entry, segment) in batch.iter_mut().zip(&step.segments) {
        ops.append(&made.kv, segment.rows.clone(), &mut entry.state.window.rows);
    }
    let views: Vec<_> = batch
        .iter()
        .zip(&step.segments)
        .map(|(entry, segment)| KvView {
            rows: segment.rows.clone(),
            start: segment.start,
            window: &entry.state.window.rows,
            window_base: entry.state.window.base,
            window_len: entry.state.shape.window,
            compressed: None,
        })
        .collect();
    let y = ops.attend_out(made.q.as_ref().expect("asked for"), &views, None, attn, &step.plain);
    for (entry, segment) in batch.iter_mut().zip(&step.segments) {
        let keep = entry.state.shape.window_from(segment.end()).saturating_sub(SLACK);
        entry.state.window.trim(keep);
    }
    y
}
