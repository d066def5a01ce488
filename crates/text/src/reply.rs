//! What the model generates, as a message.
//!
//! A reply is reasoning, content and tool calls in the model's own markup:
//!
//! ```text
//! reply     = [reasoning </think>] content [LF LF block]
//! block     = <｜DSML｜tool_calls> LF *(invoke LF) </｜DSML｜tool_calls>
//! invoke    = <｜DSML｜invoke name="…"> LF *(parameter LF) </｜DSML｜invoke>
//! parameter = <｜DSML｜parameter name="…" string="true|false">value</｜DSML｜parameter>
//! ```
//!
//! Models do not always write it well. [`ReplyParser`] makes the best of what comes, says what it had
//! to repair, never loses text that may be meant for the user and never makes a call out of half of
//! one. A marker counts only as the control token; where only text is known, its spelling counts.
//!
//! Source: the reference parser in `encoding_dsv4.py` for well-formed replies, whose results are
//! the same; the repairs are our decisions, collected in `tests/data/chat/parse_tolerant.json`.

mod call;
mod output;
mod parser;
mod stop;
mod symbol;
mod tag;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::tokenizer::{Tokenizer, UnknownToken};
use crate::utf8::Utf8Stream;
use crate::{Prompt, TokenKind};
use parser::Parser;
pub use stop::StopStrings;
use symbol::{Spelling, Symbol};

/// How a reply is to be read.
#[derive(Clone, Debug, Deserialize)]
pub struct ReplyOptions {
    /// What the prompt ended with.
    pub start: Start,
    /// Whether tools are declared and may be called; if not, tool markup is text.
    pub tools_active: bool,
    /// The names of the tools.
    pub declared_tools: Vec<String>,
    /// Whether misspelt markup, and calls without a block around them, are calls if they name a
    /// declared tool. Output that merely quotes such a misspelling is then a call, too.
    #[serde(default = "yes")]
    pub recovery: bool,
    /// Strings that end the content.
    #[serde(default)]
    pub stop: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Default for ReplyOptions {
    /// A thinking reply without tools.
    fn default() -> Self {
        Self {
            start: Start::Thinking,
            tools_active: false,
            declared_tools: Vec::new(),
            recovery: true,
            stop: Vec::new(),
        }
    }
}

/// What the prompt ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// `<think>`: the reply begins with reasoning.
    Thinking,
    /// `</think>`: the reply begins with content.
    Chat,
    /// The opening of a block: the reply begins with calls.
    Block,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model was done.
    Stop,
    /// It was cut off.
    Length,
}

/// What happened, as it becomes known.
///
/// The deltas of each kind together are the text in the [`Reply`], with two exceptions: a call that
/// is dropped was begun here and is missing there, and of parameters of one name all are here and
/// only the last is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More reasoning.
    Reasoning(String),
    /// More content.
    Content(String),
    /// A call begins.
    CallStart {
        /// Counts the calls that began, from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments, as JSON text.
    Arguments {
        /// The call.
        index: usize,
        /// The text.
        delta: String,
    },
    /// A call is complete: it may be carried out.
    CallEnd {
        /// The call.
        index: usize,
    },
    /// A call that began cannot be used.
    CallDropped {
        /// The call.
        index: usize,
    },
}

/// The whole reply.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reply {
    /// The reasoning, nothing trimmed.
    pub reasoning_content: String,
    /// The content, nothing trimmed.
    pub content: String,
    /// The complete calls.
    pub tool_calls: Vec<ReplyCall>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What had to be repaired.
    pub recovered: BTreeSet<Repair>,
    /// The stop string that ended the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_string: Option<String>,
    /// The calls as they were sampled, separator included: for [`Replay`](crate::chat::Replay).
    /// `None` if there are none, or they cannot be told apart from the content.
    #[serde(skip)]
    pub block: Option<Prompt>,
}

/// A complete call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplyCall {
    /// The index in its events.
    #[serde(skip)]
    pub index: usize,
    /// The tool.
    pub name: String,
    /// The arguments: an object as JSON text. Values are spelled as the model wrote them.
    pub arguments: String,
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done, or a stop string came.
    #[default]
    Stop,
    /// The limit was reached, even if there are complete calls.
    Length,
    /// The model was done and waits for the results of its calls.
    ToolCalls,
}

