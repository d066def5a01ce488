//! Items of a response, complete.

use crate::chat::logprob_entry;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use engine::logprobs::Logprob;
use serde_json::{Value, json};
use text::Tokenizer;

/// What our sealed reasoning begins with. It is opaque to clients, not secret: they are shown it anyway.
const SEAL: &str = "ds4r1:";

/// Reasoning in a form that clients send back unchanged.
pub(super) fn seal(reasoning: &str) -> String {
    BASE64_STANDARD.encode(format!("{SEAL}{reasoning}"))
}

/// The reasoning in a seal of ours.
pub(super) fn unseal(sealed: &str) -> Option<String> {
    let text = String::from_utf8(BASE64_STANDARD.decode(sealed).ok()?).ok()?;
    text.strip_prefix(SEAL).map(str::to_owned)
}

/// Reasoning; if it is told as a summary, that says all of it, too.
pub(super) fn reasoning(id: &str, text: &str, summary: bool) -> Value {
    let summaries = if summary { json!([{ "type": "summary_text", "text": text }]) } else { json!([]) };
    json!({
        "id": id, "type": "reasoning", "status": "completed", "summary": summaries,
        "content": [{ "type": "reasoning_text", "text": text }], "encrypted_content": seal(text),
    })
}

/// A message of text.
pub(super) fn message(id: &str, text: &str, logprobs: Value, status: &str) -> Value {
    json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": [part(text, logprobs)] })
}

/// A part of a message.
pub(super) fn part(text: &str, logprobs: Value) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
}

/// Probabilities of tokens.
pub(super) fn logprobs(entries: &[Logprob], tokenizer: &Tokenizer) -> Value {
    entries.iter().map(|entry| logprob_entry(entry, tokenizer)).collect()
}
