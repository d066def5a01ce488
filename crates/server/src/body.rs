//! The body of a request: read whole, within limits, and parsed.
//!
//! Limits hold after decompression too. Depth is limited by the parser (128 levels), and the number of values
//! before parsing, since a short text like `[0,0,0,…]` becomes large in memory.

use crate::error::{ApiError, Fault};
use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value;
use std::io::Read;
use std::time::Duration;
use tokio::time::Instant;

/// How many values a body may hold. A prompt of a million token ids has room.
const MAX_VALUES: usize = 4 << 20;

/// Bytes of a body that must come in a second, on average and after a time to begin: a byte now and then would keep a
/// connection forever.
const LEAST_RATE: u64 = 1024;

/// Above this size a body is parsed on a thread that may take its time.
const LARGE: usize = 64 << 10;

/// Reads and parses a body of at most `limit` bytes, before and after decompression. One that is missing is `{}`, for
/// requests that need no fields.
///
/// # Errors
///
/// If it is too long, comes too slowly, is packed in a way we do not know, or is no JSON.
pub async fn read_json(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    patience: Duration,
) -> Result<Value, ApiError> {
    let packing = packing(headers)?;
    check_type(headers)?;
    let bytes = read(headers, body, limit, patience).await?;
    if bytes.len() < LARGE && packing == Packing::None {
        return parse(&bytes);
    }
    let work = move || parse(&unpack(packing, bytes, limit)?);
    tokio::task::spawn_blocking(work).await.expect("parsing does not panic")
}

/// Reads a body whole.
async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let begun = Instant::now();
    loop {
        let came = (first.len() + all.len()) as u64;
        let whole = patience + Duration::from_secs(came / LEAST_RATE);
        let left = whole.saturating_sub(begun.elapsed()).min(patience);
        let frame = tokio::time::timeout(left, body.frame()).await.map_err(|_| {
            let message = match begun.elapsed() < whole {
                true => format!("nothing more of the body came for {} seconds", patience.as_secs()),
                false => format!("the body came more slowly than {LEAST_RATE} bytes a second"),
            };
            ApiError::new(Fault::BodyTimeout, message)
        })?;
        let Some(frame) = frame else { break };
        let frame =
            frame.map_err(|_| ApiError::new(Fault::Invalid, "the body ended before its announced length"))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        if first.is_empty() && all.is_empty() {
            first = data; // the whole body, mostly: then nothing is copied
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
                first = Bytes::new();
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(Fault::TooLarge, format!("the body is longer than {limit} bytes, the limit of this server"))
}

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

fn packing(headers: &HeaderMap) -> Result<Packing, ApiError> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Packing::None) };
    match value.to_str().map(|v| v.trim().to_ascii_lowercase()).as_deref() {
        Ok("" | "identity") => Ok(Packing::None),
        Ok("gzip" | "x-gzip") => Ok(Packing::Gzip),
        Ok("zstd") => Ok(Packing::Zstd),
        _ => {
            Err(ApiError::new(Fault::Invalid, "content-encoding: gzip and zstd are known")
                .at("content-encoding"))
        }
    }
}

/// JSON is expected, and a missing type is taken for it. Pages of other sites can post some types without asking
/// the browser's permission first; those are refused.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let name =
        value.to_str().unwrap_or("?").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match &*name {
        "" | "application/json" => Ok(()),
        name if name.ends_with("+json") => Ok(()),
        _ => Err(ApiError::new(Fault::Invalid, "content-type must be application/json").at("content-type")),
    }
}

