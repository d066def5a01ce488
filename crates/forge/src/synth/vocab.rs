//! A small vocabulary that can spell any text and has every control token of the chat protocol.

use text::{Marker, TokenKind, Vocab};

/// Letters that make syllables, frequent ones first; `Ġ` is a space.
const LETTERS: &str = "Ġetaoinshrdlucmfw";

/// A vocabulary of `size` tokens: all bytes, syllables of two letters, and the control tokens, with
/// those that begin and end a text at 0 and 1, as in the published vocabulary.
///
/// At least the bytes and the control tokens are there, if `size` is too small for them; tokens beyond
/// the syllables are unused ones.
pub fn byte_vocab(size: usize) -> Vocab {
    let mut vocab = Vocab {
        tokens: Vec::new(),
        kinds: Vec::new(),
        merges: Vec::new(),
        pre: "joyai-llm".into(),
        bos: Some(0),
        eos: Some(1),
    };
    let mut add = |text: String, kind| {
        vocab.tokens.push(text);
        vocab.kinds.push(kind);
    };
    let first = [Marker::Bos, Marker::Eos, Marker::Pad];
    first.iter().for_each(|marker| add(marker.text().into(), TokenKind::Control));
    byte_characters().for_each(|c| add(c.into(), TokenKind::Normal));

    let others = Marker::ALL.into_iter().filter(|marker| !first.contains(marker));
    let room = size.saturating_sub(3 + 256 + others.clone().count());
    let merges: Vec<_> = syllables().take(room).collect();
    merges.iter().for_each(|merge| add(merge.replace(' ', ""), TokenKind::Normal));
    (merges.len()..room).for_each(|i| add(format!("<｜unused▁{i}｜>"), TokenKind::Unused));
    others.for_each(|marker| add(marker.text().into(), kind_of(marker)));
    Vocab { merges, ..vocab }
}

/// As the published vocabulary has them: some markers are text to whoever decodes.
fn kind_of(marker: Marker) -> TokenKind {
    match marker {
        Marker::ThinkOpen | Marker::ThinkClose | Marker::Dsml => TokenKind::UserDefined,
        _ => TokenKind::Control,
    }
}

/// The character that stands for each byte in a byte-level vocabulary: itself if it is printable, else
/// the next from U+0100 on.
fn byte_characters() -> impl Iterator<Item = char> {
    let mut others = '\u{100}'..;
    (0..=255u8).map(move |byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => others.next().expect("few bytes are not printable"),
    })
}

/// Merges of two letters, of which the second is never a space.
fn syllables() -> impl Iterator<Item = String> {
    let seconds = || LETTERS.chars().skip(1);
    LETTERS.chars().flat_map(move |first| seconds().map(move |second| format!("{first} {second}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use text::Tokenizer;

    #[test]
    fn it_has_the_size_asked_for_and_spells_any_text() {
        for size in [300, 512, 1000] {
            let vocab = byte_vocab(size);
            assert_eq!(vocab.tokens.len(), size);
            let tokenizer = Tokenizer::new(vocab).unwrap();
            let text = "The rain in Spain,\n größer ｜ <think>\0";
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)).unwrap(), text);
            assert!(Marker::ALL.iter().all(|&marker| tokenizer.marker_id(marker).is_some()));
        }
        let tokenizer = Tokenizer::new(byte_vocab(512)).unwrap();
        assert_eq!(tokenizer.encode(" the rain").len(), 5, "` t` `he` ` r` `ai` `n`");
    }
}
