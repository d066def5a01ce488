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
//! deviation noted as a [`Repair`]. Start at [`Parser::symbol`].

use std::collections::BTreeSet;

use super::call::{Call, ValuePlace, ValueStep};
use super::stop::StopStrings;
use super::symbol::{Symbol, read_spelled};
use super::tag::{OPEN_BLOCK, Step, Tag, TagKind, TagLexer, begins_block, closing_parameter};
use super::{Event, Finish, FinishReason, Repair, Reply, ReplyCall, ReplyOptions, SamplingState, Start};
use crate::Prompt;

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

/// What has come out.
#[derive(Debug, Default)]
struct Output {
    events: Vec<Event>,
    reasoning: String,
    content: String,
    calls: Vec<ReplyCall>,
    repairs: BTreeSet<Repair>,
    stop_string: Option<String>,
    has_reasoning: bool,
    has_content: bool,
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

    fn step(&mut self, step: Step, symbol: Symbol) {
        if matches!(step, Step::More) {
            return;
        }
        self.lexer = None;
        match step {
            Step::Tag(tag) if !tag.broken => self.tag(tag),
            Step::More => {}
            other => {
                // The symbol is not part of what was read.
                self.recent.pop();
                match other {
                    Step::Tag(tag) => self.tag(tag),
                    Step::Text(raw) => raw.into_iter().for_each(|read| self.text(read)),
                    Step::More => {}
                }
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

    // What each kind of thing means in each state.

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
            State::JsonBody => self.call.iter_mut().for_each(|call| call.push_body(symbol)),
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

    // Reasoning and content.

    fn tag_in_prose(&mut self, tag: Tag) {
        let in_content = matches!(self.state, State::Content);
        match tag.kind {
            TagKind::Block if !tag.closing => {
                let Tag { raw, canonical, .. } = tag;
                self.state = State::AfterOpen(Opening { raw, canonical, in_reasoning: !in_content });
            }
            TagKind::Invoke
                if !tag.closing && in_content && self.options.recovery && self.is_declared(&tag) =>
            {
                self.note(Repair::MissingBlockOpen);
                self.orphaned = true;
                self.enter_block(tag.raw.len());
                self.tag_in_block(tag);
            }
            _ if tag.closing && tag.canonical && !self.quoting => {
                self.release_line_ends();
                self.note(Repair::StrayClose);
            }
            _ => {
                self.quoting |= !tag.closing;
                tag.raw.into_iter().for_each(|symbol| self.prose(symbol));
            }
        }
    }

    /// Takes a symbol of the text. Line ends wait, if a block could follow.
    fn prose(&mut self, symbol: Symbol) {
        if symbol == Symbol::Char('\n') && self.options.tools_active {
            if self.line_ends < 2 {
                self.line_ends += 1;
            } else {
                self.write(symbol);
            }
        } else {
            self.release_line_ends();
            self.write(symbol);
        }
    }

    fn release_line_ends(&mut self) {
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.write(Symbol::Char('\n'));
        }
    }

    /// Sends a symbol out as reasoning or content, unless a stop string has ended the reply.
    fn write(&mut self, symbol: Symbol) {
        if self.is_done() {
            return;
        }
        let mut text = String::new();
        symbol.spell(&mut text);
        if matches!(self.state, State::Reasoning) {
            self.out.has_reasoning |= !symbol.is_blank();
            return self.out.reasoning(&text);
        }
        self.out.has_content |= !symbol.is_blank();
        for c in text.chars() {
            let mut content = String::new();
            let hit = self.stop.push(c, &mut content);
            self.out.content(&content);
            if hit.is_some() {
                self.out.stop_string = hit;
                self.state = State::Done;
                return;
            }
        }
    }

    fn flush_stop_strings(&mut self) {
        let mut content = String::new();
        self.stop.flush(&mut content);
        self.out.content(&content);
    }

    // The border between text and calls.

    fn tag_after_open(&mut self, tag: Tag) {
        let State::AfterOpen(opening) = &self.state else { return };
        let trusted = opening.canonical && !opening.in_reasoning;
        let length = opening.raw.len() + tag.raw.len();
        match (tag.kind, tag.closing) {
            (TagKind::Invoke, false) if trusted || self.is_declared(&tag) => {
                let (canonical, in_reasoning) = (opening.canonical, opening.in_reasoning);
                self.note_unless(canonical, Repair::NearMissMarkup);
                self.note_unless(!in_reasoning, Repair::ToolInReasoning);
                self.orphaned = false;
                self.enter_block(length);
                self.tag_in_block(tag);
            }
            (TagKind::Block, true) if trusted => {
                self.note(Repair::EmptyBlock);
                self.line_ends = 0;
                self.state = State::Content;
            }
            _ => {
                self.quote_opening();
                self.tag(tag);
            }
        }
    }

    /// The tag that seemed to open a block is text, and so is the white space after it.
    fn quote_opening(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Content);
        let State::AfterOpen(opening) = state else { return };
        if opening.in_reasoning {
            self.state = State::Reasoning;
        }
        self.note_unless(!opening.canonical, Repair::QuotedMarkup);
        self.quoting = true;
        opening.raw.into_iter().for_each(|symbol| self.prose(symbol));
    }

    /// Calls begin: the last `length` symbols, and the line ends before them, are markup.
    fn enter_block(&mut self, length: usize) {
        let keep = length + std::mem::take(&mut self.line_ends);
        self.recent.drain(..self.recent.len().saturating_sub(keep));
        self.flush_stop_strings();
        self.blocks += 1;
        self.state = State::Block;
    }

    /// After calls without a block, something that is neither call nor blank: it is content.
    fn leave_orphans(&mut self) {
        self.state = State::Content;
        std::mem::take(&mut self.gap).into_iter().for_each(|symbol| self.prose(symbol));
    }

    // Calls.

    fn tag_in_block(&mut self, tag: Tag) {
        let opens_invoke = tag.kind == TagKind::Invoke && !tag.closing;
        let closes_block = tag.kind == TagKind::Block && tag.closing;
        if self.orphaned && !closes_block && !(opens_invoke && self.is_declared(&tag)) {
            self.leave_orphans();
            return self.tag(tag);
        }
        self.gap.clear();
        if closes_block {
            self.note_unless(tag.canonical, Repair::NearMissMarkup);
            self.state = State::Done;
        } else if !opens_invoke {
            self.note(Repair::JunkInBlock);
        } else if let Some(name) = tag.name {
            self.note_unless(tag.canonical, Repair::NearMissMarkup);
            self.open_call(name);
            if tag.self_closing {
                self.close_call();
            }
        } else {
            self.note(Repair::MalformedInvoke);
            self.state = State::Skip(SkipTo::NextInvoke);
        }
    }

    fn open_call(&mut self, name: String) {
        let index = self.headers;
        self.headers += 1;
        self.out.events.push(Event::CallStart { index, name: name.clone() });
        self.call = Some(Call::new(index, name));
        self.state = State::Invoke;
    }

    fn close_call(&mut self) {
        self.state = State::Block;
        if let Some(call) = self.call.take() {
            let (arguments, end) = call.close();
            self.out.arguments(call.index, end);
            self.out.call(call, arguments);
        }
    }

    /// The call cannot be used; nothing more is said about it.
    fn drop_call(&mut self, repair: Repair) {
        self.note(repair);
        if let Some(call) = self.call.take() {
            self.out.events.push(Event::CallDropped { index: call.index });
        }
    }

    fn text_in_invoke(&mut self, symbol: Symbol) {
        let Some(call) = &mut self.call else { return };
        if symbol == Symbol::Char('{') && call.is_bare() {
            call.push_body(symbol);
            self.state = State::JsonBody;
        } else if !symbol.is_blank() {
            call.has_junk = true;
            self.note(Repair::JunkInInvoke);
        }
    }

    fn tag_in_invoke(&mut self, tag: Tag) {
        match (tag.kind, tag.closing) {
            (TagKind::Parameter, false) => self.open_parameter(tag),
            (TagKind::Invoke, true) => {
                self.note_unless(tag.canonical, Repair::NearMissMarkup);
                self.close_call();
            }
            (TagKind::Block, true) | (TagKind::Invoke, false) => {
                self.note(Repair::MissingInvokeClose);
                self.close_call();
                self.tag_in_block(tag);
            }
            _ => {
                self.call.iter_mut().for_each(|call| call.has_junk = true);
                self.note(Repair::JunkInInvoke);
            }
        }
    }

    fn open_parameter(&mut self, tag: Tag) {
        let closing = closing_parameter(&tag);
        let is_string = match tag.string.as_deref() {
            None | Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => None,
        };
        let (Some(name), Some(is_string), Some(call)) = (tag.name, is_string, &mut self.call) else {
            self.drop_call(Repair::MalformedInvoke);
            self.state = State::Skip(SkipTo::InvokeEnd);
            return;
        };
        let (delta, is_double) = call.begin_value(name, is_string, closing);
        self.out.arguments(call.index, &delta);
        self.state = State::Value;
        self.note_unless(tag.canonical, Repair::NearMissMarkup);
        self.note_unless(tag.string.is_some(), Repair::MissingStringAttr);
        self.note_unless(!is_double, Repair::DuplicateParameter);
    }

    fn value(&mut self, symbol: Symbol) {
        let Some(call) = &mut self.call else { return };
        let mut delta = String::new();
        let step = call.push_value(symbol, &mut delta);
        self.out.arguments(call.index, &delta);
        if let ValueStep::Closed { valid } = step {
            self.state = State::Invoke;
            self.note_unless(valid, Repair::ParamJsonInvalid);
        }
    }

    fn tag_in_json_body(&mut self, tag: Tag) {
        if tag.kind != TagKind::Invoke || !tag.closing {
            return tag.raw.into_iter().for_each(|symbol| self.text(symbol));
        }
        self.state = State::Block;
        self.note_unless(tag.canonical, Repair::NearMissMarkup);
        let Some(call) = self.call.as_mut() else { return };
        let Some(arguments) = call.close_body() else { return self.drop_call(Repair::MalformedInvoke) };
        self.note(Repair::JsonBody);
        if let Some(call) = self.call.take() {
            self.out.arguments(call.index, &arguments);
            self.out.call(call, arguments);
        }
    }

    fn tag_in_skipped(&mut self, to: SkipTo, tag: Tag) {
        match (tag.kind, tag.closing) {
            (TagKind::Invoke, true) if to == SkipTo::InvokeEnd => self.state = State::Block,
            (TagKind::Invoke, false) | (TagKind::Block, true) => {
                self.state = State::Block;
                self.tag_in_block(tag);
            }
            _ => {}
        }
    }

    // The end.

    /// Whether nothing that could follow matters.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn after_end(&mut self, symbol: Symbol) {
        if self.out.stop_string.is_some() {
            return;
        }
        if symbol.is_blank() && !self.out.repairs.contains(&Repair::TextAfterToolBlock) {
            // It may share a token with the end of the block, and then was sampled with it.
            self.recent.push(symbol);
        } else if !symbol.is_blank() {
            self.note(Repair::TextAfterToolBlock);
        }
    }

