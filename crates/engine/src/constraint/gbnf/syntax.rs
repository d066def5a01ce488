//! How GBNF is read: <https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md>.
//!
//! ```text
//! rule        = name "::=" ways            the first rule is the one called `root`
//! ways        = sequence ("|" sequence)*
//! sequence    = (atom count?)*             an empty one is nothing
//! atom        = name | "literal" | [class] | [^class] | "." | "(" ways ")"
//! count       = "*" | "+" | "?" | "{n}" | "{n,}" | "{n,m}"
//! ```
//!
//! A rule ends where the next one begins, and `#` begins a comment. llama.cpp is stricter about where lines may end.

use super::chars::Chars;
use std::collections::HashMap;

/// Limits of what is read, so that nothing later has to count.
const MOST_NODES: usize = 20_000;
const DEEPEST: usize = 48;

/// The most repetitions; the same as in llama.cpp.
const MOST_TIMES: u32 = 2000;

/// A grammar. Nodes and rules are known by their place in these lists.
#[derive(Debug, Default)]
pub(super) struct Grammar {
    pub(super) nodes: Vec<Node>,
    /// The right side of each rule.
    pub(super) rules: Vec<usize>,
    /// The rule to begin with.
    pub(super) root: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    /// One of these characters.
    Chars(Chars),
    Seq(Vec<usize>),
    Alt(Vec<usize>),
    /// A node, at least and at most how often.
    Repeat(usize, u32, Option<u32>),
    Rule(usize),
}

impl Grammar {
    pub(super) fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A node as a regular expression. Rules that contain themselves have none.
    pub(super) fn pattern(&self, node: usize) -> String {
        let mut pattern = String::new();
        self.write_pattern(node, &mut pattern);
        pattern
    }

    fn write_pattern(&self, node: usize, to: &mut String) {
        match &self.nodes[node] {
            Node::Chars(chars) => chars.pattern(to),
            Node::Seq(items) => items.iter().for_each(|&item| self.write_pattern(item, to)),
            Node::Alt(items) => {
                for (nth, &item) in items.iter().enumerate() {
                    to.push_str(if nth == 0 { "(?:" } else { "|" });
                    self.write_pattern(item, to);
                }
                to.push(')');
            }
            Node::Repeat(item, least, most) => {
                to.push_str("(?:");
                self.write_pattern(*item, to);
                let most = most.map_or(String::new(), |most| most.to_string());
                to.push_str(&format!("){{{least},{most}}}"));
            }
            Node::Rule(rule) => self.write_pattern(self.rules[*rule], to),
        }
    }
}

/// Reads a grammar.
///
/// # Errors
///
/// What is wrong, and where.
pub(super) fn parse(text: &str) -> Result<Grammar, String> {
    let mut parser =
        Parser { text, at: 0, grammar: Grammar::default(), names: HashMap::new(), rules: Vec::new() };
    parser.skip();
    while parser.at < text.len() {
        parser.rule()?;
    }
    for &(at, body) in &parser.rules {
        let name = name_at(&text[at..]);
        let body = body.ok_or_else(|| parser.error(at, &format!("there is no rule {name:?}")))?;
        parser.grammar.rules.push(body);
    }
    match parser.names.get("root") {
        Some(&root) => Ok(Grammar { root, ..parser.grammar }),
        None => Err("there is no rule \"root\", with which a grammar begins".to_owned()),
    }
}

struct Parser<'t> {
    text: &'t str,
    /// The next byte.
    at: usize,
    grammar: Grammar,
    names: HashMap<&'t str, usize>,
    /// Where each rule was first named, and its right side.
    rules: Vec<(usize, Option<usize>)>,
}

