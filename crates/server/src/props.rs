//! What runs here and how it is doing: `/props`, `/slots`, `/version`.

use crate::App;
use crate::error::ApiError;
use axum::Json;
use axum::extract::State;
use engine::service::Phase;
use serde_json::{Value, json};

/// `GET /version`
#[utoipa::path(
    get, path = "/version", tag = "Operations", operation_id = "version",
    responses((status = 200, description = "The program's version", body = crate::openapi::Version)),
)]
pub async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION"), "backend": "ds4" }))
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
        "build_info": format!("ds4 {}", env!("CARGO_PKG_VERSION")),
        "model_id": app.options.model_name,
        "model_name": info.name,
        "fingerprint": app.fingerprint(),
        "profile": info.profile,
        "n_ctx": info.context,
        "n_vocab": info.vocab,
        "total_slots": status.active_limit,
        "active_slots": status.active.len(),
        "queued": status.queued,
        "queue_limit": status.queue_limit,
        "kv_memory_bytes": info.memory,
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
            "stored_responses": app.options.response_store > 0,
        },
        "warnings": info.warnings,
    })))
}

/// `GET /slots`
#[utoipa::path(
    get, path = "/slots", tag = "Operations", operation_id = "slots",
    responses(
        (status = 200, description = "The conversations being worked on; the rest are idle", body = crate::openapi::AnyArray),
        (status = "5XX", description = "The model is not loaded yet", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn slots(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let speaker = app.loaded()?;
    let (info, status) = (speaker.info(), speaker.status());
    let mut slots: Vec<Value> = status
        .active
        .iter()
        .enumerate()
        .map(|(id, job)| {
            let age = job.age.as_secs_f64();
            json!({
                "id": id,
                "job": job.id,
                "state": match job.phase { Phase::Prefill => "prefill", Phase::Decode => "decode" },
                "n_ctx": info.context,
                "n_tokens": job.tokens,
                "n_cached": job.cached,
                "prefill_done": job.tokens.min(job.prompt),
                "prefill_total": job.prompt,
                "n_written": job.written,
                "tokens_per_second": if age > 0.0 { job.written as f64 / age } else { 0.0 },
                "age_s": age,
            })
        })
        .collect();
    for id in slots.len()..status.active_limit {
        slots.push(json!({ "id": id, "state": "idle", "n_ctx": info.context, "n_tokens": 0, "n_cached": 0 }));
    }
    Ok(Json(Value::Array(slots)))
}