    /// Whether what was read could be the beginning of a tag that opens a block, and would leak if
    /// it were text. `held` was read after it.
    pub fn ends_in_opening(&self, held: &str, by_spelling: bool) -> bool {
        let read = self.lexer.as_ref().map(TagLexer::raw).unwrap_or_default();
        matches!(self.state, State::Content)
            && self.options.tools_active
            && begins_block(read, held, by_spelling)
    }

    /// The reply is cut off inside a tag that opens a block: the tag is dropped.
    pub fn drop_opening(&mut self) {
        self.note(Repair::TruncatedBlock);
        self.lexer = None;
        self.line_ends = 0;
    }

    /// There is nothing more to read: what is held is decided.
    pub fn end(&mut self, finish: Finish) {
        let finish = self.effective(finish);
        let lexer = self.lexer.take();
        self.end_state(lexer.as_ref(), finish);
        self.release_line_ends();
        self.flush_stop_strings();
        if self.blocks > 0 && self.out.calls.is_empty() && finish == Finish::Stop {
            self.note(Repair::MalformedBlock);
        }
    }

    /// A stop string ended the reply, whatever else did.
    fn effective(&self, finish: Finish) -> Finish {
        if self.out.stop_string.is_some() { Finish::Stop } else { finish }
    }

    /// The whole reply, after [`Self::end`].
    pub fn into_reply(self, finish: Finish) -> Reply {
        let has_calls = !self.out.calls.is_empty();
        Reply {
            finish_reason: match self.effective(finish) {
                Finish::Length => FinishReason::Length,
                Finish::Stop if has_calls => FinishReason::ToolCalls,
                Finish::Stop => FinishReason::Stop,
            },
            block: self.sampled_block().filter(|_| has_calls),
            reasoning_content: self.out.reasoning,
            content: self.out.content,
            tool_calls: self.out.calls,
            recovered: self.out.repairs,
            stop_string: self.out.stop_string,
        }
    }