/// The name that a text begins with; empty if it begins with none.
fn name_at(text: &str) -> &str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error(&self, at: usize, why: &str) -> String {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        format!("line {line}, column {column}: {why}")
    }

    fn fail<T>(&self, why: &str) -> Result<T, String> {
        Err(self.error(self.at, why))
    }

    /// Skips space and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest().trim_ascii_start();
            self.at = self.text.len() - rest.len();
            if !rest.starts_with('#') {
                return;
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn eat(&mut self, what: &str) -> bool {
        let is_there = self.rest().starts_with(what);
        self.at += if is_there { what.len() } else { 0 };
        is_there
    }

    fn push(&mut self, node: Node) -> Result<usize, String> {
        if self.grammar.nodes.len() >= MOST_NODES {
            return self.fail(&format!("the grammar has more than {MOST_NODES} parts"));
        }
        Ok(self.grammar.push(node))
    }

    /// The rule of a name that stands here.
    fn name(&mut self) -> Result<usize, String> {
        let name = name_at(self.rest());
        if name.is_empty() {
            return self.fail("the name of a rule was expected");
        }
        let rules = &mut self.rules;
        let at = self.at;
        let rule = *self.names.entry(name).or_insert_with(|| {
            rules.push((at, None));
            rules.len() - 1
        });
        self.at += name.len();
        Ok(rule)
    }

    fn rule(&mut self) -> Result<(), String> {
        let start = self.at;
        let rule = self.name()?;
        self.skip();
        if !self.eat("::=") {
            return self.fail("\"::=\" was expected");
        }
        if self.rules[rule].1.is_some() {
            let name = name_at(&self.text[start..]);
            return Err(self.error(start, &format!("the rule {name:?} is there already")));
        }
        let body = self.ways(0)?;
        self.rules[rule].1 = Some(body);
        match self.rest().chars().next() {
            Some(c) if name_at(self.rest()).is_empty() => self.fail(&format!("{c:?} does not belong here")),
            _ => Ok(()),
        }
    }

    /// Whether a rule begins here.
    fn is_rule(&self) -> bool {
        let name = name_at(self.rest());
        !name.is_empty() && self.rest()[name.len()..].trim_ascii_start().starts_with("::=")
    }

    fn ways(&mut self, depth: usize) -> Result<usize, String> {
        if depth > DEEPEST {
            return self.fail(&format!("there are more than {DEEPEST} parentheses inside of each other"));
        }
        let mut ways = vec![self.sequence(depth)?];
        while self.eat("|") {
            ways.push(self.sequence(depth)?);
        }
        if let [only] = ways[..] { Ok(only) } else { self.push(Node::Alt(ways)) }
    }

    fn sequence(&mut self, depth: usize) -> Result<usize, String> {
        let mut items = Vec::new();
        loop {
            self.skip();
            let next = self.rest().chars().next();
            if matches!(next, None | Some('|' | ')')) || self.is_rule() {
                break;
            }
            let Some(item) = self.atom(depth)? else { break };
            items.push(self.counted(item)?);
        }
        if let [only] = items[..] { Ok(only) } else { self.push(Node::Seq(items)) }
    }

    /// One atom; `None` if none begins here.
    fn atom(&mut self, depth: usize) -> Result<Option<usize>, String> {
        if self.rest().starts_with(['<', '!']) {
            return self.fail("tokens cannot be named in a grammar here, only text");
        }
        if self.eat("\"") {
            return self.literal().map(Some);
        }
        if self.eat("[") {
            return self.class().map(Some);
        }
        if self.eat(".") {
            return self.push(Node::Chars(Chars::any())).map(Some);
        }
        if self.eat("(") {
            let start = self.at - 1;
            let inner = self.ways(depth + 1)?;
            if !self.eat(")") {
                return Err(self.error(start, "this parenthesis is not closed"));
            }
            return Ok(Some(inner));
        }
        if name_at(self.rest()).is_empty() {
            return Ok(None);
        }
        let rule = self.name()?;
        self.push(Node::Rule(rule)).map(Some)
    }

    /// An atom with the counts that follow it.
    fn counted(&mut self, mut item: usize) -> Result<usize, String> {
        loop {
            self.skip();
            let (least, most) = if self.eat("*") {
                (0, None)
            } else if self.eat("+") {
                (1, None)
            } else if self.eat("?") {
                (0, Some(1))
            } else if self.eat("{") {
                self.times()?
            } else {
                return Ok(item);
            };
            item = self.push(Node::Repeat(item, least, most))?;
        }
    }

    fn times(&mut self) -> Result<(u32, Option<u32>), String> {
        let start = self.at;
        let least = self.number()?;
        let most = if self.eat(",") { self.number()? } else { least };
        self.skip();
        if !self.eat("}") || (least, most) == (None, None) {
            return Err(self.error(start, "{n}, {n,} or {n,m} was expected"));
        }
        let least = least.unwrap_or(0);
        if most.is_some_and(|most| most < least) {
            return Err(self.error(start, "the second number is smaller than the first"));
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Result<Option<u32>, String> {
        self.skip();
        let digits = self.rest().len() - self.rest().trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = &self.rest()[..digits];
        if number.is_empty() {
            return Ok(None);
        }
        match number.parse() {
            Ok(times) if times <= MOST_TIMES => {
                self.at += digits;
                self.skip();
                Ok(Some(times))
            }
            _ => self.fail(&format!("more than {MOST_TIMES} repetitions")),
        }
    }

    fn literal(&mut self) -> Result<usize, String> {
        let start = self.at - 1;
        let mut items = Vec::new();
        while !self.eat("\"") {
            let Some(c) = self.char()? else { return Err(self.error(start, "this string is not closed")) };
            items.push(self.push(Node::Chars(Chars::one(c)))?);
        }
        if let [only] = items[..] { Ok(only) } else { self.push(Node::Seq(items)) }
    }

    fn class(&mut self) -> Result<usize, String> {
        let start = self.at - 1;
        let is_negated = self.eat("^");
        let unclosed = |parser: &Self| parser.error(start, "this class of characters is not closed");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            let from = self.char()?.ok_or_else(|| unclosed(self))?;
            let is_range = self.rest().starts_with('-') && !self.rest().starts_with("-]");
            let to = if is_range {
                self.at += 1;
                self.char()?.ok_or_else(|| unclosed(self))?
            } else {
                from
            };
            if to < from {
                return self.fail(&format!("the range from {from:?} to {to:?} is empty"));
            }
            ranges.push((from, to));
        }
        let chars = Chars::new(ranges);
        let chars = if is_negated { chars.others() } else { chars };
        if chars.is_empty() {
            return Err(self.error(start, "no character is in this class"));
        }
        self.push(Node::Chars(chars))
    }

    /// A character of a literal or class, which may be written with a backslash; `None` at the end.
    fn char(&mut self) -> Result<Option<char>, String> {
        let Some(c) = self.rest().chars().next() else { return Ok(None) };
        let start = self.at;
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(Some(c));
        }
        let Some(escape) = self.rest().chars().next() else { return Ok(None) };
        self.at += escape.len_utf8();
        let digits = match escape {
            'n' => return Ok(Some('\n')),
            't' => return Ok(Some('\t')),
            'r' => return Ok(Some('\r')),
            '\\' | '"' | '[' | ']' | '-' | '^' | '/' => return Ok(Some(escape)),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => return Err(self.error(start, &format!("\\{other} means nothing"))),
        };
        let hex = self.rest().get(..digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        self.at += if hex.is_some() { digits } else { 0 };
        match code.and_then(char::from_u32) {
            Some(c) => Ok(Some(c)),
            None => {
                Err(self
                    .error(start, &format!("\\{escape} with {digits} digits of a character was expected")))
            }
        }
    }
}
