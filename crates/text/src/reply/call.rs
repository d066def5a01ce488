//! A tool call while it is being read, and the arguments that come out of it.

use std::collections::HashMap;

use serde::de::IgnoredAny;

use super::symbol::{Symbol, spelled};
use crate::json::{write_escaped, write_string};

/// A call whose opening tag was read.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// Counts the calls of the reply whose header was sent.
    pub index: usize,
    pub name: String,
    /// Whether something was read that is neither a parameter nor blank.
    pub has_junk: bool,
    /// Name and JSON text of each parameter.
    parameters: Vec<(String, String)>,
    places: HashMap<String, usize>,
    /// The parameter being read.
    value: Option<Value>,
    /// Arguments written as one JSON object instead of parameters.
    body: String,
    body_cursor: JsonCursor,
}

/// A parameter whose opening tag was read.
#[derive(Debug)]
struct Value {
    name: String,
    is_string: bool,
    /// A string: JSON text so far. Anything else: the text so far.
    text: String,
    closing: Vec<Symbol>,
    /// How much of `closing` was just read.
    matched: usize,
    cursor: JsonCursor,
}

/// Where a value that is being read stands, for the choice of how to sample on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValuePlace {
    String,
    JsonStructure,
    JsonString,
    Closing,
}

/// What a symbol inside a value means.
pub(super) enum ValueStep {
    More,
    /// The closing tag is complete. `valid` is false if the value should have been JSON and was not.
    Closed {
        valid: bool,
    },
}

impl Call {
    pub fn new(index: usize, name: String) -> Self {
        Self { index, name, ..Self::default() }
    }

    /// Whether arguments could still come as one JSON object.
    pub fn is_bare(&self) -> bool {
        self.parameters.is_empty() && !self.has_junk
    }

    /// Begins a parameter. Returns the text to stream and whether there was one of that name.
    pub fn begin_value(&mut self, name: String, is_string: bool, closing: Vec<Symbol>) -> (String, bool) {
        let mut delta = if self.parameters.is_empty() { "{" } else { ", " }.to_owned();
        write_string(&name, &mut delta);
        delta.push_str(if is_string { ": \"" } else { ": " });
        let is_double = self.places.contains_key(&name);
        let text = if is_string { "\"" } else { "" }.to_owned();
        self.value =
            Some(Value { name, is_string, text, closing, matched: 0, cursor: JsonCursor::default() });
        (delta, is_double)
    }

    /// Takes the next symbol of a value and appends the text to stream to `delta`.
    pub fn push_value(&mut self, symbol: Symbol, delta: &mut String) -> ValueStep {
        let Some(value) = &mut self.value else { return ValueStep::Closed { valid: true } };
        // `<` is only at the front of the closing tag, so a mismatch can restart there alone.
        if value.closing[value.matched] != symbol {
            let text = spelled(&value.closing[..std::mem::take(&mut value.matched)]);
            value.push(&text, delta);
        }
        if value.closing[value.matched] != symbol {
            let mut text = String::new();
            symbol.spell(&mut text);
            value.push(&text, delta);
            return ValueStep::More;
        }
        value.matched += 1;
        if value.matched < value.closing.len() {
            return ValueStep::More;
        }
        let valid = value.close(delta);
        self.keep_value();
        ValueStep::Closed { valid }
    }

    fn keep_value(&mut self) {
        let Some(Value { name, text, .. }) = self.value.take() else { return };
        match self.places.get(&name) {
            Some(&place) => self.parameters[place].1 = text,
            None => {
                self.places.insert(name.clone(), self.parameters.len());
                self.parameters.push((name, text));
            }
        }
    }

    /// Takes the next symbol of a JSON object.
    pub fn push_body(&mut self, symbol: Symbol) {
        let from = self.body.len();
        symbol.spell(&mut self.body);
        self.body_cursor.push(&self.body[from..]);
    }

    /// Ends a JSON object; `None` if it is none.
    pub fn close_body(&self) -> Option<String> {
        let body = self.body.trim();
        (is_json(body) && body.starts_with('{')).then(|| body.to_owned())
    }

    /// The arguments as JSON text, and the end of the streamed text.
    pub fn close(&self) -> (String, &'static str) {
        let mut arguments = String::from("{");
        for (at, (name, json)) in self.parameters.iter().enumerate() {
            arguments.push_str(if at > 0 { ", " } else { "" });
            write_string(name, &mut arguments);
            arguments.push_str(": ");
            arguments.push_str(json);
        }
        arguments.push('}');
        (arguments, if self.parameters.is_empty() { "{}" } else { "}" })
    }

    /// Where the value being read stands if `held` was read after it.
    pub fn value_place(&self, held: &str) -> ValuePlace {
        let Some(value) = &self.value else { return self.body_cursor.place() };
        let (read, rest) = value.closing.split_at(value.matched);
        let tail = spelled(read).len() + held.len();
        if tail >= 2 && spelled(rest).starts_with(held) {
            ValuePlace::Closing
        } else if value.is_string {
            ValuePlace::String
        } else {
            value.cursor.place()
        }
    }
}

impl Value {
    fn push(&mut self, text: &str, delta: &mut String) {
        if self.is_string {
            let from = self.text.len();
            write_escaped(text, &mut self.text);
            delta.push_str(&self.text[from..]);
        } else {
            self.text.push_str(text);
            self.cursor.push(text);
        }
    }

    /// Makes `text` the JSON of the value. False if it should have been JSON and was not.
    fn close(&mut self, delta: &mut String) -> bool {
        if self.is_string {
            self.text.push('"');
            delta.push('"');
            return true;
        }
        let valid = is_json(&self.text);
        if !valid {
            let text = std::mem::take(&mut self.text);
            write_string(&text, &mut self.text);
        }
        delta.push_str(&self.text);
        valid
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Knows whether JSON text that is being written is inside quotes.
#[derive(Clone, Copy, Debug, Default)]
struct JsonCursor {
    quoted: bool,
    escaped: bool,
}

impl JsonCursor {
    fn push(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = self.quoted,
                '"' => self.quoted = !self.quoted,
                _ => {}
            }
        }
    }

    fn place(self) -> ValuePlace {
        if self.quoted { ValuePlace::JsonString } else { ValuePlace::JsonStructure }
    }
}
