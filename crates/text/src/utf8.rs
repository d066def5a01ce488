//! Bytes in, characters out, for bytes that arrive in any portions.

/// Decodes UTF-8 that arrives in portions. A character that is cut by the border of a portion is
/// held until it is complete; what can never become a character is U+FFFD, in the same places as
/// [`String::from_utf8_lossy`] over the whole would have it.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// The beginning of a character, at most 3 bytes.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// Takes more bytes and returns what is complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = &self.held[..];
        let incomplete = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break 0;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("just checked"));
                    let Some(bad) = error.error_len() else { break invalid.len() };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &invalid[bad..];
                }
            }
        };
        self.held.drain(..self.held.len() - incomplete);
        text
    }

    /// Ends the stream (or the stretch before a control token): an incomplete character is U+FFFD.
    pub fn finish(&mut self) -> Option<char> {
        let cut = !self.held.is_empty();
        self.held.clear();
        cut.then_some(char::REPLACEMENT_CHARACTER)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn portions_do_not_matter(
            portions in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..4),
                    "[é世🦀a]{1,3}".prop_map(String::into_bytes),
                ],
                0..8,
            ),
            cut in 1usize..5,
        ) {
            let whole = portions.concat();
            let mut stream = Utf8Stream::default();
            let mut text: String = whole.chunks(cut).map(|portion| stream.push(portion)).collect();
            text.extend(stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }
    }
}
