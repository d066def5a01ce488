//! The tokenizer's data as a GGUF file has it.
//!
//! Source of the keys: ggml's `docs/gguf.md`, section "Tokenizer".

use gguf::{Metadata, MetadataError, Strings};
use text::{TokenKind, Vocab};

/// Why a file has no tokenizer that we can use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages say what the fields are
pub enum VocabularyError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("key tokenizer.ggml.model is {found:?}, needed \"gpt2\" (byte-level BPE)")]
    Model { found: String },
    #[error("key {key}: element {index} is not UTF-8")]
    NotUtf8 { key: &'static str, index: usize },
    #[error("key tokenizer.ggml.token_type: token {token} has type {found}, needed 1 to 6")]
    Kind { token: usize, found: i32 },
}

/// Reads the vocabulary of a model. That BOS is to be added to every text is not taken over: in this
/// family the prompt's renderer writes it.
///
/// # Errors
///
/// If a key is missing or holds something else.
pub fn vocabulary(md: &Metadata) -> Result<Vocab, VocabularyError> {
    let model = md.str("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(VocabularyError::Model { found: model.to_owned() });
    }
    let texts = |key| utf8(key, md.strings(key)?);
    let kinds = md.i32s("tokenizer.ggml.token_type")?.into_iter().enumerate();
    Ok(Vocab {
        tokens: texts("tokenizer.ggml.tokens")?,
        kinds: kinds
            .map(|(token, found)| TokenKind::from_gguf(found).ok_or(VocabularyError::Kind { token, found }))
            .collect::<Result<_, _>>()?,
        merges: texts("tokenizer.ggml.merges")?,
        pre: md.str("tokenizer.ggml.pre")?.to_owned(),
        bos: md.opt_u32("tokenizer.ggml.bos_token_id")?,
        eos: md.opt_u32("tokenizer.ggml.eos_token_id")?,
    })
}

fn utf8(key: &'static str, strings: &Strings) -> Result<Vec<String>, VocabularyError> {
    let text = |(index, bytes): (usize, &[u8])| {
        String::from_utf8(bytes.to_vec()).map_err(|_| VocabularyError::NotUtf8 { key, index })
    };
    strings.iter().enumerate().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let mut md = Metadata::new();
        md.insert("tokenizer.ggml.model", "gpt2");
        md.insert("tokenizer.ggml.pre", "joyai-llm");
        md.insert("tokenizer.ggml.tokens", ["a", "b"].iter().collect::<Strings>());
        md.insert("tokenizer.ggml.token_type", vec![1i32, 3]);
        md.insert("tokenizer.ggml.merges", ["a b"].iter().collect::<Strings>());
        md.insert("tokenizer.ggml.eos_token_id", 1u32);
        md
    }

    #[test]
    fn the_keys_become_a_vocabulary() {
        let want = Vocab {
            tokens: vec!["a".into(), "b".into()],
            kinds: vec![TokenKind::Normal, TokenKind::Control],
            merges: vec!["a b".into()],
            pre: "joyai-llm".into(),
            bos: None,
            eos: Some(1),
        };
        assert_eq!(vocabulary(&metadata()).unwrap(), want);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |key: &str, value: Option<gguf::Value>, want: &str| {
            let mut md = metadata();
            match value {
                Some(value) => md.insert(key, value),
                None => md.remove(key),
            };
            assert_eq!(vocabulary(&md).unwrap_err().to_string(), want);
        };
        let key = "tokenizer.ggml.model";
        let want = "key tokenizer.ggml.model is \"llama\", needed \"gpt2\" (byte-level BPE)";
        check(key, Some("llama".into()), want);
        check(
            "tokenizer.ggml.merges",
            None,
            "key tokenizer.ggml.merges is missing, needed an array of strings",
        );
        check(
            "tokenizer.ggml.tokens",
            Some([&b"a"[..], &[0xff]].iter().collect::<Strings>().into()),
            "key tokenizer.ggml.tokens: element 1 is not UTF-8",
        );
        check(
            "tokenizer.ggml.token_type",
            Some(vec![1i32, 9].into()),
            "key tokenizer.ggml.token_type: token 1 has type 9, needed 1 to 6",
        );
    }
}
