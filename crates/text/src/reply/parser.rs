//! The state machine that reads a reply.
//!
//! It takes one [`Symbol`] at a time and never looks back at text, so the result cannot depend on
//! how the text was cut, and time and memory are linear. What cannot be decided yet is held: up to
//! two line ends, a tag that has begun, an opening tag whose meaning depends on what follows it.
//!
//! ```text
//! Reasoning ─</think>─▶ Content ─<tool_calls>─▶ AfterOpen ─<invoke>─▶ Block ◀─▶ Invoke ─<parameter>─▶ Value
//!                                                                       │         └─ { ─▶ JsonBody
//!                                                                       └─</tool_calls>─▶ Done
//! ```
//!
//! Well-formed replies take this way. Everything else here is about replies that are not, each
//! deviation noted as a [`Repair`].
//!
//! Start at [`Parser::symbol`]. What text, markers and tags mean in each state is then decided in
//! `text`, `think` and `tag`, which lead to the modules below.

mod calls;
mod end;
mod prose;

use super::call::{Call, ValuePlace};
use super::output::Output;
use super::stop::StopStrings;
use super::symbol::{Symbol, read_spelled};
use super::tag::{OPEN_BLOCK, Step, Tag, TagLexer};
use super::{Event, Repair, ReplyOptions, SamplingState, Start};

#[derive(Debug)]
pub(super) struct Parser {
    options: ReplyOptions,
    state: State,
    /// The tag that is being read.
    lexer: Option<TagLexer>,
    /// Line ends at the end of the text so far, held because a block would swallow them: 0 to 2.
    line_ends: usize,
    /// Everything since the first thing held, or since the block began.
    recent: Vec<Symbol>,
    /// Blank text after a call without a block, held because another call may follow.
    gap: Vec<Symbol>,
    /// Whether calls were found without a block around them.
    orphaned: bool,
    /// How many times calls began.
    blocks: usize,
    /// Whether an opening tag was taken for text; closing tags are then text too.
    quoting: bool,
    call: Option<Call>,
    headers: usize,
    stop: StopStrings,
    out: Output,
}

#[derive(Debug)]
enum State {
    Reasoning,
    Content,
    /// After a tag that opens a block: what follows decides whether it does.
    AfterOpen(Opening),
    Block,
    Invoke,
    Value,
    /// Arguments written as one JSON object.
    JsonBody,
    /// Inside an invoke that cannot be used, up to where it ends.
    Skip(SkipTo),
    Done,
}

/// An opening tag and the white space after it.
#[derive(Debug)]
struct Opening {
    raw: Vec<Symbol>,
    canonical: bool,
    in_reasoning: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SkipTo {
    /// The end of the invoke.
    InvokeEnd,
    /// The next invoke or the end of the block.
    NextInvoke,
}

impl Parser {
    pub fn new(options: ReplyOptions) -> Self {
        let mut parser = Self {
            state: State::Content,
            lexer: None,
            line_ends: 0,
            recent: Vec::new(),
            gap: Vec::new(),
            orphaned: false,
            blocks: 0,
            quoting: false,
            call: None,
            headers: 0,
            stop: StopStrings::new(&options.stop),
            out: Output::default(),
            options,
        };
        match parser.options.start {
            Start::Thinking => parser.state = State::Reasoning,
            Start::Chat => {}
            Start::Block => {
                parser.recent = read_spelled(&format!("\n\n{OPEN_BLOCK}\n"));
                parser.state = State::Block;
                parser.blocks = 1;
            }
        }
        parser
    }

    /// Takes the next symbol.
    pub fn symbol(&mut self, symbol: Symbol) {
        if matches!(self.state, State::Done) {
            return self.after_end(symbol);
        }
        self.recent.push(symbol);
        if matches!(self.state, State::Value) {
            self.value(symbol);
        } else if let Some(lexer) = &mut self.lexer {
            let step = lexer.push(symbol);
            self.step(step, symbol);
        } else if symbol == Symbol::Char('<') && self.options.tools_active {
            self.lexer = Some(TagLexer::new(self.options.recovery));
        } else {
            match symbol {
                Symbol::ThinkOpen | Symbol::ThinkClose => self.think(symbol),
                Symbol::Char(_) | Symbol::Dsml => self.text(symbol),
            }
        }
        self.forget_recent();
    }

