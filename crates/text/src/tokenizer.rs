//! Text to token ids and back.
//!
//! Byte-level BPE. Text is cut into pieces (module `pieces`) and the bytes of each piece are merged
//! (module `bpe`). Control tokens take no part in this: their spelling inside text is text
//! ([`Tokenizer::encode`]), unless the caller vouches for the text
//! ([`Tokenizer::encode_trusted`]). That holds by construction, because the merging half is made of
//! the normal tokens alone and can give no other id.
//!
//! Start at [`Tokenizer::encode_prompt`], which is what prompts go through.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::bpe::{Bpe, Merge, Scratch};
use crate::byte_chars::{self, CHAR_OF_BYTE};
use crate::utf8::Utf8Stream;
use crate::{Marker, Prompt, Segment, TokenKind, Vocab, pieces};

/// The largest vocabulary accepted; ids must fit the model's embedding in any case.
const MAX_TOKENS: usize = 1 << 24;

/// A vocabulary at work. Immutable; share it freely between threads.
pub struct Tokenizer {
    bpe: Bpe,
    /// Finds the spellings of control tokens, with their ids.
    specials: AhoCorasick,
    special_ids: Vec<u32>,
    /// The id of each [`Marker`] that the vocabulary has.
    markers: HashMap<Marker, u32>,
    marker_of: HashMap<u32, Marker>,
    kinds: Vec<TokenKind>,
    bytes: TokenBytes,
}

