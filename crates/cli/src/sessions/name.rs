//! Names of sessions. They become names of files, so they are plain.

use std::fmt;
use std::str::FromStr;

/// The longest name.
const MOST: usize = 64;

/// A name that is a file's name everywhere and leads nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        match begins && text.len() <= MOST && text.chars().all(plain) && !text.ends_with('.') {
            true => Ok(Name(text.to_owned())),
            false => Err(format!(
                "a session's name has up to {MOST} letters, digits, dots, dashes and underscores, and begins with \
                 a letter or digit"
            )),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain() {
        for name in ["work", "a", "2026-11-25_notes.v2", &"x".repeat(64)] {
            assert_eq!(name.parse::<Name>().unwrap().to_string(), name);
        }
        let wrong =
            ["", ".", "..", "../x", "a/b", "a\\b", "-rf", ".hidden", "a b", "ä", "a\n", "c:", "a.", "a\0"];
        for name in wrong.into_iter().chain([&*"x".repeat(65)]) {
            assert!(name.parse::<Name>().is_err(), "{name:?}");
        }
    }
}
