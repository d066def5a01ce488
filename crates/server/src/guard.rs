//! Before a handler hears of a request, and after it has answered: who may ask, under which number, and what a
//! refusal looks like.
//!
//! The order of the checks: the name of the host, the origin of a web page, the key.

use crate::affinity::Affinity;
use crate::app::App;
use crate::error::{ApiError, Family, Fault};
use crate::heartbeat;
use crate::ids;
use crate::router::plain_path;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// Who asks, as far as it matters: what one client stored is not shown to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client {
    /// A hash of the key; empty if there are no keys.
    pub scope: String,
}

/// The number of a request, in our logs and the client's, and what its client calls the conversation.
#[derive(Clone, Debug)]
pub struct RequestId(pub String, pub Affinity);

/// Everything around a handler.
pub async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let family = Family::of(request.uri().path());
    let id = request_id(request.headers());
    let affinity = Affinity::of_headers(request.headers());
    request.extensions_mut().insert(RequestId(id.clone(), affinity));
    let is_head = request.method() == Method::HEAD;

    let response = match admit(&app, &request) {
        Err(error) => error.into_response(),
        Ok(_) if request.method() == Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        Ok(client) => {
            request.extensions_mut().insert(client);
            let may_wait = app.options.heartbeat && request.method() == Method::POST;
            let answering = next.run(request);
            if may_wait {
                let (app, id) = (app.clone(), id.clone());
                let pace = app.options.keep_alive;
                heartbeat::answer(async move { with_words(answering.await, family, &id, &app) }, pace).await
            } else {
                answering.await
            }
        }
    };
    let mut response = with_words(response, family, &id, &app);
    if is_head {
        *response.body_mut() = Body::empty();
    }
    let value = HeaderValue::from_str(&id).expect("checked when it was read");
    response.headers_mut().insert("x-request-id", value.clone());
    response.headers_mut().insert("request-id", value);
    response
}

/// Says what a refusal is, if the response is one.
fn with_words(mut response: Response, family: Family, id: &str, app: &App) -> Response {
    match response.extensions_mut().remove::<ApiError>() {
        Some(error) => refusal(&error, family, id, response, app),
        None => response,
    }
}

/// Gives a refusal its body, in the words of the family.
fn refusal(error: &ApiError, family: Family, id: &str, response: Response, app: &App) -> Response {
    let (mut parts, _) = response.into_parts();
    if family == Family::Anthropic && error.fault == Fault::Unavailable && app.options.anthropic_529 {
        parts.status = StatusCode::from_u16(529).expect("three digits");
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(error.body(family, id).to_string()))
}

/// The number that the client gave, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = ["x-request-id", "x-correlation-id", "x-trace-id", "request-id"]
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok())
        .find(|id| !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic()));
    given.map_or_else(|| ids::fresh("req_"), str::to_owned)
}

fn admit(app: &App, request: &Request) -> Result<Client, ApiError> {
    check_host(app, request)?;
    check_origin(app, request)?;
    let open = match plain_path(request.uri().path()) {
        "/health" | "/livez" | "/readyz" => true,
        "/metrics" => !app.options.metrics_need_key && !app.options.metrics_elsewhere,
        // The page has nothing private in it; what it asks for needs the key.
        "/" => true,
        path => path.starts_with("/page/") || request.method() == Method::OPTIONS,
    };
    match app.keys.check(request.headers()) {
        Ok(client) => Ok(client),
        Err(_) if open => Ok(Client::default()),
        Err(error) => Err(error),
    }
}

/// A web page can make a name of its own point to this machine, and then ask as if it were ours. The name in
/// `Host` gives it away.
fn check_host(app: &App, request: &Request) -> Result<(), ApiError> {
    let Some(host) = host(request) else { return Ok(()) };
    let name = without_port(host);
    let is_ours = name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let allowed = |h: &String| h.eq_ignore_ascii_case(host) || h.eq_ignore_ascii_case(name);
    if !app.options.loopback || is_ours || app.options.hosts.iter().any(allowed) {
        return Ok(());
    }
    let message = "this server listens on the loopback interface and answers to localhost, 127.0.0.1 and [::1] only; \
                   --allow-host adds another name";
    Err(ApiError::new(Fault::Forbidden, message))
}

/// A page of another site can post to us without asking the browser; its `Origin` gives it away.
fn check_origin(app: &App, request: &Request) -> Result<(), ApiError> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let same = host(request).is_some_and(|host| {
        let place = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        place.is_some_and(|place| place.eq_ignore_ascii_case(host))
    });
    if same || app.options.origins.iter().any(|allowed| allowed == "*" || allowed == origin) {
        return Ok(());
    }
    let message = "web pages of other origins may not use this server; --cors-origin allows one";
    Err(ApiError::new(Fault::Forbidden, message))
}

fn host(request: &Request) -> Option<&str> {
    match request.headers().get(header::HOST) {
        Some(host) => Some(host.to_str().unwrap_or("?")),
        None => request.uri().authority().map(|a| a.as_str()),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// The keys, as hashes: comparing these tells nothing about how much of a key was right.
#[derive(Default)]
pub struct Keys {
    hashes: Vec<blake3::Hash>,
}

impl Keys {
    /// Whether this is a request of somebody with a key.
    pub(crate) fn know(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        self.check(headers).map(drop)
    }

    /// Keeps these keys.
    pub fn new(keys: &[String]) -> Keys {
        Keys { hashes: keys.iter().map(|key| blake3::hash(key.as_bytes())).collect() }
    }

    /// Whose request this is.
    fn check(&self, headers: &HeaderMap) -> Result<Client, ApiError> {
        if self.hashes.is_empty() {
            return Ok(Client::default());
        }
        let given = key(headers).ok_or_else(|| {
            ApiError::new(
                Fault::Key,
                "no API key: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`",
            )
        })?;
        let hash = blake3::hash(given);
        // `Hash` compares in constant time; every key is looked at, whichever it is.
        let known = self.hashes.iter().fold(false, |known, key| known | (*key == hash));
        match known {
            true => Ok(Client { scope: hash.to_hex()[..32].to_owned() }),
            false => Err(ApiError::new(Fault::Key, "this API key is not one of this server's")),
        }
    }
}

fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").or_else(|| headers.get("api-key")).map(HeaderValue::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_not_part_of_a_name() {
        for (host, name) in [
            ("localhost:80", "localhost"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a", "a"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn a_key_is_found_where_clients_put_it() {
        let keys = Keys::new(&["secret".to_owned(), "other".to_owned()]);
        let check = |name: &'static str, value: &'static str| {
            keys.check(&HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]))
        };
        let first = check("authorization", "Bearer secret").unwrap();
        assert_eq!(check("authorization", "bearer  secret").unwrap(), first);
        assert_eq!(check("x-api-key", "secret").unwrap(), first);
        assert_ne!(check("api-key", "other").unwrap(), first);
        for (name, value) in
            [("authorization", "Basic secret"), ("x-api-key", "Secret"), ("x-api-key", ""), ("x", "y")]
        {
            assert_eq!(check(name, value).unwrap_err().fault, Fault::Key);
        }
        assert_eq!(Keys::new(&[]).check(&HeaderMap::new()).unwrap(), Client::default());
    }
}