/// Why a vocabulary was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabError {
    /// No tokens, or absurdly many.
    #[error("the vocabulary has {found} tokens; between 1 and {MAX_TOKENS} are possible")]
    Count {
        /// How many tokens it has.
        found: usize,
    },
    /// One kind per token is needed.
    #[error("the vocabulary has {tokens} tokens but {kinds} token types")]
    Kinds {
        /// Number of tokens.
        tokens: usize,
        /// Number of token types.
        kinds: usize,
    },
    /// Another way of cutting text.
    #[error("pre-tokenizer {found:?} is not supported; known are {:?}", pieces::NAMES)]
    Pre {
        /// The name in the vocabulary.
        found: String,
    },
    /// A token that could never be matched or would match everywhere.
    #[error("token {id} is empty")]
    Empty {
        /// Its id.
        id: u32,
    },
    /// Two tokens with one text.
    #[error("tokens {first} and {second} have the same text {text:?}")]
    Duplicate {
        /// The text.
        text: String,
        /// The smaller id.
        first: u32,
        /// The greater id.
        second: u32,
    },
    /// A normal token must be in printable-byte form.
    #[error("token {id}, {text:?}, is a normal token but has characters that stand for no byte")]
    NotBytes {
        /// Its id.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A byte that could not be encoded.
    #[error("no normal token stands for the single byte 0x{byte:02x}")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// A merge that is not two words.
    #[error("merge {rank} is {text:?}; two tokens with one space between were expected")]
    MergeShape {
        /// Its place in the list.
        rank: u32,
        /// Its text.
        text: String,
    },
    /// A merge of or into something that is not a normal token.
    #[error("merge {rank}, {merge:?}, needs {missing:?}, which is not a normal token")]
    MergeToken {
        /// Its place in the list.
        rank: u32,
        /// Its text.
        merge: String,
        /// The left part, the right part or both joined.
        missing: String,
    },
    /// The id of a token that does not exist.
    #[error("the {what} id is {id}, but the vocabulary has {count} tokens")]
    Id {
        /// Which id.
        what: &'static str,
        /// Its value.
        id: u32,
        /// Number of tokens.
        count: usize,
    },
    /// A token that text could contain cannot begin a prompt or end a reply.
    #[error("the {what} token is {id}, {text:?}, which is not a control token")]
    NotControl {
        /// Which token.
        what: &'static str,
        /// Its id.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A reply could never end.
    #[error("the vocabulary has no end-of-sentence token")]
    NoEos,
    /// The spellings of control tokens are too much for the matcher.
    #[error("the control tokens cannot be matched: {0}")]
    Specials(#[from] aho_corasick::BuildError),
}

/// A prompt needs a control token that the vocabulary does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the prompt needs the control token {marker}, which this vocabulary does not have")]
pub struct MissingMarker {
    /// The control token.
    pub marker: Marker,
}

/// A token id that the vocabulary does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token id {id} is out of range: the vocabulary has {count} tokens")]
pub struct UnknownToken {
    /// The id.
    pub id: u32,
    /// Number of tokens.
    pub count: usize,
}

impl Tokenizer {
    /// Checks a vocabulary and puts it to work. Takes about a tenth of a second for 129,280 tokens.
    ///
    /// # Errors
    ///
    /// If the vocabulary contradicts itself or cannot encode every text.
    pub fn new(vocab: Vocab) -> Result<Self, VocabError> {
        check_shape(&vocab)?;
        let ids = ids_by_text(&vocab)?;
        let bytes = TokenBytes::new(&vocab)?;
        let bpe = build_bpe(&vocab, &ids)?;
        let markers = find_markers(&vocab, &ids)?;
        let (specials, special_ids) = build_specials(&vocab)?;
        Ok(Self {
            bpe,
            specials,
            special_ids,
            marker_of: markers.iter().map(|(&marker, &id)| (id, marker)).collect(),
            markers,
            kinds: vocab.kinds,
            bytes,
        })
    }

    /// Encodes data: text of users, tools, files. No spelling in it becomes a control token.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids);
        ids
    }

    /// Encodes text in which spelled control tokens are meant: the earliest first, of those that
    /// start at one place the longest. Never for text from outside.
    pub fn encode_trusted(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut done = 0;
        for found in self.specials.find_iter(text) {
            self.encode_into(&text[done..found.start()], &mut ids);
            ids.push(self.special_ids[found.pattern().as_usize()]);
            done = found.end();
        }
        self.encode_into(&text[done..], &mut ids);
        ids
    }

    /// Encodes a prompt: markers become their tokens, each stretch of text is encoded as data.
    /// Nothing is added; the renderer has written BOS.
    ///
    /// # Errors
    ///
    /// If the prompt has a marker that the vocabulary lacks.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, MissingMarker> {
        let mut ids = Vec::new();
        for segment in prompt.segments() {
            match segment {
                Segment::Marker(marker) => {
                    let id = self.marker_id(*marker).ok_or(MissingMarker { marker: *marker })?;
                    ids.push(id);
                }
                Segment::Text(text) => self.encode_into(text, &mut ids),
                Segment::Sampled(sampled) => ids.extend_from_slice(&sampled.ids),
            }
        }
        Ok(ids)
    }

    fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        let mut scratch = Scratch::default();
        pieces::for_each(text, &mut |piece| self.bpe.encode(piece.as_bytes(), &mut scratch, ids));
    }

    /// The text of tokens, control tokens spelled out, bytes that are not UTF-8 as U+FFFD.
    ///
    /// # Errors
    ///
    /// If an id is out of range.
    pub fn decode(&self, ids: &[u32]) -> Result<String, UnknownToken> {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.token_bytes(id)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A decoder for tokens that arrive one at a time.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { tokenizer: self, text: Utf8Stream::default() }
    }

    /// The bytes that a token stands for; a control token's are its spelling.
    ///
    /// # Errors
    ///
    /// If the id is out of range.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], UnknownToken> {
        self.bytes.get(id).ok_or(UnknownToken { id, count: self.len() })
    }

    /// The token of a single byte.
    pub(crate) fn byte_id(&self, byte: u8) -> u32 {
        self.bpe.byte(byte)
    }

    /// What a token is; `None` if the id is out of range.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Number of tokens.
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary is never empty")]
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The token of a marker, if the vocabulary has it.
    pub fn marker_id(&self, marker: Marker) -> Option<u32> {
        self.markers.get(&marker).copied()
    }

    /// The marker that a token is, if it is one.
    pub fn marker(&self, id: u32) -> Option<Marker> {
        self.marker_of.get(&id).copied()
    }

    /// The token that ends a reply.
    pub fn eos(&self) -> u32 {
        self.markers[&Marker::Eos]
    }
}

/// Decodes tokens that arrive one at a time; see [`Tokenizer::decoder`].
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    text: Utf8Stream,
}

impl Decoder<'_> {
    /// Takes a token and returns the text that is complete with it. Half a character is held.
    ///
    /// # Errors
    ///
    /// If the id is out of range.
    pub fn push(&mut self, id: u32) -> Result<String, UnknownToken> {
        Ok(self.text.push(self.tokenizer.token_bytes(id)?))
    }

    /// Ends the text: half a character that is still held comes out as U+FFFD.
    pub fn finish(&mut self) -> Option<char> {
        self.text.finish()
    }
}

/// The bytes of every token, end to end.
struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each token ends.
    ends: Vec<usize>,
}

