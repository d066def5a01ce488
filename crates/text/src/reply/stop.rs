//! Stop strings: where one appears in the content, the content ends before it.

/// Watches content for stop strings, one character at a time; time and memory do not depend on how
/// often a stop string almost appears.
#[derive(Debug)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    /// The end of the content, while it may be the beginning of a stop string.
    held: String,
}

#[derive(Debug)]
struct Pattern {
    chars: Vec<char>,
    /// For each length of a match, the longest shorter one that it ends with (Knuth, Morris, Pratt).
    fallback: Vec<usize>,
    /// How many bytes each length of a match has.
    bytes: Vec<usize>,
    matched: usize,
}

impl StopStrings {
    /// Watches for these; empty ones are ignored.
    pub fn new(strings: &[String]) -> Self {
        let patterns = strings.iter().filter(|s| !s.is_empty()).map(|s| Pattern::new(s)).collect();
        Self { patterns, held: String::new() }
    }

    /// Takes a character and appends what is certain to be content. Returns the stop string that is
    /// complete, the longest if several are.
    pub fn push(&mut self, c: char, content: &mut String) -> Option<String> {
        if self.patterns.is_empty() {
            content.push(c);
            return None;
        }
        self.held.push(c);
        self.patterns.iter_mut().for_each(|pattern| pattern.push(c));
        let complete = self.patterns.iter().filter(|pattern| pattern.matched == pattern.chars.len());
        let hit = complete.map(|pattern| String::from_iter(&pattern.chars)).max_by_key(String::len);
        match &hit {
            Some(stop) => {
                self.held.truncate(self.held.len() - stop.len());
                self.flush(content);
            }
            None => {
                let keep =
                    self.patterns.iter().map(|pattern| pattern.bytes[pattern.matched]).max().unwrap_or(0);
                content.extend(self.held.drain(..self.held.len() - keep));
            }
        }
        hit
    }

    /// The content ends or is interrupted here: what was held is content after all.
    pub fn flush(&mut self, content: &mut String) {
        content.push_str(&self.held);
        self.held.clear();
        self.patterns.iter_mut().for_each(|pattern| pattern.matched = 0);
    }
}

impl Pattern {
    fn new(string: &str) -> Self {
        let chars: Vec<char> = string.chars().collect();
        let mut fallback = vec![0; chars.len() + 1];
        for end in 1..chars.len() {
            let mut length = fallback[end];
            while length > 0 && chars[length] != chars[end] {
                length = fallback[length];
            }
            fallback[end + 1] = if chars[length] == chars[end] { length + 1 } else { 0 };
        }
        let mut bytes = vec![0];
        bytes.extend(string.char_indices().map(|(at, c)| at + c.len_utf8()));
        Self { chars, fallback, bytes, matched: 0 }
    }

    fn push(&mut self, c: char) {
        while self.matched > 0 && self.chars[self.matched] != c {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(self.chars[self.matched] == c);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[String], text: &str) -> (String, Option<String>) {
        let mut strings = StopStrings::new(stops);
        let mut content = String::new();
        for c in text.chars() {
            let hit = strings.push(c, &mut content);
            if hit.is_some() {
                return (content, hit);
            }
        }
        strings.flush(&mut content);
        (content, None)
    }

    #[test]
    fn content_ends_before_a_stop_string() {
        let check = |stops: &[&str], text: &str, content: &str, hit: Option<&str>| {
            let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(run(&stops, text), (content.to_owned(), hit.map(str::to_owned)));
        };
        check(&[], "abc", "abc", None);
        check(&["", "b"], "abc", "a", Some("b"));
        check(&["aab"], "aaab", "a", Some("aab"));
        check(&["bc", "abc"], "xabc", "x", Some("abc"));
        check(&["END"], "at the EN", "at the EN", None);
        check(&["🦀世"], "x🦀🦀世y", "x🦀", Some("🦀世"));
    }

    proptest! {
        #[test]
        fn the_first_to_be_complete_wins(
            text in "[ab]{0,12}",
            stops in prop::collection::vec("[ab]{1,4}", 1..4),
        ) {
            let (content, hit) = run(&stops, &text);
            let first_end = stops.iter().filter_map(|s| text.find(s.as_str()).map(|at| at + s.len())).min();
            match (hit, first_end) {
                (Some(hit), Some(end)) => prop_assert_eq!(content + &hit, &text[..end]),
                (None, None) => prop_assert_eq!(content, text),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
