//! Chat Completions.

mod reply;
mod request;
mod stream;

pub use reply::logprob_entry;
pub use request::read_message;

use crate::App;
use crate::ask::Api;
use crate::error::ApiError;
use crate::guard::{Client, RequestId};
use crate::{serving, stream as events};
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use request::ChatBody;

/// `POST /v1/chat/completions`
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "OpenAI", operation_id = "createChatCompletion",
    request_body = crate::openapi::ChatBody,
    responses(
        (status = 200, description = "The reply: an object, or events if `stream` is true",
         content((crate::openapi::ChatCompletion = "application/json"), (crate::openapi::AnyObject = "text/event-stream"))),
        (status = "4XX", description = "The request was refused", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "The server failed or is not ready", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn completions(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    serving::counted(&app, Api::Chat, async {
        let body = serving::body(&app, &id, request).await?;
        let (style, voices) = serving::off_thread(&app, move |app| {
            let ChatBody { ask, style } = ChatBody::read(&body, app)?;
            let prepared = ask.prepare(app, &client)?;
            let style = style.answering(app, &prepared.warnings);
            Ok((style, serving::begin(app, &client, &id, [prepared])?))
        })
        .await?;
        if style.stream {
            let codec = stream::ChatStream::new(style, &app, voices.len());
            Ok(events::respond(voices, codec, app.options.keep_alive))
        } else {
            reply::whole(style, &app, voices).await
        }
    })
    .await
}

/// What a chat completion's body asks for.
///
/// # Errors
///
/// If it makes no sense.
pub fn chat_ask(body: &serde_json::Value, app: &App) -> Result<crate::ask::Ask, ApiError> {
    Ok(ChatBody::read(body, app)?.ask)
}
