//! A message as it is written: one block after another, each closed before the next is opened.

use super::reply::stop_reason;
use super::request::Style;
use super::thought;
use crate::ids;
use crate::stream::{Codec, Frames};
use crate::usage::Usage;
use crate::voice::{Outcome, Told};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a message waits to begin, in a queue.
const HESITATION: Duration = Duration::from_secs(1);

/// Writes events.
pub(super) struct MessageStream {
    style: Style,
    usage: Usage,
    begun: bool,
    /// The block that is open.
    open: Option<Block>,
    /// Blocks so far.
    blocks: usize,
}

enum Block {
    /// With its text, for the signature.
    Thinking(String),
    Text,
    /// A call, with its index.
    Call(usize),
}

impl MessageStream {
    pub fn new(style: Style, prompt_tokens: usize) -> MessageStream {
        let usage = Usage { prompt: prompt_tokens, ..Usage::default() };
        MessageStream { style, usage, begun: false, open: None, blocks: 0 }
    }

    /// The first event. It waits until it is known what of the prompt was in the cache, but not for long; the last event
    /// but one says it in any case.
    fn begin(&mut self, out: &mut Frames) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let mut message = json!({
            "id": ids::fresh("msg_"),
            "type": "message",
            "role": "assistant",
            "model": self.style.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": self.usage.messages(),
        });
        if !self.style.warnings.is_empty() {
            message["warnings"] = json!(self.style.warnings);
        }
        out.event("message_start", &json!({ "type": "message_start", "message": message }));
        self.ping(out);
    }

    fn ping(&self, out: &mut Frames) {
        out.event("ping", &json!({ "type": "ping" }));
    }

    fn start_block(&mut self, block: Block, content: &Value, out: &mut Frames) {
        self.stop_block(out);
        let index = self.blocks;
        out.event(
            "content_block_start",
            &json!({ "type": "content_block_start", "index": index, "content_block": content }),
        );
        self.open = Some(block);
        self.blocks += 1;
    }

    fn delta(&self, delta: &Value, out: &mut Frames) {
        let index = self.blocks - 1;
        out.event(
            "content_block_delta",
            &json!({ "type": "content_block_delta", "index": index, "delta": delta }),
        );
    }

    fn stop_block(&mut self, out: &mut Frames) {
        let Some(block) = self.open.take() else { return };
        if let Block::Thinking(text) = block {
            let signature =
                if self.style.omit_thinking { thought::carry(&text) } else { thought::sign(&text) };
            self.delta(&json!({ "type": "signature_delta", "signature": signature }), out);
        }
        let index = self.blocks - 1;
        out.event("content_block_stop", &json!({ "type": "content_block_stop", "index": index }));
    }

    fn finish(&mut self, outcome: &Outcome, out: &mut Frames) {
        self.begin(out);
        self.stop_block(out);
        let delta = json!({
            "stop_reason": stop_reason(outcome.end, self.style.knows_context_full),
            "stop_sequence": outcome.message.stop_string,
        });
        out.event(
            "message_delta",
            &json!({ "type": "message_delta", "delta": delta, "usage": outcome.usage.messages() }),
        );
    }
}

impl Codec for MessageStream {
    fn open(&mut self, _: &mut Frames) {}

    fn tell(&mut self, _: usize, told: Told, out: &mut Frames) {
        match told {
            Told::Started { cached } => {
                self.usage.cached = cached.min(self.usage.prompt);
                self.begin(out);
            }
            Told::Progress { .. } | Told::CallDropped { .. } => {}
            Told::Reasoning(text, _) => {
                if !matches!(self.open, Some(Block::Thinking(_))) {
                    let content = json!({ "type": "thinking", "thinking": "", "signature": "" });
                    self.start_block(Block::Thinking(String::new()), &content, out);
                }
                if !self.style.omit_thinking {
                    self.delta(&json!({ "type": "thinking_delta", "thinking": text }), out);
                }
                if let Some(Block::Thinking(all)) = &mut self.open {
                    all.push_str(&text);
                }
            }
            Told::Content(text, _) => {
                if !matches!(self.open, Some(Block::Text)) {
                    self.start_block(Block::Text, &json!({ "type": "text", "text": "" }), out);
                }
                self.delta(&json!({ "type": "text_delta", "text": text }), out);
            }
            Told::CallStart { index, id, name } => {
                let content = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                self.start_block(Block::Call(index), &content, out);
                self.delta(&json!({ "type": "input_json_delta", "partial_json": "" }), out);
            }
            Told::Arguments { index, delta } => {
                if matches!(self.open, Some(Block::Call(open)) if open == index) {
                    self.delta(&json!({ "type": "input_json_delta", "partial_json": delta }), out);
                }
            }
            Told::CallEnd { .. } => self.stop_block(out),
            Told::Finished(outcome) => self.finish(&outcome, out),
            Told::Failed(error) => {
                out.event("error", &json!({ "type": "error", "error": error.anthropic() }));
            }
        }
    }

    fn hesitation(&self) -> Duration {
        HESITATION
    }

    fn keep_alive(&mut self, out: &mut Frames) {
        if self.begun {
            self.ping(out);
        } else {
            self.begin(out);
        }
    }

    fn close(&mut self, out: &mut Frames) {
        out.event("message_stop", &json!({ "type": "message_stop" }));
    }
}
