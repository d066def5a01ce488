//! Responses.
//!
//! [`request`] makes chat messages of items, [`tools`] gives the model functions for tools of every kind and turns
//! its calls back into items of that kind, [`items`] writes items, [`stream`] tells of them as they come. What is kept
//! in the [`store`] is told a page at a time by [`listing`].

pub mod flight;
pub(crate) mod input_text;
mod items;
mod listing;
mod object;
mod request;
pub mod store;
mod stream;
pub(crate) mod tools;

use crate::App;
use crate::ask::Api;
use crate::error::{ApiError, Fault};
use crate::guard::{Client, RequestId};
use crate::voice::Told;
use crate::{serving, stream as events};
use axum::extract::{Path, Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use listing::PageOf;
use object::Answer;
use request::ResponsesBody;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

/// `POST /v1/responses`
#[utoipa::path(
    post, path = "/v1/responses", tag = "OpenAI", operation_id = "createResponse",
    request_body = crate::openapi::ResponsesBody,
    responses(
        (status = 200, description = "The reply: an object, or events if `stream` is true",
         content((crate::openapi::ResponseObject = "application/json"), (crate::openapi::AnyObject = "text/event-stream"))),
        (status = "4XX", description = "The request was refused", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "The server failed or is not ready", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn create(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    serving::counted(&app, Api::Responses, async {
        let body = serving::body(&app, &id, request).await?;
        let (mut answer, stream, mut voices) = serving::off_thread(&app, move |app| {
            let ResponsesBody { ask, mut style } = ResponsesBody::read(body, app, &client)?;
            let prepared = ask.prepare(app, &client)?;
            style.warnings.clone_from(&prepared.warnings);
            let stream = style.stream;
            let mut voices = serving::begin(app, &client, &id, [prepared])?;
            let mut answer = Answer::new(app, client, style);
            if stream {
                voices[0].until(answer.take_off());
            }
            Ok((answer, stream, voices))
        })
        .await?;
        if stream {
            let codec = stream::ResponseStream::new(answer);
            return Ok(events::respond(voices, codec, app.options.keep_alive));
        }
        let voice = voices.pop().expect("one reply was asked for");
        let (mut logprobs, mut called) = (Vec::new(), false);
        let outcome = voice
            .finish(|told| match told {
                Told::Content(_, entries) => logprobs.extend(entries),
                Told::CallStart { .. } => called = true,
                _ => {}
            })
            .await?;
        let output = answer.output(&outcome, &logprobs, called);
        let response = answer.finished(output, &outcome);
        answer.keep(&response);
        Ok(Json(response).into_response())
    })
    .await
}

/// `POST /v1/responses/input_tokens`
#[utoipa::path(
    post, path = "/v1/responses/input_tokens", tag = "OpenAI", operation_id = "countResponseTokens",
    request_body = crate::openapi::ResponsesBody,
    responses(
        (status = 200, description = "Tokens of the prompt", body = crate::openapi::InputTokens),
        (status = "4XX", description = "The request was refused", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "The server failed or is not ready", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn input_tokens(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = serving::body(&app, &id, request).await?;
    let count = serving::off_thread(&app, move |app| {
        ResponsesBody::read(body, app, &client)?.ask.prepare(app, &client)?.count(app)
    });
    Ok(Json(json!({ "object": "response.input_tokens", "input_tokens": count.await? })))
}

/// `POST /v1/responses/compact`: clients compact conversations themselves if this is not there.
pub async fn compact() -> ApiError {
    ApiError::new(
        Fault::NotImplemented,
        "compaction is not offered here: summarize with a request of your own",
    )
}

/// The last part of an address.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ResponseId {
    /// The response.
    id: String,
}

/// `GET /v1/responses/{id}`
#[utoipa::path(
    get, path = "/v1/responses/{id}", tag = "OpenAI", operation_id = "retrieveResponse",
    params(ResponseId),
    responses(
        (status = 200, description = "The stored response", body = crate::openapi::ResponseObject),
        (status = "4XX", description = "There is no such response", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn retrieve(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Path(ResponseId { id }): Path<ResponseId>,
) -> Result<Json<Value>, ApiError> {
    if let Some(response) = app.flights().get(&id, &client) {
        return Ok(Json(response.clone()));
    }
    stored(&app, &id, &client)
}

/// `GET /v1/responses/{id}/input_items`
#[utoipa::path(
    get, path = "/v1/responses/{id}/input_items", tag = "OpenAI", operation_id = "listResponseInput",
    params(ResponseId, PageOf),
    responses(
        (status = 200, description = "What led to the stored response, a page of it", body = crate::openapi::ItemList),
        (status = "4XX", description = "There is no such response, or no such page", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn input_items(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Path(ResponseId { id }): Path<ResponseId>,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    let page = PageOf::read(&uri)?;
    let mut store = app.responses();
    let kept = store.get(&id, &client).ok_or_else(no_response)?;
    let output = kept.response["output"].as_array().map_or(0, Vec::len);
    let input = &kept.items[..kept.items.len().saturating_sub(output)];
    page.of(input, &id).map(Json)
}

/// `DELETE /v1/responses/{id}`
#[utoipa::path(
    delete, path = "/v1/responses/{id}", tag = "OpenAI", operation_id = "deleteResponse",
    params(ResponseId),
    responses(
        (status = 200, description = "It is forgotten", body = crate::openapi::Deleted),
        (status = "4XX", description = "There is no such response", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn delete(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Path(ResponseId { id }): Path<ResponseId>,
) -> Result<Json<Value>, ApiError> {
    match app.responses().remove(&id, &client) {
        true => Ok(Json(json!({ "id": id, "object": "response", "deleted": true }))),
        false => Err(no_response()),
    }
}

/// `POST /v1/responses/{id}/cancel`: ends a response that is being written. Whoever waits for it is told so. One that is
/// complete stays as it is, and is returned.
#[utoipa::path(
    post, path = "/v1/responses/{id}/cancel", tag = "OpenAI", operation_id = "cancelResponse",
    params(ResponseId),
    responses(
        (status = 200, description = "It is written no further; or it is complete, and as it was", body = crate::openapi::CancelledResponse),
        (status = "4XX", description = "There is no such response", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn cancel(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Path(ResponseId { id }): Path<ResponseId>,
) -> Result<Json<Value>, ApiError> {
    if let Some(mut response) = app.flights().stop(&id, &client) {
        response["status"] = json!("cancelled");
        return Ok(Json(response));
    }
    stored(&app, &id, &client)
}

/// A response that is complete, if it is kept.
fn stored(app: &App, id: &str, client: &Client) -> Result<Json<Value>, ApiError> {
    let mut store = app.responses();
    store.get(id, client).map(|kept| Json(kept.response.clone())).ok_or_else(no_response)
}

fn no_response() -> ApiError {
    ApiError::new(Fault::Thing, "no such response is stored here").at("id")
}
