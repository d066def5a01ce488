//! Legacy Completions: a text is continued as it is.

mod reply;
mod request;
mod stream;

use crate::App;
use crate::ask::Api;
use crate::error::ApiError;
use crate::guard::{Client, RequestId};
use crate::{serving, stream as events};
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use request::CompletionBody;

/// `POST /v1/completions`
#[utoipa::path(
    post, path = "/v1/completions", tag = "OpenAI", operation_id = "createCompletion",
    request_body = crate::openapi::CompletionBody,
    responses(
        (status = 200, description = "The continuation: an object, or events if `stream` is true",
         content((crate::openapi::Completion = "application/json"), (crate::openapi::AnyObject = "text/event-stream"))),
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
    serving::counted(&app, Api::Completions, async {
        let body = serving::body(&app, &id, request).await?;
        let (style, voices) = serving::off_thread(&app, move |app| {
            let CompletionBody { prompts, style } = CompletionBody::read(&body, app)?;
            let prepared = prompts.into_iter().map(|prompt| style.prepare(prompt));
            let voices = serving::begin(app, &client, &id, prepared)?;
            Ok((style, voices))
        })
        .await?;
        if style.stream {
            let codec = stream::CompletionStream::new(style, &app);
            Ok(events::respond(voices, codec, app.options.keep_alive))
        } else {
            reply::whole(&style, &app, voices).await
        }
    })
    .await
}
