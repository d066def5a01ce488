//! The tags of tool markup, read one symbol at a time.
//!
//! ```text
//! tag       = "<" ["/"] marker name *(space attribute) [space] ["/"] ">"
//! marker    = ｜DSML｜, as a control token
//! name      = "tool_calls" | "invoke" | "parameter"
//! attribute = word "=" quote text quote
//! ```
//!
//! Models misspell: other bars, a space after the marker, other names of the block, other quotes.
//! Such near misses are read too, unless recovery is off, and marked as not canonical; it is up to
//! the parser what to make of them.

use super::symbol::{Symbol, read_spelled, spelled};

/// A tag that was read.
#[derive(Debug)]
pub(super) struct Tag {
    pub kind: TagKind,
    pub closing: bool,
    /// Written exactly as the model was taught.
    pub canonical: bool,
    /// `<…/>`
    pub self_closing: bool,
    /// The attribute `name`, unless empty.
    pub name: Option<String>,
    /// The attribute `string`.
    pub string: Option<String>,
    /// The marker as it was written, with the space after it if there was one.
    pub marker: Vec<Symbol>,
    /// All of it.
    pub raw: Vec<Symbol>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TagKind {
    Block,
    Invoke,
    Parameter,
}

/// What a symbol made of a tag.
#[derive(Debug)]
pub(super) enum Step {
    /// More is needed.
    More,
    /// The symbol ended the tag.
    Tag(Tag),
    /// A tag that says what it is, but ends before its `>` and has no usable name: the symbol is not
    /// part of it.
    Broken(Tag),
    /// What was read is no tag, and the symbol is not part of it.
    Text(Vec<Symbol>),
}

/// Reads one tag, beginning after `<`.
#[derive(Debug)]
pub(super) struct TagLexer {
    phase: Phase,
    near_misses: bool,
    /// The word that is being read: marker, name, attribute's name or attribute's text.
    word: String,
    attribute: String,
    tag: Tag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// After `<`.
    Open,
    Marker,
    /// After the marker, before the name.
    Gap,
    Name,
    /// Right after the name.
    Named,
    /// Between attributes.
    Between,
    Attribute,
    Quote,
    /// Inside quotes, up to one of these.
    Quoted(&'static [char]),
    /// After `/`.
    Slash,
}

/// Whether a symbol can come where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    No,
    Yes,
    /// And the tag ends with it.
    Last,
}

impl Fit {
    fn when(fits: bool) -> Self {
        if fits { Fit::Yes } else { Fit::No }
    }
}

/// The names of tags, and whether they are canonical.
const NAMES: [(&str, TagKind, bool); 7] = [
    ("tool_calls", TagKind::Block, true),
    ("invoke", TagKind::Invoke, true),
    ("parameter", TagKind::Parameter, true),
    ("toolcalls", TagKind::Block, false),
    ("tool_call", TagKind::Block, false),
    ("function_calls", TagKind::Block, false),
    ("calls", TagKind::Block, false),
];
const NEAR_MARKERS: [&str; 4] = ["｜｜DSML｜｜", "|DSML|", "||DSML||", "DSML｜"];
const DOUBLE_QUOTES: &[char] = &['“', '”', '"'];
const SINGLE_QUOTES: &[char] = &['‘', '’', '\''];

impl TagLexer {
    /// A lexer that has read `<`.
    pub fn new(near_misses: bool) -> Self {
        let tag = Tag {
            kind: TagKind::Block,
            closing: false,
            canonical: true,
            self_closing: false,
            name: None,
            string: None,
            marker: Vec::new(),
            raw: vec![Symbol::Char('<')],
        };
        Self { phase: Phase::Open, near_misses, word: String::new(), attribute: String::new(), tag }
    }

    /// What was read so far.
    pub fn raw(&self) -> &[Symbol] {
        &self.tag.raw
    }

    /// Whether this is the beginning of an invoke's opening tag and of nothing else.
    pub fn is_invoke(&self) -> bool {
        self.is_named() && self.is_opening_invoke()
    }

    fn is_named(&self) -> bool {
        !matches!(self.phase, Phase::Open | Phase::Marker | Phase::Gap | Phase::Name)
    }

    fn is_opening_invoke(&self) -> bool {
        self.tag.kind == TagKind::Invoke && !self.tag.closing
    }

    fn takes_attributes(&self) -> bool {
        self.tag.kind != TagKind::Block && !self.tag.closing
    }

    /// Takes the next symbol. After anything but [`Step::More`] the lexer is spent.
    pub fn push(&mut self, symbol: Symbol) -> Step {
        let fit = match self.phase {
            Phase::Open => self.open(symbol),
            Phase::Marker => self.marker(symbol),
            Phase::Gap => self.gap(symbol),
            Phase::Name => self.name(symbol),
            Phase::Named | Phase::Between => self.between(symbol),
            Phase::Attribute => self.attribute_name(symbol),
            Phase::Quote => self.quote(symbol),
            Phase::Quoted(closers) => self.quoted(symbol, closers),
            Phase::Slash if symbol == Symbol::Char('>') => Fit::Last,
            Phase::Slash => Fit::No,
        };
        if fit == Fit::No {
            return self.give_up();
        }
        self.tag.raw.push(symbol);
        if fit == Fit::Last { Step::Tag(self.take_tag()) } else { Step::More }
    }

