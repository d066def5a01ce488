//! What can go wrong with a request, and how each family of APIs says so.
//!
//! A handler returns an [`ApiError`]; it travels in the response's extensions until [`crate::guard`] knows which
//! family asked, and only there becomes a body. What is streaming already says its errors in its own frames.

use crate::router::plain_path;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::time::Duration;

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// What kind of failure it is.
    pub fault: Fault,
    /// The whole story, for a person; never text of a prompt.
    pub message: String,
    /// The field that is to blame.
    pub param: Option<String>,
    /// When it may go better.
    pub retry_after: Option<Duration>,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// JSON that is none, or a value of a wrong type or out of range.
    Invalid,
    /// A field that must be there is not.
    Missing,
    /// Something that this server does not do.
    Unsupported,
    /// A schema that is none, or says more than can be enforced.
    Schema,
    /// The prompt does not fit.
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// A stored response that is not there.
    PreviousResponse,
    /// No key, or a wrong one.
    Key,
    /// A host or origin that may not ask.
    Forbidden,
    /// No such route.
    Route,
    /// No such model.
    Model,
    /// No such response or slot.
    Thing,
    /// The route exists, for another method.
    Method,
    /// The body is too long.
    TooLarge,
    /// The body came too slowly.
    BodyTimeout,
    /// The queue is full.
    Busy,
    /// Loading, draining or without memory: later, perhaps.
    Unavailable,
    /// It waited too long in the queue.
    Timeout,
    /// Its client took it back.
    Cancelled,
    /// Nothing that the caller could mend.
    Internal,
    /// A part of the API that does not exist here.
    NotImplemented,
}

/// Whose words to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `{"error": {...}}`
    OpenAi,
    /// `{"type": "error", "error": {...}}`
    Anthropic,
}

impl Family {
    /// The family that a path belongs to.
    pub fn of(path: &str) -> Family {
        let path = plain_path(path);
        if path == "/messages" || path.starts_with("/messages/") { Family::Anthropic } else { Family::OpenAi }
    }
}

impl Fault {
    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Fault::Invalid
            | Fault::Missing
            | Fault::Unsupported
            | Fault::Schema
            | Fault::PreviousResponse
            | Fault::Cancelled
            | Fault::Context { .. } => StatusCode::BAD_REQUEST,
            Fault::Key => StatusCode::UNAUTHORIZED,
            Fault::Forbidden => StatusCode::FORBIDDEN,
            Fault::Route | Fault::Model | Fault::Thing => StatusCode::NOT_FOUND,
            Fault::Method => StatusCode::METHOD_NOT_ALLOWED,
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Fault::Busy => StatusCode::TOO_MANY_REQUESTS,
            Fault::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Fault::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Fault::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// `error.type` in OpenAI's words.
    pub fn openai_type(self) -> &'static str {
        match self {
            Fault::Key => "authentication_error",
            Fault::Forbidden => "permission_error",
            Fault::Route | Fault::Model | Fault::Thing => "not_found_error",
            Fault::Busy => "rate_limit_error",
            Fault::Unavailable | Fault::Timeout | Fault::Internal => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// `error.code`.
    pub fn code(self) -> &'static str {
        match self {
            Fault::Invalid => "invalid_value",
            Fault::Missing => "missing_required_parameter",
            Fault::Unsupported => "unsupported_parameter",
            Fault::Schema => "invalid_json_schema",
            Fault::Context { .. } => "context_length_exceeded",
            Fault::PreviousResponse => "previous_response_not_found",
            Fault::Key => "invalid_api_key",
            Fault::Forbidden => "forbidden",
            Fault::Route => "unknown_url",
            Fault::Model => "model_not_found",
            Fault::Thing => "not_found",
            Fault::Method => "method_not_allowed",
            Fault::TooLarge => "request_too_large",
            Fault::BodyTimeout => "request_timeout",
            Fault::Busy => "rate_limit_exceeded",
            Fault::Unavailable => "unavailable",
            Fault::Timeout => "timeout",
            Fault::Cancelled => "cancelled",
            Fault::Internal => "internal_error",
            Fault::NotImplemented => "not_implemented",
        }
    }

    /// `error.type` in Anthropic's words.
    pub fn anthropic_type(self) -> &'static str {
        match self {
            Fault::Key => "authentication_error",
            Fault::Forbidden => "permission_error",
            Fault::Route | Fault::Model | Fault::Thing => "not_found_error",
            Fault::TooLarge => "request_too_large",
            Fault::Busy => "rate_limit_error",
            Fault::Unavailable => "overloaded_error",
            Fault::Timeout | Fault::BodyTimeout => "timeout_error",
            Fault::Internal => "api_error",
            _ => "invalid_request_error",
        }
    }
}

impl ApiError {
    /// A failure of this kind.
    pub fn new(fault: Fault, message: impl Into<String>) -> ApiError {
        ApiError { fault, message: message.into(), param: None, retry_after: None }
    }

    /// A value that makes no sense. The message begins with the field's name.
    pub fn invalid(param: &str, problem: impl std::fmt::Display) -> ApiError {
        ApiError::new(Fault::Invalid, format!("{param}: {problem}")).at(param)
    }

    /// A field that must be there.
    pub fn missing(param: &str) -> ApiError {
        ApiError::new(Fault::Missing, format!("{param} is required")).at(param)
    }

    /// Something that this server does not do.
    pub fn unsupported(param: &str, problem: impl std::fmt::Display) -> ApiError {
        ApiError::new(Fault::Unsupported, format!("{param}: {problem}")).at(param)
    }

    /// The same, with the field that is to blame.
    pub fn at(mut self, param: &str) -> ApiError {
        self.param = Some(param.to_owned());
        self
    }

    /// The same, with the time after which it may go better.
    pub fn retry_after(mut self, wait: Duration) -> ApiError {
        self.retry_after = Some(wait);
        self
    }

    /// A prompt that does not fit.
    pub fn context(prompt: usize, limit: usize) -> ApiError {
        // Agents find these words by regular expression, and compact the conversation.
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, your request has {prompt} tokens. \
             Please reduce the length of the messages. (context_length_exceeded)"
        );
        ApiError::new(Fault::Context { prompt, limit }, message)
    }

    /// What to say in this family.
    pub fn message(&self, family: Family) -> String {
        match (family, self.fault) {
            (Family::Anthropic, Fault::Context { prompt, limit }) => {
                format!("prompt is too long: {prompt} tokens > {limit} maximum")
            }
            _ => self.message.clone(),
        }
    }

    /// The object that OpenAI clients look for under `error`.
    pub fn openai(&self) -> Value {
        json!({
            "message": self.message,
            "type": self.fault.openai_type(),
            "param": self.param,
            "code": self.fault.code(),
        })
    }

    /// The object that Anthropic clients look for under `error`.
    pub fn anthropic(&self) -> Value {
        json!({ "type": self.fault.anthropic_type(), "message": self.message(Family::Anthropic) })
    }

    /// The whole body.
    pub fn body(&self, family: Family, request_id: &str) -> Value {
        match family {
            Family::OpenAi => json!({ "error": self.openai() }),
            Family::Anthropic => {
                json!({ "type": "error", "error": self.anthropic(), "request_id": request_id })
            }
        }
    }

    /// Status and headers; the body depends on who asked.
    pub fn response<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = self.fault.status();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            // Whole seconds, and not before the time.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        match self.fault {
            Fault::Key => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // Client libraries repeat every 5xx; this one would only fail again.
            Fault::Internal | Fault::NotImplemented => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            _ => {}
        }
        response
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        let mut response = self.response(axum::body::Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}
