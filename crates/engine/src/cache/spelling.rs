//! Tokens, and the bytes that they spell.
//!
//! A client sends back text, and the model may have spelled that text with other tokens than the tokenizer
//! would. So cached text is recognised by its bytes, as [`Tokenizer::trace`] has them: control tokens are apart
//! from every text there. Where two spellings both have the end of a token, one can go on where the other
//! stopped, as if the whole had been spelled that way.

use text::Tokenizer;

/// Some tokens and their bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spelling {
    tokens: Vec<u32>,
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`.
    ends: Vec<usize>,
}

impl Spelling {
    /// # Panics
    ///
    /// If a token is outside the vocabulary.
    pub(crate) fn new(tokenizer: &Tokenizer, tokens: Vec<u32>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(tokens.len()));
        for &token in &tokens {
            tokenizer.push_trace(token, &mut bytes).expect("a token of this vocabulary");
            ends.push(bytes.len());
        }
        Spelling { tokens, bytes, ends }
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Memory taken, in bytes.
    pub(crate) fn memory(&self) -> usize {
        size_of_val(&*self.tokens) + self.bytes.len() + size_of_val(&*self.ends)
    }

    /// The token that begins at byte `at`, if one does.
    pub(crate) fn token_at(&self, at: usize) -> Option<usize> {
        if at == 0 { Some(0) } else { self.ends.binary_search(&at).ok().map(|i| i + 1) }
    }

    /// How many tokens of `cached` this prompt has from byte `at` on.
    ///
    /// - `any_spelling`: whether other tokens with the same bytes are as good
    pub(crate) fn common(&self, at: usize, cached: &Spelling, any_spelling: bool) -> usize {
        if any_spelling {
            let bytes = same(&self.bytes[at..], &cached.bytes);
            cached.ends.partition_point(|&end| end <= bytes)
        } else {
            let start = self.token_at(at).expect("tokens that agree end together");
            same(&self.tokens[start..], &cached.tokens)
        }
    }

    /// The largest number of tokens of `cached`, of which the prompt has `most`, after which the prompt can go
    /// on, and the prompt's token that is next.
    pub(crate) fn joint(&self, at: usize, cached: &Spelling, most: usize) -> Option<(usize, usize)> {
        (0..=most).rev().find_map(|k| {
            let end = if k == 0 { 0 } else { cached.ends[k - 1] };
            Some((k, self.token_at(at + end)?))
        })
    }
}

fn same<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge::synth::byte_vocab;
    use text::Marker;

    #[test]
    fn another_spelling_agrees_where_both_have_the_end_of_a_token() {
        let tokenizer = Tokenizer::new(byte_vocab(512)).unwrap(); // has a token for "et"
        let spell = |tokens: &[u32]| Spelling::new(&tokenizer, tokens.to_vec());
        let (a, b, c) = (tokenizer.encode("e")[0], tokenizer.encode("t")[0], tokenizer.encode("x")[0]);
        let &[ab] = &*tokenizer.encode("et") else { panic!("one token") };
        let user = tokenizer.marker_id(Marker::User).unwrap();

        let prompt = spell(&[user, ab, ab, c]);
        let check = |cached: &[u32], any, common, joint| {
            let cached = spell(cached);
            let got = prompt.common(0, &cached, any);
            assert_eq!((got, prompt.joint(0, &cached, got)), (common, joint));
        };
        check(&[user, a, b, ab], true, 4, Some((4, 3)));
        check(&[user, a, b, a], true, 4, Some((3, 2))); // not in the middle of the prompt's token
        check(&[user, ab, ab, ab], true, 3, Some((3, 3)));
        check(&[ab], true, 0, Some((0, 0)));
        check(&[user, a, b, ab], false, 1, Some((1, 1)));
        check(&[user, ab, ab, c, a], false, 4, Some((4, 4)));
    }
}