    /// The reply ends in this state, perhaps inside a tag.
    fn end_state(&mut self, lexer: Option<&TagLexer>, finish: Finish) {
        let raw = lexer.map(TagLexer::raw).unwrap_or_default();
        match &self.state {
            State::Reasoning | State::Content => raw.iter().for_each(|&symbol| self.prose(symbol)),
            State::AfterOpen(opening) if opening.canonical && !opening.in_reasoning => {
                self.orphaned = false;
                self.enter_block(opening.raw.len() + raw.len());
                self.end_state(lexer, finish);
            }
            State::AfterOpen(_) => {
                self.quote_opening();
                raw.iter().for_each(|&symbol| self.prose(symbol));
            }
            State::Block if lexer.is_some_and(TagLexer::is_invoke) => self.note(Repair::TruncatedCall),
            State::Block if self.orphaned && raw.is_empty() => {}
            State::Block if self.orphaned => {
                self.leave_orphans();
                raw.iter().for_each(|&symbol| self.prose(symbol));
            }
            State::Block | State::Skip(_) => self.note(match finish {
                Finish::Stop => Repair::MissingBlockClose,
                Finish::Length => Repair::TruncatedBlock,
            }),
            State::Invoke | State::Value | State::JsonBody => self.drop_call(Repair::TruncatedCall),
            State::Done => {}
        }
    }

