//! What an operator can decide: limits for each key, early heads, records, an address for metrics, encryption.

mod common;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use common::*;
use engine::service::{ActiveJob, CacheStatus, Phase, SlotStatus};
use engine::store::StoreStats;
use engine::{LoadPhase, Loading, Priority, SlotAction, Status};
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
    let script = Script::new([line]);
    let app = app(&script, options);
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
    assert_eq!(third.headers()["retry-after"], "2", "as long as nothing was measured");
    // 1000 tokens to read at 100 a second: one of two requests will have ended after a third of that.
    *script.status.lock().unwrap() = Status {
        queued_tokens: 1000,
        prefill_rate: 100.0,
        decode_rate: 1e9,
        reply_tokens: 10.0,
        ..Status::default()
    };
    assert_eq!(asking("a").await.headers()["retry-after"], "4");
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
    // A bucket is another source.
    *script.store.lock().unwrap() = Some(StoreStats { is_remote: true, ..StoreStats::default() });
    {
        let mut status = script.status.lock().unwrap();
        let totals = &mut status.totals;
        (totals.prompt_tokens, totals.cached_tokens, totals.fetched_tokens) = (100, 90, 70);
        (totals.written_tokens, totals.reasoning_tokens, totals.call_tokens) = (50, 20, 10);
        status.cache = CacheStatus { bytes: 100, page_bytes: 50, tail_bytes: 30, ..CacheStatus::default() };
        status.scratch = 7;
    }
    let text = read().await;
    for line in [
        "ds4_prompt_tokens_total{source=\"memory\"} 20",
        "ds4_prompt_tokens_total{source=\"disk\"} 0",
        "ds4_prompt_tokens_total{source=\"remote\"} 70",
        "ds4_prefix_cache_queries_tokens_total{tier=\"remote\"} 80",
        "ds4_prefix_cache_hit_tokens_total{tier=\"remote\"} 70",
        "ds4_generated_tokens_total{phase=\"reasoning\"} 20",
        "ds4_generated_tokens_total{phase=\"text\"} 20",
        "ds4_generated_tokens_total{phase=\"tool\"} 10",
        "ds4_memory_bytes{kind=\"kv_active\"} 20",
        "ds4_memory_bytes{kind=\"scratch\"} 7",
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

async fn json_of(app: &axum::Router, path: &str) -> (StatusCode, Value) {
    let response = send(app, get(path)).await;
    let status = response.status();
    (status, serde_json::from_str(&body(response).await).unwrap())
}

/// What probes are told, in each state.
#[tokio::test]
async fn probes_are_told_what_is_the_matter() {
    let shared = App::loading(Options::default()).unwrap();
    let app = server::router(shared.clone());
    assert_eq!(json_of(&app, "/health").await.1["phase"], "checking");
    shared.progress(Loading { phase: LoadPhase::Weights, done: 10 << 30, total: 40 << 30 });
    let (status, said) = json_of(&app, "/health").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((&said["status"], &said["error"]["message"]), (&json!("loading"), &json!("Loading model")));
    assert_eq!(said["error"]["type"], "unavailable_error");
    assert!((said["progress"].as_f64().unwrap() - 0.275).abs() < 1e-6, "{said}");
    assert_eq!(said["phase"], "weights");
    assert_eq!(said["weights"], json!({ "done": 10u64 << 30, "total": 40u64 << 30 }));
    let refused = send(&app, post(CHAT, &hi())).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));

    let script = Script::new([Line::new("a")]);
    shared.ready(script.clone());
    assert_eq!(json_of(&app, "/readyz").await, (StatusCode::OK, json!({ "status": "ok" })));
    let device = Status { device_error: Some("lost".to_owned()), ..Status::default() };
    for (state, word) in [(device, "lost"), (Status { is_gone: true, ..Status::default() }, "broken down")] {
        *script.status.lock().unwrap() = state;
        let (status, said) = json_of(&app, "/v1/health").await;
        assert_eq!((status, &said["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unhealthy")));
        assert!(said["reason"].as_str().unwrap().contains(word), "{said}");
        assert_eq!(send(&app, get("/livez")).await.status(), StatusCode::OK);
    }
    *script.status.lock().unwrap() = Status::default();
    assert_eq!(json_of(&app, "/readyz").await.0, StatusCode::OK, "it is well again");
    shared.drain(Duration::ZERO);
    let (status, said) = json_of(&app, "/health").await;
    assert_eq!((status, &said["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("draining")));
}

#[tokio::test]
async fn an_engine_that_is_stuck_is_unhealthy() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options { watchdog: Duration::from_nanos(1), ..Options::default() });
    assert_eq!(json_of(&app, "/health").await.0, StatusCode::OK);
    script.status.lock().unwrap().busy_since = Some(std::time::Instant::now() - Duration::from_millis(5));
    let (status, said) = json_of(&app, "/health").await;
    assert_eq!((status, &said["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unhealthy")));
}

