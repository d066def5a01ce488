//! Constraints: what a reply may say, enforced token by token.
//!
//! [`Rules`] say what is wanted in the words of requests: content of some [`Shape`], calls of some
//! [`Tool`]s. [`Constraints::build`], once per request and on any thread, makes a [`Constraint`] of them, which
//! goes into [`Request::constraint`](crate::Request). While the reply is written, every token that could not
//! be continued to a reply the rules allow is given the logit minus infinity before one is chosen.
//!
//! How this meets the rest of a reply:
//!
//! - *Reasoning is free.* The rules hold from `</think>` on. While the model reasons it can neither end its turn
//!   nor call a tool: where it wants to end, it closes its reasoning.
//! - *Calls* are written in the model's own markup ([`text::reply`]), of which only well-formed spellings are
//!   possible, with the control token where the markup has one. With [`Calls::Auto`] the rules begin where
//!   the model opens a block, so prose costs nothing.
//! - *The end*: the token that ends the turn is possible where the rules are fulfilled; where nothing else is,
//!   the reply ends by itself. A reply may still be cut off by a limit.
//! - *Probabilities* are reported before masks, as without a constraint.
//!
//! The grammar engine is the crate `llguidance`. Its work is bounded: rules that are too large or too involved
//! are refused when they are built, and a step that becomes too expensive ends that request with an error.

mod calls;
mod follower;
mod gbnf;
mod grammar;
mod masking;
mod vocabulary;

use crate::constraint::grammar::Grammars;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use text::{Marker, Tokenizer};

pub(crate) use masking::Masking;

/// The largest schema, grammar or set of choices or tools, in bytes.
pub const MAX_RULES: usize = 256 << 10;

/// The longest regular expression, and the longest pattern in a schema, in bytes.
pub const MAX_REGEX: usize = 8 << 10;

/// How many grammars are kept ready, those used last.
const KEPT: usize = 32;

/// What a reply may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What the content must look like; `None` leaves it free.
    pub content: Option<Shape>,
    /// The tools that may be called.
    pub tools: Vec<Tool>,
    /// Whether they have to be.
    pub calls: Calls,
    /// Whether a reply has at most one call.
    pub single_call: bool,
}

/// What content must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes. Properties come in the order of the schema.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// Whether a keyword that cannot be enforced is an error. If not, it is left out, and
        /// [`Constraint::warnings`] says so.
        strict: bool,
    },
    /// Text that a regular expression matches, all of it.
    Regex(String),
    /// One of these.
    Choice(Vec<String>),
    /// Text of a grammar in llguidance's variant of Lark.
    Lark(String),
    /// Text of a grammar in GBNF, as llama.cpp has it. Tokens cannot be named in it.
    Gbnf(String),
}

impl Shape {
    /// Text of a grammar, in GBNF if a line begins with a rule of that, else in Lark.
    pub fn grammar(text: String) -> Shape {
        let is_rule = |line: &str| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let rest = line.trim_start().trim_start_matches(is_part);
            rest.len() < line.trim_start().len() && rest.trim_start().starts_with("::=")
        };
        if text.lines().any(is_rule) { Shape::Gbnf(text) } else { Shape::Lark(text) }
    }
}

/// A tool that may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its parameters; `null` if it has none.
    pub parameters: Value,
    /// Whether arguments must follow the schema exactly: the required parameters are there, in the schema's
    /// order, and values are as described. If not, only parameters' names, and whether a value is text or
    /// JSON, are held to the schema.
    pub strict: bool,
    /// What the text of its parameter must look like, of which there has to be one: a tool that takes plain text.
    pub input: Option<Shape>,
}

impl Tool {
    /// Whether its calls have to be as they are described.
    fn is_strict(&self) -> bool {
        self.strict || self.input.is_some()
    }
}

/// Whether tools have to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// As the model likes. Calls of strict tools follow their schema.
    #[default]
    Auto,
    /// The reply is calls and nothing else.
    Required,
    /// The reply is a call of this tool, or several.
    Named(String),
}