    fn open(&mut self, symbol: Symbol) -> Fit {
        self.phase = Phase::Marker;
        if symbol == Symbol::Char('/') {
            self.tag.closing = true;
            return Fit::Yes;
        }
        self.marker(symbol)
    }

    fn marker(&mut self, symbol: Symbol) -> Fit {
        self.tag.marker.push(symbol);
        symbol.spell(&mut self.word);
        let canonical = self.tag.marker == [Symbol::Dsml];
        if canonical || (self.near_misses && NEAR_MARKERS.contains(&&*self.word)) {
            self.tag.canonical = canonical;
            self.begin_word(Phase::Gap);
            return Fit::Yes;
        }
        Fit::when(self.near_misses && NEAR_MARKERS.iter().any(|marker| marker.starts_with(&self.word)))
    }

    fn begin_word(&mut self, phase: Phase) {
        self.word.clear();
        self.phase = phase;
    }

    fn gap(&mut self, symbol: Symbol) -> Fit {
        self.phase = Phase::Name;
        if symbol == Symbol::Char(' ') {
            self.tag.canonical = false;
            self.tag.marker.push(symbol);
            return Fit::when(self.near_misses);
        }
        self.name(symbol)
    }

    fn name(&mut self, symbol: Symbol) -> Fit {
        let mut known = NAMES.iter().filter(|(_, _, canonical)| *canonical || self.near_misses);
        if let Symbol::Char(c @ ('a'..='z' | '_')) = symbol {
            self.word.push(c);
            return Fit::when(known.any(|(name, ..)| name.starts_with(&self.word)));
        }
        let Some(&(_, kind, canonical)) = known.find(|(name, ..)| *name == self.word) else {
            return Fit::No;
        };
        self.tag.kind = kind;
        self.tag.canonical &= canonical;
        self.phase = Phase::Named;
        self.between(symbol)
    }

    fn between(&mut self, symbol: Symbol) -> Fit {
        match symbol {
            Symbol::Char('>') => return Fit::Last,
            Symbol::Char(' ' | '\t') => self.phase = Phase::Between,
            Symbol::Char('/') if self.near_misses && self.is_opening_invoke() => {
                self.tag.self_closing = true;
                self.tag.canonical = false;
                self.phase = Phase::Slash;
            }
            Symbol::Char(c @ ('a'..='z' | 'A'..='Z'))
                if self.phase == Phase::Between && self.takes_attributes() =>
            {
                self.begin_word(Phase::Attribute);
                self.word.push(c);
            }
            _ => return Fit::No,
        }
        Fit::Yes
    }

    fn attribute_name(&mut self, symbol: Symbol) -> Fit {
        match symbol {
            Symbol::Char('=') => {
                self.attribute = std::mem::take(&mut self.word);
                self.phase = Phase::Quote;
                Fit::Yes
            }
            Symbol::Char(c @ ('a'..='z' | 'A'..='Z' | '_')) => {
                self.word.push(c);
                Fit::Yes
            }
            _ => Fit::No,
        }
    }

    fn quote(&mut self, symbol: Symbol) -> Fit {
        let closers: &'static [char] = match symbol {
            Symbol::Char('"') => &['"'],
            Symbol::Char('\'') => &['\''],
            Symbol::Char('“' | '”') => DOUBLE_QUOTES,
            Symbol::Char('‘' | '’') => SINGLE_QUOTES,
            _ => return Fit::No,
        };
        let canonical = symbol == Symbol::Char('"');
        self.tag.canonical &= canonical;
        self.phase = Phase::Quoted(closers);
        Fit::when(canonical || self.near_misses)
    }

    /// A line end or a marker inside quotes means that the closing quote was forgotten.
    fn quoted(&mut self, symbol: Symbol, closers: &[char]) -> Fit {
        match symbol {
            Symbol::Char(c) if closers.contains(&c) => {
                let text = std::mem::take(&mut self.word);
                match &*self.attribute {
                    "name" => self.tag.name = Some(text).filter(|name| !name.is_empty()),
                    "string" => self.tag.string = Some(text),
                    _ => {}
                }
                self.phase = Phase::Between;
                Fit::Yes
            }
            Symbol::Char(c) if c != '\n' => {
                self.word.push(c);
                Fit::Yes
            }
            _ => Fit::No,
        }
    }

