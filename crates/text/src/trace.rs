//! Prompts as bytes to compare: how a cached prefix is found.
//!
//! The model may have spelled a text with other tokens than the tokenizer would, so a prompt that
//! repeats the text is recognised by its bytes. In a trace these are the bytes of the text as they
//! are, while a control token is [`MARK`] and its id. Valid text has no such byte, so a text that
//! spells a control token never looks like one.

use crate::{MissingMarker, Prompt, Segment, TokenKind, Tokenizer, UnknownToken};

/// Begins a control token in a trace. UTF-8 never uses this byte.
const MARK: u8 = 0xFF;

/// Stands in for an id where a token spells the byte [`MARK`] itself.
const THE_BYTE: u32 = u32::MAX;

/// What [`MARK`] and the id after it take.
const MARKED_LEN: usize = 5;

impl Tokenizer {
    /// The trace of tokens. That of a sequence is those of its tokens, one after the other.
    ///
    /// # Errors
    ///
    /// If an id is out of range.
    pub fn trace(&self, ids: &[u32]) -> Result<Vec<u8>, UnknownToken> {
        let mut trace = Vec::new();
        ids.iter().try_for_each(|&id| self.push_trace(id, &mut trace))?;
        Ok(trace)
    }

    /// Appends the trace of one token.
    ///
    /// # Errors
    ///
    /// If the id is out of range.
    pub fn push_trace(&self, id: u32, trace: &mut Vec<u8>) -> Result<(), UnknownToken> {
        let bytes = self.token_bytes(id)?;
        if self.kind(id) != Some(TokenKind::Normal) {
            push_marked(id, trace);
            return Ok(());
        }
        for &byte in bytes {
            match byte {
                MARK => push_marked(THE_BYTE, trace),
                other => trace.push(other),
            }
        }
        Ok(())
    }

    /// The trace of a prompt: that of any tokens which spell it.
    ///
    /// # Errors
    ///
    /// If the prompt has a marker that the vocabulary lacks, or sampled tokens that are out of range.
    pub fn prompt_trace(&self, prompt: &Prompt) -> Result<Vec<u8>, TraceError> {
        let mut trace = Vec::new();
        for segment in prompt.segments() {
            match segment {
                Segment::Text(text) => trace.extend_from_slice(text.as_bytes()),
                Segment::Sampled(sampled) => trace.extend(self.trace(&sampled.ids)?),
                Segment::Marker(marker) => {
                    let id = self.marker_id(*marker).ok_or(MissingMarker { marker: *marker })?;
                    push_marked(id, &mut trace);
                }
            }
        }
        Ok(trace)
    }

    /// Encodes the rest of a trace after a cached prefix, which ends where a token ended. Nothing is
    /// merged across that border; if it is inside a character, the rest of that is single bytes.
    pub fn encode_trace(&self, rest: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut rest = rest;
        while let Some(at) = rest.iter().position(|&byte| byte == MARK) {
            self.encode_bytes(&rest[..at], &mut ids);
            let marked = &rest[at..rest.len().min(at + MARKED_LEN)];
            match <[u8; 4]>::try_from(&marked[1..]).map(u32::from_le_bytes) {
                Ok(id) if self.kind(id).is_some() => ids.push(id),
                _ => ids.push(self.byte_id(MARK)),
            }
            rest = &rest[at + marked.len()..];
        }
        self.encode_bytes(rest, &mut ids);
        ids
    }

    /// Encodes text of which some bytes may be no characters.
    fn encode_bytes(&self, bytes: &[u8], ids: &mut Vec<u32>) {
        for chunk in bytes.utf8_chunks() {
            ids.extend(self.encode(chunk.valid()));
            ids.extend(chunk.invalid().iter().map(|&byte| self.byte_id(byte)));
        }
    }
}

fn push_marked(id: u32, trace: &mut Vec<u8>) {
    trace.push(MARK);
    trace.extend_from_slice(&id.to_le_bytes());
}

/// Why a prompt has no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// It needs a control token that is not there.
    #[error(transparent)]
    Marker(#[from] MissingMarker),
    /// It has sampled tokens of another vocabulary.
    #[error(transparent)]
    Token(#[from] UnknownToken),
}