/// Why rules are refused, or could not be enforced to the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// Too long to look at.
    #[error("{what} has {found} bytes; at most {most} are accepted")]
    TooLarge {
        /// Which part of them.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// Something in them is wrong, not supported, or too involved.
    #[error("{what}: {why}")]
    Invalid {
        /// Which part: `JSON schema`, `regular expression`, `tool "name"`...
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A call is wanted of a tool that is not there.
    #[error("a call of tool {0:?} is required, but it is not declared")]
    UnknownTool(String),
    /// A call is wanted, but there are no tools.
    #[error("calls are required, but no tools are declared")]
    NoTools,
    /// The markup of calls cannot be written.
    #[error("no tool calls with this model: its vocabulary lacks {0}")]
    NoMarker(Marker),
    /// A step of the grammar cost more than it may.
    #[error("the rules became too involved to enforce after {tokens} tokens: {why}")]
    TooComplex {
        /// Tokens of the reply so far that they applied to.
        tokens: usize,
        /// The limit that was reached.
        why: String,
    },
}

impl ConstraintError {
    /// The same, in a part of the rules.
    fn of(self, part: &str) -> ConstraintError {
        match self {
            ConstraintError::Invalid { what, why } => {
                ConstraintError::Invalid { what: part.to_owned(), why: format!("{what}: {why}") }
            }
            other => other,
        }
    }
}

/// Makes constraints for one model. Cheap to clone and to make: the vocabulary is prepared at the first use,
/// which takes about a fifth of a second for 129,280 tokens.
#[derive(Clone)]
pub struct Constraints(Arc<Shared>);

struct Shared {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<Arc<ParserFactory>>,
    kept: Mutex<Kept>,
}

/// Constraints that were built, with the time of their last use.
#[derive(Default)]
struct Kept {
    clock: u64,
    by_rules: HashMap<[u8; 32], (u64, Constraint)>,
}

/// Rules at work: immutable, shared by all replies that follow them.
#[derive(Clone)]
pub struct Constraint(Arc<Compiled>);

struct Compiled {
    /// At its beginning.
    matcher: Matcher,
    begin: Begin,
    warnings: Vec<String>,
    /// The texts of tools that take plain text.
    inputs: Vec<Input>,
}

/// The text that a tool takes: where it begins, and its grammar. The text ends before `</` and a control token. A
/// grammar may have such letters in its own text, and then only the control token tells that the text has ended; so
/// what is before it is looked at once more when that is about to come.
struct Input {
    /// What is said before it after the control token of its call.
    tool: String,
    /// And after that of its parameter.
    head: String,
    /// At its beginning.
    matcher: Matcher,
}

/// Where the rules begin to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// With the content, or the block that takes its place.
    Content,
    /// Where a block is opened; until then everything is allowed.
    Block,
}

impl Constraints {
    /// Constraints for replies in this vocabulary.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Constraints(Arc::new(Shared { tokenizer, factory: OnceLock::new(), kept: Mutex::default() }))
    }

    /// Makes rules ready to be enforced; `None` if they allow everything. The same rules are made once.
    ///
    /// Takes from under a millisecond to a few hundred for the largest schemas: best not on a thread that
    /// serves others.
    ///
    /// # Errors
    ///
    /// If the rules contradict themselves, use what is not supported, or are too large or involved.
    pub fn build(&self, rules: &Rules) -> Result<Option<Constraint>, ConstraintError> {
        let Some((grammars, begin)) = Grammars::new(rules, &self.0.tokenizer)? else { return Ok(None) };
        let key = grammars.hash(begin);
        if let Some(constraint) = self.kept(|kept| kept.get(&key)) {
            return Ok(Some(constraint));
        }
        let constraint = grammars.compile(self.factory(), begin)?;
        self.kept(|kept| kept.insert(key, constraint.clone()));
        Ok(Some(constraint))
    }

    fn factory(&self) -> Arc<ParserFactory> {
        self.0.factory.get_or_init(|| Arc::new(vocabulary::factory(self.0.tokenizer.clone()))).clone()
    }

    fn kept<T>(&self, with: impl FnOnce(&mut Kept) -> T) -> T {
        with(&mut self.0.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn get(&mut self, key: &[u8; 32]) -> Option<Constraint> {
        self.clock += 1;
        let (used, constraint) = self.by_rules.get_mut(key)?;
        *used = self.clock;
        Some(constraint.clone())
    }

    fn insert(&mut self, key: [u8; 32], constraint: Constraint) {
        while self.by_rules.len() >= KEPT {
            let oldest = self.by_rules.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            oldest.map(|key| self.by_rules.remove(&key));
        }
        self.clock += 1;
        self.by_rules.insert(key, (self.clock, constraint));
    }
}

impl Constraint {
    /// What of the rules is not enforced, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("begin", &self.0.begin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