/// Prompts are shown only where the operator wants that, and only as long as they are worked on.
#[tokio::test(start_paused = true)]
async fn prompts_are_shown_if_the_operator_wants_that() {
    for shown in [false, true] {
        let slow = Line { pace: Duration::from_secs(1), ..Line::new("</think>Hello") };
        let script = Script::new([slow]);
        let job = ActiveJob {
            id: 1,
            phase: Phase::Decode,
            prompt: 5,
            cached: 0,
            tokens: 5,
            written: 0,
            priority: Priority::Normal,
            slot: 0,
            age: Duration::from_secs(1),
        };
        *script.status.lock().unwrap() = Status { active: vec![job], ..Status::default() };
        let app = app(&script, Options { show_prompts: shown, ..Options::default() });
        let request = json!({ "messages": [{ "role": "user", "content": "the question" }], "stream": true });
        let answer = send(&app, post("/v1/chat/completions", &request)).await;
        let prompt = async || json_of(&app, "/slots").await.1[0].get("prompt").map(Value::to_string);
        assert_eq!(prompt().await.is_some_and(|prompt| prompt.contains("the question")), shown);
        drop(answer);
        assert_eq!(prompt().await, None);
    }
}

/// How prompts are written has a hash, which does not change by itself.
#[tokio::test]
async fn the_way_of_writing_prompts_has_a_hash() {
    let (app, other) = (saying("a"), saying("b"));
    let hash = async |app: &axum::Router| json_of(app, "/props").await.1["template_hash"].clone();
    assert_eq!(hash(&app).await, hash(&other).await);
    assert_eq!(hash(&app).await, "122016a5ef1caa78");
}

/// Slots keep their numbers, and their conversations can be saved, brought back and forgotten where that is allowed.
#[tokio::test]
async fn slots_are_shown_and_acted_on() {
    let script = Script::new([Line::new("a")]);
    *script.status.lock().unwrap() = Status {
        active: vec![ActiveJob {
            id: 9,
            phase: Phase::Prefill,
            prompt: 50,
            cached: 10,
            tokens: 30,
            written: 0,
            priority: Priority::Normal,
            slot: 2,
            age: Duration::from_secs(1),
        }],
        slots: vec![
            SlotStatus {
                tokens: 77,
                affinity: Some(255),
                last_used: Some(std::time::Instant::now()),
                ..SlotStatus::default()
            },
            SlotStatus::default(),
            SlotStatus { job: Some(9), ..SlotStatus::default() },
        ],
        ..Status::default()
    };
    let allowing = app(&script, Options { slot_actions: true, ..Options::default() });
    let (_, slots) = json_of(&allowing, "/slots").await;
    assert_eq!(slots.as_array().unwrap().len(), 4);
    assert_eq!((&slots[0]["state"], &slots[0]["n_tokens"]), (&json!("idle"), &json!(77)));
    assert_eq!(slots[0]["affinity"], "00000000000000ff");
    assert!(slots[0]["last_used_s"].is_number() && slots[1]["last_used_s"].is_null());
    assert_eq!((&slots[2]["state"], &slots[2]["prefill_done"]), (&json!("prefill"), &json!(30)));

    let act = async |app: &axum::Router, path: &str, body: Value| ask(app, path, &body).await;
    let (status, saved) = act(&allowing, "/slots/1?action=save", json!({ "filename": "../mine" })).await;
    assert_eq!((status, &saved["n_saved"]), (StatusCode::OK, &json!(101)), "{saved}");
    assert_eq!(saved["filename"], "../mine", "a name, and no path");
    let key = saved["key"].as_str().unwrap().to_owned();
    for name in ["../mine", &key] {
        let (status, restored) = act(&allowing, "/slots/0?action=restore", json!({ "filename": name })).await;
        assert_eq!((status, &restored["n_restored"]), (StatusCode::OK, &json!(100)), "{restored}");
    }
    let nothing = send(&allowing, {
        let mut request = get("/slots/0?x=1&action=erase");
        *request.method_mut() = axum::http::Method::POST;
        request
    });
    assert_eq!(nothing.await.status(), StatusCode::OK, "a body is not needed");
    let did = [
        (1, SlotAction::Save),
        (0, SlotAction::Restore(Script::key(1))),
        (0, SlotAction::Restore(Script::key(1))),
        (0, SlotAction::Erase),
    ];
    assert_eq!(*script.actions.lock().unwrap(), did);

    for (path, body, status, param) in [
        ("/slots/1?action=restore", json!({ "filename": "other" }), StatusCode::NOT_FOUND, json!("filename")),
        ("/slots/1?action=restore", json!({}), StatusCode::BAD_REQUEST, json!("filename")),
        ("/slots/1?action=dance", json!({}), StatusCode::BAD_REQUEST, json!("action")),
        ("/slots/1", json!({}), StatusCode::BAD_REQUEST, json!("action")),
        ("/slots/x?action=save", json!({}), StatusCode::BAD_REQUEST, json!("id")),
        ("/slots/1?action=save", json!({ "filename": 7 }), StatusCode::BAD_REQUEST, json!("filename")),
        ("/slots/9?action=save", json!({}), StatusCode::NOT_FOUND, Value::Null),
        ("/slots/3?action=erase", json!({}), StatusCode::SERVICE_UNAVAILABLE, Value::Null),
    ] {
        let (got, error) = act(&allowing, path, body).await;
        assert_eq!((got, &error["error"]["param"]), (status, &param), "{path}: {error}");
    }
    let (status, _) = act(&app(&script, Options::default()), "/slots/1?action=save", json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(script.actions.lock().unwrap().len(), did.len());
}

/// A name given by a key is that key's own.
#[tokio::test]
async fn names_of_saved_conversations_are_not_shared_between_keys() {
    let script = Script::new([Line::new("a")]);
    let options =
        Options { slot_actions: true, keys: vec!["one".into(), "two".into()], ..Options::default() };
    let app = app(&script, options);
    let act = async |key: &'static str, action: &str| {
        let mut request = post(&format!("/slots/0?action={action}"), &json!({ "filename": "mine" }));
        request.headers_mut().insert("x-api-key", HeaderValue::from_static(key));
        send(&app, request).await.status()
    };
    assert_eq!(act("one", "save").await, StatusCode::OK);
    assert_eq!(act("two", "restore").await, StatusCode::NOT_FOUND);
    assert_eq!(act("one", "restore").await, StatusCode::OK);
}

