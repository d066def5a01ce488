//! Text on its way into and out of the model.
//!
//! - [`Tokenizer`]: text to token ids and back, from a [`Vocab`] that is plain data.
//! - [`chat`]: a conversation becomes a [`Prompt`], text and control tokens kept apart.
//! - [`reply`]: generated tokens become a message, as they arrive.
//!
//! Nothing here knows tensors, files or HTTP.

mod bpe;
mod byte_chars;
pub mod chat;
pub mod json;
mod marker;
mod pieces;
mod prompt;
pub mod reply;
mod tokenizer;
mod trace;
mod utf8;
mod vocab;

pub use marker::Marker;
pub use prompt::{Prompt, Sampled, Segment};
pub use reply::{Event, Reply, ReplyOptions, ReplyParser, StopStrings};
pub use tokenizer::{Decoder, MissingMarker, Tokenizer, UnknownToken, VocabError};
pub use trace::TraceError;
pub use utf8::Utf8Stream;
pub use vocab::{HfJsonError, TokenKind, Vocab};
