//! The end of a reply, wherever it comes.

use super::super::symbol::Symbol;
use super::super::tag::{TagLexer, begins_block};
use super::super::{Finish, FinishReason, Reply};
use super::{Parser, Repair, State};
use crate::Prompt;

impl Parser {
    pub(super) fn after_end(&mut self, symbol: Symbol) {
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
}
