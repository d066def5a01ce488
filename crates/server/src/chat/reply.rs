//! A whole chat completion.

use super::request::Style;
use crate::App;
use crate::error::ApiError;
use crate::options::ReasoningField;
use crate::responses::input_text::input_text;
use crate::responses::tools::{Kind, Toolbox};
use crate::usage::Usage;
use crate::voice::{End, Outcome, Told, Voice};
use crate::{app, ids};
use axum::Json;
use axum::response::{IntoResponse, Response};
use engine::logprobs::Logprob;
use serde_json::{Map, Value, json};
use text::Tokenizer;

/// Waits for all replies and answers with them.
pub(super) async fn whole(style: Style, app: &App, voices: Vec<Voice>) -> Result<Response, ApiError> {
    let tokenizer = app.loaded()?.tokenizer().clone();
    let mut outcomes = Vec::with_capacity(voices.len());
    let mut choices = Vec::with_capacity(voices.len());
    for (index, voice) in voices.into_iter().enumerate() {
        let (mut content, mut reasoning) = (Vec::new(), Vec::new());
        let outcome = voice
            .finish(|told| match told {
                Told::Content(_, logprobs) => content.extend(logprobs),
                Told::Reasoning(_, logprobs) => reasoning.extend(logprobs),
                _ => {}
            })
            .await?;
        let logprobs = match style.logprobs {
            true => logprobs(&content, &reasoning, &tokenizer),
            false => Value::Null,
        };
        choices.push(json!({
            "index": index,
            "message": message(&outcome, app.options.reasoning_field, &style.toolbox),
            "logprobs": logprobs,
            "finish_reason": finish_reason(outcome.end),
        }));
        outcomes.push(outcome);
    }
    let usage = Usage::sum(outcomes.iter().map(|outcome| &outcome.usage));
    let mut body = json!({
        "id": ids::fresh("chatcmpl-"),
        "object": "chat.completion",
        "created": app::unix_time(),
        "model": style.model,
        "system_fingerprint": app.fingerprint(),
        "choices": choices,
        "usage": usage.chat(),
        "timings": outcomes[0].timings,
    });
    if !style.warnings.is_empty() {
        body["warnings"] = json!(style.warnings);
    }
    Ok(Json(body).into_response())
}

/// What is around reasoning that is a part of the content.
pub(super) const OPEN: &str = "<think>";

/// The end of it.
pub(super) const CLOSE: &str = "</think>";

fn message(outcome: &Outcome, field: ReasoningField, toolbox: &Toolbox) -> Value {
    let said = &outcome.message;
    let mut message = Map::new();
    message.insert("role".into(), json!("assistant"));
    let inline = field == ReasoningField::Inline && !said.reasoning_content.is_empty();
    let content = match inline {
        true => format!("{OPEN}{}{CLOSE}{}", said.reasoning_content, said.content),
        false => said.content.clone(),
    };
    message.insert("content".into(), json!((!content.is_empty()).then_some(content)));
    if !said.reasoning_content.is_empty() && !inline {
        message.insert("reasoning_content".into(), json!(said.reasoning_content));
        if field == ReasoningField::Both {
            message.insert("reasoning".into(), json!(said.reasoning_content));
        }
    }
    message.insert("refusal".into(), Value::Null);
    if !said.tool_calls.is_empty() {
        let calls =
            said.tool_calls.iter().zip(&outcome.call_ids).map(|(call, id)| match toolbox.kind(&call.name) {
                Kind::Custom => json!({
                    "id": id,
                    "type": "custom",
                    "custom": { "name": call.name, "input": input_text(&call.arguments) },
                }),
                _ => json!({
                    "id": id,
                    "type": "function",
                    "function": { "name": call.name, "arguments": call.arguments },
                }),
            });
        message.insert("tool_calls".into(), calls.collect());
    }
    Value::Object(message)
}

/// In the words of chat completions. There are no others: clients take unknown ones for errors.
pub(super) fn finish_reason(end: End) -> &'static str {
    match end {
        End::Stop | End::StopString => "stop",
        End::ToolCalls => "tool_calls",
        End::MaxTokens | End::ContextFull => "length",
    }
}

/// `choices[].logprobs`
pub(super) fn logprobs(content: &[Logprob], reasoning: &[Logprob], tokenizer: &Tokenizer) -> Value {
    let list =
        |entries: &[Logprob]| entries.iter().map(|entry| logprob_entry(entry, tokenizer)).collect::<Value>();
    let mut logprobs = json!({ "content": list(content), "refusal": null });
    if !reasoning.is_empty() {
        logprobs["reasoning_content"] = list(reasoning);
    }
    logprobs
}

/// One token's probability, and those of the others that were likely.
pub fn logprob_entry(entry: &Logprob, tokenizer: &Tokenizer) -> Value {
    let token = |id: u32, logprob: f32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        json!({
            "token": String::from_utf8_lossy(bytes),
            "logprob": finite(logprob),
            "bytes": bytes,
        })
    };
    let mut value = token(entry.token, entry.logprob);
    value["top_logprobs"] = entry.top.iter().map(|&(id, logprob)| token(id, logprob)).collect();
    value
}

/// JSON has no infinity.
fn finite(logprob: f32) -> f64 {
    if logprob.is_finite() { f64::from(logprob) } else { -9999.0 }
}
