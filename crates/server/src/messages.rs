//! Anthropic Messages.

mod reply;
mod request;
mod stream;
mod thought;
mod typed;

use crate::App;
use crate::ask::Api;
use crate::error::ApiError;
use crate::guard::{Client, RequestId};
use crate::{serving, stream as events};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use request::MessagesBody;
use serde_json::json;

/// `POST /v1/messages`
#[utoipa::path(
    post, path = "/v1/messages", tag = "Anthropic", operation_id = "createMessage",
    request_body = crate::openapi::MessagesBody,
    responses(
        (status = 200, description = "The reply: an object, or events if `stream` is true",
         content((crate::openapi::Message = "application/json"), (crate::openapi::AnyObject = "text/event-stream"))),
        (status = "4XX", description = "The request was refused", body = crate::openapi::AnthropicErrorBody),
        (status = "5XX", description = "The server failed or is not ready", body = crate::openapi::AnthropicErrorBody),
    ),
)]
pub async fn create(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    serving::counted(&app, Api::Messages, async {
        let knows_full = request::knows_context_full(request.headers());
        let body = serving::body(&app, &id, request).await?;
        let (style, mut voices) = serving::off_thread(&app, move |app| {
            let MessagesBody { ask, mut style } = MessagesBody::read(&body, app)?;
            let prepared = ask.prepare(app, &client)?;
            style.model = app.answer_name(&style.model);
            style.knows_context_full = knows_full;
            style.warnings.clone_from(&prepared.warnings);
            Ok((style, serving::begin(app, &client, &id, [prepared])?))
        })
        .await?;
        if style.stream {
            let codec = stream::MessageStream::new(style, voices[0].prompt_tokens());
            Ok(events::respond(voices, codec, app.options.keep_alive))
        } else {
            let voice = voices.pop().expect("one reply was asked for");
            let outcome = voice.finish(drop).await?;
            Ok(Json(reply::message(&style, &outcome)).into_response())
        }
    })
    .await
}

/// `POST /v1/messages/count_tokens`: the same reading and rendering, and no work for the engine.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", tag = "Anthropic", operation_id = "countMessageTokens",
    request_body = crate::openapi::MessagesBody,
    responses(
        (status = 200, description = "Tokens of the prompt", body = crate::openapi::InputTokens),
        (status = "4XX", description = "The request was refused", body = crate::openapi::AnthropicErrorBody),
        (status = "5XX", description = "The server failed or is not ready", body = crate::openapi::AnthropicErrorBody),
    ),
)]
pub async fn count_tokens(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = serving::body(&app, &id, request).await?;
    let count = serving::off_thread(&app, move |app| {
        MessagesBody::read(&body, app)?.ask.prepare(app, &client)?.count(app)
    });
    Ok(Json(json!({ "input_tokens": count.await? })).into_response())
}
