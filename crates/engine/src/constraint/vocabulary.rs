//! The vocabulary as the grammar engine wants it: a tree of the bytes of every token.
//!
//! Control tokens hang under a byte that no text has ([`TokTrie::SPECIAL_TOKEN_MARKER`]), so text never
//! matches one; a grammar asks for one by its id.

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use std::sync::Arc;
use text::{TokenKind, Tokenizer};

/// What building a grammar and a step of it may cost. The defaults of the grammar engine are meant for trusted
/// grammars; ours come from requests.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 50_000, // of 1 to 2 kB each, for every reply at work
        verbose_errors: false, // errors go to clients and logs, and must not have text of the reply in them
        precompute_large_lexemes: false,
        ..ParserLimits::default()
    }
}

/// Prepares the grammar engine for a vocabulary.
pub(super) fn factory(tokenizer: Arc<Tokenizer>) -> ParserFactory {
    let vocabulary: TokEnv = Arc::new(Vocabulary::new(tokenizer));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices)
        .expect("the engine's own slices suit every vocabulary");
    factory.quiet();
    *factory.limits_mut() = limits();
    factory
}

struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl Vocabulary {
    fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let words: Vec<Vec<u8>> = (0..tokenizer.len() as u32).map(|id| word(&tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, tokenizer.eos()), &words);
        Vocabulary { tokenizer, trie }
    }
}

/// How a token is found in the tree; empty if it never is.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).expect("ids count up");
    match tokenizer.kind(id) {
        Some(TokenKind::Normal) if bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) => bytes.to_vec(),
        Some(TokenKind::Control | TokenKind::UserDefined) => {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
        }
        // Tokens without a meaning, and one whose byte is never part of UTF-8.
        _ => Vec::new(),
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// Text that the rules leave no choice about is spelled as the tokenizer would.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.tokenizer.encode(text))
    }
}
