//! `GET /` and `/page/…`: the page for people.
//!
//! What the page consists of lies in `page/` as plain files that are part of the program: nothing is built
//! beforehand, and a browser loads nothing from elsewhere. Start reading at `page/app.js`.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, Fault};

/// A part of the page: the name in its address, its type, its text.
type Part = (&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const INDEX: Part = ("", HTML, include_str!("page/index.html"));
const PARTS: [Part; 12] = [
    ("style.css", STYLE, include_str!("page/style.css")),
    ("theme.js", SCRIPT, include_str!("page/theme.js")),
    ("app.js", SCRIPT, include_str!("page/app.js")),
    ("api.js", SCRIPT, include_str!("page/api.js")),
    ("conversation.js", SCRIPT, include_str!("page/conversation.js")),
    ("dom.js", SCRIPT, include_str!("page/dom.js")),
    ("live.js", SCRIPT, include_str!("page/live.js")),
    ("markdown.js", SCRIPT, include_str!("page/markdown.js")),
    ("reply.js", SCRIPT, include_str!("page/reply.js")),
    ("settings.js", SCRIPT, include_str!("page/settings.js")),
    ("store.js", SCRIPT, include_str!("page/store.js")),
    ("thread.js", SCRIPT, include_str!("page/thread.js")),
];

/// Nothing from elsewhere is loaded, no script stands in the text, and no other page may put this one into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// `GET /`
pub async fn index(headers: HeaderMap) -> Response {
    answer(&INDEX, &headers)
}

/// `GET /page/NAME`
pub async fn part(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let part = PARTS.iter().find(|(known, ..)| *known == name);
    let part = part.ok_or_else(|| ApiError::new(Fault::Route, "the page has no such part"))?;
    Ok(answer(part, &headers))
}

/// A part, or word that the browser has it already: it asks each time, since a new program has a new page.
fn answer((_, kind, text): &Part, request: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", &blake3::hash(text.as_bytes()).to_hex()[..16]);
    let known = request.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { text.into_response() };
    let fixed: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).expect("hexadecimal digits"));
    response
}
