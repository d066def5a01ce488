//! `GET /v1/models`: the one model, in an object that clients of every family can read.

use crate::App;
use crate::ask::check_model;
use crate::error::{ApiError, Fault};
use crate::thinking::Think;
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

/// `GET /v1/models`
#[utoipa::path(
    get, path = "/v1/models", tag = "Models", operation_id = "listModels",
    responses(
        (status = 200, description = "The models", body = crate::openapi::ModelList),
        (status = "5XX", description = "The model is not loaded yet", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let model = describe(&app)?;
    let id = &app.options.model_name;
    Ok(Json(json!({
        "object": "list", "data": [model], "has_more": false, "first_id": id, "last_id": id,
    })))
}

/// `GET /v1/models/{id}`
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "Models", operation_id = "retrieveModel",
    params(("id" = String, Path, description = "The model's name or an alias")),
    responses(
        (status = 200, description = "The model", body = crate::openapi::ModelObject),
        (status = "4XX", description = "There is no such model", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "The model is not loaded yet", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    check_model(&app, &id)?;
    let base = id.rsplit('/').next().unwrap_or(&id);
    let alias =
        base.starts_with(app.options.model_name.as_str()) || Think::of_model(base) != Think::default();
    if !alias && !base.starts_with("claude") && !base.starts_with("gpt") {
        let message =
            format!("the model `{}` is not served here; `{}` is", short(base), app.options.model_name);
        return Err(ApiError::new(Fault::Model, message).at("model"));
    }
    Ok(Json(describe(&app)?))
}

fn short(name: &str) -> String {
    name.chars().take(80).collect()
}

fn describe(app: &App) -> Result<Value, ApiError> {
    let info = app.loaded()?.info();
    let id = &app.options.model_name;
    Ok(json!({
        "id": id,
        "object": "model",
        "type": "model",
        "created": app.started,
        "created_at": rfc3339(app.started),
        "owned_by": "ds4",
        "display_name": info.name,
        "lifecycle": "active",
        "context_length": info.trained_context,
        "max_model_len": info.context,
        "max_input_tokens": info.context,
        "max_tokens": info.context,
        "capabilities": { "thinking": true, "tools": true, "vision": false, "structured_output": true },
        "meta": {
            "n_ctx": info.context,
            "n_ctx_train": info.trained_context,
            "n_vocab": info.vocab,
            "n_params": info.parameters,
            "size": info.bytes,
            "quant": info.quant,
            "fingerprint": app.fingerprint(),
            "profile": info.profile,
        },
    }))
}

/// A time as `2026-07-31T00:00:00Z`. Source of the calendar: Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`.
pub fn rfc3339(unix: u64) -> String {
    let (days, seconds) = (unix / 86400, unix % 86400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_785_456_000 + 3661), "2026-07-31T01:01:01Z");
    }
}
