//! What runs here: `/props`, `/version`.

use crate::App;
use crate::error::ApiError;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use text::chat::Profile;
use text::chat::request::{Conversation, RequestDefaults};

/// `GET /version`
#[utoipa::path(
    get, path = "/version", tag = "Operations", operation_id = "version",
    responses((status = 200, description = "The program's version", body = crate::openapi::Version)),
)]
pub async fn version(State(app): State<App>) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"), "commit": commit(&app), "backend": app.backend(),
    }))
}

/// The source that the program was built from.
pub(crate) fn commit(app: &App) -> &str {
    app.options.commit.as_deref().unwrap_or("unknown")
}

/// `GET /props`
#[utoipa::path(
    get, path = "/props", tag = "Operations", operation_id = "props",
    responses(
        (status = 200, description = "What is served, and the defaults", body = crate::openapi::AnyObject),
        (status = "5XX", description = "The model is not loaded yet", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn props(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let speaker = app.loaded()?;
    let (info, status, sampling) = (speaker.info(), speaker.status(), &app.options.sampling);
    Ok(Json(json!({
        "build_info": format!("ds4 {} ({})", env!("CARGO_PKG_VERSION"), commit(&app)),
        "backend": app.backend(),
        "model_id": app.options.model_name,
        "model_name": info.name,
        "fingerprint": app.fingerprint(),
        "profile": info.profile,
        "template_hash": template_hash(info.profile),
        "quant": info.quant,
        "size": info.bytes,
        "n_params": info.parameters,
        "n_ctx": info.context,
        "n_vocab": info.vocab,
        "total_slots": status.active_limit,
        "active_slots": status.active.len(),
        "queued": status.queued,
        "queue_limit": status.queue_limit,
        "kv_format": info.kv.name(),
        "kv_memory_bytes": info.memory,
        "kv_tokens": info.kv_tokens,
        "page_tokens": engine::PAGE,
        "modalities": { "text": true, "vision": false, "audio": false },
        "default_generation_settings": {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "thinking": app.options.think,
            "reasoning_effort": app.options.effort,
        },
        "features": {
            "dsml_recovery": app.options.dsml_recovery,
            "strip_client_headers": app.options.strip_client_headers,
            "show_prompts": app.options.show_prompts,
            "stored_responses": app.options.response_store > 0,
            "slot_actions": app.options.slot_actions,
            "ignore_eos": app.options.length_fields,
            "fixed_thinking_sampling": app.options.fixed_thinking_sampling,
            "page_store": status.store.is_some(),
            "speculation": false,
        },
        "warnings": info.warnings,
    })))
}

/// Identifies how prompts are written: a hash of the prompt that one conversation, with all that can be in one, becomes.
/// There is no template that could be hashed.
fn template_hash(profile: Profile) -> String {
    let call =
        json!({ "id": "1", "function": { "name": "f", "arguments": "{\"a\": \"x\", \"b\": [1, 2.50]}" } });
    let chat = json!({
        "messages": [
            { "role": "system", "content": "s" },
            { "role": "user", "content": "u" },
            { "role": "assistant", "content": "a", "reasoning_content": "r", "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "1", "content": "t" },
            { "role": "system", "content": "s" },
            { "role": "user", "content": "u" },
        ],
        "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }],
        "reasoning_effort": "max",
        "response_format": { "type": "json_schema", "json_schema": { "schema": { "type": "object" } } },
    });
    let chat = serde_json::from_value(chat).expect("a chat");
    let defaults = RequestDefaults { profile, think: true, effort: None };
    let conversation = Conversation::new(chat, &defaults).expect("a conversation");
    let prompt = conversation.prompt().expect("a prompt").to_string();
    blake3::hash(prompt.as_bytes()).to_hex()[..16].to_owned()
}
