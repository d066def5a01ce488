//! Sets of characters.

use std::fmt::Write;

/// Some characters, as ranges of code points: in order, apart from each other, without surrogates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chars(Vec<(u32, u32)>);

/// A set of bytes: with which of them the UTF-8 of a text may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heads([u64; 4]);

const SURROGATES: (u32, u32) = (0xd800, 0xdfff);

impl Chars {
    pub(super) fn one(c: char) -> Chars {
        Chars(vec![(c.into(), c.into())])
    }

    pub(super) fn any() -> Chars {
        Chars::default().others()
    }

    /// - `ranges`: first and last character of each
    pub(super) fn new(mut ranges: Vec<(char, char)>) -> Chars {
        ranges.sort_unstable();
        let mut chars = Chars::default();
        for (from, to) in ranges {
            chars.push(from.into(), to.into());
        }
        chars
    }

    /// Adds a range that begins at or after the last one.
    fn push(&mut self, from: u32, to: u32) {
        let (low, high) = SURROGATES;
        if from < low && to > high {
            self.push(from, low - 1);
            return self.push(high + 1, to);
        }
        match self.0.last_mut() {
            Some((_, end)) if from <= *end + 1 => *end = to.max(*end),
            _ => self.0.push((from, to)),
        }
    }

    /// All characters that are not in it.
    pub(super) fn others(&self) -> Chars {
        let mut others = Chars::default();
        let mut next = 0;
        let (low, high) = SURROGATES;
        let mut add = |from: u32, to: u32| {
            let (from, to) =
                (if from == low { high + 1 } else { from }, if to == high { low - 1 } else { to });
            if from <= to {
                others.push(from, to);
            }
        };
        for &(from, to) in &self.0 {
            if from > next {
                add(next, from - 1);
            }
            next = to + 1;
        }
        add(next, char::MAX.into());
        others
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, code: u32) -> bool {
        let at = self.0.partition_point(|&(_, to)| to < code);
        self.0.get(at).is_some_and(|&(from, _)| from <= code)
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    pub(super) fn heads(&self) -> Heads {
        self.0.iter().fold(Heads::default(), |heads, &(from, to)| heads.or(Heads::of(from, to)))
    }

    /// As a regular expression.
    pub(super) fn pattern(&self, to: &mut String) {
        to.push('[');
        for &(from, end) in &self.0 {
            let _ = write!(to, "\\x{{{from:x}}}");
            if end > from {
                let _ = write!(to, "-\\x{{{end:x}}}");
            }
        }
        to.push(']');
    }
}

impl Heads {
    /// The heads of a range of code points.
    pub(super) fn of(from: u32, to: u32) -> Heads {
        let head = |code: u32| match code {
            0..0x80 => code,
            0x80..0x800 => 0xc0 | (code >> 6),
            0x800..0x1_0000 => 0xe0 | (code >> 12),
            _ => 0xf0 | (code >> 18),
        };
        let mut heads = Heads::default();
        // Between the bytes of ASCII and the first head of a longer character nothing begins.
        for byte in (head(from)..=head(to)).filter(|byte| !(0x80..0xc2).contains(byte)) {
            heads.0[byte as usize / 64] |= 1 << (byte % 64);
        }
        heads
    }

    pub(super) fn or(self, other: Heads) -> Heads {
        Heads(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    pub(super) fn meets(self, other: Heads) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_all_others() {
        let vowels = Chars::new(vec![('e', 'e'), ('a', 'a'), ('a', 'b'), ('c', 'c')]);
        assert_eq!(vowels.ranges(), [(0x61, 0x63), (0x65, 0x65)]);
        let others = vowels.others();
        assert_eq!(others.ranges(), [(0, 0x60), (0x64, 0x64), (0x66, 0xd7ff), (0xe000, 0x10_ffff)]);
        assert_eq!(others.others(), vowels);
        assert!(Chars::any().others().is_empty());
        assert!(vowels.has(0x62) && !vowels.has(0x64) && others.has(0xe000) && !others.has(0xd800));
    }

    #[test]
    fn characters_begin_with_bytes() {
        for c in ['\0', 'a', '\u{7f}', '\u{80}', 'é', '\u{7ff}', '\u{800}', '本', '\u{1_0000}', char::MAX] {
            let mut bytes = [0; 4];
            let first = c.encode_utf8(&mut bytes).as_bytes()[0];
            let one = Chars::one(c).heads();
            assert_eq!(one.0[first as usize / 64], 1 << (first % 64), "{c:?}");
            assert!(one.meets(Chars::any().heads()));
        }
        assert!(!Chars::one('é').heads().meets(Chars::new(vec![('\0', '\u{7f}')]).heads()));
    }
}
