//! What the parser reads: characters, and the three markers that mean something in a reply.

use crate::Marker;

/// One thing read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbol {
    Char(char),
    ThinkOpen,
    ThinkClose,
    Dsml,
}

impl Symbol {
    /// The symbol of a marker, if it means something in a reply.
    pub fn of_marker(marker: Marker) -> Option<Self> {
        match marker {
            Marker::ThinkOpen => Some(Symbol::ThinkOpen),
            Marker::ThinkClose => Some(Symbol::ThinkClose),
            Marker::Dsml => Some(Symbol::Dsml),
            _ => None,
        }
    }

    /// The marker that the symbol is, if it is one.
    pub fn marker(self) -> Option<Marker> {
        match self {
            Symbol::Char(_) => None,
            Symbol::ThinkOpen => Some(Marker::ThinkOpen),
            Symbol::ThinkClose => Some(Marker::ThinkClose),
            Symbol::Dsml => Some(Marker::Dsml),
        }
    }

    /// Appends the symbol as text.
    pub fn spell(self, text: &mut String) {
        match self {
            Symbol::Char(c) => text.push(c),
            Symbol::ThinkOpen => text.push_str(Marker::ThinkOpen.text()),
            Symbol::ThinkClose => text.push_str(Marker::ThinkClose.text()),
            Symbol::Dsml => text.push_str(Marker::Dsml.text()),
        }
    }

    pub fn is_blank(self) -> bool {
        matches!(self, Symbol::Char(c) if c.is_whitespace())
    }
}

/// Symbols as text.
pub(super) fn spelled(symbols: &[Symbol]) -> String {
    let mut text = String::new();
    for symbol in symbols {
        symbol.spell(&mut text);
    }
    text
}

/// Text as symbols, every spelled marker one.
pub(super) fn read_spelled(text: &str) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    let mut spelling = Spelling::default();
    text.chars().for_each(|c| spelling.push(c, &mut |symbol| symbols.push(symbol)));
    spelling.flush(&mut |symbol| symbols.push(symbol));
    symbols
}

/// Finds markers by their spelling, where only text is known. Holds back what may become one.
#[derive(Debug, Default)]
pub(super) struct Spelling {
    held: String,
}

impl Spelling {
    const MARKERS: [Marker; 3] = [Marker::ThinkOpen, Marker::ThinkClose, Marker::Dsml];

    /// Takes a character and passes on what is decided with it.
    pub fn push(&mut self, c: char, pass: &mut impl FnMut(Symbol)) {
        self.held.push(c);
        while !Self::MARKERS.iter().any(|marker| marker.text().starts_with(&self.held)) {
            pass(Symbol::Char(self.held.remove(0)));
        }
        if let Some(&marker) = Self::MARKERS.iter().find(|marker| marker.text() == self.held) {
            self.held.clear();
            Symbol::of_marker(marker).into_iter().for_each(pass);
        }
    }

    /// What is held back.
    pub fn held(&self) -> &str {
        &self.held
    }

    /// Passes on what is held back: it will not become a marker.
    pub fn flush(&mut self, pass: &mut impl FnMut(Symbol)) {
        std::mem::take(&mut self.held).chars().map(Symbol::Char).for_each(pass);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_found_as_soon_as_they_are_complete() {
        let mut spelling = Spelling::default();
        let mut read = Vec::new();
        for c in "<<think>a</thi</think>｜DSM｜DSML｜DSML｜</".chars() {
            spelling.push(c, &mut |symbol| read.push(symbol));
        }
        assert_eq!(spelling.held(), "</");
        assert_eq!(spelled(&read), "<<think>a</thi</think>｜DSM｜DSML｜DSML｜");
        let markers: Vec<_> = read.iter().filter_map(|symbol| symbol.marker()).collect();
        assert_eq!(markers, [Marker::ThinkOpen, Marker::ThinkClose, Marker::Dsml]);
        spelling.flush(&mut |symbol| read.push(symbol));
        assert_eq!(read.last(), Some(&Symbol::Char('/')));
    }
}
