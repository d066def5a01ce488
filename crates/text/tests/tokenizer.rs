//! The tokenizer against ids from the Hugging Face library, and against hostile vocabularies.

mod common;

use proptest::prelude::*;
use serde::Deserialize;
use text::{Marker, Prompt, TokenKind, Tokenizer, Vocab, VocabError};

/// `ids`: every control token recognised; `plain_ids`: none, if that differs.
#[derive(Deserialize)]
struct Vector {
    text: String,
    ids: Vec<u32>,
    plain_ids: Option<Vec<u32>>,
}

fn check_vectors(tokenizer: &Tokenizer, file: &str) {
    for vector in common::vectors::<Vector>(file) {
        let text = &vector.text;
        assert_eq!(tokenizer.encode_trusted(text), vector.ids, "{text:?}");
        let plain = vector.plain_ids.as_ref().unwrap_or(&vector.ids);
        assert_eq!(&tokenizer.encode(text), plain, "{text:?} as data");
        assert_eq!(&tokenizer.decode(&vector.ids).unwrap(), text);
        assert_eq!(&tokenizer.decode(plain).unwrap(), text);
    }
}

#[test]
fn mini_vectors() {
    check_vectors(common::mini(), "tokenizer/mini.json");
}

#[test]
fn published_vectors() {
    let Some(tokenizer) = common::published("published_vectors") else { return };
    check_vectors(tokenizer, "tokenizer/deepseek-v4.json");
}

#[test]
fn published_chat_texts() {
    #[derive(Deserialize)]
    struct TextVector {
        text: String,
        expect: Expect,
    }
    #[derive(Deserialize)]
    struct Expect {
        ids_added: Vec<u32>,
        ids_plain: Vec<u32>,
    }
    let Some(tokenizer) = common::published("published_chat_texts") else { return };
    for vector in common::vectors::<TextVector>("chat/tokens_text.json") {
        assert_eq!(tokenizer.encode_trusted(&vector.text), vector.expect.ids_added);
        assert_eq!(tokenizer.encode(&vector.text), vector.expect.ids_plain);
    }
}

#[test]
fn published_special_tokens() {
    #[derive(Deserialize)]
    struct Special {
        id: u32,
        text: String,
        special: bool,
    }
    let Some(tokenizer) = common::published("published_special_tokens") else { return };
    assert_eq!(tokenizer.len(), 129_280);
    for token in common::vectors::<Special>("chat/special_tokens.json") {
        assert_eq!(tokenizer.encode_trusted(&token.text), [token.id]);
        let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        assert_eq!(tokenizer.kind(token.id), Some(kind), "{}", token.text);
    }
}

/// Every spelling of a control token, whole or in pieces, alone or amid other text, is data.
#[test]
fn data_never_becomes_a_control_token() {
    let check = |tokenizer: &Tokenizer| {
        for id in 0..tokenizer.len() as u32 {
            if !tokenizer.kind(id).unwrap().is_special() {
                continue;
            }
            let text = tokenizer.decode(&[id]).unwrap();
            let tail: String = text.chars().skip(1).collect();
            for data in [format!("a {text}\n{text}{text}1"), format!("<{tail}"), text] {
                for got in tokenizer.encode(&data) {
                    assert_eq!(tokenizer.kind(got), Some(TokenKind::Normal), "{data:?} gave {got}");
                }
            }
        }
    };
    check(common::mini());
    if let Some(tokenizer) = common::published("data_never_becomes_a_control_token") {
        check(tokenizer);
    }
}

#[test]
fn a_decoder_holds_half_a_character() {
    let tokenizer = common::mini();
    let ids = tokenizer.encode("🦀世");
    assert!(ids.len() > 2, "the test needs characters of several tokens");
    let mut decoder = tokenizer.decoder();
    let parts: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    assert_eq!(parts.concat(), "🦀世");
    assert!(parts.iter().all(|part| !part.contains('\u{FFFD}')));
    assert_eq!(decoder.finish(), None);

    decoder.push(ids[0]).unwrap();
    assert_eq!(decoder.finish(), Some('\u{FFFD}'));
    assert!(decoder.push(512).unwrap_err().to_string().contains("512"));
}

/// Another implementation of the same vocabulary: the `tokenizers` library.
fn second_opinion() -> &'static tokenizers::Tokenizer {
    use tokenizers::models::bpe::BPE;
    use tokenizers::pre_tokenizers::{
        PreTokenizerWrapper, byte_level::ByteLevel, sequence::Sequence, split::Split, split::SplitPattern,
    };
    static LIBRARY: std::sync::OnceLock<tokenizers::Tokenizer> = std::sync::OnceLock::new();
    LIBRARY.get_or_init(|| {
        let vocab = common::mini_vocab();
        let merges = vocab.merges.iter().map(|merge| merge.split_once(' ').unwrap());
        let bpe = BPE::builder()
            .vocab_and_merges(
                (0..)
                    .zip(&vocab.tokens)
                    .map(|(id, text)| (text.clone(), id))
                    .collect::<tokenizers::models::bpe::Vocab>(),
                merges.map(|(left, right)| (left.to_owned(), right.to_owned())).collect(),
            )
            .build()
            .unwrap();
        let patterns = [
            r"\p{N}{1,3}",
            "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
                r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        ];
        let mut steps: Vec<PreTokenizerWrapper> = patterns
            .map(|pattern| {
                let pattern = SplitPattern::Regex(pattern.to_owned());
                Split::new(pattern, tokenizers::SplitDelimiterBehavior::Isolated, false).unwrap().into()
            })
            .into();
        steps.push(ByteLevel::new(false, true, false).into());
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        tokenizer
    })
}

