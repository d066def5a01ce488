//! A response as it is written. Every event is numbered; every item is told complete at its end, for clients build
//! their history from that alone.

use super::input_text::InputText;
use super::items;
use super::object::{Answer, is_cut, text_status};
use super::tools::Kind;
use crate::ids;
use crate::stream::{Codec, Frames};
use crate::voice::{Outcome, Told};
use engine::logprobs::Logprob;
use serde_json::{Value, json};

/// Writes events.
pub(super) struct ResponseStream {
    answer: Answer,
    /// The number of the next event.
    next: u64,
    /// Complete items.
    output: Vec<Value>,
    /// The index of the item that is open, else of the next one. A call that was begun and dropped had one, too.
    index: usize,
    open: Option<Item>,
}

/// An item that is being written.
struct Item {
    id: String,
    body: Body,
}

enum Body {
    Reasoning(String),
    Text { text: String, logprobs: Vec<Logprob> },
    Call { index: usize, call_id: String, function: String, arguments: String, input: InputText },
}

impl ResponseStream {
    pub fn new(answer: Answer) -> ResponseStream {
        ResponseStream { answer, next: 0, output: Vec::new(), index: 0, open: None }
    }

    /// Writes an event of this type with these members.
    fn event(&mut self, kind: &str, mut members: Value, out: &mut Frames) {
        let object = members.as_object_mut().expect("members of an event");
        object.shift_insert(0, "type".to_owned(), json!(kind));
        object.insert("sequence_number".to_owned(), json!(self.next));
        self.next += 1;
        out.event(kind, &members);
    }

    /// Writes an event about the open item.
    fn about(&mut self, kind: &str, mut members: Value, out: &mut Frames) {
        let id = self.open.as_ref().map(|item| item.id.clone());
        members["item_id"] = json!(id);
        members["output_index"] = json!(self.index);
        self.event(kind, members, out);
    }

    fn begin(&mut self, id: String, body: Body, item: Value, out: &mut Frames) {
        self.end(true, out);
        let members = json!({ "output_index": self.index, "item_id": id, "item": item });
        self.event("response.output_item.added", members, out);
        self.open = Some(Item { id, body });
    }

    fn reasoning(&mut self, text: &str, out: &mut Frames) {
        let summary = self.answer.style.summary;
        if !matches!(self.open, Some(Item { body: Body::Reasoning(_), .. })) {
            let id = ids::fresh("rs_");
            let item = json!({ "id": id, "type": "reasoning", "status": "in_progress", "summary": [], "content": [] });
            self.begin(id, Body::Reasoning(String::new()), item, out);
            if summary {
                let part = json!({ "type": "summary_text", "text": "" });
                self.about(
                    "response.reasoning_summary_part.added",
                    json!({ "summary_index": 0, "part": part }),
                    out,
                );
            } else {
                let part = json!({ "type": "reasoning_text", "text": "" });
                self.about("response.content_part.added", json!({ "content_index": 0, "part": part }), out);
            }
        }
        if let Some(Item { body: Body::Reasoning(all), .. }) = &mut self.open {
            all.push_str(text);
        }
        if summary {
            self.about(
                "response.reasoning_summary_text.delta",
                json!({ "summary_index": 0, "delta": text }),
                out,
            );
        } else {
            self.about("response.reasoning_text.delta", json!({ "content_index": 0, "delta": text }), out);
        }
    }

    fn begin_text(&mut self, out: &mut Frames) {
        let id = ids::fresh("msg_");
        let item = json!({ "id": id, "type": "message", "role": "assistant", "status": "in_progress", "content": [] });
        self.begin(id, Body::Text { text: String::new(), logprobs: Vec::new() }, item, out);
        let part = items::part("", json!([]));
        self.about("response.content_part.added", json!({ "content_index": 0, "part": part }), out);
    }

    fn text(&mut self, delta: &str, entries: Vec<Logprob>, out: &mut Frames) {
        if !matches!(self.open, Some(Item { body: Body::Text { .. }, .. })) {
            self.begin_text(out);
        }
        let shown = self.answer.logprobs(&entries);
        if let Some(Item { body: Body::Text { text, logprobs }, .. }) = &mut self.open {
            text.push_str(delta);
            logprobs.extend(entries);
        }
        let members = json!({ "content_index": 0, "delta": delta, "logprobs": shown });
        self.about("response.output_text.delta", members, out);
    }

    fn call(&mut self, index: usize, call_id: String, function: String, out: &mut Frames) {
        let id = self.answer.style.toolbox.item_id(&function);
        let item = self.answer.style.toolbox.item(&function, &call_id, &id, None);
        let (arguments, input) = (String::new(), InputText::default());
        self.begin(id, Body::Call { index, call_id, function, arguments, input }, item, out);
    }

    fn arguments(&mut self, at: usize, delta: &str, out: &mut Frames) {
        let Some(Item { body: Body::Call { index, function, arguments, input, .. }, .. }) = &mut self.open
        else {
            return;
        };
        if *index != at {
            return;
        }
        arguments.push_str(delta);
        match self.answer.style.toolbox.kind(function) {
            Kind::Function => {
                self.about("response.function_call_arguments.delta", json!({ "delta": delta }), out);
            }
            Kind::Custom => {
                let text = input.push(delta);
                if !text.is_empty() {
                    self.about("response.custom_tool_call_input.delta", json!({ "delta": text }), out);
                }
            }
            Kind::LocalShell | Kind::Shell | Kind::Patch => {}
        }
    }

