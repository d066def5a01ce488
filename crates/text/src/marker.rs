//! The control tokens that the chat protocol is written with.
//!
//! Their spelling is the same in every vocabulary of the family; their ids are not, and are looked
//! up by spelling when a [`Tokenizer`](crate::Tokenizer) is made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A control token of the chat protocol.
///
/// A marker in a prompt is always one token. The same spelling inside a user's text is not a
/// marker: it is encoded as ordinary tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Marker {
    /// First token of a prompt.
    Bos,
    /// Ends an assistant turn.
    Eos,
    /// Fills up batches in training; a model that writes it has run past its turn.
    Pad,
    /// Opens a user turn.
    User,
    /// Opens an assistant turn.
    Assistant,
    /// Opens reasoning.
    ThinkOpen,
    /// Closes reasoning, or says that there is none.
    ThinkClose,
    /// The word inside every tool tag; its angle brackets are ordinary text.
    Dsml,
    /// Opens a reminder.
    LatestReminder,
    /// Quick task: should this be searched for or answered?
    Action,
    /// Quick task: write search queries.
    Query,
    /// Quick task: which sources have authority?
    Authority,
    /// Quick task: which domain is this about?
    Domain,
    /// Quick task: write a title.
    Title,
    /// Comes before a URL that the model may be asked to read.
    ExtractedUrl,
    /// Quick task: read the URL?
    ReadUrl,
}

impl Marker {
    /// Every marker, in the order of their declaration.
    pub const ALL: [Marker; 16] = [
        Marker::Bos,
        Marker::Eos,
        Marker::Pad,
        Marker::User,
        Marker::Assistant,
        Marker::ThinkOpen,
        Marker::ThinkClose,
        Marker::Dsml,
        Marker::LatestReminder,
        Marker::Action,
        Marker::Query,
        Marker::Authority,
        Marker::Domain,
        Marker::Title,
        Marker::ExtractedUrl,
        Marker::ReadUrl,
    ];

    /// How the marker is spelled in the vocabulary. The bar is U+FF5C and the low line U+2581.
    pub const fn text(self) -> &'static str {
        match self {
            Marker::Bos => "<｜begin▁of▁sentence｜>",
            Marker::Eos => "<｜end▁of▁sentence｜>",
            Marker::Pad => "<｜▁pad▁｜>",
            Marker::User => "<｜User｜>",
            Marker::Assistant => "<｜Assistant｜>",
            Marker::ThinkOpen => "<think>",
            Marker::ThinkClose => "</think>",
            Marker::Dsml => "｜DSML｜",
            Marker::LatestReminder => "<｜latest_reminder｜>",
            Marker::Action => "<｜action｜>",
            Marker::Query => "<｜query｜>",
            Marker::Authority => "<｜authority｜>",
            Marker::Domain => "<｜domain｜>",
            Marker::Title => "<｜title｜>",
            Marker::ExtractedUrl => "<｜extracted_url｜>",
            Marker::ReadUrl => "<｜read_url｜>",
        }
    }

    /// Whether the model has run past its turn (or ended it) when it writes this.
    pub const fn ends_reply(self) -> bool {
        use Marker::{Assistant, Bos, Eos, LatestReminder, Pad, User};
        matches!(self, Bos | Eos | Pad | User | Assistant | LatestReminder)
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_past_the_turn_ends_the_reply() {
        let ending: Vec<&str> =
            Marker::ALL.into_iter().filter(|m| m.ends_reply()).map(Marker::text).collect();
        assert_eq!(
            ending,
            [
                "<｜begin▁of▁sentence｜>",
                "<｜end▁of▁sentence｜>",
                "<｜▁pad▁｜>",
                "<｜User｜>",
                "<｜Assistant｜>",
                "<｜latest_reminder｜>"
            ]
        );
    }
}
