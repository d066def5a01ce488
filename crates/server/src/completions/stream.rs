//! A completion as it is written.

use super::reply::{Table, finish_reason, total};
use super::request::Style;
use crate::stream::{Codec, Frames};
use crate::usage::Usage;
use crate::voice::Told;
use crate::{App, app, ids};
use engine::logprobs::Logprob;
use serde_json::{Value, json};

/// Writes chunks.
pub(super) struct CompletionStream {
    style: Style,
    app: App,
    id: String,
    created: u64,
    tables: Vec<Table>,
    usages: Vec<Usage>,
    /// Until they have been told.
    warnings: Vec<String>,
}

impl CompletionStream {
    pub fn new(style: Style, app: &App) -> CompletionStream {
        CompletionStream {
            warnings: style.warnings.clone(),
            style,
            app: app.clone(),
            id: ids::fresh("cmpl-"),
            created: app::unix_time(),
            tables: Vec::new(),
            usages: Vec::new(),
        }
    }

    fn chunk(&mut self, choices: Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.style.model,
            "system_fingerprint": self.app.fingerprint(),
            "choices": choices,
        });
        if !self.warnings.is_empty() {
            chunk["warnings"] = json!(std::mem::take(&mut self.warnings));
        }
        chunk
    }

    fn text(&mut self, index: usize, text: &str, logprobs: Value, out: &mut Frames) {
        let choice = json!([{ "index": index, "text": text, "logprobs": logprobs, "finish_reason": null }]);
        out.data(&self.chunk(choice));
    }

    fn logprobs(&mut self, index: usize, entries: &[Logprob]) -> Value {
        if self.style.params.logprobs.is_none() {
            return Value::Null;
        }
        let Ok(speaker) = self.app.loaded() else { return Value::Null };
        while self.tables.len() <= index {
            let before = self.style.echo_before_reply(self.tables.len());
            self.tables.push(Table::new(before, self.style.scored));
        }
        self.tables[index].add(entries, speaker.tokenizer())
    }
}

impl Codec for CompletionStream {
    fn open(&mut self, out: &mut Frames) {
        for index in 0..self.style.echo.len() * self.style.params.n {
            let echo = self.style.echo_before_reply(index).to_owned();
            self.text(index, &echo, Value::Null, out);
        }
    }

    fn tell(&mut self, index: usize, told: Told, out: &mut Frames) {
        match told {
            Told::Content(text, entries) => {
                let logprobs = self.logprobs(index, &entries);
                self.text(index, &text, logprobs, out);
            }
            Told::Finished(outcome) => {
                let mut choice = json!({
                    "index": index, "text": "", "logprobs": null, "finish_reason": finish_reason(outcome.end),
                });
                if self.style.token_ids {
                    choice["token_ids"] = json!(outcome.tokens);
                }
                let mut chunk = self.chunk(json!([choice]));
                chunk["timings"] = json!(outcome.timings);
                out.data(&chunk);
                self.usages.push(outcome.usage);
            }
            Told::Failed(error) => out.data(&json!({ "error": error.openai() })),
            _ => {}
        }
    }

    fn keep_alive(&mut self, out: &mut Frames) {
        out.raw(b": keep-alive\n\n");
    }

    fn close(&mut self, out: &mut Frames) {
        if self.style.include_usage {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = total(&self.usages, self.style.params.n).chat();
            out.data(&chunk);
        }
        out.raw(b"data: [DONE]\n\n");
    }
}