    /// Completes the open item.
    fn end(&mut self, complete: bool, out: &mut Frames) {
        let Some(Item { id, body }) = &self.open else { return };
        let item = match body {
            Body::Reasoning(text) => {
                let text = text.clone();
                let item = items::reasoning(id, &text, self.answer.style.summary);
                if self.answer.style.summary {
                    let part = json!({ "type": "summary_text", "text": text });
                    self.about(
                        "response.reasoning_summary_text.done",
                        json!({ "summary_index": 0, "text": text }),
                        out,
                    );
                    self.about(
                        "response.reasoning_summary_part.done",
                        json!({ "summary_index": 0, "part": part }),
                        out,
                    );
                } else {
                    let part = json!({ "type": "reasoning_text", "text": text });
                    self.about(
                        "response.reasoning_text.done",
                        json!({ "content_index": 0, "text": text }),
                        out,
                    );
                    self.about(
                        "response.content_part.done",
                        json!({ "content_index": 0, "part": part }),
                        out,
                    );
                }
                item
            }
            Body::Text { text, logprobs } => {
                let (text, logprobs) = (text.clone(), self.answer.logprobs(logprobs));
                let status = if complete { "completed" } else { "incomplete" };
                let item = items::message(id, &text, logprobs.clone(), status);
                let done = json!({ "content_index": 0, "text": text, "logprobs": logprobs });
                self.about("response.output_text.done", done, out);
                let part = items::part(&text, logprobs);
                self.about("response.content_part.done", json!({ "content_index": 0, "part": part }), out);
                item
            }
            Body::Call { call_id, function, arguments, .. } => {
                let toolbox = &self.answer.style.toolbox;
                let item = toolbox.item(function, call_id, id, Some(arguments));
                match toolbox.kind(function) {
                    Kind::Function => {
                        let done = json!({ "name": item["name"], "arguments": item["arguments"] });
                        self.about("response.function_call_arguments.done", done, out);
                    }
                    Kind::Custom => {
                        let done = json!({ "input": item["input"] });
                        self.about("response.custom_tool_call_input.done", done, out);
                    }
                    Kind::LocalShell | Kind::Shell | Kind::Patch => {}
                }
                item
            }
        };
        self.open = None;
        let members = json!({ "output_index": self.index, "item_id": item["id"], "item": item });
        self.event("response.output_item.done", members, out);
        self.output.push(item);
        self.index += 1;
    }

    /// Forgets a call that was begun and is none. Its item is never told complete: a client would carry it out.
    fn drop_call(&mut self) {
        if self.open.take().is_some() {
            self.index += 1;
        }
    }

    fn finish(&mut self, outcome: &Outcome, out: &mut Frames) {
        if matches!(self.open, Some(Item { body: Body::Reasoning(_), .. })) {
            self.end(true, out);
        }
        if matches!(self.open, Some(Item { body: Body::Call { .. }, .. })) {
            self.drop_call();
        }
        if self.open.is_none() && !self.output.iter().any(|item| item["type"] != "reasoning") {
            self.begin_text(out); // a reply of no text is a message all the same
        }
        self.end(text_status(outcome.end) == "completed", out);
        let response = self.answer.finished(self.output.clone(), outcome);
        self.answer.keep(&response);
        let kind = if is_cut(outcome.end) { "response.incomplete" } else { "response.completed" };
        self.event(kind, json!({ "response": response }), out);
    }
}

impl Codec for ResponseStream {
    fn open(&mut self, out: &mut Frames) {
        for kind in ["response.created", "response.in_progress"] {
            let response = self.answer.object("in_progress", &[]);
            self.event(kind, json!({ "response": response }), out);
        }
    }

    fn tell(&mut self, _: usize, told: Told, out: &mut Frames) {
        match told {
            Told::Started { .. } | Told::Progress { .. } => {}
            Told::Reasoning(text, _) => self.reasoning(&text, out),
            Told::Content(text, logprobs) => self.text(&text, logprobs, out),
            Told::CallStart { index, id, name } => self.call(index, id, name, out),
            Told::Arguments { index, delta } => self.arguments(index, &delta, out),
            Told::CallEnd { .. } => self.end(true, out),
            Told::CallDropped { .. } => self.drop_call(),
            Told::Finished(outcome) => self.finish(&outcome, out),
            Told::Failed(error) => {
                let response = self.answer.failed(self.output.clone(), &error);
                self.event("response.failed", json!({ "response": response }), out);
            }
        }
    }

    /// An event, for some clients count nothing else.
    fn keep_alive(&mut self, out: &mut Frames) {
        let response = self.answer.object("in_progress", &[]);
        self.event("response.in_progress", json!({ "response": response }), out);
    }

    fn close(&mut self, out: &mut Frames) {
        out.raw(b"data: [DONE]\n\n");
    }
}
