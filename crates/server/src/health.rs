//! Whether the server lives, and whether it can answer.

use crate::App;
use crate::app::Shared;
use crate::error::ApiError;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::Status;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// `GET /livez`: the process can answer.
#[utoipa::path(
    get, path = "/livez", tag = "Operations", operation_id = "live",
    responses((status = 200, description = "The process lives", body = crate::openapi::Health)),
)]
pub async fn live() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /health` and `/readyz`: the model can answer.
#[utoipa::path(
    get, path = "/health", tag = "Operations", operation_id = "ready",
    responses(
        (status = 200, description = "The model is loaded and the engine works", body = crate::openapi::Health),
        (status = 503, description = "It is loading (then `progress` says how far it is, 0 to 1) or could not be loaded, \
         the engine is stuck or its device failed (then `reason` says so), or the server goes away",
         body = crate::openapi::Health),
    ),
)]
pub async fn ready(State(app): State<App>) -> Response {
    let (body, wait) = match app.speaker() {
        Ok(speaker) => match illness(&speaker.status(), app.options.watchdog, Instant::now()) {
            None => return Json(json!({ "status": "ok" })).into_response(),
            Some(reason) => {
                let message = format!("unhealthy: {reason}");
                (json!({ "status": "unhealthy", "reason": reason, "error": said(&message) }), 5)
            }
        },
        Err(error) => (not_ready(&app, &error), error.retry_after.map_or(5, |wait| wait.as_secs().max(1))),
    };
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    response
}

fn not_ready(app: &Shared, error: &ApiError) -> Value {
    let mut body = json!({ "status": "unavailable", "error": said(&error.message) });
    if app.is_draining() {
        body["status"] = json!("draining");
    } else if app.is_loading() {
        body["status"] = json!("loading");
        let loading = app.load_progress();
        body["progress"] = json!(loading.part());
        body["phase"] = json!(loading.phase.name());
        if loading.total > 0 {
            body["weights"] = json!({ "done": loading.done, "total": loading.total });
        }
    }
    body
}

/// Here the code is the status, as llama.cpp has it and its clients expect it.
fn said(message: &str) -> Value {
    json!({ "code": 503, "message": message, "type": "unavailable_error" })
}

/// What keeps the engine from answering, if something does.
fn illness(status: &Status, watchdog: Duration, now: Instant) -> Option<String> {
    if status.is_gone {
        return Some("the engine's thread has broken down; the log says how".to_owned());
    }
    if let Some(error) = &status.device_error {
        return Some(format!("the device failed: {error}"));
    }
    let busy = status.busy_since.map(|since| now.saturating_duration_since(since))?;
    let stuck = !watchdog.is_zero() && busy > watchdog;
    stuck.then(|| format!("the engine has been busy with one step for {} seconds", busy.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_stuck_or_broken_is_ill() {
        let (now, watchdog) = (Instant::now() + Duration::from_secs(100), Duration::from_secs(60));
        let busy = |seconds| Status {
            busy_since: now.checked_sub(Duration::from_secs(seconds)),
            ..Status::default()
        };
        assert_eq!(illness(&Status::default(), watchdog, now), None);
        assert_eq!(illness(&busy(59), watchdog, now), None);
        assert!(illness(&busy(61), watchdog, now).unwrap().contains("61 seconds"));
        assert_eq!(illness(&busy(61), Duration::ZERO, now), None, "nobody watches");
        let broken = Status { device_error: Some("lost".to_owned()), ..Status::default() };
        assert!(illness(&broken, watchdog, now).unwrap().contains("lost"));
        let gone = Status { is_gone: true, ..Status::default() };
        assert!(illness(&gone, watchdog, now).is_some());
    }
}
