//! A rendered prompt: text and control tokens, kept apart.
//!
//! A prompt is never just a string. If it were, a user who types `<｜Assistant｜>` would write
//! protocol; here that is text, and only the renderer writes [`Marker`]s.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Marker;

/// One stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// One control token.
    Marker(Marker),
    /// Text that is encoded as data, in one piece.
    Text(String),
    /// Tokens that the model itself sampled earlier, used as they were.
    Sampled(Sampled),
}

/// Tokens as they were sampled, with the text they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    /// Token ids.
    pub ids: Vec<u32>,
    /// What they spell, control tokens included.
    pub text: String,
}

/// A rendered prompt. No two text segments are neighbours: text that meets is joined, because
/// encoding two fragments gives other tokens than encoding the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prompt {
    segments: Vec<Segment>,
}

impl Prompt {
    /// An empty prompt.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds text, which joins the text before it.
    pub fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.segments.last_mut() {
            Some(Segment::Text(last)) => last.push_str(text),
            _ => self.segments.push(Segment::Text(text.to_owned())),
        }
    }

    /// Adds a control token.
    pub fn marker(&mut self, marker: Marker) {
        self.segments.push(Segment::Marker(marker));
    }

    /// Adds text of ours in which every spelling of one of `markers` is that control token.
    /// Never for text from outside.
    pub(crate) fn template(&mut self, template: &str, markers: &[Marker]) {
        let mut rest = template;
        while let Some((at, marker)) =
            markers.iter().filter_map(|&m| Some((rest.find(m.text())?, m))).min_by_key(|&(at, _)| at)
        {
            self.text(&rest[..at]);
            self.marker(marker);
            rest = &rest[at + marker.text().len()..];
        }
        self.text(rest);
    }

    /// Adds sampled tokens as they are.
    pub fn sampled(&mut self, tokens: Sampled) {
        self.segments.push(Segment::Sampled(tokens));
    }

    /// Adds everything of another prompt.
    pub fn extend(&mut self, other: &Prompt) {
        for segment in &other.segments {
            match segment {
                Segment::Text(text) => self.text(text),
                other => self.segments.push(other.clone()),
            }
        }
    }

    /// The stretches, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// The prompt as one string, control tokens spelled out.
impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Marker(marker) => f.write_str(marker.text())?,
                Segment::Text(text) => f.write_str(text)?,
                Segment::Sampled(sampled) => f.write_str(&sampled.text)?,
            }
        }
        Ok(())
    }
}
