//! What an operator can decide: limits for each key, early heads, records, an address for metrics, encryption.

mod common;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use common::*;
use engine::store::StoreStats;
use http_body_util::BodyExt;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use server::{App, Options, Tls};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, rustls};

const CHAT: &str = "/v1/chat/completions";

fn hi() -> Value {
    json!({ "messages": [{ "role": "user", "content": "Hi" }] })
}

/// One key cannot take the places of all, and has its own back when a reply has ended or nobody listens to it.
#[tokio::test(start_paused = true)]
async fn a_key_has_so_many_requests_and_no_more() {
    let line = Line { prefill: Duration::from_secs(5), ..Line::new("a") };
    let options = Options { keys: vec!["a".into(), "b".into()], key_limit: 2, ..Options::default() };
    let app = app(&Script::new([line]), options);
    let asking = |key: &'static str| {
        let mut request = hi();
        // Replies to one request take one place.
        (request["n"], request["stream"]) = (json!(3), json!(true));
        let mut request = post(CHAT, &request);
        request.headers_mut().insert("x-api-key", HeaderValue::from_static(key));
        send(&app, request)
    };
    let (first, second) = (asking("a").await, asking("a").await);
    let third = asking("a").await;
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(third.headers().contains_key("retry-after"));
    assert_eq!(asking("b").await.status(), StatusCode::OK);
    drop(first);
    let fourth = asking("a").await;
    assert_eq!(fourth.status(), StatusCode::OK);
    assert!(body(second).await.contains("[DONE]"));
    assert_eq!(asking("a").await.status(), StatusCode::OK);
    drop(fourth);
}

