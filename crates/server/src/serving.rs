//! What every generating handler does around its codec.

use crate::App;
use crate::ask::{Api, Prepared};
use crate::body;
use crate::error::ApiError;
use crate::guard::RequestId;
use axum::extract::Request;
use engine::JobPrompt;
use serde_json::Value;
use std::future::Future;

/// Reads a request's body, if somebody is there to answer it.
///
/// # Errors
///
/// If it is no JSON, too long or too slow, or the model is not loaded.
pub async fn body(app: &App, id: &RequestId, request: Request) -> Result<Value, ApiError> {
    app.speaker()?;
    let (parts, body) = request.into_parts();
    let body = body::read_json(&parts.headers, body, app.options.max_body, app.options.body_patience).await?;
    if let Some(trace) = &app.trace {
        trace.request(&id.0, parts.uri.path(), &body);
    }
    Ok(body)
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

/// Records a prompt.
pub fn trace_prompt(app: &App, id: &RequestId, prepared: &Prepared) {
    let (Some(trace), JobPrompt::Rendered(prompt)) = (&app.trace, &prepared.prompt) else { return };
    trace.prompt(&id.0, &prompt.to_string());
}
