//! A vocabulary as plain data: what a GGUF file's `tokenizer.ggml.*` keys or a `tokenizer.json` say.
//!
//! Nothing here is checked beyond its shape; [`Tokenizer::new`](crate::Tokenizer::new) refuses what
//! cannot work. Source of the keys: the GGUF specification, "Tokenizer".

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{Marker, pieces};

/// Tokens, merges and the few ids a tokenizer is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocab {
    /// The text of each token, by id: normal tokens in printable-byte form (a space is `Ġ`), all
    /// others literal.
    pub tokens: Vec<String>,
    /// What each token is, by id; as long as `tokens`.
    pub kinds: Vec<TokenKind>,
    /// `left right` with one space, most important merge first.
    pub merges: Vec<String>,
    /// How text is cut before merging: the value of `tokenizer.ggml.pre`.
    pub pre: String,
    /// Begins a prompt. Without it the spelling of [`Marker::Bos`] decides.
    pub bos: Option<u32>,
    /// Ends a reply. Without it the spelling of [`Marker::Eos`] decides.
    pub eos: Option<u32>,
}

/// What a token is: the values of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum TokenKind {
    /// Bytes of text, made by merging.
    Normal = 1,
    /// Stands for text that has no token; never used by byte-level vocabularies.
    Unknown = 2,
    /// A control token that is not text.
    Control = 3,
    /// A control token that is shown as text when it is decoded.
    UserDefined = 4,
    /// A place in the table that means nothing.
    Unused = 5,
    /// A single byte spelled `<0x0A>`; never used by byte-level vocabularies.
    Byte = 6,
}

impl TokenKind {
    /// The kind with this number in a GGUF file.
    pub fn from_gguf(number: i32) -> Option<Self> {
        use TokenKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|&kind| kind as i32 == number)
    }

    /// Whether the token is matched as a whole by its spelling, in text that is trusted.
    pub fn is_special(self) -> bool {
        matches!(self, TokenKind::Control | TokenKind::UserDefined)
    }
}

/// Why a `tokenizer.json` could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HfJsonError {
    /// Not JSON, or not of a tokenizer's shape.
    #[error("not a tokenizer.json: {0}")]
    Json(#[from] serde_json::Error),
    /// Another kind of tokenizer.
    #[error("the model is of type {found:?}, but only \"BPE\" is supported")]
    Model {
        /// `model.type` in the file.
        found: String,
    },
    /// Text would be cut in another way.
    #[error("the pre-tokenizer is not the one of DeepSeek V3 and V4: {found}")]
    PreTokenizer {
        /// `pre_tokenizer` in the file.
        found: String,
    },
    /// The ids do not count up from 0.
    #[error("token {text:?} has id {id}, but there are only {count} tokens")]
    IdOutOfRange {
        /// The token.
        text: String,
        /// Its id.
        id: u32,
        /// How many different tokens the file has.
        count: usize,
    },
    /// Two tokens share an id.
    #[error("tokens {first:?} and {second:?} both have id {id}")]
    SameId {
        /// The id.
        id: u32,
        /// One token.
        first: String,
        /// The other.
        second: String,
    },
}

impl Vocab {
    /// Reads a `tokenizer.json` as the Hugging Face library writes it.
    ///
    /// Added tokens become [`TokenKind::Control`] if the file calls them special and
    /// [`TokenKind::UserDefined`] if not; all others are [`TokenKind::Normal`].
    ///
    /// # Errors
    ///
    /// If the file is not a byte-level BPE tokenizer with the pre-tokenizer of DeepSeek V3 and V4.
    pub fn from_hf_json(json: &[u8]) -> Result<Self, HfJsonError> {
        let file: HfTokenizer = serde_json::from_slice(json)?;
        if file.model.kind != "BPE" {
            return Err(HfJsonError::Model { found: file.model.kind });
        }
        check_pre_tokenizer(&file.pre_tokenizer)?;

        let mut by_text: HashMap<&str, (u32, TokenKind)> =
            file.model.vocab.iter().map(|(text, &id)| (&**text, (id, TokenKind::Normal))).collect();
        for added in &file.added_tokens {
            let kind = if added.special { TokenKind::Control } else { TokenKind::UserDefined };
            by_text.insert(&added.content, (added.id, kind));
        }
        let (tokens, kinds) = in_id_order(&by_text)?;
        let id_of = |marker: Marker| by_text.get(marker.text()).map(|&(id, _)| id);
        Ok(Self {
            bos: id_of(Marker::Bos),
            eos: id_of(Marker::Eos),
            merges: file.model.merges.into_iter().map(HfMerge::into_line).collect(),
            pre: pieces::NAMES[0].to_owned(),
            tokens,
            kinds,
        })
    }
}

/// The parts of a `tokenizer.json` that matter.
#[derive(Deserialize)]
struct HfTokenizer {
    model: HfModel,
    #[serde(default)]
    added_tokens: Vec<HfAddedToken>,
    pre_tokenizer: Value,
}

#[derive(Deserialize)]
struct HfModel {
    #[serde(rename = "type")]
    kind: String,
    vocab: HashMap<String, u32>,
    merges: Vec<HfMerge>,
}

#[derive(Deserialize)]
struct HfAddedToken {
    id: u32,
    content: String,
    special: bool,
}

/// Older files have `"left right"`, newer ones `["left", "right"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum HfMerge {
    Line(String),
    Pair(String, String),
}

impl HfMerge {
    fn into_line(self) -> String {
        match self {
            HfMerge::Line(line) => line,
            HfMerge::Pair(left, right) => format!("{left} {right}"),
        }
    }
}

/// The pre-tokenizer must be the patterns of [`pieces`] and then the byte characters.
fn check_pre_tokenizer(found: &Value) -> Result<(), HfJsonError> {
    let steps = found["pretokenizers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [splits @ .., bytes] = steps else {
        return Err(HfJsonError::PreTokenizer { found: found.to_string() });
    };
    let same_splits = splits.len() == pieces::PATTERNS.len()
        && splits.iter().zip(pieces::PATTERNS).all(|(split, pattern)| {
            split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] == false
                && split["pattern"]["Regex"] == pattern
        });
    let same_bytes =
        bytes["type"] == "ByteLevel" && bytes["use_regex"] == false && bytes["add_prefix_space"] == false;
    if same_splits && same_bytes {
        Ok(())
    } else {
        Err(HfJsonError::PreTokenizer { found: found.to_string() })
    }
}

fn in_id_order(
    by_text: &HashMap<&str, (u32, TokenKind)>,
) -> Result<(Vec<String>, Vec<TokenKind>), HfJsonError> {
    let count = by_text.len();
    let mut slots: Vec<Option<(&str, TokenKind)>> = vec![None; count];
    for (&text, &(id, kind)) in by_text {
        let slot = slots.get_mut(id as usize).ok_or_else(|| HfJsonError::IdOutOfRange {
            text: text.to_owned(),
            id,
            count,
        })?;
        if let Some((first, _)) = slot.replace((text, kind)) {
            let (first, second) = (first.to_owned(), text.to_owned());
            return Err(HfJsonError::SameId { id, first, second });
        }
    }
    // As many tokens as slots, none out of range and none sharing one: every slot is filled.
    Ok(slots.into_iter().flatten().map(|(text, kind)| (text.to_owned(), kind)).unzip())
}
