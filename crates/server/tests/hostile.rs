//! Clients on a real socket that mean no good, or know HTTP better or worse than most: each is answered or refused, none
//! takes more than its share, and the next one is served.

mod common;

use common::*;
use serde_json::{Value, json};
use server::{App, Options};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const CHAT: &str = "/v1/chat/completions";
const HI: &str = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;

/// A server on a socket; it ends with this.
struct Server {
    address: SocketAddr,
    script: Arc<Script>,
    app: App,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

async fn serve(lines: impl IntoIterator<Item = Line>, options: Options) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Script::new(lines);
    let app = App::new(script.clone(), options.clone()).unwrap();
    let router = server::router(app.clone());
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        server::listen::serve(listener, router, &options, stopped, Duration::from_secs(20)).await.unwrap();
    });
    Server { address, script, app, stop: Some(stop), ended }
}

async fn hello() -> Server {
    serve([Line::new("</think>Hello")], Options::default()).await
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may answer and close before it has taken all.
        let _ = stream.write_all(bytes.as_ref()).await;
        rest(&mut stream).await
    }

    /// That an honest client is served.
    async fn still_serves(&self) {
        let answer = self.say(request(CHAT, "connection: close\r\n", HI)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// What comes until the other side closes, within a time in which it must.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    let _ = reading.expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// What comes until `end` has come.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut part = [0; 4096];
        let count = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut part)).await;
        let count = count.expect("more comes").unwrap();
        assert!(count > 0, "closed before {end:?} came: {text}");
        text.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    text
}

fn request(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

// ---- HTTP as it is allowed

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let server = hello().await;
    let named = |id: &str| request(CHAT, &format!("x-request-id: {id}\r\n"), HI);
    let last = request("/v1/messages", "x-request-id: four\r\nconnection: close\r\n", HI);
    let answer = server.say([named("one"), named("two"), named("three"), last].concat()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 4, "{answer}");
    let order =
        ["one", "two", "three", "four"].map(|id| answer.find(&format!("x-request-id: {id}")).unwrap());
    assert!(order.is_sorted());
}

/// Old clients know no chunks: the end of the connection is the end of the answer.
#[tokio::test]
async fn the_older_protocol_is_spoken() {
    let server = hello().await;
    let body = HI.replacen('{', r#"{"stream":true,"#, 1);
    for body in [HI, &body] {
        let head = format!("POST {CHAT} HTTP/1.0\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer = server.say(format!("{head}{body}")).await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
        let (_, told) = answer.split_once("\r\n\r\n").unwrap();
        if body == HI {
            assert!(serde_json::from_str::<Value>(told).is_ok(), "{told}");
        } else {
            assert!(told.starts_with("data: {") && told.ends_with("data: [DONE]\n\n"), "{told}");
        }
    }
}

/// Chunks of any size, with extensions and trailers; and a body byte by byte.
#[tokio::test]
async fn a_body_may_come_in_any_pieces() {
    let server = hello().await;
    for size in [1, 2, 7, HI.len()] {
        let mut body = String::new();
        for chunk in HI.as_bytes().chunks(size) {
            let text = std::str::from_utf8(chunk).unwrap();
            body.push_str(&format!("{:X};name=\"value\"\r\n{text}\r\n", chunk.len()));
        }
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
        );
        let answer = server.say(format!("{head}{body}0\r\nx-sum: 1\r\n\r\n")).await;
        assert_eq!(status(&answer), "200", "{answer}");
    }
    let mut stream = server.connect().await;
    for byte in request(CHAT, "connection: close\r\n", HI).bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&rest(&mut stream).await), "200");
}

/// Who asks whether to send a body is told to go on, and is not if it would be for nothing.
#[tokio::test]
async fn a_client_that_waits_to_go_on_is_told_to() {
    let options = Options { keys: vec!["secret".into()], ..Options::default() };
    let server = serve([Line::new("</think>Hello")], options).await;
    let head = |key: &str| {
        let length = HI.len();
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {key}\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut stream = server.connect().await;
    stream.write_all(head("secret").as_bytes()).await.unwrap();
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    stream.write_all(HI.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));

    let mut stream = server.connect().await;
    stream.write_all(head("wrong").as_bytes()).await.unwrap();
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 401"));
}

