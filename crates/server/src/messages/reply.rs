//! A whole message.

use super::request::Style;
use super::thought;
use crate::ids;
use crate::voice::{End, Outcome};
use serde_json::{Value, json};

/// The message.
pub(super) fn message(style: &Style, outcome: &Outcome) -> Value {
    let said = &outcome.message;
    let mut content = Vec::new();
    if !said.reasoning_content.is_empty() {
        content.push(thinking(&said.reasoning_content, style.omit_thinking));
    }
    if !said.content.is_empty() {
        content.push(json!({ "type": "text", "text": said.content }));
    }
    for (call, id) in said.tool_calls.iter().zip(&outcome.call_ids) {
        content.push(
            json!({ "type": "tool_use", "id": id, "name": call.name, "input": input(&call.arguments) }),
        );
    }
    let mut message = json!({
        "id": ids::fresh("msg_"),
        "type": "message",
        "role": "assistant",
        "model": style.model,
        "content": content,
        "stop_reason": stop_reason(outcome.end, style.knows_context_full),
        "stop_sequence": said.stop_string,
        "usage": outcome.usage.messages(),
    });
    if !style.warnings.is_empty() {
        message["warnings"] = json!(style.warnings);
    }
    message
}

fn thinking(text: &str, omit: bool) -> Value {
    match omit {
        true => json!({ "type": "thinking", "thinking": "", "signature": thought::carry(text) }),
        false => json!({ "type": "thinking", "thinking": text, "signature": thought::sign(text) }),
    }
}

/// Arguments as the object they should be.
fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(value @ Value::Object(_)) => value,
        _ => json!({ "_raw": arguments }),
    }
}

/// In the words of Messages.
pub(super) fn stop_reason(end: End, knows_context_full: bool) -> &'static str {
    match end {
        End::Stop => "end_turn",
        End::StopString => "stop_sequence",
        End::ToolCalls => "tool_use",
        End::MaxTokens => "max_tokens",
        End::ContextFull if knows_context_full => "model_context_window_exceeded",
        End::ContextFull => "max_tokens",
    }
}