    /// Does what the lexer made of `symbol`.
    fn step(&mut self, step: Step, symbol: Symbol) {
        match step {
            Step::More => {}
            Step::Tag(tag) => {
                self.lexer = None;
                self.tag(tag);
            }
            Step::Broken(tag) => {
                self.lexer = None;
                self.recent.pop();
                self.tag(tag);
                self.symbol(symbol);
            }
            Step::Text(raw) => {
                self.lexer = None;
                self.recent.pop();
                raw.into_iter().for_each(|read| self.text(read));
                self.symbol(symbol);
            }
        }
    }

    /// Drops what is decided to be text.
    fn forget_recent(&mut self) {
        let prose = matches!(self.state, State::Reasoning | State::Content);
        if prose && self.line_ends == 0 && self.lexer.is_none() {
            self.recent.clear();
        }
    }

    fn note(&mut self, repair: Repair) {
        self.out.repairs.insert(repair);
    }

    fn note_unless(&mut self, fine: bool, repair: Repair) {
        if !fine {
            self.note(repair);
        }
    }

    fn is_declared(&self, tag: &Tag) -> bool {
        tag.name.as_ref().is_some_and(|name| self.options.declared_tools.contains(name))
    }

    fn text(&mut self, symbol: Symbol) {
        match &mut self.state {
            State::Reasoning | State::Content => self.prose(symbol),
            State::AfterOpen(opening) if symbol.is_blank() => opening.raw.push(symbol),
            State::AfterOpen(_) => {
                self.quote_opening();
                self.prose(symbol);
            }
            State::Block if self.orphaned && symbol.is_blank() => self.gap.push(symbol),
            State::Block if symbol.is_blank() => {}
            State::Block if self.orphaned => {
                self.leave_orphans();
                self.prose(symbol);
            }
            State::Block => self.note(Repair::JunkInBlock),
            State::Invoke => self.text_in_invoke(symbol),
            State::JsonBody => {
                if let Some(call) = &mut self.call {
                    call.push_body(symbol);
                }
            }
            State::Skip(_) | State::Value | State::Done => {}
        }
    }

    fn think(&mut self, marker: Symbol) {
        match (&self.state, marker) {
            (State::AfterOpen(_), _) => {
                self.quote_opening();
                self.think(marker);
            }
            (State::Block, _) if self.orphaned => {
                self.leave_orphans();
                self.think(marker);
            }
            (State::Reasoning, Symbol::ThinkClose) => {
                self.release_line_ends();
                self.state = State::Content;
            }
            (State::Reasoning, _) if !self.out.has_reasoning => {
                self.release_line_ends();
                self.note(Repair::DuplicateThinkOpen);
            }
            (State::Content, Symbol::ThinkClose) => {
                self.release_line_ends();
                self.note(Repair::ExtraThinkClose);
            }
            (State::Content, _) if !self.out.has_content => {
                self.release_line_ends();
                if !self.is_done() {
                    self.flush_stop_strings();
                    self.note(Repair::ThinkReopened);
                    self.state = State::Reasoning;
                }
            }
            _ => self.text(marker),
        }
    }

    fn tag(&mut self, tag: Tag) {
        match &self.state {
            State::Reasoning | State::Content => self.tag_in_prose(tag),
            State::AfterOpen(_) => self.tag_after_open(tag),
            State::Block => self.tag_in_block(tag),
            State::Invoke => self.tag_in_invoke(tag),
            State::JsonBody => self.tag_in_json_body(tag),
            State::Skip(to) => {
                let to = *to;
                self.tag_in_skipped(to, tag);
            }
            State::Value | State::Done => {}
        }
    }

    /// Whether what follows is reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning)
    }

    /// Whether nothing that could follow matters.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.out.events)
    }

    /// How to sample the next token, if `held` was read beyond the last symbol.
    pub fn sampling_state(&self, held: &str) -> SamplingState {
        match &self.state {
            State::Reasoning | State::Content | State::Done => SamplingState::Outside,
            State::AfterOpen(_) | State::Block | State::Invoke | State::Skip(_) => SamplingState::Structure,
            State::Value | State::JsonBody => match self.call.as_ref().map(|call| call.value_place(held)) {
                Some(ValuePlace::String) => SamplingState::StringValue,
                Some(ValuePlace::JsonStructure) => SamplingState::JsonStructure,
                Some(ValuePlace::JsonString) => SamplingState::JsonString,
                Some(ValuePlace::Closing) | None => SamplingState::Structure,
            },
        }
    }
}