/// Codex asks for a WebSocket first; a plain refusal makes it use HTTP.
#[tokio::test]
async fn other_protocols_are_refused() {
    let server = hello().await;
    let upgrade = "GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = server.connect().await;
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    drop(stream);
    // The preface of HTTP/2, and the greeting of TLS.
    for greeting in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
    ] {
        let answer = server.say(greeting).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    server.still_serves().await;
}

// ---- HTTP as it is not

/// Two ends of one body are how requests are smuggled: there is never a second answer to what was in the first body.
#[tokio::test]
async fn a_body_has_one_end() {
    let server = hello().await;
    let inner = "GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let refused = [
        format!("content-length: 5\r\ncontent-length: {}\r\n\r\n{HI}{inner}", HI.len()),
        format!("content-length: -1\r\n\r\n{HI}"),
        format!("content-length: +{}\r\n\r\n{HI}", HI.len()),
        format!("content-length: 0x10\r\n\r\n{HI}"),
        format!("content-length: 99999999999999999999\r\n\r\n{HI}"),
        format!("transfer-encoding: chunked, identity\r\n\r\n{HI}"),
        "transfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\n-1\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned(),
    ];
    for head in refused {
        let answer = server.say(format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{head}")).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 4"), "{head}: {answer}");
    }
    let size = HI.len();
    let both = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n{HI}\r\n0\r\n\r\n{inner}"
    );
    let answer = server.say(both).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    server.still_serves().await;
}

#[tokio::test]
async fn heads_that_are_too_large_or_none_are_refused() {
    let server = hello().await;
    let many: String = (0..2000).map(|i| format!("x-{i}: {i}\r\n")).collect();
    let heads = [
        request(CHAT, &many, HI),
        request(CHAT, &format!("x: {}\r\n", "y".repeat(1 << 20)), HI),
        request(&format!("/{}", "a".repeat(1 << 20)), "", HI),
        "GET / HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n".to_owned(),
    ];
    for head in heads {
        let answer = server.say(&head).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{:.99}: {answer}", head);
    }
    server.still_serves().await;
}

// ---- clients that take their time

#[tokio::test]
async fn slow_clients_are_given_up() {
    let options = Options {
        idle_patience: Duration::from_millis(300),
        body_patience: Duration::from_millis(300),
        ..Options::default()
    };
    let server = serve([Line::new("</think>Hello")], options).await;
    // A head that never ends, one that is dripped, and none at all.
    let text = request(CHAT, "", HI);
    for (count, pace) in [(30, 0), (text.len(), 50), (0, 0)] {
        let mut stream = server.connect().await;
        for byte in text.bytes().take(count) {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(pace)).await;
        }
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // A body that stops, and one of which a byte comes now and then.
    for pace in [10_000, 50] {
        let mut stream = server.connect().await;
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let dripping = tokio::spawn(async move {
            while writing.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(pace)).await;
            }
        });
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(30), reading.read_to_string(&mut answer)).await;
        read.expect("the server does not wait").unwrap();
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        dripping.abort();
    }
    server.still_serves().await;
}

/// Who does not read is not written for: the stream ends, and so does the work.
#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    // Only when the first connection is given up is there a place for the second.
    let options =
        Options { write_patience: Duration::from_millis(300), max_connections: 1, ..Options::default() };
    let long = Line::new(&format!("</think>{}", "word ".repeat(20_000)));
    let server = serve([long, Line::new("</think>Hello")], options).await;
    let mut stream = server.connect().await;
    let body = HI.replacen('{', r#"{"stream":true,"#, 1);
    stream.write_all(request(CHAT, "", &body).as_bytes()).await.unwrap();
    server.still_serves().await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("[DONE]"));
}

