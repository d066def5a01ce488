//! Whether the server lives, and whether it can answer.

use crate::App;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// `GET /livez`: the process can answer.
#[utoipa::path(
    get, path = "/livez", tag = "Operations", operation_id = "live",
    responses((status = 200, description = "The process lives", body = crate::openapi::Health)),
)]
pub async fn live() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /health` and `/readyz`: the model can answer.
#[utoipa::path(
    get, path = "/health", tag = "Operations", operation_id = "ready",
    responses(
        (status = 200, description = "The model is loaded", body = crate::openapi::Health),
        (status = 503, description = "It is loading, could not be loaded, or the server goes away"),
    ),
)]
pub async fn ready(State(app): State<App>) -> Response {
    let error = match app.speaker() {
        Ok(_) => return Json(json!({ "status": "ok" })).into_response(),
        Err(error) => error,
    };
    // Here the code is the status, as llama.cpp has it and its clients expect it.
    let body = json!({
        "status": if app.is_draining() { "draining" } else { "unavailable" },
        "error": { "code": 503, "message": error.message, "type": "unavailable_error" },
    });
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    let wait = error.retry_after.map_or(5, |wait| wait.as_secs().max(1));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    response
}
