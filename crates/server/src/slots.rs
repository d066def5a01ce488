//! `/slots`: the places in which conversations are worked on, and what an operator can do with the last one of each.
//!
//! A saved conversation is known by the key of its end, a hash of all its tokens; a client may give it a name of its
//! own besides, which is remembered until the server ends. Neither is ever a path.

use crate::App;
use crate::error::{ApiError, Fault};
use crate::fields::Fields;
use crate::guard::{Client, RequestId};
use crate::{body, serving};
use axum::extract::{Path, Request, State};
use axum::{Extension, Json};
use engine::service::Phase;
use engine::{PageKey, SlotAction, SlotDone};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Instant;

/// The most names of saved conversations.
const MOST_NAMES: usize = 4096;

/// The longest body, in bytes.
const MOST_BODY: usize = 4096;

/// The longest name.
const LONGEST: usize = 128;

/// Names of saved conversations, each client's own.
#[derive(Default)]
pub(crate) struct Checkpoints(HashMap<(String, String), PageKey>);

/// `GET /slots`
#[utoipa::path(
    get, path = "/slots", tag = "Operations", operation_id = "slots",
    responses(
        (status = 200, description = "The places in which conversations are worked on", body = crate::openapi::AnyArray),
        (status = "5XX", description = "The model is not loaded yet", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let speaker = app.loaded()?;
    let (info, status) = (speaker.info(), speaker.status());
    let slots = (0..status.active_limit).map(|id| {
        let place = status.slots.get(id).copied().unwrap_or_default();
        let mut slot = json!({
            "id": id,
            "state": "idle",
            "n_ctx": info.context,
            "n_tokens": place.tokens,
            "n_cached": 0,
            "prefill_done": 0,
            "prefill_total": 0,
            "tokens_per_second": 0.0,
            "age_s": Value::Null,
            "last_used_s": place.last_used.map(|when| when.elapsed().as_secs_f64()),
            "affinity": place.affinity.map(|affinity| format!("{affinity:016x}")),
        });
        if let Some(job) = status.active.iter().find(|job| job.slot == id) {
            let age = job.age.as_secs_f64();
            slot["job"] = json!(job.id);
            slot["state"] = json!(match job.phase {
                Phase::Prefill => "prefill",
                Phase::Decode => "decode",
            });
            slot["n_tokens"] = json!(job.tokens);
            slot["n_cached"] = json!(job.cached);
            slot["prefill_done"] = json!(job.tokens.min(job.prompt));
            slot["prefill_total"] = json!(job.prompt);
            slot["n_written"] = json!(job.written);
            slot["tokens_per_second"] = json!(if age > 0.0 { job.written as f64 / age } else { 0.0 });
            slot["age_s"] = json!(age);
            slot["last_used_s"] = json!(0.0);
            if let Some(prompt) = app.prompt_of(job.id) {
                slot["prompt"] = json!(prompt);
            }
        }
        slot
    });
    Ok(Json(Value::Array(slots.collect())))
}

/// `POST /slots/{id}?action=save|restore|erase`
#[utoipa::path(
    post, path = "/slots/{id}", tag = "Operations", operation_id = "slotAction",
    params(
        ("id" = usize, Path, description = "The slot's number"),
        ("action" = crate::openapi::SlotActionName, Query, description = "What to do with its last conversation"),
    ),
    request_body = Option<crate::openapi::SlotBody>,
    responses(
        (status = 200, description = "It is done", body = crate::openapi::AnyObject),
        (status = "4XX", description = "There is nothing to do it with, or the operator does not allow it",
         body = crate::openapi::ErrorBody),
        (status = "5XX", description = "The slot is busy, or the server is not ready", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn act(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    Path(slot): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    app.speaker()?;
    if !app.options.slot_actions {
        let message = "this server does not let slots be saved, restored or erased; --slot-actions does";
        return Err(ApiError::new(Fault::Forbidden, message));
    }
    let slot: usize =
        slot.parse().map_err(|_| ApiError::invalid("id", "the number of a slot was expected"))?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let action = query.split('&').find_map(|pair| pair.strip_prefix("action="));
    let action = action.ok_or_else(|| ApiError::missing("action"))?.to_owned();
    let (parts, content) = request.into_parts();
    let content = body::read_json(&parts.headers, content, MOST_BODY, app.options.body_patience).await?;
    if let Some(trace) = &app.trace {
        trace.request(&id.0, None, parts.uri.path(), &content);
    }
    let name = name(&content)?;
    serving::off_thread(&app, move |app| {
        let begun = Instant::now();
        let action = match action.as_str() {
            "save" => SlotAction::Save,
            "erase" => SlotAction::Erase,
            "restore" => SlotAction::Restore(find(app, &client, name.as_deref())?),
            _ => return Err(ApiError::invalid("action", "one of `save`, `restore`, `erase` was expected")),
        };
        let SlotDone { key, tokens } = app.loaded()?.slot(slot, action)?;
        let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
        let known_as = name.clone().unwrap_or_else(|| key.to_string());
        Ok(Json(match action {
            SlotAction::Save => {
                if let Some(name) = name {
                    remember(app, &client, name, key)?;
                }
                json!({ "id_slot": slot, "filename": known_as, "key": key.to_string(), "n_saved": tokens,
                        "timings": { "save_ms": milliseconds } })
            }
            SlotAction::Restore(_) => {
                json!({ "id_slot": slot, "filename": known_as, "key": key.to_string(), "n_restored": tokens,
                        "timings": { "restore_ms": milliseconds } })
            }
            SlotAction::Erase => json!({ "id_slot": slot, "n_erased": tokens }),
        }))
    })
    .await
}

/// What the client calls the conversation: `filename`, as llama.cpp has it. It names no file.
fn name(content: &Value) -> Result<Option<String>, ApiError> {
    let fields = Fields::of_body(content)?;
    let name = fields.text("filename")?;
    match name {
        Some("") => Err(ApiError::invalid("filename", "it is empty")),
        Some(name) if name.len() > LONGEST => {
            Err(ApiError::invalid("filename", format!("it is longer than {LONGEST} bytes")))
        }
        name => Ok(name.map(str::to_owned)),
    }
}

/// The key of a conversation by what the client calls it, or by itself.
fn find(app: &App, client: &Client, name: Option<&str>) -> Result<PageKey, ApiError> {
    let name = name.ok_or_else(|| ApiError::missing("filename"))?;
    let checkpoints = app.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
    let named = checkpoints.0.get(&(client.scope.clone(), name.to_owned())).copied();
    named.or_else(|| name.parse().ok()).ok_or_else(|| {
        let message = "filename: nothing was saved under this name, and it is no key of a saved conversation";
        ApiError::new(Fault::Thing, message).at("filename")
    })
}

fn remember(app: &App, client: &Client, name: String, key: PageKey) -> Result<(), ApiError> {
    let mut checkpoints = app.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
    let name = (client.scope.clone(), name);
    if checkpoints.0.len() >= MOST_NAMES && !checkpoints.0.contains_key(&name) {
        let problem =
            format!("{MOST_NAMES} names are in use: the conversation is saved, and its key is {key}");
        return Err(ApiError::invalid("filename", problem));
    }
    checkpoints.0.insert(name, key);
    Ok(())
}