/// Browsers and libraries close both directions at once: one that is closed means that nobody is there any more.
#[tokio::test]
async fn half_a_connection_is_none() {
    let slow = Line { prefill: Duration::from_secs(60), ..Line::new("</think>Hello") };
    let server = serve([slow.clone(), slow, Line::new("</think>Hello")], Options::default()).await;
    for (nth, streaming) in [(1, "false"), (2, "true")] {
        let mut stream = server.connect().await;
        let body = HI.replacen('{', &format!("{{\"stream\":{streaming},"), 1);
        stream.write_all(request(CHAT, "", &body).as_bytes()).await.unwrap();
        while server.script.jobs.lock().unwrap().len() < nth {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stream.shutdown().await.unwrap();
        rest(&mut stream).await;
        while server.script.dropped.load(Ordering::SeqCst) < nth {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    server.still_serves().await;
}

// ---- bodies

fn packed(encoding: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A small body that unpacks to a large one is refused before it is large.
#[tokio::test]
async fn bombs_do_not_go_off() {
    let options = Options { max_body: 1 << 20, ..Options::default() };
    let server = serve([Line::new("</think>Hello")], options).await;
    let zeros = vec![b' '; 64 << 20];
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&zeros).unwrap();
    let gzip = packer.finish().unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&zeros[..], ruzstd::encoding::CompressionLevel::Fastest);
    for (encoding, bomb) in [("gzip", &gzip), ("zstd", &zstd)] {
        assert!(bomb.len() < 1 << 20, "{encoding}: {}", bomb.len());
        assert_eq!(status(&server.say(packed(encoding, bomb)).await), "413", "{encoding}");
        for cut in [1, 5, bomb.len() / 2, bomb.len() - 1] {
            let answer = server.say(packed(encoding, &bomb[..cut])).await;
            assert!(["400", "413"].contains(&status(&answer)), "{encoding} cut at {cut}: {answer}");
        }
    }
    // Frames that announce a window of terabytes, a size of exabytes, a dictionary that nobody has.
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    for frame in [
        &[0x00, 0xff, 0x01, 0x00, 0x00][..],
        &[0xe0, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0],
        &[0x03, 9, 9, 9, 9, 1, 0, 0],
    ] {
        let answer = server.say(packed("zstd", &[&magic, frame].concat())).await;
        assert_eq!(status(&answer), "400", "{frame:?}: {answer}");
    }
    // Once packed is enough.
    let twice = server.say(packed("gzip, gzip", &gzip)).await;
    assert_eq!(status(&twice), "400");
    server.still_serves().await;
}

/// Numbers at the ends of what JSON can say, in every field that takes one, in every API: a reply, or a refusal that
/// names the field.
#[tokio::test]
async fn the_ends_of_numbers_are_no_end() {
    let app = saying("</think>Hello");
    let fields = [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "n_predict",
        "n",
        "logprobs",
        "top_logprobs",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "best_of",
        "thinking_budget",
        "reasoning_effort",
        "think",
    ];
    let numbers = [
        "1e400",
        "-1e400",
        "1e-400",
        "-0",
        "-0.0",
        "0",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "-9223372036854775809",
        "0.1e1",
        "1E0",
        "1e99999999999999999999",
        "0.5",
        "123456789012345678901234567890.5",
    ];
    let bodies = [
        (CHAT, r#""messages":[{"role":"user","content":"Hi"}]"#),
        ("/v1/completions", r#""prompt":"Hi""#),
        ("/v1/responses", r#""input":"Hi""#),
        ("/v1/messages", r#""messages":[{"role":"user","content":"Hi"}]"#),
    ];
    for (path, body) in bodies {
        for field in fields {
            for number in numbers {
                let text = format!("{{{body},\"{field}\":{number}}}");
                let (status, answer) = raw(&app, path, text.as_bytes()).await;
                let refused = status == 400 && answer["error"]["message"].as_str().unwrap().contains(field);
                assert!(status == 200 || refused, "{path} {field} {number}: {status} {answer}");
            }
        }
        for nested in [
            r#""logit_bias":{"5":1e400}"#,
            r#""logit_bias":{"1e400":1}"#,
            r#""logit_bias":{"18446744073709551616":1}"#,
            r#""thinking":{"type":"enabled","budget_tokens":1e400}"#,
            r#""reasoning":{"max_tokens":18446744073709551616}"#,
            r#""metadata":{"x":1e400}"#,
            r#""stream_options":{"include_usage":1e400}"#,
        ] {
            let (status, answer) = raw(&app, path, format!("{{{body},{nested}}}").as_bytes()).await;
            assert!(status == 200 || status == 400, "{path} {nested}: {status} {answer}");
        }
    }
    for prompt in ["[1e400]", "[-1]", "[18446744073709551616]", "[[5],[1e400]]", "[5.5]"] {
        let text = format!("{{\"prompt\":{prompt}}}");
        let (status, answer) = raw(&app, "/v1/completions", text.as_bytes()).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("prompt")), "{prompt}");
    }
}

async fn raw(app: &axum::Router, path: &str, bytes: &[u8]) -> (u16, Value) {
    let request = axum::http::Request::post(path).body(axum::body::Body::from(bytes.to_vec())).unwrap();
    let response = send(app, request).await;
    let status = response.status().as_u16();
    let text = body(response).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
}

/// The last of several members of one name counts, everywhere.
#[tokio::test]
async fn the_last_of_doubles_counts() {
    let script = Script::new([Line::new("</think>Hello")]);
    let app = app(&script, Options::default());
    let text = br#"{"messages":3,"temperature":9,"messages":[{"role":"x","role":"user","content":"No","content":"Hi"}],"temperature":0.5}"#;
    assert_eq!(raw(&app, CHAT, text).await.0, 200);
    assert_eq!(script.jobs.lock().unwrap()[0].request.sampling.temperature, 0.5);
    assert!(script.prompt(0).contains("Hi") && !script.prompt(0).contains("No"));
    // So many that they would be noticed in memory.
    let many = format!(
        "{{{}\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}",
        "\"x\":[1,2,3],".repeat(300_000)
    );
    assert_eq!(raw(&app, CHAT, many.as_bytes()).await.0, 200);
}

/// Text that is none: bytes that are not UTF-8, halves of characters, control characters.
#[tokio::test]
async fn text_that_is_none_is_refused() {
    let app = saying("</think>Hello");
    let texts: [&[u8]; 9] = [
        b"\xff\xfe",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf8\x88\x80\x80\x80",
        br"\ud800",
        br"\udc00\ud800",
        br"\u12",
        b"\n",
        b"\0",
    ];
    for (path, before, after) in [
        (CHAT, r#"{"messages":[{"role":"user","content":""#, r#""}]}"#),
        ("/v1/messages", r#"{"messages":[{"role":"user","content":""#, r#""}]}"#),
        ("/v1/responses", r#"{"input":""#, r#""}"#),
        ("/v1/completions", r#"{"prompt":""#, r#""}"#),
        (CHAT, r#"{"x":{""#, r#"":1},"messages":[{"role":"user","content":"Hi"}]}"#),
    ] {
        for text in texts {
            let body = [before.as_bytes(), text, after.as_bytes()].concat();
            let (status, answer) = raw(&app, path, &body).await;
            assert_eq!(status, 400, "{}: {answer}", body.escape_ascii());
        }
        for text in [r"\ud83e\udd80", r"\u0000", "\u{feff}", "\u{202e}", "<｜end▁of▁sentence｜>"] {
            let body = [before, text, after].concat();
            assert_eq!(raw(&app, path, body.as_bytes()).await.0, 200, "{body}");
        }
    }
}

/// A body that is cut anywhere, has any byte changed or any value of another type is refused as the caller's mistake, or
/// understood; it never breaks the server.
#[tokio::test]
async fn mutilated_bodies_are_the_callers_mistake() {
    let app = saying("</think>Hello");
    let tool =
        json!({ "name": "f", "parameters": { "type": "object" }, "input_schema": { "type": "object" } });
    let bodies = [
        (
            CHAT,
            json!({
                "messages": [{ "role": "user", "content": [{ "type": "text", "text": "é" }] },
                    { "role": "assistant", "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
                    { "role": "tool", "tool_call_id": "1", "content": "x" }],
                "tools": [{ "type": "function", "function": tool }], "response_format": { "type": "json_object" },
            }),
        ),
        (
            "/v1/messages",
            json!({
                "system": [{ "type": "text", "text": "s" }], "tools": [tool], "tool_choice": { "type": "auto" },
                "messages": [{ "role": "user", "content": "x" },
                    { "role": "assistant", "content": [{ "type": "tool_use", "id": "1", "name": "f", "input": {} }] },
                    { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "1", "content": "x" }] }],
            }),
        ),
        (
            "/v1/responses",
            json!({
                "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "x" }] },
                    { "type": "function_call", "call_id": "1", "name": "f", "arguments": "{}" },
                    { "type": "function_call_output", "call_id": "1", "output": "x" }],
                "tools": [{ "type": "function", "name": "f" }], "text": { "format": { "type": "text" } },
            }),
        ),
    ];
    for (path, body) in bodies {
        let text = body.to_string();
        assert_eq!(raw(&app, path, text.as_bytes()).await.0, 200, "{path}");
        for cut in 1..text.len() {
            assert_eq!(raw(&app, path, &text.as_bytes()[..cut]).await.0, 400, "{path} cut at {cut}");
        }
        for at in 0..text.len() {
            for byte in [b'"', 0xff, b'[', b'0'] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = byte;
                let status = raw(&app, path, &bytes).await.0;
                assert!(status == 200 || status == 400, "{path}, byte {at}: {status}");
            }
        }
        let mut pointers = Vec::new();
        pointers_of(&body, String::new(), &mut pointers);
        for pointer in pointers {
            for value in [
                json!(null),
                json!(true),
                json!(7),
                json!("x"),
                json!([]),
                json!({}),
                json!([[]]),
                json!([{}]),
            ] {
                let mut changed = body.clone();
                *changed.pointer_mut(&pointer).unwrap() = value.clone();
                let (status, answer) = raw(&app, path, changed.to_string().as_bytes()).await;
                assert!(status == 200 || status == 400, "{path} {pointer} = {value}: {status} {answer}");
            }
        }
        assert_eq!(raw(&app, path, text.as_bytes()).await.0, 200, "{path}");
    }
}

fn pointers_of(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| pointers_of(value, format!("{at}/{name}"), out))
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| pointers_of(value, format!("{at}/{i}"), out))
        }
        _ => {}
    }
    if !at.is_empty() {
        out.push(at);
    }
}

// ---- the end

/// A server that goes away lets what runs come to its end, on connections that are open, and takes nothing new.
#[tokio::test]
async fn a_stream_survives_the_end_of_the_server() {
    let line = Line { pace: Duration::from_millis(40), ..Line::new("</think>Hello, this takes a while") };
    let mut server = serve([line], Options::default()).await;
    let mut stream = server.connect().await;
    let body = HI.replacen('{', r#"{"stream":true,"#, 1);
    stream.write_all(request(CHAT, "", &body).as_bytes()).await.unwrap();
    let mut text = until(&mut stream, "\"delta\":{\"content\":").await;
    server.app.drain(Duration::from_secs(20));
    server.stop.take().unwrap().send(()).unwrap();
    text.push_str(&rest(&mut stream).await);
    assert!(text.contains("\"finish_reason\":\"stop\"") && text.contains("data: [DONE]"), "{text}");
    assert!(text.ends_with("0\r\n\r\n"), "{text}");
    (&mut server.ended).await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
