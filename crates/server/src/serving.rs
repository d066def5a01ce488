//! What every generating handler does around its codec.

use crate::App;
use crate::ask::{Api, Prepared};
use crate::body;
use crate::error::ApiError;
use crate::guard::{Client, RequestId};
use crate::voice::Voice;
use axum::extract::Request;
use axum::http::HeaderMap;
use engine::JobPrompt;
use serde_json::Value;
use std::future::Future;
use std::sync::Arc;

/// Reads a request's body, if somebody is there to answer it.
///
/// # Errors
///
/// If it is no JSON, too long or too slow, or the model is not loaded.
pub async fn body(app: &App, id: &RequestId, request: Request) -> Result<Value, ApiError> {
    app.speaker()?;
    let (parts, body) = request.into_parts();
    let body = body::read_json(&parts.headers, body, app.options.max_body, app.options.body_patience).await?;
    id.1.read(&body);
    if let Some(trace) = &app.trace {
        trace.request(&id.0, trace_parent(&parts.headers), parts.uri.path(), &body);
    }
    Ok(body)
}

/// The caller's own trace (W3C Trace Context), so that our records can be found from there: version, id of the trace,
/// id of the caller's span, flags.
fn trace_parent(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let lengths: Vec<usize> = value.split('-').map(str::len).collect();
    let hex = value.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    (hex && lengths.starts_with(&[2, 32, 16, 2]) && value.len() <= 128).then_some(value)
}

/// Does work that may take a while (a prompt of a million tokens) where it keeps nobody waiting.
///
/// # Errors
///
/// As the work has it.
pub async fn off_thread<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = app.clone();
    match tokio::task::spawn_blocking(move || work(&app)).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Counts a request that is refused.
///
/// # Errors
///
/// As the request has it.
pub async fn counted<T>(
    app: &App,
    api: Api,
    answer: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    answer.await.inspect_err(|error| app.metrics.refused(api, error.fault.status()))
}

/// Hands the prompts of one request to the engine.
///
/// # Errors
///
/// If the client has enough at work, or the engine does not take them.
pub fn begin(
    app: &App,
    client: &Client,
    id: &RequestId,
    prompts: impl IntoIterator<Item = Prepared>,
) -> Result<Vec<Voice>, ApiError> {
    let place = Arc::new(app.place(client)?);
    let mut voices = Vec::new();
    for prepared in prompts {
        if let Some(trace) = &app.trace {
            if !prepared.warnings.is_empty() {
                trace.warnings(&id.0, &prepared.warnings);
            }
            if let JobPrompt::Rendered(prompt) = &prepared.prompt {
                trace.prompt(&id.0, &prompt.to_string());
            }
        }
        voices.extend(prepared.begin(app, id, &place)?);
    }
    Ok(voices)
}
