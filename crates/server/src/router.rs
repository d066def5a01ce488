//! The whole app, as a function from requests to responses.

use crate::error::{ApiError, Fault};
use crate::guard::guard;
use crate::{
    App, chat, completions, health, messages, metrics, models, openapi, page, props, responses, slots, tokens,
};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::any::Any;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any as Anything, CorsLayer};

/// The whole app.
pub fn router(app: App) -> Router {
    let routes = Router::new()
        .route("/", get(page::index))
        .route("/page/{name}", get(page::part))
        .route("/livez", get(health::live))
        .route("/health", get(health::ready))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/version", get(props::version))
        .route("/props", get(props::props))
        .route("/slots", get(slots::list))
        .route("/slots/{id}", post(slots::act))
        .route("/openapi.json", get(openapi::document))
        .route("/models", get(models::list))
        // Names may have a slash: `deepseek-ai/DeepSeek-V4-Flash`.
        .route("/models/{*id}", get(models::one))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/chat/completions", post(chat::completions))
        .route("/completions", post(completions::completions))
        .route("/responses", post(responses::create))
        .route("/responses/input_tokens", post(responses::input_tokens))
        .route("/responses/compact", post(responses::compact))
        .route("/responses/{id}", get(responses::retrieve).delete(responses::delete))
        .route("/responses/{id}/cancel", post(responses::cancel))
        .route("/responses/{id}/input_items", get(responses::input_items))
        .route("/messages", post(messages::create))
        .route("/messages/count_tokens", post(messages::count_tokens))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app.clone())
        // Our bodies have a limit of their own, which holds after decompression.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(panicked));
    let routes = ServiceBuilder::new().map_request(without_prefix).service(routes.into_service());
    let outer = Router::new().fallback_service(routes.map_err(|never| match never {}));
    let cors = cors(&app);
    let guarded = outer.layer(from_fn_with_state(app, guard));
    match cors {
        Some(cors) => guarded.layer(cors),
        None => guarded,
    }
}

/// What is answered on the address of metrics: numbers and probes, to whoever can reach it.
pub fn operations(app: App) -> Router {
    let with_key = async |State(app): State<App>, request: Request, next: Next| -> Response {
        if app.options.metrics_need_key
            && let Err(error) = app.keys.know(request.headers())
        {
            return error.into_response();
        }
        next.run(request).await
    };
    Router::new()
        .route("/metrics", get(metrics::metrics).layer(from_fn_with_state(app.clone(), with_key)))
        .route("/livez", get(health::live))
        .route("/health", get(health::ready))
        .route("/readyz", get(health::ready))
        .with_state(app)
}

/// A path as the routes have it: clients have base URLs with `/v1` and without, some add another one, and some end it
/// with a slash.
pub(crate) fn plain_path(mut path: &str) -> &str {
    while let Some(rest) = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')) {
        path = rest;
    }
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

fn without_prefix(mut request: Request) -> Request {
    let path = plain_path(request.uri().path());
    if path != request.uri().path() {
        let uri = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        if let Ok(path) = uri.parse::<PathAndQuery>() {
            *request.uri_mut() = Uri::from(path);
        }
    }
    request
}

async fn unknown(request: Request) -> ApiError {
    let path = request.uri().path();
    let elsewhere =
        ["/embeddings", "/audio", "/images", "/moderations", "/files", "/fine_tuning", "/batches", "/rerank"];
    let message = if elsewhere.iter().any(|prefix| path.starts_with(prefix)) {
        "this server generates text only".to_owned()
    } else {
        let shown: String = path.chars().take(120).collect();
        format!("no such route: {} {shown}; /openapi.json lists what there is", request.method())
    };
    ApiError::new(Fault::Route, message)
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(Fault::Method, format!("{} is not a method of this route", request.method()))
}

/// A bug of ours: this request fails, the others go on.
fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let cause =
        cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    eprintln!("error: a handler panicked: {}", cause.unwrap_or("no message"));
    ApiError::new(Fault::Internal, "an internal error; the server's log has more").into_response()
}

/// Web pages of other origins are not answered unless the operator names them.
fn cors(app: &App) -> Option<CorsLayer> {
    let origins = &app.options.origins;
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::from(Anything)
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let headers = [header::AUTHORIZATION, header::CONTENT_TYPE].into_iter().chain(
        [
            "x-api-key",
            "api-key",
            "anthropic-version",
            "anthropic-beta",
            "anthropic-dangerous-direct-browser-access",
        ]
        .map(HeaderName::from_static),
    );
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(headers.collect::<Vec<_>>())
        .expose_headers([HeaderName::from_static("x-request-id"), HeaderName::from_static("request-id")]);
    Some(layer)
}