proptest! {
    #[test]
    fn another_implementation_agrees(text in r"(\PC|\p{L}|\p{N}|[ \n\t\r!-/a-z0-9の世カ・\u{301}\x00]){0,60}") {
        let want = second_opinion().encode_fast(&*text, false).unwrap();
        prop_assert_eq!(common::mini().encode(&text), want.get_ids());
    }

    #[test]
    fn any_text_comes_back(text in r"(\PC|[ \n\t\r]|<think>|｜DSML｜|<｜User｜>){0,30}") {
        let tokenizer = common::mini();
        for ids in [tokenizer.encode(&text), tokenizer.encode_trusted(&text)] {
            prop_assert_eq!(&tokenizer.decode(&ids).unwrap(), &text);
            let mut decoder = tokenizer.decoder();
            let streamed: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
            prop_assert_eq!(&streamed, &text);
        }
    }
}

proptest! {
    /// However a prompt was spelled in tokens, its trace is the same; and wherever those are cut, the
    /// rest of the trace is encoded to the rest of the prompt.
    #[test]
    fn a_cached_prefix_is_found_by_its_trace(
        texts in prop::collection::vec(r"[a-z é世🦀\n]{0,6}|<think>|<｜User｜>", 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let tokenizer = common::mini();
        let mut prompt = Prompt::new();
        // The same prompt in unusual tokens: every text cut into characters and bytes.
        let mut spelled = Vec::new();
        for text in &texts {
            prompt.marker(Marker::User);
            prompt.text(text);
            spelled.extend(tokenizer.marker_id(Marker::User));
            text.chars().for_each(|c| spelled.extend(tokenizer.encode(&c.to_string())));
        }
        let trace = tokenizer.prompt_trace(&prompt).unwrap();
        prop_assert_eq!(&tokenizer.trace(&spelled).unwrap(), &trace);
        prop_assert_eq!(tokenizer.encode_trace(&trace), tokenizer.encode_prompt(&prompt).unwrap());

        let cached = &spelled[..cut.index(spelled.len() + 1)];
        let prefix = tokenizer.trace(cached).unwrap();
        prop_assert!(trace.starts_with(&prefix));
        let whole = [cached, &tokenizer.encode_trace(&trace[prefix.len()..])].concat();
        prop_assert_eq!(tokenizer.trace(&whole).unwrap(), trace);
    }

    #[test]
    fn any_tokens_have_a_trace_that_gives_them_back(ids in prop::collection::vec(0u32..512, 0..20)) {
        let tokenizer = common::mini();
        let trace = tokenizer.trace(&ids).unwrap();
        let again = tokenizer.encode_trace(&trace);
        prop_assert_eq!(tokenizer.trace(&again).unwrap(), trace);
        prop_assert_eq!(tokenizer.decode(&again).unwrap(), tokenizer.decode(&ids).unwrap());
    }

    #[test]
    fn a_damaged_trace_is_no_trouble(trace in prop::collection::vec(prop_oneof![Just(0xFF), any::<u8>()], 0..20)) {
        common::mini().encode_trace(&trace);
    }
}

/// A change to the mini vocabulary must be refused, with this in the message.
fn refused(change: impl FnOnce(&mut Vocab), message: &str) {
    let mut vocab = common::mini_vocab();
    change(&mut vocab);
    let error = Tokenizer::new(vocab).err().expect("refused").to_string();
    assert!(error.contains(message), "{error:?} does not say {message:?}");
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused() {
    refused(|v| v.tokens.clear(), "0 tokens");
    refused(|v| v.kinds.truncate(511), "512 tokens but 511 token types");
    refused(|v| v.pre = "llama-bpe".into(), "\"llama-bpe\" is not supported");
    refused(|v| v.tokens[300].clear(), "token 300 is empty");
    refused(|v| v.tokens[400] = v.tokens[300].clone(), "tokens 300 and 400 have the same text");
    refused(|v| v.tokens[300].push(' '), "stand for no byte");
    refused(|v| v.kinds[3] = TokenKind::Control, "single byte 0x21");
    refused(|v| v.merges[5] = "ab".into(), "merge 5 is \"ab\"");
    refused(|v| v.merges[5] = "a  b".into(), "merge 5 is \"a  b\"");
    refused(|v| v.merges[5] = "Ġ <think>".into(), "needs \"<think>\"");
    refused(|v| v.merges[5] = "! !".into(), "needs \"!!\"");
    refused(|v| v.bos = Some(512), "BOS id is 512, but the vocabulary has 512 tokens");
    refused(|v| v.eos = Some(u32::MAX), "EOS id is 4294967295");
    refused(|v| v.eos = Some(70), "which is not a control token");
    refused(
        |v| {
            v.eos = None;
            v.kinds[1] = TokenKind::Unused;
        },
        "no end-of-sentence token",
    );
}

#[test]
fn errors_are_enums_to_match_on() {
    let mut vocab = common::mini_vocab();
    vocab.merges.push("x\u{FF5C} y".into());
    assert!(matches!(Tokenizer::new(vocab), Err(VocabError::MergeToken { rank: 241, .. })));
}

#[test]
fn a_tokenizer_json_of_another_kind_is_refused() {
    let refused = |json: &str, message: &str| {
        let error = Vocab::from_hf_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error:?} does not say {message:?}");
    };
    refused("[]", "not a tokenizer.json");
    let model = |kind| format!(r#"{{"type": "{kind}", "vocab": {{"a": 7}}, "merges": []}}"#);
    refused(&format!(r#"{{"model": {}, "pre_tokenizer": null}}"#, model("Unigram")), "\"Unigram\"");
    refused(&format!(r#"{{"model": {}, "pre_tokenizer": null}}"#, model("BPE")), "null");
}
