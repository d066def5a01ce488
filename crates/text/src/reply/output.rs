//! What has come out of a reply so far: events, and the message that they add up to.

use std::collections::BTreeSet;

use super::call::Call;
use super::{Event, Repair, ReplyCall};

#[derive(Debug, Default)]
pub(super) struct Output {
    /// Not yet taken.
    pub events: Vec<Event>,
    pub reasoning: String,
    pub content: String,
    /// Whether any of the reasoning is not blank.
    pub has_reasoning: bool,
    /// Whether any of the content is not blank.
    pub has_content: bool,
    pub calls: Vec<ReplyCall>,
    pub repairs: BTreeSet<Repair>,
    pub stop_string: Option<String>,
}

impl Output {
    pub fn reasoning(&mut self, text: &str) {
        self.reasoning.push_str(text);
        self.has_reasoning |= !text.trim().is_empty();
        match self.events.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Reasoning(delta)) => delta.push_str(text),
            _ => self.events.push(Event::Reasoning(text.to_owned())),
        }
    }

    pub fn content(&mut self, text: &str) {
        self.content.push_str(text);
        match self.events.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Content(delta)) => delta.push_str(text),
            _ => self.events.push(Event::Content(text.to_owned())),
        }
    }

    /// More of a call's arguments. Those of two calls never meet: the end of one comes between.
    pub fn arguments(&mut self, index: usize, text: &str) {
        match self.events.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Arguments { delta, .. }) => delta.push_str(text),
            _ => self.events.push(Event::Arguments { index, delta: text.to_owned() }),
        }
    }

    /// A call is complete.
    pub fn call(&mut self, call: Call, arguments: String) {
        self.events.push(Event::CallEnd { index: call.index });
        self.calls.push(ReplyCall { index: call.index, name: call.name, arguments });
    }
}
