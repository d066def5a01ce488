//! Text to tokens and back, and the prompt that a chat becomes: no work for the engine.

use crate::App;
use crate::ask::encode;
use crate::chat::chat_ask;
use crate::error::ApiError;
use crate::fields::{Fields, whole};
use crate::guard::{Client, RequestId};
use crate::serving;
use axum::extract::{Request, State};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use engine::JobPrompt;
use serde_json::{Value, json};
use text::{Marker, Prompt, Tokenizer};

/// `POST /tokenize`
#[utoipa::path(
    post, path = "/tokenize", tag = "Tokens", operation_id = "tokenize",
    request_body = crate::openapi::TokenizeBody,
    responses(
        (status = 200, description = "The tokens", body = crate::openapi::AnyObject),
        (status = "4XX", description = "The request was refused", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "The server failed or is not ready", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn tokenize(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = serving::body(&app, &id, request).await?;
    serving::off_thread(&app, move |app| {
        let speaker = app.loaded()?;
        let (tokenizer, context) = (speaker.tokenizer(), speaker.info().context);
        let fields = Fields::of_body(&body)?;
        if fields.get("messages").is_some() {
            let prompt = render(&body, app, &client)?;
            let tokens = encode(app, &prompt)?;
            return Ok(counted(tokens, context));
        }
        if let Some(text) = fields.text("prompt")? {
            let add = fields.flag("add_special_tokens")?.unwrap_or(true);
            return Ok(counted(tokens(text, add, true, tokenizer), context));
        }
        let text = fields.text("content")?.ok_or_else(|| ApiError::missing("content"))?;
        let add = fields.flag("add_special")?.unwrap_or(false);
        let special = fields.flag("parse_special")?.unwrap_or(true);
        let tokens = tokens(text, add, special, tokenizer);
        Ok(match fields.flag("with_pieces")?.unwrap_or(false) {
            false => json!({ "tokens": tokens }),
            true => {
                let pieces = tokens.iter().map(|&id| json!({ "id": id, "piece": piece(id, tokenizer) }));
                json!({ "tokens": pieces.collect::<Value>() })
            }
        })
    })
    .await
    .map(Json)
}

fn tokens(text: &str, add_bos: bool, special: bool, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut tokens = if special { tokenizer.encode_trusted(text) } else { tokenizer.encode(text) };
    if let Some(bos) = tokenizer.marker_id(Marker::Bos).filter(|bos| add_bos && tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    tokens
}

fn counted(tokens: Vec<u32>, context: usize) -> Value {
    json!({ "count": tokens.len(), "max_model_len": context, "tokens": tokens, "token_strs": null })
}

/// What a token says: text, or its bytes if they are none by themselves.
fn piece(id: u32, tokenizer: &Tokenizer) -> Value {
    let bytes = tokenizer.token_bytes(id).expect("a token of this vocabulary");
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!(bytes),
    }
}

/// `POST /detokenize`
#[utoipa::path(
    post, path = "/detokenize", tag = "Tokens", operation_id = "detokenize",
    request_body = crate::openapi::DetokenizeBody,
    responses(
        (status = 200, description = "The text", body = crate::openapi::AnyObject),
        (status = "4XX", description = "The request was refused", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "The server failed or is not ready", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn detokenize(
    State(app): State<App>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = serving::body(&app, &id, request).await?;
    serving::off_thread(&app, move |app| {
        let tokenizer = app.loaded()?.tokenizer();
        let fields = Fields::of_body(&body)?;
        let list = fields.list("tokens")?.ok_or_else(|| ApiError::missing("tokens"))?;
        let mut bytes = Vec::new();
        for (at, value) in list.iter().enumerate() {
            let id = whole(value).and_then(|id| u32::try_from(id).ok());
            let token = id.and_then(|id| tokenizer.token_bytes(id).ok()).ok_or_else(|| {
                let problem = format!("an id from 0 to {} was expected", tokenizer.len() - 1);
                ApiError::invalid(&format!("tokens[{at}]"), problem)
            })?;
            bytes.extend_from_slice(token);
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut answer = json!({ "content": text, "prompt": text });
        if fields.flag("raw")?.unwrap_or(false) {
            answer["bytes"] = json!(BASE64_STANDARD.encode(&bytes));
        }
        Ok(answer)
    })
    .await
    .map(Json)
}

/// `POST /apply-template`: the prompt that a chat becomes.
#[utoipa::path(
    post, path = "/apply-template", tag = "Tokens", operation_id = "applyTemplate",
    request_body = crate::openapi::ChatBody,
    responses(
        (status = 200, description = "The prompt as text, and how many tokens it has", body = crate::openapi::AnyObject),
        (status = "4XX", description = "The request was refused", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "The server failed or is not ready", body = crate::openapi::ErrorBody),
    ),
)]
pub async fn apply_template(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = serving::body(&app, &id, request).await?;
    serving::off_thread(&app, move |app| {
        let prompt = render(&body, app, &client)?;
        let tokens = encode(app, &prompt)?.len();
        Ok(json!({ "prompt": prompt.to_string(), "tokens": tokens }))
    })
    .await
    .map(Json)
}

fn render(body: &Value, app: &App, client: &Client) -> Result<Prompt, ApiError> {
    match chat_ask(body, app)?.prepare(app, client)?.prompt {
        JobPrompt::Rendered(prompt) => Ok(prompt),
        JobPrompt::Tokens(_) => unreachable!("a chat is rendered"),
    }
}
