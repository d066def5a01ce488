//! Stop strings: text that ends a reply and is not part of it.
//!
//! Text arrives in pieces that may end anywhere, so the longest end of it that can still become a stop string
//! is held back until more is known.

/// Looks for stop strings in text that arrives piece by piece.
#[derive(Clone, Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    /// The end of the text, a proper prefix of a stop string.
    held: String,
}

/// What a piece of text came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Text that is certain not to be in a stop string.
    pub text: String,
    /// The stop string that ends the reply here.
    pub stopped_by: Option<String>,
}

impl StopStrings {
    /// Looks for any of `strings`; empty ones are ignored.
    pub fn new(mut strings: Vec<String>) -> StopStrings {
        strings.retain(|s| !s.is_empty());
        StopStrings { strings, held: String::new() }
    }

    /// Takes a piece of text and returns what may pass. The stop string that is complete first counts, of
    /// those that end at one place the longest.
    pub fn push(&mut self, piece: &str) -> Passed {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        let found = self.strings.iter().filter_map(|s| Some((text.find(s.as_str())?, s)));
        if let Some((at, string)) = found.min_by_key(|(at, s)| (at + s.len(), *at)) {
            text.truncate(at);
            return Passed { text, stopped_by: Some(string.clone()) };
        }
        self.held = text.split_off(self.hold_from(&text));
        Passed { text, stopped_by: None }
    }

    /// The text is over: what was held back passes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the longest end of `text` begins that is a proper prefix of a stop string.
    fn hold_from(&self, text: &str) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let from = text.len().saturating_sub(longest.saturating_sub(1));
        (from..text.len())
            .filter(|&at| text.is_char_boundary(at))
            .find(|&at| self.strings.iter().any(|s| s.starts_with(&text[at..])))
            .unwrap_or(text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn read(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut stops = StopStrings::new(stops.iter().map(|&s| s.to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            let passed = stops.push(piece);
            text += &passed.text;
            if passed.stopped_by.is_some() {
                return (text, passed.stopped_by);
            }
        }
        (text + &stops.finish(), None)
    }

    #[test]
    fn a_stop_string_ends_the_text_before_it() {
        let check = |stops: &[&str], pieces: &[&str], text: &str, stop: Option<&str>| {
            assert_eq!(read(stops, pieces), (text.to_owned(), stop.map(str::to_owned)));
        };
        check(&["END"], &["one END two"], "one ", Some("END"));
        check(&["END"], &["one E", "N", "D two"], "one ", Some("END"));
        check(&["END"], &["one EN", "ough"], "one ENough", None);
        check(&["END"], &["one EN"], "one EN", None);
        check(&["b", "ab"], &["xab"], "x", Some("ab"));
        check(&["ab", "abc"], &["xabc"], "x", Some("ab"));
        check(&["abcd", "c"], &["abcd"], "ab", Some("c"));
        check(&["é!"], &["caf", "é", "!"], "caf", Some("é!"));
        check(&["aab"], &["aa", "aab"], "aa", Some("aab"));
        check(&["", "x"], &["abc"], "abc", None);
        check(&[], &["abc"], "abc", None);
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held() {
        let mut stops = StopStrings::new(vec!["\n\nUser".into()]);
        assert_eq!(stops.push("done.\n").text, "done.");
        assert_eq!(stops.push("more").text, "\nmore");
    }

    proptest! {
        /// However the text is cut, the reply ends at the first complete stop string, and nothing else is lost.
        #[test]
        fn pieces_do_not_matter(pieces in vec("[abé]{0,4}", 0..12), stops in vec("[abé]{1,3}", 0..3)) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let found = stops.iter().filter_map(|s| Some((whole.find(s)? + s.len(), s.len())));
            let end = found.min_by_key(|&(end, len)| (end, usize::MAX - len));
            let (text, stop) = read(&stops, &pieces);
            prop_assert_eq!(&text, &whole[..end.map_or(whole.len(), |(end, len)| end - len)]);
            prop_assert_eq!(stop.is_some(), end.is_some());
        }
    }
}