impl TokenBytes {
    fn new(vocab: &Vocab) -> Result<Self, VocabError> {
        let mut table = Self { bytes: Vec::new(), ends: Vec::with_capacity(vocab.tokens.len()) };
        for (id, (text, kind)) in (0..).zip(vocab.tokens.iter().zip(&vocab.kinds)) {
            if *kind != TokenKind::Normal {
                table.bytes.extend_from_slice(text.as_bytes());
            } else if !byte_chars::push_bytes(text, &mut table.bytes) {
                return Err(VocabError::NotBytes { id, text: text.clone() });
            }
            table.ends.push(table.bytes.len());
        }
        Ok(table)
    }

    fn get(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)?;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        Some(&self.bytes[start..end])
    }
}

fn check_shape(vocab: &Vocab) -> Result<(), VocabError> {
    let (tokens, kinds) = (vocab.tokens.len(), vocab.kinds.len());
    if tokens == 0 || tokens > MAX_TOKENS {
        return Err(VocabError::Count { found: tokens });
    }
    if tokens != kinds {
        return Err(VocabError::Kinds { tokens, kinds });
    }
    if !pieces::NAMES.contains(&&*vocab.pre) {
        return Err(VocabError::Pre { found: vocab.pre.clone() });
    }
    Ok(())
}

/// The id of every text. Unused places may be empty or alike; nothing else may.
fn ids_by_text(vocab: &Vocab) -> Result<HashMap<&str, u32>, VocabError> {
    let mut ids = HashMap::with_capacity(vocab.tokens.len());
    for (id, (text, kind)) in (0..).zip(vocab.tokens.iter().zip(&vocab.kinds)) {
        if *kind == TokenKind::Unused {
            continue;
        }
        if text.is_empty() {
            return Err(VocabError::Empty { id });
        }
        if let Some(first) = ids.insert(&**text, id) {
            return Err(VocabError::Duplicate { text: text.clone(), first, second: id });
        }
    }
    Ok(ids)
}

/// The merging half: normal tokens only.
fn build_bpe(vocab: &Vocab, ids: &HashMap<&str, u32>) -> Result<Bpe, VocabError> {
    let normal =
        |text: &str| ids.get(text).copied().filter(|&id| vocab.kinds[id as usize] == TokenKind::Normal);
    let mut bytes = [0; 256];
    for byte in 0..=255 {
        let char = CHAR_OF_BYTE[usize::from(byte)];
        bytes[usize::from(byte)] =
            normal(char.encode_utf8(&mut [0; 4])).ok_or(VocabError::MissingByte { byte })?;
    }
    let mut merges = Vec::with_capacity(vocab.merges.len());
    let mut joined = String::new();
    for (rank, merge) in (0..).zip(&vocab.merges) {
        let (left, right) = merge
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '))
            .ok_or_else(|| VocabError::MergeShape { rank, text: merge.clone() })?;
        joined.clear();
        joined.extend([left, right]);
        let id = |part: &str| {
            let missing = || VocabError::MergeToken { rank, merge: merge.clone(), missing: part.to_owned() };
            normal(part).ok_or_else(missing)
        };
        merges.push(Merge { left: id(left)?, right: id(right)?, token: id(&joined)?, rank });
    }
    Ok(Bpe::new(bytes, vocab.tokens.len(), merges))
}

/// Markers by their spelling, BOS and EOS by their declared ids first.
fn find_markers(vocab: &Vocab, ids: &HashMap<&str, u32>) -> Result<HashMap<Marker, u32>, VocabError> {
    let count = vocab.tokens.len();
    let is_special = |id: &u32| vocab.kinds[*id as usize].is_special();
    let mut markers: HashMap<Marker, u32> = Marker::ALL
        .into_iter()
        .filter_map(|marker| Some((marker, *ids.get(marker.text()).filter(|id| is_special(id))?)))
        .collect();
    let declared = [(Marker::Bos, "BOS", vocab.bos), (Marker::Eos, "EOS", vocab.eos)];
    for (marker, what, id) in declared {
        let Some(id) = id else { continue };
        if id as usize >= count {
            return Err(VocabError::Id { what, id, count });
        }
        if !is_special(&id) {
            let text = vocab.tokens[id as usize].clone();
            return Err(VocabError::NotControl { what, id, text });
        }
        markers.insert(marker, id);
    }
    if !markers.contains_key(&Marker::Eos) {
        return Err(VocabError::NoEos);
    }
    Ok(markers)
}

fn build_specials(vocab: &Vocab) -> Result<(AhoCorasick, Vec<u32>), VocabError> {
    let special_ids: Vec<u32> =
        (0..).zip(&vocab.kinds).filter(|(_, kind)| kind.is_special()).map(|(id, _)| id).collect();
    let texts = special_ids.iter().map(|&id| &vocab.tokens[id as usize]);
    let specials = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts)?;
    Ok((specials, special_ids))
}