/// What clients call their conversations reaches the engine, as a number.
#[tokio::test]
async fn a_conversation_has_the_name_that_its_client_gives_it() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    let mut named = hi();
    named["user"] = json!("somebody");
    for (request, header) in [(hi(), None), (named.clone(), None), (named, Some("session"))] {
        let mut request = post(CHAT, &request);
        if let Some(header) = header {
            request.headers_mut().insert("x-session-id", HeaderValue::from_static(header));
        }
        send(&app, request).await;
    }
    let names: Vec<_> = script.jobs.lock().unwrap().iter().map(|job| job.affinity).collect();
    assert_eq!(names[0], None);
    assert!(names[1].is_some() && names[2].is_some() && names[1] != names[2], "{names:?}");
}

/// What the operator decides about sampling and length.
#[tokio::test]
async fn the_operator_decides_what_requests_may_change() {
    let asked = async |options: Options, fields: Value| {
        let script = Script::new([Line::new("a")]);
        let mut request = hi();
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (status, _) = ask(&app(&script, options), CHAT, &request).await;
        let job = script.jobs.lock().unwrap().first().map(|job| job.request.clone());
        (status, job)
    };
    let fixed = Options {
        fixed_thinking_sampling: true,
        sampling: engine::Sampling { temperature: 0.6, ..engine::Sampling::default() },
        ..Options::default()
    };
    let hot = json!({ "temperature": 1.5, "logit_bias": { "5": -2 } });
    let (_, job) = asked(fixed.clone(), hot.clone()).await;
    let sampling = job.unwrap().sampling;
    assert_eq!((sampling.temperature, &sampling.bias[..]), (0.6, &[(5, -2.0)][..]));
    let mut quick = hot.clone();
    quick["thinking"] = json!({ "type": "disabled" });
    assert_eq!(asked(fixed, quick).await.1.unwrap().sampling.temperature, 1.5);
    assert_eq!(asked(Options::default(), hot).await.1.unwrap().sampling.temperature, 1.5);

    let long = json!({ "ignore_eos": true });
    assert_eq!(asked(Options::default(), long.clone()).await.0, StatusCode::BAD_REQUEST);
    let allowing = Options { length_fields: true, ..Options::default() };
    assert_eq!(asked(allowing, long).await.1.unwrap().min_tokens, usize::MAX);
}

