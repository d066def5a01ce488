//! Inside a block of calls.

use super::super::call::{Call, ValueStep};
use super::super::symbol::Symbol;
use super::super::tag::{Tag, TagKind, closing_parameter};
use super::{Event, Parser, Repair, SkipTo, State};

impl Parser {
    pub(super) fn tag_in_block(&mut self, tag: Tag) {
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
    pub(super) fn drop_call(&mut self, repair: Repair) {
        self.note(repair);
        if let Some(call) = self.call.take() {
            self.out.events.push(Event::CallDropped { index: call.index });
        }
    }

    pub(super) fn text_in_invoke(&mut self, symbol: Symbol) {
        let Some(call) = &mut self.call else { return };
        if symbol == Symbol::Char('{') && call.is_bare() {
            call.push_body(symbol);
            self.state = State::JsonBody;
        } else if !symbol.is_blank() {
            self.junk_in_invoke();
        }
    }

    fn junk_in_invoke(&mut self) {
        if let Some(call) = &mut self.call {
            call.has_junk = true;
        }
        self.note(Repair::JunkInInvoke);
    }

    pub(super) fn tag_in_invoke(&mut self, tag: Tag) {
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
            _ => self.junk_in_invoke(),
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

    pub(super) fn value(&mut self, symbol: Symbol) {
        let Some(call) = &mut self.call else { return };
        let mut delta = String::new();
        let step = call.push_value(symbol, &mut delta);
        self.out.arguments(call.index, &delta);
        if let ValueStep::Closed { valid } = step {
            self.state = State::Invoke;
            self.note_unless(valid, Repair::ParamJsonInvalid);
        }
    }

    pub(super) fn tag_in_json_body(&mut self, tag: Tag) {
        if tag.kind != TagKind::Invoke || !tag.closing {
            return tag.raw.into_iter().for_each(|symbol| self.text(symbol));
        }
        self.state = State::Block;
        self.note_unless(tag.canonical, Repair::NearMissMarkup);
        let Some(call) = &self.call else { return };
        let Some(arguments) = call.close_body() else { return self.drop_call(Repair::MalformedInvoke) };
        self.note(Repair::JsonBody);
        if let Some(call) = self.call.take() {
            self.out.arguments(call.index, &arguments);
            self.out.call(call, arguments);
        }
    }

    pub(super) fn tag_in_skipped(&mut self, to: SkipTo, tag: Tag) {
        match (tag.kind, tag.closing) {
            (TagKind::Invoke, true) if to == SkipTo::InvokeEnd => self.state = State::Block,
            (TagKind::Invoke, false) | (TagKind::Block, true) => {
                self.state = State::Block;
                self.tag_in_block(tag);
            }
            _ => {}
        }
    }
}
