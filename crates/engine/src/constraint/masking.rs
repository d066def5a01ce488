//! Rules at work in one reply: which tokens may come next.

use super::follower::Follower;
use super::{Begin, Constraint, ConstraintError, Input};
use crate::reading::Form;
use text::reply::Start;
use text::{Marker, Tokenizer};

/// The beginning of a block that a prompt may end with already; see [`Start::Block`].
const OPENED: &str = "\n\n<｜DSML｜tool_calls>\n";

/// The beginning of a block up to its control token.
const OPENING: &str = "\n\n<｜DSML｜";

/// The rules for one reply, and how far it has come.
pub(crate) struct Masking {
    constraint: Constraint,
    phase: Phase,
    /// Tokens that the rules have applied to.
    tokens: usize,
    /// Where tools take text of a grammar: what was said since the last control token of the markup, and before it.
    said: Vec<u8>,
    before: Vec<u8>,
}

enum Phase {
    /// The model thinks: anything but the end of the turn and calls.
    Reasoning,
    /// Anything, until a block is opened.
    Free,
    /// What the grammar allows.
    Follow(Follower),
}

impl Masking {
    /// The rules for a reply of this form.
    pub(crate) fn new(
        constraint: Constraint,
        form: &Form,
        tokenizer: &Tokenizer,
    ) -> Result<Self, ConstraintError> {
        let start = match form {
            Form::Chat(options) => options.start,
            Form::Plain { .. } => Start::Chat,
        };
        let begin = constraint.0.begin;
        let mut masking =
            Masking { constraint, phase: Phase::Free, tokens: 0, said: Vec::new(), before: Vec::new() };
        match (begin, start) {
            (_, Start::Block) => masking.follow(OPENED, tokenizer)?,
            (Begin::Block, _) => {}
            (Begin::Content, Start::Thinking) => masking.phase = Phase::Reasoning,
            (Begin::Content, Start::Chat) => masking.follow("", tokenizer)?,
        }
        Ok(masking)
    }

    /// Begins to follow the grammar, of which `done` has been said.
    fn follow(&mut self, done: &str, tokenizer: &Tokenizer) -> Result<(), ConstraintError> {
        // A copy of its own: what the engine remembers of one reply would count against the limits of another.
        let matcher = self.constraint.0.matcher.deep_clone();
        let follower = Follower::new(matcher, &tokenizer.encode_trusted(done));
        self.phase = Phase::Follow(follower.map_err(|why| self.too_complex(why))?);
        Ok(())
    }

    /// Takes away every token that cannot come next.
    ///
    /// - `logits`: `[vocab]`
    pub(crate) fn mask(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> Result<(), ConstraintError> {
        match &mut self.phase {
            Phase::Free => {}
            Phase::Reasoning => keep_reasoning(logits, tokenizer),
            Phase::Follow(follower) => {
                let tokens = self.tokens;
                let allowed =
                    follower.allowed().map_err(|why| ConstraintError::TooComplex { tokens, why })?;
                allowed.iter_unset_entries(|token| logits[token] = f32::NEG_INFINITY);
                let dsml = tokenizer.marker_id(Marker::Dsml).map(|id| id as usize);
                if let Some(end) = dsml.filter(|&id| logits[id] > f32::NEG_INFINITY)
                    && !self.may_end(tokenizer)
                {
                    logits[end] = f32::NEG_INFINITY;
                }
            }
        }
        Ok(())
    }

    /// Whether a control token may be next: in the text that a tool takes, only after `</`, and if what is before that is
    /// all there is to the text's grammar.
    fn may_end(&self, tokenizer: &Tokenizer) -> bool {
        let is_here = |input: &&Input| {
            self.before.starts_with(input.tool.as_bytes()) && self.said.starts_with(input.head.as_bytes())
        };
        let Some(input) = self.constraint.0.inputs.iter().find(is_here) else { return true };
        let text = self.said[input.head.len()..].strip_suffix(b"</");
        let Some(Ok(text)) = text.map(std::str::from_utf8) else { return false };
        let mut matcher = input.matcher.deep_clone();
        matcher.consume_tokens(&tokenizer.encode(text)).is_ok() && matcher.is_accepting().unwrap_or(false)
    }

    /// Takes note of what is said, as far as somebody wants to know.
    fn note(&mut self, token: u32, tokenizer: &Tokenizer) {
        if self.constraint.0.inputs.is_empty() {
            return;
        }
        if tokenizer.marker(token) != Some(Marker::Dsml) {
            self.said.extend_from_slice(tokenizer.token_bytes(token).unwrap_or_default());
        } else if self.said.starts_with(b"invoke") {
            self.before = std::mem::take(&mut self.said);
        } else {
            self.said.clear();
        }
    }

    /// Takes note of a token of the reply. Returns whether the reply is over: nothing may follow.
    pub(crate) fn accept(&mut self, token: u32, tokenizer: &Tokenizer) -> Result<bool, ConstraintError> {
        self.note(token, tokenizer);
        match (&mut self.phase, tokenizer.marker(token)) {
            (Phase::Reasoning, Some(Marker::ThinkClose)) => self.follow("", tokenizer)?,
            (Phase::Free, Some(Marker::Dsml)) => self.follow(OPENING, tokenizer)?,
            (Phase::Reasoning | Phase::Free, _) => {}
            (Phase::Follow(follower), _) => {
                let over = follower.take(token);
                self.tokens += 1;
                return over.map_err(|why| self.too_complex(why));
            }
        }
        Ok(false)
    }

    fn too_complex(&self, why: String) -> ConstraintError {
        ConstraintError::TooComplex { tokens: self.tokens, why }
    }
}

/// While the model thinks: where it would rather end its turn, it ends its reasoning.
fn keep_reasoning(logits: &mut [f32], tokenizer: &Tokenizer) {
    let ending = Marker::ALL.into_iter().filter(|marker| marker.ends_reply());
    let mut end = f32::NEG_INFINITY;
    for token in ending.chain([Marker::Dsml]).filter_map(|marker| tokenizer.marker_id(marker)) {
        let logit = &mut logits[token as usize];
        if tokenizer.marker(token) != Some(Marker::Dsml) {
            end = end.max(*logit);
        }
        *logit = f32::NEG_INFINITY;
    }
    if let Some(close) = tokenizer.marker_id(Marker::ThinkClose) {
        let close = &mut logits[close as usize];
        *close = close.max(end);
    }
}