    /// The symbol does not fit. What was read is a broken tag if it says which, else text.
    fn give_up(&mut self) -> Step {
        if self.is_named() && self.takes_attributes() {
            self.tag.name = None;
            Step::Broken(self.take_tag())
        } else {
            Step::Text(std::mem::take(&mut self.tag.raw))
        }
    }

    fn take_tag(&mut self) -> Tag {
        std::mem::replace(self, Self::new(false)).tag
    }
}

/// The tag that closes a parameter: the spelling is that of the opening tag.
pub(super) fn closing_parameter(opening: &Tag) -> Vec<Symbol> {
    let mut closing = vec![Symbol::Char('<'), Symbol::Char('/')];
    closing.extend_from_slice(&opening.marker);
    closing.extend("parameter>".chars().map(Symbol::Char));
    closing
}

/// The canonical tag that opens a block of calls.
pub(super) const OPEN_BLOCK: &str = "<｜DSML｜tool_calls>";

/// Whether what was read, and `held` after it, could go on to be [`OPEN_BLOCK`]. One `<` is too
/// little to say so. Where only text is known, half a marker is enough.
pub(super) fn begins_block(read: &[Symbol], held: &str, by_spelling: bool) -> bool {
    if by_spelling {
        let text = spelled(read) + held;
        text.len() > 1 && OPEN_BLOCK.starts_with(&text)
    } else {
        read.len() > 1 && read_spelled(OPEN_BLOCK).starts_with(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a tag by its spelling. Gives the step that ended it and what of the text was left.
    fn read(text: &str, near_misses: bool) -> (Step, usize) {
        let symbols = read_spelled(text);
        let mut lexer = TagLexer::new(near_misses);
        for (at, &symbol) in symbols.iter().enumerate().skip(1) {
            match lexer.push(symbol) {
                Step::More => {}
                step => return (step, symbols.len() - at - 1),
            }
        }
        (Step::More, 0)
    }

    fn tag(text: &str) -> Tag {
        match read(text, true) {
            (Step::Tag(tag), 0) => {
                assert_eq!(spelled(&tag.raw), text);
                tag
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn canonical_tags() {
        for near_misses in [true, false] {
            let canonical = |text, kind, closing| {
                let (Step::Tag(tag), 0) = read(text, near_misses) else { panic!("{text}") };
                assert!(tag.canonical, "{text}");
                assert_eq!((tag.kind, tag.closing), (kind, closing), "{text}");
                tag
            };
            canonical("<｜DSML｜tool_calls>", TagKind::Block, false);
            canonical("</｜DSML｜tool_calls >", TagKind::Block, true);
            canonical("</｜DSML｜invoke>", TagKind::Invoke, true);
            let tag =
                canonical("<｜DSML｜parameter string=\"true\"  name=\"a > b\" >", TagKind::Parameter, false);
            assert_eq!((tag.name.as_deref(), tag.string.as_deref()), (Some("a > b"), Some("true")));
            let tag = canonical("<｜DSML｜invoke other=\"x\" name=\"\">", TagKind::Invoke, false);
            assert_eq!(tag.name, None);
        }
    }

    #[test]
    fn near_misses_are_read_only_on_request() {
        for text in [
            "<｜｜DSML｜｜tool_calls>",
            "<|DSML|tool_calls>",
            "<||DSML||tool_calls>",
            "</DSML｜tool_calls>",
            "<｜DSML｜ tool_calls>",
            "<｜DSML｜toolcalls>",
            "<｜DSML｜tool_call>",
            "<｜DSML｜function_calls>",
            "<｜DSML｜ calls>",
            "<｜DSML｜invoke name='x'>",
            "<｜DSML｜invoke name=“x”>",
            "<｜DSML｜invoke name=‘x’>",
            "<｜DSML｜invoke name=\"x\"/>",
        ] {
            assert!(!tag(text).canonical, "{text}");
            assert!(!matches!(read(text, false), (Step::Tag(_), _)), "{text}");
        }
    }

    #[test]
    fn other_things_are_text() {
        for text in [
            "<a>",
            "</a>",
            "<｜User｜>",
            "<｜DSML｜foo>",
            "<｜DSML｜invokes name=\"x\">",
            "<｜DSML｜  invoke>",
            "<｜DSML｜tool_calls name=\"x\">",
            "<tool_calls>",
            "<|DSM>",
        ] {
            assert!(matches!(read(text, true), (Step::Text(_), _)), "{text}");
        }
    }

    #[test]
    fn a_tag_that_breaks_off_still_says_what_it_is() {
        for (text, left) in [
            ("<｜DSML｜invoke\n", 0),
            ("<｜DSML｜invoke name=\"x\n", 0),
            ("<｜DSML｜invoke name=x>", 1),
            ("<｜DSML｜parameter =", 0),
            ("<｜DSML｜invoke name=\"x\"<", 0),
        ] {
            let (Step::Broken(tag), rest) = read(text, true) else { panic!("{text}") };
            assert_eq!((rest, tag.name), (left, None), "{text}");
        }
    }
}
