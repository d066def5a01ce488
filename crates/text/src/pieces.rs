//! Cutting text into the pieces that BPE works on; no token crosses the border of a piece.
//!
//! The vocabulary's definition is three patterns, each applied to every piece left by the one
//! before, matches and gaps both kept:
//!
//! ```text
//! 1   \p{N}{1,3}
//! 2   [一-龥぀-ゟ゠-ヿ]+
//! 3   [!-/:-@\[-`{-~][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
//!     | ?[\p{P}\p{S}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+
//! ```
//!
//! Source: `pre_tokenizer` in the `tokenizer.json` of DeepSeek V3 and V4.
//!
//! The look-ahead `\s+(?!\S)` only says that white space before a word leaves its last character
//! to the word. Doing that by hand needs no backtracking: time is linear in the text, whatever it
//! is, and about ten times less than with a backtracking engine.

use std::sync::LazyLock;

use regex::Regex;

/// The value of `tokenizer.ggml.pre` in GGUF files that means this way of cutting.
pub(crate) const NAMES: [&str; 3] = ["joyai-llm", "deepseek-v3", "deepseek-llm-v3"];

/// The patterns as `tokenizer.json` spells them.
pub(crate) const PATTERNS: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
        "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+",
        r"|\s+(?!\S)|\s+"
    ),
];

static DIGITS: LazyLock<Regex> = LazyLock::new(|| pattern(PATTERNS[0]));
static CJK: LazyLock<Regex> = LazyLock::new(|| pattern(PATTERNS[1]));
static WORDS: LazyLock<Regex> = LazyLock::new(|| pattern(&PATTERNS[2].replace(r"|\s+(?!\S)", "")));

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("our own pattern is well formed")
}

/// Calls `visit` with every piece of `text`, in order; together they are `text`.
pub(crate) fn for_each<'t>(text: &'t str, visit: &mut impl FnMut(&'t str)) {
    isolate(&DIGITS, text, &mut |piece| isolate(&CJK, piece, &mut |piece| words(piece, visit)));
}

/// Visits the matches of `pattern` and the gaps between them.
fn isolate<'t>(pattern: &Regex, text: &'t str, visit: &mut impl FnMut(&'t str)) {
    let mut done = 0;
    for found in pattern.find_iter(text) {
        visit_unless_empty(&text[done..found.start()], visit);
        visit(found.as_str());
        done = found.end();
    }
    visit_unless_empty(&text[done..], visit);
}

/// Pattern 3 with its look-ahead.
fn words<'t>(text: &'t str, visit: &mut impl FnMut(&'t str)) {
    let mut done = 0;
    while let Some(found) = WORDS.find_at(text, done) {
        visit_unless_empty(&text[done..found.start()], visit);
        done = found.start() + kept(found.as_str(), found.end() == text.len());
        visit(&text[found.start()..done]);
    }
    visit_unless_empty(&text[done..], visit);
}

/// How many bytes of a match of pattern 3 are its piece: all, but for white space before a word.
///
/// Of the alternatives only `\s+` can end in white space other than a line end.
fn kept(found: &str, at_end: bool) -> usize {
    let last = found.chars().next_back().expect("a match is never empty");
    let before_word = last.is_whitespace() && !matches!(last, '\r' | '\n') && !at_end;
    match found.len() - last.len_utf8() {
        rest if before_word && rest > 0 => rest,
        _ => found.len(),
    }
}

fn visit_unless_empty<'t>(piece: &'t str, visit: &mut impl FnMut(&'t str)) {
    if !piece.is_empty() {
        visit(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        for_each(text, &mut |piece| pieces.push(piece));
        pieces
    }

    #[test]
    fn digits_come_in_threes() {
        assert_eq!(pieces("a12345b"), ["a", "123", "45", "b"]);
    }

    #[test]
    fn white_space_leaves_its_last_character_to_a_word() {
        assert_eq!(pieces("a   b"), ["a", "  ", " b"]);
        assert_eq!(pieces("a \t b"), ["a", " \t", " b"]);
        assert_eq!(pieces("a   "), ["a", "   "]);
        assert_eq!(pieces(" \u{3000} x"), [" \u{3000}", " x"]);
        assert_eq!(pieces("a   1"), ["a", "   ", "1"]);
    }

    #[test]
    fn line_ends_stay_with_white_space_or_punctuation_before_them() {
        assert_eq!(pieces("a. \n\n b"), ["a", ".", " \n\n", " b"]);
        assert_eq!(pieces("a.\n\nb"), ["a", ".\n\n", "b"]);
    }

    #[test]
    fn kana_is_cut_again_at_punctuation_inside_it() {
        assert_eq!(pieces("カ・タ"), ["カ", "・", "タ"]);
        assert_eq!(pieces("x世界y"), ["x", "世界", "y"]);
    }

    #[test]
    fn what_no_pattern_knows_is_a_piece_too() {
        assert_eq!(pieces("\0\u{1}5"), ["\0\u{1}", "5"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in r"[ \r\n\ta-z0-9.,カ・世\u{301}🦀\x00]{0,40}") {
            prop_assert_eq!(pieces(&text).concat(), text);
        }
    }
}
