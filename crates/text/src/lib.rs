//! Text on its way into and out of the model.
//!
//! - [`Tokenizer`]: text to token ids and back, from a [`Vocab`] that is plain data.
//!
//! Nothing here knows tensors, files or HTTP.

mod bpe;
mod byte_chars;
mod marker;
mod pieces;
mod prompt;
mod tokenizer;
mod utf8;
mod vocab;

pub use marker::Marker;
pub use prompt::{Prompt, Sampled, Segment};
pub use tokenizer::{Decoder, MissingMarker, Tokenizer, UnknownToken, VocabError};
pub use utf8::Utf8Stream;
pub use vocab::{HfJsonError, TokenKind, Vocab};
