//! A whole completion.

use super::request::Style;
use crate::App;
use crate::error::ApiError;
use crate::usage::Usage;
use crate::voice::{End, Told, Voice};
use crate::{app, ids};
use axum::Json;
use axum::response::{IntoResponse, Response};
use engine::logprobs::Logprob;
use serde_json::{Value, json};
use text::Tokenizer;

/// Waits for all replies and answers with them.
pub(super) async fn whole(style: &Style, app: &App, voices: Vec<Voice>) -> Result<Response, ApiError> {
    let tokenizer = app.loaded()?.tokenizer().clone();
    let (mut choices, mut usages, mut timings) = (Vec::new(), Vec::new(), None);
    for (index, voice) in voices.into_iter().enumerate() {
        let mut entries = Vec::new();
        let outcome = voice
            .finish(|told| {
                if let Told::Content(_, logprobs) = told {
                    entries.extend(logprobs);
                }
            })
            .await?;
        let text = format!("{}{}", style.echo_before_reply(index), outcome.message.content);
        let mut choice = json!({
            "index": index,
            "text": text,
            "logprobs": null,
            "finish_reason": finish_reason(outcome.end),
        });
        if style.params.logprobs.is_some() {
            let mut table = Table::new(style.echo_before_reply(index), style.scored);
            choice["logprobs"] = table.add(&entries, &tokenizer);
        }
        if style.token_ids {
            choice["token_ids"] = json!(outcome.tokens);
        }
        choices.push(choice);
        usages.push(outcome.usage);
        timings.get_or_insert(outcome.timings);
    }
    let mut body = json!({
        "id": ids::fresh("cmpl-"),
        "object": "text_completion",
        "created": app::unix_time(),
        "model": style.model,
        "system_fingerprint": app.fingerprint(),
        "choices": choices,
        "usage": total(&usages, style.params.n).chat(),
        "timings": timings,
    });
    if !style.warnings.is_empty() {
        body["warnings"] = json!(style.warnings);
    }
    Ok(Json(body).into_response())
}

/// The usage of several prompts, each with `n` replies.
pub(super) fn total(usages: &[Usage], n: usize) -> Usage {
    let mut total = Usage::default();
    for usage in usages.chunks(n.max(1)).map(Usage::sum) {
        total.prompt += usage.prompt;
        total.cached += usage.cached;
        total.output += usage.output;
    }
    total
}

/// In the words of completions.
pub(super) fn finish_reason(end: End) -> &'static str {
    match end {
        End::MaxTokens | End::ContextFull => "length",
        _ => "stop",
    }
}

/// The legacy object of probabilities: four lists, side by side.
pub(super) struct Table {
    /// Where the next token's text begins, in characters.
    offset: usize,
    /// The prompt's first token, which nothing came before: it has no probability. One that only begins a text, and is
    /// not shown in it, has a row all the same, so that each token of the prompt has one.
    first: Option<String>,
}

impl Table {
    /// - `before`: text before the first token; if the prompt is `scored`, that of its own first one
    pub fn new(before: &str, scored: bool) -> Table {
        let first = scored.then(|| before.to_owned());
        Table { offset: if scored { 0 } else { before.chars().count() }, first }
    }

    /// The rows of some tokens.
    pub fn add(&mut self, entries: &[Logprob], tokenizer: &Tokenizer) -> Value {
        let text =
            |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
        let number = |logprob: f32| if logprob.is_finite() { f64::from(logprob) } else { -9999.0 };
        let (mut tokens, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        if let Some(first) = self.first.take() {
            offsets.push(self.offset);
            self.offset += first.chars().count();
            tokens.push(first);
            logprobs.push(Value::Null);
            tops.push(Value::Null);
        }
        for entry in entries {
            let token = text(entry.token);
            offsets.push(self.offset);
            self.offset += token.chars().count();
            tokens.push(token);
            logprobs.push(json!(number(entry.logprob)));
            let top = entry.top.iter().map(|&(id, logprob)| (text(id), json!(number(logprob))));
            tops.push(Value::Object(top.collect()));
        }
        json!({ "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
    }
}