    /// The block as it was sampled, if it was one, nothing came after it and all of it was text.
    fn sampled_block(&self) -> Option<Prompt> {
        let in_block = !matches!(self.state, State::Reasoning | State::Content | State::AfterOpen(_));
        let is_text = !self.recent.contains(&Symbol::Char(char::REPLACEMENT_CHARACTER));
        (self.blocks == 1 && in_block && is_text).then(|| {
            let mut block = Prompt::new();
            let mut text = String::new();
            for symbol in &self.recent {
                match symbol.marker() {
                    None => symbol.spell(&mut text),
                    Some(marker) => {
                        block.text(&std::mem::take(&mut text));
                        block.marker(marker);
                    }
                }
            }
            block.text(&text);
            block
        })
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

impl Output {
    fn reasoning(&mut self, text: &str) {
        self.reasoning.push_str(text);
        match self.events.last_mut() {
            Some(Event::Reasoning(delta)) => delta.push_str(text),
            _ => self.events.push(Event::Reasoning(text.to_owned())),
        }
    }

    fn content(&mut self, text: &str) {
        self.content.push_str(text);
        match self.events.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Content(delta)) => delta.push_str(text),
            _ => self.events.push(Event::Content(text.to_owned())),
        }
    }

    fn arguments(&mut self, index: usize, text: &str) {
        match self.events.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Arguments { delta, .. }) => delta.push_str(text),
            _ => self.events.push(Event::Arguments { index, delta: text.to_owned() }),
        }
    }

    fn call(&mut self, call: Call, arguments: String) {
        self.events.push(Event::CallEnd { index: call.index });
        self.calls.push(ReplyCall { index: call.index, name: call.name, arguments });
    }
}