/// A client that waits for a head gets one, and JSON after it, whether it goes well or not.
#[tokio::test(start_paused = true)]
async fn a_long_answer_in_one_piece_begins_early_if_the_operator_wants_that() {
    let slow = Line { prefill: Duration::from_secs(35), ..Line::new("</think>Hello") };
    let options = Options { heartbeat: true, ..Options::default() };
    let fails = Line { fails_after: Some(1), ..slow.clone() };
    let app = app(&Script::new([slow.clone(), fails, slow]), options);
    let asked = tokio::time::Instant::now();
    let response = send(&app, post(CHAT, &hi())).await;
    assert!(asked.elapsed() < Duration::from_secs(11));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    let text = body(response).await;
    assert!(text.starts_with("  "), "{text}");
    let reply: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(reply["choices"][0]["message"]["content"], "Hello");
    let (status, failed) = ask(&app, CHAT, &hi()).await;
    assert_eq!((status, &failed["error"]["code"]), (StatusCode::OK, &json!("internal_error")));
    let (status, refused) = ask(&app, CHAT, &json!({ "messages": 3 })).await;
    assert_eq!((status, &refused["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("messages")));
}

/// Whoever goes away while spaces are sent is not worked for any more.
#[tokio::test(start_paused = true)]
async fn going_away_from_an_early_head_ends_the_work() {
    let script = Script::new([Line { prefill: Duration::from_secs(500), ..Line::new("a") }]);
    let app = app(&script, Options { heartbeat: true, ..Options::default() });
    let mut answer: Body = send(&app, post(CHAT, &hi())).await.into_body();
    assert!(answer.frame().await.is_some());
    drop(answer);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(script.dropped.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// What cannot be enforced is said in the answer of every API, whole and streamed.
#[tokio::test]
async fn a_relaxed_schema_is_said_in_every_api() {
    let schema =
        json!({ "type": "object", "properties": { "a": { "type": "string", "format": "no-such-format" } } });
    let format = json!({ "type": "json_schema", "schema": schema });
    let user = json!([{ "role": "user", "content": "Hi" }]);
    for (path, request) in [
        (CHAT, json!({ "messages": user, "response_format": format })),
        ("/v1/responses", json!({ "input": "Hi", "text": { "format": format } })),
        ("/v1/messages", json!({ "messages": user, "output_config": { "format": format } })),
        ("/v1/completions", json!({ "prompt": "Hi", "guided_json": schema })),
    ] {
        let app = saying("</think>{}");
        let (status, reply) = ask(&app, path, &request).await;
        assert_eq!(status, StatusCode::OK, "{reply}");
        assert!(reply["warnings"][0].is_string(), "{path}: {reply}");
        assert!(stream(&app, path, &request).await.contains("\"warnings\":[\""), "{path}");
    }
}

/// From the caller's trace to the request, and from there to what was said.
#[tokio::test]
async fn a_request_is_found_in_the_trace_by_the_trace_of_its_caller() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let app =
        app(&Script::new([Line::new("a")]), Options { trace: Some(file.clone()), ..Options::default() });
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for given in [parent, "nonsense"] {
        let mut request = post(CHAT, &hi());
        request.headers_mut().insert("traceparent", HeaderValue::from_static(given));
        body(send(&app, request).await).await;
    }
    let lines = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests: Vec<&Value> = lines.iter().filter(|line| line["what"] == "request").collect();
    assert_eq!((&requests[0]["traceparent"], &requests[1]["traceparent"]), (&json!(parent), &Value::Null));
    let accepted = lines.iter().find(|line| line["details"]["request"] == requests[0]["request"]).unwrap();
    let said = lines.iter().find(|line| line["what"] == "said" && line["job"] == accepted["job"]);
    assert!(said.is_some(), "{lines:?}");
}

/// What the page store has and does is told as soon as there is one.
#[tokio::test]
async fn the_page_store_is_in_the_metrics() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    let read = async || body(send(&app, get("/metrics")).await).await;
    assert!(!read().await.contains("ds4_disk_kv"));
    *script.store.lock().unwrap() = Some(StoreStats {
        pages: 3,
        tails: 2,
        bytes: 77,
        loaded_bytes: 9,
        evicted: 4,
        ..StoreStats::default()
    });
    let text = read().await;
    for line in [
        "ds4_disk_kv_entries 5",
        "ds4_disk_kv_bytes 77",
        "ds4_disk_kv_read_bytes_total 9",
        "ds4_disk_kv_evictions_total{reason=\"limit\"} 4",
        "ds4_prompt_tokens_total{source=\"disk\"} 0",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
}

/// On their own address metrics are for whoever reaches it, under any name; elsewhere they need the key then.
#[tokio::test]
async fn metrics_can_have_an_address_of_their_own() {
    let options = Options { keys: vec!["secret".into()], metrics_elsewhere: true, ..Options::default() };
    let shared = App::new(Script::new([Line::new("a")]), options).unwrap();
    let (own, usual) = (server::router::operations(shared.clone()), server::router(shared));
    let get_from = |host: &'static str, path: &str| {
        let mut request = get(path);
        request.headers_mut().insert("host", HeaderValue::from_static(host));
        request
    };
    assert_eq!(send(&own, get_from("ds4.cluster:9090", "/metrics")).await.status(), StatusCode::OK);
    assert_eq!(send(&own, get_from("ds4.cluster:9090", "/readyz")).await.status(), StatusCode::OK);
    assert_eq!(send(&own, get_from("ds4.cluster:9090", "/v1/models")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(send(&usual, get_from("localhost", "/metrics")).await.status(), StatusCode::UNAUTHORIZED);

    let options = Options { keys: vec!["secret".into()], metrics_need_key: true, ..Options::default() };
    let own = server::router::operations(App::new(Script::new([Line::new("a")]), options).unwrap());
    assert_eq!(send(&own, get("/metrics")).await.status(), StatusCode::UNAUTHORIZED);
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

#[tokio::test]
async fn an_encrypted_server_answers_who_speaks_so_and_survives_who_does_not() {
    let tls = Tls::load(&data("localhost.pem"), &data("localhost.key.pem")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options { tls: Some(tls), ..Options::default() };
    let app = app(&Script::new([Line::new("</think>Hello")]), options.clone());
    tokio::spawn(async move {
        server::listen::serve(listener, app, &options, std::future::pending(), Duration::ZERO).await
    });

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", answer.escape_ascii());

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data("localhost.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let question = hi().to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{question}",
        question.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"content\":\"Hello\""), "{answer}");
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_by_name() {
    let said =
        |certificate: &str, key: &str| Tls::load(&data(certificate), &data(key)).unwrap_err().to_string();
    assert!(said("none.pem", "localhost.key.pem").contains("none.pem"));
    assert!(said("localhost.pem", "localhost.pem").contains("localhost.pem"));
    assert!(said("localhost.key.pem", "localhost.key.pem").contains("has no certificate"));
    assert!(said("localhost.pem", "other.key.pem").contains("cannot be used together"));
}