fn unpack(packing: Packing, bytes: Bytes, limit: usize) -> Result<Bytes, ApiError> {
    let mut out = Vec::new();
    let most = limit as u64 + 1;
    let broken = |what: &str| ApiError::new(Fault::Invalid, format!("the body is not valid {what} data"));
    match packing {
        Packing::None => return Ok(bytes),
        Packing::Gzip => {
            let packed = flate2::read::MultiGzDecoder::new(&*bytes);
            packed.take(most).read_to_end(&mut out).map_err(|_| broken("gzip"))?;
        }
        Packing::Zstd => {
            let packed = ruzstd::decoding::StreamingDecoder::new(&*bytes).map_err(|_| broken("zstd"))?;
            packed.take(most).read_to_end(&mut out).map_err(|_| broken("zstd"))?;
        }
    }
    if out.len() > limit { Err(too_large(limit)) } else { Ok(out.into()) }
}

/// Parses JSON. Nothing is an empty object.
fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    if count_values(bytes) > MAX_VALUES {
        let message = format!("the body holds more than {MAX_VALUES} values, the limit of this server");
        return Err(ApiError::new(Fault::TooLarge, message));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        // The parser's words never quote the text around.
        ApiError::new(Fault::Invalid, format!("the body is not valid JSON: {error}"))
    })
}

/// At least as many as there are values: each but the first follows a comma, a colon or an opening bracket.
fn count_values(json: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' | b':' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Write;

    async fn check(headers: &[(&str, &str)], body: Vec<u8>) -> Result<Value, Fault> {
        let headers = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
        let headers =
            HeaderMap::from_iter(headers.collect::<Vec<(header::HeaderName, header::HeaderValue)>>());
        read_json(&headers, Body::from(body), 1000, Duration::from_secs(1)).await.map_err(|e| e.fault)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    #[tokio::test]
    async fn a_body_may_be_packed() {
        let text = b"{\"a\": [1, 2.50]}";
        let want = Ok(json!({"a": [1, serde_json::from_str::<Value>("2.50").unwrap()]}));
        let zstd = ruzstd::encoding::compress_to_vec(&text[..], ruzstd::encoding::CompressionLevel::Fastest);
        assert_eq!(check(&[], text.to_vec()).await, want);
        assert_eq!(check(&[("content-encoding", "gzip")], gzip(text)).await, want);
        assert_eq!(check(&[("content-encoding", "zstd")], zstd).await, want);
        assert_eq!(check(&[("content-encoding", "gzip")], text.to_vec()).await, Err(Fault::Invalid));
        assert_eq!(check(&[("content-encoding", "br")], text.to_vec()).await, Err(Fault::Invalid));
    }

    #[tokio::test]
    async fn what_unpacks_to_too_much_is_refused() {
        let bomb = gzip(&vec![b' '; 10_000_000]);
        assert_eq!(
            check(&[("content-encoding", "gzip")], bomb[..900.min(bomb.len())].to_vec()).await,
            Err(Fault::TooLarge)
        );
        assert_eq!(check(&[], vec![b' '; 1001]).await, Err(Fault::TooLarge));
        assert_eq!(check(&[("content-length", "1001")], Vec::new()).await, Err(Fault::TooLarge));
    }

    #[tokio::test]
    async fn broken_json_is_the_callers_mistake() {
        for text in ["{", "[1,]", "nul", "{\"a\":1e}", "\"\\ud800\"", "{\"a\":NaN}", "\u{feff}{}"] {
            assert_eq!(check(&[], text.into()).await, Err(Fault::Invalid), "{text}");
        }
        assert_eq!(check(&[], vec![b'"', 0xff, b'"']).await, Err(Fault::Invalid));
        assert_eq!(check(&[], "[".repeat(500).into()).await, Err(Fault::Invalid));
        assert_eq!(check(&[], Vec::new()).await, Ok(json!({})));
        assert_eq!(check(&[("content-type", "text/plain")], b"{}".to_vec()).await, Err(Fault::Invalid));
        assert_eq!(
            check(&[("content-type", "application/json; charset=utf-8")], b"{}".to_vec()).await,
            Ok(json!({}))
        );
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        assert_eq!(count_values(b"[0,0,0]"), 4);
        assert_eq!(count_values(br#"{"a,[\",":"b,c"}"#), 3);
    }
}