/// A deviation from well-formed output and what was made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// `<think>` at the beginning of reasoning: dropped.
    DuplicateThinkOpen,
    /// `<think>` before any content: back to reasoning.
    ThinkReopened,
    /// `</think>` in content: dropped.
    ExtraThinkClose,
    /// A call of a declared tool in reasoning: the reasoning ends there.
    ToolInReasoning,
    /// The tag that opens a block without a call after it: text.
    QuotedMarkup,
    /// A block without calls: dropped.
    EmptyBlock,
    /// A closing tag that closes nothing: dropped.
    StrayClose,
    /// Misspelt markup: read as meant.
    NearMissMarkup,
    /// A call of a declared tool without a block: a call.
    MissingBlockOpen,
    /// A block that is not closed: its complete calls stand.
    MissingBlockClose,
    /// The limit was reached between calls: the complete ones stand.
    TruncatedBlock,
    /// The reply ends inside a call: dropped.
    TruncatedCall,
    /// No usable call in a block: only the text before it is left.
    MalformedBlock,
    /// Text between calls: dropped.
    JunkInBlock,
    /// A call without a name, or with parameters that make no sense: dropped.
    MalformedInvoke,
    /// Text between parameters: dropped.
    JunkInInvoke,
    /// A call that is not closed before the next or the end of the block: complete.
    MissingInvokeClose,
    /// Arguments as one JSON object: taken as they are.
    JsonBody,
    /// A value that should be JSON and is not: a string.
    ParamJsonInvalid,
    /// A parameter that does not say whether it is a string: it is.
    MissingStringAttr,
    /// Two parameters of one name: the last counts.
    DuplicateParameter,
    /// Text after the block: dropped.
    TextAfterToolBlock,
}

/// How the next token should be sampled. Markup must be exact, what it carries must not be
/// distorted; greedy decoding of long values would make them repeat themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingState {
    /// In reasoning, content or after the calls: as requested.
    Outside,
    /// In tags, names and the space between them, also when a value has begun to close: greedy.
    Structure,
    /// In a string: as requested.
    StringValue,
    /// In a JSON value, outside quotes: greedy.
    JsonStructure,
    /// In a JSON value, inside quotes: as requested.
    JsonString,
}

impl SamplingState {
    /// Whether the most likely token should be taken.
    pub fn is_greedy(self) -> bool {
        matches!(self, SamplingState::Structure | SamplingState::JsonStructure)
    }
}

/// Reads a reply as it is generated. Any portions of the same text give the same reply.
#[derive(Debug)]
pub struct ReplyParser {
    parser: Parser,
    utf8: Utf8Stream,
    spelling: Spelling,
    /// Whether any text came without tokens.
    by_spelling: bool,
    ended: bool,
}

impl ReplyParser {
    /// A parser at the beginning of a reply.
    pub fn new(options: ReplyOptions) -> Self {
        Self {
            parser: Parser::new(options),
            utf8: Utf8Stream::default(),
            spelling: Spelling::default(),
            by_spelling: false,
            ended: false,
        }
    }

    /// Takes a generated token. Markers count only as control tokens; a token that ends the turn
    /// ends the reply; other control tokens that are not meant to be seen are dropped.
    ///
    /// # Errors
    ///
    /// If the vocabulary has no such token.
    pub fn push_token(&mut self, id: u32, tokenizer: &Tokenizer) -> Result<Vec<Event>, UnknownToken> {
        let bytes = tokenizer.token_bytes(id)?;
        if self.is_done() {
            return Ok(Vec::new());
        }
        let marker = tokenizer.marker(id);
        if let Some(symbol) = marker.and_then(Symbol::of_marker) {
            self.flush_text();
            self.parser.symbol(symbol);
        } else if marker.is_some_and(|marker| marker.ends_reply()) {
            self.ended = true;
        } else if tokenizer.kind(id) != Some(TokenKind::Control) {
            let text = self.utf8.push(bytes);
            text.chars().for_each(|c| self.parser.symbol(Symbol::Char(c)));
        }
        Ok(self.parser.take_events())
    }

    /// Takes generated text of which the tokens are not known: spelled markers count.
    pub fn push_text(&mut self, bytes: &[u8]) -> Vec<Event> {
        if self.ended {
            return Vec::new();
        }
        self.by_spelling = true;
        for c in self.utf8.push(bytes).chars() {
            self.spelling.push(c, &mut |symbol| self.parser.symbol(symbol));
        }
        self.parser.take_events()
    }

    /// Passes on what is held because it was not a whole character or marker.
    fn flush_text(&mut self) {
        let cut = self.utf8.finish();
        self.spelling.flush(&mut |symbol| self.parser.symbol(symbol));
        cut.into_iter().for_each(|c| self.parser.symbol(Symbol::Char(c)));
    }

    /// Whether generation should stop: the turn has ended, the block of calls is closed, or a stop
    /// string came.
    pub fn is_done(&self) -> bool {
        self.ended || self.parser.is_done()
    }

    /// Whether what comes next is reasoning.
    pub fn is_reasoning(&self) -> bool {
        !self.ended && self.parser.is_reasoning()
    }

    /// How the next token should be sampled.
    pub fn sampling_state(&self) -> SamplingState {
        self.parser.sampling_state(self.spelling.held())
    }

    /// Ends the reply: the last events, and the whole of it.
    pub fn finish(mut self, finish: Finish) -> (Vec<Event>, Reply) {
        if self.parser.ends_in_opening(self.spelling.held(), self.by_spelling) {
            self.parser.drop_opening();
        } else {
            self.flush_text();
        }
        self.parser.end(finish);
        (self.parser.take_events(), self.parser.into_reply(finish))
    }
}
