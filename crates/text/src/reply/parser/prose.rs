//! Reasoning and content, and the border where they end and calls begin.

use super::super::symbol::Symbol;
use super::super::tag::{Tag, TagKind};
use super::{Opening, Parser, Repair, State};

impl Parser {
    pub(super) fn tag_in_prose(&mut self, tag: Tag) {
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
    pub(super) fn prose(&mut self, symbol: Symbol) {
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

    pub(super) fn release_line_ends(&mut self) {
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
            return self.out.reasoning(&text);
        }
        // Text that a stop string may still take back counts, too.
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

    pub(super) fn flush_stop_strings(&mut self) {
        let mut content = String::new();
        self.stop.flush(&mut content);
        self.out.content(&content);
    }

    pub(super) fn tag_after_open(&mut self, tag: Tag) {
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
    pub(super) fn quote_opening(&mut self) {
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
    pub(super) fn enter_block(&mut self, length: usize) {
        let keep = length + std::mem::take(&mut self.line_ends);
        self.recent.drain(..self.recent.len().saturating_sub(keep));
        self.flush_stop_strings();
        self.blocks += 1;
        self.state = State::Block;
    }

    /// After calls without a block, something that is neither call nor blank: it is content.
    pub(super) fn leave_orphans(&mut self) {
        self.state = State::Content;
        std::mem::take(&mut self.gap).into_iter().for_each(|symbol| self.prose(symbol));
    }
}