/// Reasoning in the content is the same whole and streamed, and is taken apart when it comes back.
#[tokio::test]
async fn reasoning_can_be_a_part_of_the_content() {
    let script = Script::new([Line::new("Hm.</think>Hello")]);
    let options = Options { reasoning_field: server::options::ReasoningField::Inline, ..Options::default() };
    let app = app(&script, options);
    let (_, whole) = ask(&app, CHAT, &hi()).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], "<think>Hm.</think>Hello");
    assert!(message["reasoning_content"].is_null());
    let streamed: String = events(&stream(&app, CHAT, &hi()).await)
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(streamed, "<think>Hm.</think>Hello");
    let mut next = hi();
    let messages = next["messages"].as_array_mut().unwrap();
    messages.push(message.clone());
    messages.push(json!({ "role": "user", "content": "Go on" }));
    ask(&app, CHAT, &next).await;
    let mut apart = next.clone();
    apart["messages"][1] = json!({ "role": "assistant", "content": "Hello", "reasoning_content": "Hm." });
    ask(&app, CHAT, &apart).await;
    assert_eq!(script.prompt(2), script.prompt(3));
}

/// What was sampled is known beyond a restart: a turn comes back in the tokens in which it was said.
#[tokio::test]
async fn replies_are_remembered_beyond_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options { replies: Some(folder.path().to_owned()), ..Options::default() };
    let mut next = hi();
    next["tools"] = json!([{ "type": "function", "function": { "name": "get_weather", "parameters": {} } }]);
    let (called, again) =
        (Script::new([Line::new(&format!("Hm.</think>{CALL}"))]), Script::new([Line::new("a")]));
    let (_, reply) = ask(&app(&called, options()), CHAT, &next).await;
    let mut message = reply["choices"][0]["message"].clone();
    assert_eq!(message["tool_calls"][0]["function"]["name"], "get_weather");
    message.as_object_mut().unwrap().remove("reasoning_content");
    let id = message["tool_calls"][0]["id"].clone();
    let messages = next["messages"].as_array_mut().unwrap();
    messages.push(message);
    messages.push(json!({ "role": "tool", "tool_call_id": id, "content": "warm" }));
    let second = App::new(again.clone(), options()).unwrap();
    ask(&server::router(second), CHAT, &next).await;
    let prompt = again.prompt(0);
    assert!(prompt.contains(&format!("Hm.</think>{CALL}")), "{prompt}");
    let forgetful = Script::new([Line::new("a")]);
    ask(&app(&forgetful, Options::default()), CHAT, &next).await;
    assert!(!forgetful.prompt(0).contains("Hm."));
}

/// A client that closes its side for sending is gone, unless the operator says otherwise.
#[cfg(unix)]
#[tokio::test]
async fn a_socket_that_is_a_file_and_clients_that_close_half_of_it() {
    use std::os::unix::fs::PermissionsExt;
    use tokio::net::{UnixListener, UnixStream};
    let folder = tempfile::tempdir().unwrap();
    for half_close in [true, false] {
        let path = folder.path().join(format!("socket-{half_close}"));
        let options = Options { half_close, loopback: false, ..Options::default() };
        let script =
            Script::new([Line { prefill: Duration::from_millis(300), ..Line::new("</think>Hello") }]);
        let app = app(&script, options.clone());
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            server::listen::serve(listener, app, &options, std::future::pending(), Duration::ZERO).await
        });
        let mut client = UnixStream::connect(&path).await.unwrap();
        let question = hi().to_string();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: any.name\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{question}",
            question.len()
        );
        client.write_all(head.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).await;
        assert_eq!(answer.contains("\"content\":\"Hello\""), half_close, "{answer}");
        let given_up = || script.dropped.load(std::sync::atomic::Ordering::SeqCst);
        if half_close {
            assert_eq!(given_up(), 0);
        } else {
            // The connection may be closed a moment before the engine hears of it.
            let heard = async {
                while given_up() == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), heard).await.expect("the reply is given up");
        }
        server.abort();
    }

    let path = folder.path().join("own");
    let socket = server::listen::UnixSocket::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = server::listen::UnixSocket::bind(&path).unwrap_err();
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
    drop(socket);
    assert!(!path.exists());
    // One that a server has left behind when it was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists() && server::listen::UnixSocket::bind(&path).is_ok());
    std::fs::write(&path, "mine").unwrap();
    assert_eq!(
        server::listen::UnixSocket::bind(&path).unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
}
