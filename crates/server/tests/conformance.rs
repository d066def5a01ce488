//! The rules that clients depend on, one test each. The wire format itself is in `transcripts.rs`.

mod common;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use common::*;
use engine::{Finish, Form, JobPrompt, Refusal};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use server::{App, Options};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

fn hi() -> Value {
    json!({ "messages": [{ "role": "user", "content": "Hi" }] })
}

/// The same question in each API.
fn questions() -> [(&'static str, Value); 4] {
    [
        (CHAT, hi()),
        ("/v1/responses", json!({ "input": "Hi" })),
        ("/v1/messages", json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 99 })),
        ("/v1/completions", json!({ "prompt": "Hi" })),
    ]
}

// ---- streaming

/// In the queue, while a prompt is read, and while a call's argument is held back: no stream is ever silent.
#[tokio::test(start_paused = true)]
async fn a_stream_is_never_silent() {
    let signs = ["data: {\"", "event: response.in_progress", "event: ping", ": keep-alive"];
    for ((path, request), sign) in questions().into_iter().zip([signs[3], signs[1], signs[2], signs[3]]) {
        for phase in 0..3 {
            let mut line = Line::new("</think>Hello");
            *[&mut line.queued, &mut line.prefill, &mut line.pace][phase] = Duration::from_secs(35);
            let app = app(&Script::new([line]), Options::default());
            let text = stream(&app, path, &request).await;
            assert!(text.matches(sign).count() >= 3, "{path} in phase {phase}: {text}");
            assert!(text.contains("[DONE]") || text.contains("message_stop"), "{path} in phase {phase}");
        }
    }
    let options = Options { keep_alive_as_data: true, ..Options::default() };
    let app = app(&Script::new([Line { prefill: Duration::from_secs(35), ..Line::new("a") }]), options);
    let text = stream(&app, CHAT, &hi()).await;
    assert!(events(&text).iter().filter(|event| event["choices"][0]["delta"] == json!({})).count() >= 4);
    assert!(!text.contains(": keep-alive"));
}

/// Whoever goes away is not worked for any more, in any phase, streaming or not.
#[tokio::test(start_paused = true)]
async fn going_away_ends_the_work() {
    for (path, request) in questions() {
        for phase in 0..3 {
            for streaming in [true, false] {
                let mut line = Line::new("</think>Hello, here is a longer text");
                *[&mut line.queued, &mut line.prefill, &mut line.pace][phase] = Duration::from_secs(5);
                let script = Script::new([line]);
                let app = app(&script, Options::default());
                let mut request = request.clone();
                request["stream"] = json!(streaming);
                let asking = async {
                    let mut body = send(&app, post(path, &request)).await.into_body();
                    while body.frame().await.is_some() {}
                };
                assert!(
                    tokio::time::timeout(Duration::from_secs(3), asking).await.is_err(),
                    "{path} {phase}"
                );
                tokio::time::sleep(Duration::from_secs(6)).await;
                assert_eq!(script.dropped.load(Ordering::SeqCst), 1, "{path} in phase {phase}, {streaming}");
                assert!(script.said.load(Ordering::SeqCst) <= 1);
            }
        }
    }
}

/// A message begins with what it is known to cost; in a queue it does not wait for that for long, and says it at the end.
#[tokio::test(start_paused = true)]
async fn a_message_begins_soon() {
    for (queued, known) in [(0, true), (500, true), (5_000, false)] {
        let line = Line { queued: Duration::from_millis(queued), ..Line::new("</think>Hello") };
        let script = Script::new([line]);
        *script.cached.lock().unwrap() = 3;
        let app = app(&script, Options::default());
        let mut request = questions()[2].1.clone();
        request["stream"] = json!(true);
        let begun = tokio::time::Instant::now();
        let mut body = send(&app, post("/v1/messages", &request)).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let waited = begun.elapsed();
        assert!(waited <= Duration::from_millis(queued.min(1_100)), "{queued} ms in the queue, {waited:?}");
        let rest = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8([first, rest].concat()).unwrap();
        let events = events(&text);
        let (start, end) = (&events[0]["message"]["usage"], &events[events.len() - 2]["usage"]);
        let total = |usage: &Value| {
            ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"]
                .iter()
                .map(|name| usage[*name].as_u64().unwrap())
                .sum::<u64>()
        };
        assert_eq!(total(start), total(end), "{text}");
        assert_eq!(start["cache_read_input_tokens"], if known { 3 } else { 0 });
        assert_eq!(end["cache_read_input_tokens"], 3);
        clients::messages(&text);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_their_turn_forever() {
    let options = Options { max_queue_time: Duration::from_secs(20), ..Options::default() };
    let app = app(&Script::new([Line { queued: Duration::from_secs(60), ..Line::new("a") }]), options);
    let (status, error) = ask(&app, CHAT, &hi()).await;
    assert_eq!((status, &error["error"]["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!("timeout")));
}

#[tokio::test]
async fn progress_is_told_to_those_who_want_it() {
    let script = Script::new([Line::new("a")]);
    *script.cached.lock().unwrap() = 2;
    let app = app(&script, Options::default());
    let mut request = hi();
    request["return_progress"] = json!(true);
    let progress: Vec<Value> = events(&stream(&app, CHAT, &request).await)
        .into_iter()
        .filter_map(|event| event.get("prompt_progress").cloned())
        .collect();
    assert_eq!((&progress[0]["cache"], &progress[0]["processed"]), (&json!(2), &json!(2)));
    assert_eq!(progress[1]["processed"], progress[1]["total"]);
}

// ---- history

/// An edited call is rendered as the client has it.
#[tokio::test]
async fn an_edited_call_is_not_replayed() {
    let script = Script::new([Line::new(&format!("Hm.</think>ok{CALL}")), Line::new("done")]);
    let app = app(&script, Options::default());
    let mut request = hi();
    request["tools"] = weather();
    let (_, reply) = ask(&app, CHAT, &request).await;
    let mut message = reply["choices"][0]["message"].clone();
    message["tool_calls"][0]["function"]["arguments"] = json!("{\"city\": \"Rome\"}");
    request["messages"].as_array_mut().unwrap().push(message);
    ask(&app, CHAT, &request).await;
    assert!(script.prompt(1).contains("Rome") && !script.prompt(1).contains("Bern"));
}

/// With tools the template keeps reasoning. Clients do not send it back; it is put back in its place.
#[tokio::test]
async fn reasoning_that_was_not_sent_back_is_restored() {
    let script = Script::new([Line::new("Hm.</think>Hello"), Line::new("done")]);
    let app = app(&script, Options::default());
    let mut request = hi();
    request["tools"] = weather();
    ask(&app, CHAT, &request).await;
    let messages = request["messages"].as_array_mut().unwrap();
    messages.push(json!({ "role": "assistant", "content": "Hello" }));
    messages.push(json!({ "role": "user", "content": "Again" }));
    ask(&app, CHAT, &request).await;
    let mut want = script.prompt_tokens(0);
    want.extend(script.vocabulary().encode_trusted("Hm.</think>Hello"));
    assert_eq!(script.prompt_tokens(1)[..want.len()], want);
}

/// One client's replies are not replayed to another.
#[tokio::test]
async fn what_was_sampled_for_one_key_is_not_shown_to_another() {
    let script = Script::new([Line::new("secret thoughts</think>Hello"), Line::new("done")]);
    let options = Options { keys: vec!["a".into(), "b".into()], ..Options::default() };
    let app = app(&script, options);
    let mut request = hi();
    request["tools"] = weather();
    let with_key = |request: &Value, key: &'static str| {
        let mut request = post(CHAT, request);
        request.headers_mut().insert("x-api-key", axum::http::HeaderValue::from_static(key));
        request
    };
    body(send(&app, with_key(&request, "a")).await).await;
    let messages = request["messages"].as_array_mut().unwrap();
    messages.push(json!({ "role": "assistant", "content": "Hello" }));
    messages.push(json!({ "role": "user", "content": "Again" }));
    body(send(&app, with_key(&request, "b")).await).await;
    assert!(!script.prompt(1).contains("secret"));
}

/// Two requests that differ only in the number which a client puts first have the same prompt.
#[tokio::test]
async fn a_number_that_changes_is_not_part_of_the_prompt() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    for number in ["1f2e", "aaaa"] {
        let system = json!([
            { "type": "text", "text": format!("x-anthropic-billing-header: cc_version=2.1; cch={number};") },
            { "type": "text", "text": "You are helpful.", "cache_control": { "type": "ephemeral" } },
        ]);
        let mut request = questions()[2].1.clone();
        request["system"] = system;
        ask(&app, "/v1/messages", &request).await;
    }
    assert_eq!(script.prompt(0), script.prompt(1));
    assert!(script.prompt(0).contains("You are helpful.") && !script.prompt(0).contains("x-anthropic"));
}

/// A system message in the middle stays there: moved to the front it would change everything after it.
#[tokio::test]
async fn a_late_system_message_stays_where_it_is() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    let mut request = hi();
    ask(&app, CHAT, &request).await;
    request["messages"].as_array_mut().unwrap().push(json!({ "role": "system", "content": "Be brief." }));
    ask(&app, CHAT, &request).await;
    let (before, after) = (script.prompt(0), script.prompt(1));
    let shared = before.strip_suffix("<｜Assistant｜><think>").unwrap();
    assert!(after.starts_with(shared) && after.contains("Be brief."));
}

#[tokio::test]
async fn items_of_one_turn_are_one_turn() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    let request = json!({
        "instructions": "Be brief.",
        "tools": [{ "type": "namespace", "name": "mcp__x", "tools": [{ "type": "function", "name": "f" }] },
                  { "type": "custom", "name": "apply_patch" }, { "type": "web_search" }],
        "input": [
            { "role": "user", "content": [{ "type": "input_text", "text": "Hi" }] },
            { "type": "reasoning", "summary": [], "content": [{ "type": "reasoning_text", "text": "Hm." }] },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "ok" }] },
            { "type": "function_call", "call_id": "1", "name": "f", "namespace": "mcp__x", "arguments": "{}" },
            { "type": "custom_tool_call", "call_id": "2", "name": "apply_patch", "input": "*** Begin" },
            { "type": "custom_tool_call_output", "call_id": "2", "output": "done" },
            { "type": "function_call_output", "call_id": "1", "output": "yes" },
            { "type": "something_new", "x": 1 },
        ],
    });
    let (status, _) = ask(&app, "/v1/responses", &request).await;
    assert_eq!(status, StatusCode::OK);
    let prompt = script.prompt(0);
    let turn = "Hm.</think>ok\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"mcp__x__f\">\n\n</｜DSML｜invoke>\n\
                <｜DSML｜invoke name=\"apply_patch\">\n<｜DSML｜parameter name=\"input\" string=\"true\">*** Begin";
    assert!(prompt.contains(turn), "{prompt}");
    assert!(prompt.contains("<tool_result>yes</tool_result>\n\n<tool_result>done</tool_result>"), "{prompt}");
}

/// A tool of plain text and one in a namespace come back as what they are.
#[tokio::test]
async fn calls_come_back_in_the_kind_of_their_tool() {
    let call = |name: &str, parameter: &str| {
        format!(
            "</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"{name}\">\n{parameter}\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
        )
    };
    let text = "<｜DSML｜parameter name=\"input\" string=\"true\">a \"b\"\nc</｜DSML｜parameter>";
    let tools = json!([{ "type": "namespace", "name": "mcp__x", "tools": [{ "type": "function", "name": "f" }] },
                       { "type": "custom", "name": "apply_patch" }]);
    let request = json!({ "input": "Hi", "tools": tools });
    let app = saying(&call("apply_patch", text));
    let (_, reply) = ask(&app, "/v1/responses", &request).await;
    let item = &reply["output"][0];
    assert_eq!((&item["type"], &item["input"]), (&json!("custom_tool_call"), &json!("a \"b\"\nc")));
    let streamed = events(&stream(&app, "/v1/responses", &request).await);
    let input: String = streamed
        .iter()
        .filter(|event| event["type"] == "response.custom_tool_call_input.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(input, "a \"b\"\nc");
    let (_, reply) = ask(&saying(&call("mcp__x__f", "")), "/v1/responses", &request).await;
    let item = &reply["output"][0];
    assert_eq!((&item["name"], &item["namespace"]), (&json!("f"), &json!("mcp__x")));
}

// ---- what is asked for

/// Fields that change the answer reach the engine.
#[tokio::test]
async fn what_is_asked_for_reaches_the_engine() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    let mut request = hi();
    for (field, value) in [
        ("temperature", json!(0.5)),
        ("top_p", json!(0.9)),
        ("top_k", json!(7)),
        ("seed", json!(-3)),
        ("max_completion_tokens", json!(77)),
        ("stop", json!(["x"])),
        ("logit_bias", json!({ "5": -2 })),
        ("presence_penalty", json!(1)),
        ("thinking", json!({ "type": "enabled", "budget_tokens": 9 })),
    ] {
        request[field] = value;
    }
    ask(&app, CHAT, &request).await;
    let jobs = script.jobs.lock().unwrap();
    let asked = &jobs[0].request;
    assert_eq!((asked.sampling.temperature, asked.sampling.top_p, asked.sampling.top_k), (0.5, 0.9, 7));
    assert_eq!((asked.seed, asked.max_tokens, asked.think_budget), (-3i64 as u64, Some(77), Some(9)));
    assert_eq!((&asked.sampling.bias[..], asked.sampling.presence_penalty), (&[(5, -2.0)][..], 1.0));
    assert!(matches!(&asked.form, Form::Chat(options) if options.stop == ["x"]));
}

/// Rules for the reply become a constraint, and rules that make no sense are refused by the field's name.
#[tokio::test]
async fn rules_are_enforced_or_refused() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    let mut asked = 0;
    let mut constrained = async |path: &str, change: &dyn Fn(&mut Value)| {
        let mut request = questions().into_iter().find(|(known, _)| *known == path).unwrap().1;
        change(&mut request);
        let (status, reply) = ask(&app, path, &request).await;
        assert_eq!(status, StatusCode::OK, "{reply}");
        asked += 1;
        script.jobs.lock().unwrap()[asked - 1].request.constraint.is_some()
    };
    assert!(!constrained(CHAT, &|_| {}).await);
    assert!(constrained(CHAT, &|r| r["response_format"] = json!({ "type": "json_object" })).await);
    assert!(constrained(CHAT, &|r| (r["tools"], r["tool_choice"]) = (weather(), json!("required"))).await);
    assert!(constrained(CHAT, &|r| r["guided_choice"] = json!(["yes", "no"])).await);
    assert!(constrained("/v1/completions", &|r| r["regex"] = json!("[0-9]+")).await);
    let format = json!({ "type": "json_schema", "schema": { "type": "object" } });
    assert!(constrained("/v1/messages", &|r| r["output_config"] = json!({ "format": format })).await);
    assert!(constrained("/v1/responses", &|r| r["text"] = json!({ "format": format })).await);

    let mut request = hi();
    request["response_format"] =
        json!({ "type": "json_schema", "json_schema": { "schema": { "type": "nonsense" } } });
    let (status, error) = ask(&app, CHAT, &request).await;
    assert_eq!((status, &error["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("response_format")));
    assert_eq!(error["error"]["code"], "invalid_json_schema");
}

#[tokio::test]
async fn a_stored_response_can_be_gone_on_from() {
    let script = Script::new([Line::new("Hm.</think>Hello"), Line::new("</think>Bye")]);
    let app = app(&script, Options::default());
    let (_, first) = ask(&app, "/v1/responses", &json!({ "input": "Hi" })).await;
    let id = first["id"].as_str().unwrap();
    let request = json!({ "input": "Bye", "previous_response_id": id });
    stream(&app, "/v1/responses", &request).await;
    assert!(script.prompt(1).contains("Hello<｜end▁of▁sentence｜><｜User｜>Bye"), "{}", script.prompt(1));
    let kept: Value =
        serde_json::from_str(&body(send(&app, get(&format!("/v1/responses/{id}"))).await).await).unwrap();
    assert_eq!(kept, first);
    let delete = Request::delete(format!("/v1/responses/{id}")).body(Body::empty()).unwrap();
    assert_eq!(send(&app, delete).await.status(), StatusCode::OK);
    let (status, error) = ask(&app, "/v1/responses", &request).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("previous_response_not_found"))
    );
}

#[tokio::test]
async fn what_led_to_a_response_is_told_a_page_at_a_time() {
    let app = app(&Script::new([Line::new("</think>Hello")]), Options::default());
    let input: Vec<_> = (0..25).map(|n| json!({ "role": "user", "content": format!("{n}") })).collect();
    let (_, response) = ask(&app, "/v1/responses", &json!({ "input": input })).await;
    let path = format!("/v1/responses/{}/input_items", response["id"].as_str().unwrap());
    let list = async |query: &str| -> Value {
        serde_json::from_str(&body(send(&app, get(&format!("{path}{query}"))).await).await).unwrap()
    };
    let texts = |page: &Value| -> Vec<String> {
        let text = |item: &Value| item["content"].as_str().unwrap().to_owned();
        page["data"].as_array().unwrap().iter().map(text).collect()
    };
    let first = list("").await;
    assert_eq!(texts(&first), (5..25).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!((&first["has_more"], &first["last_id"]), (&json!(true), &first["data"][19]["id"]));
    let second = list(&format!("?after={}", first["last_id"].as_str().unwrap())).await;
    assert_eq!(
        (texts(&second), &second["has_more"]),
        (["4", "3", "2", "1", "0"].map(str::to_owned).into(), &json!(false))
    );
    assert_eq!(texts(&list("?order=asc&limit=2").await), ["0", "1"]);
    let (wrong, unknown) = (StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND);
    for (query, param, status) in
        [("?order=down", "order", wrong), ("?limit=1000", "limit", wrong), ("?after=msg_1", "after", unknown)]
    {
        let response = send(&app, get(&format!("{path}{query}"))).await;
        assert_eq!(response.status(), status, "{query}");
        let error: Value = serde_json::from_str(&body(response).await).unwrap();
        assert_eq!(error["error"]["param"], param, "{error}");
    }
    let document: Value = serde_json::from_str(&body(send(&app, get("/openapi.json")).await).await).unwrap();
    let parameters = &document["paths"]["/v1/responses/{id}/input_items"]["get"]["parameters"];
    let facts = |p: &Value| format!("{} in {}, {}", p["name"], p["in"], p["required"]).replace('"', "");
    let said: Vec<_> = parameters.as_array().unwrap().iter().map(facts).collect();
    let optional = ["order", "limit", "after"].map(|name| format!("{name} in query, false"));
    assert_eq!(said, [&["id in path, true".to_owned()], &optional[..]].concat());
}

#[tokio::test]
async fn reading_a_prompt_and_nothing_more_is_possible() {
    let app = saying("Hello");
    let (_, reply) = ask(
        &app,
        "/v1/messages",
        &json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 0 }),
    )
    .await;
    assert_eq!((&reply["content"], &reply["stop_reason"]), (&json!([]), &json!("max_tokens")));
}

// ---- refusals

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    for (path, request) in questions() {
        *script.refusal.lock().unwrap() =
            Some(Refusal::QueueFull { queued: 8, limit: 8, retry_after: Duration::from_secs(7) });
        let response = send(&app, post(path, &request)).await;
        assert_eq!(
            (response.status(), &response.headers()["retry-after"]),
            (StatusCode::TOO_MANY_REQUESTS, &"7".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn a_server_that_loads_or_drains_says_so() {
    let app = App::loading(Options::default()).unwrap();
    let routes = server::router(app.clone());
    assert_eq!(send(&routes, get("/health")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(send(&routes, get("/livez")).await.status(), StatusCode::OK);
    let response = send(&routes, post(CHAT, &hi())).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    app.ready(Script::new([Line::new("a")]));
    assert_eq!(send(&routes, get("/readyz")).await.status(), StatusCode::OK);
    app.drain(Duration::ZERO);
    assert_eq!(send(&routes, get("/readyz")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(send(&routes, post("/v1/messages", &hi())).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn nothing_that_a_client_names_is_opened() {
    let app = saying("a");
    for url in ["http://127.0.0.1/x.png", "file:///etc/passwd", "/etc/passwd", "data:image/png;base64,AA=="] {
        let part = json!([{ "type": "image_url", "image_url": { "url": url } }]);
        let (status, _) =
            ask(&app, CHAT, &json!({ "messages": [{ "role": "user", "content": part }] })).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        for block in [
            json!({ "type": "image", "source": { "type": "url", "url": url } }),
            json!({ "type": "document", "source": { "type": "url", "url": url } }),
        ] {
            let (status, _) =
                ask(&app, "/v1/messages", &json!({ "messages": [{ "role": "user", "content": [block] }] }))
                    .await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
        }
    }
}

// ---- who may ask

const ROUTES: [(&str, &str); 18] = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/x"),
    ("GET", "/props"),
    ("GET", "/slots"),
    ("GET", "/openapi.json"),
    ("GET", "/version"),
    ("GET", "/v1/responses/x"),
    ("DELETE", "/v1/responses/x"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/tokenize"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/responses/input_tokens"),
    ("POST", "/detokenize"),
    ("POST", "/apply-template"),
    ("POST", "/v1/nothing"),
];

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn without_the_key_there_is_nothing() {
    let app =
        app(&Script::new([Line::new("a")]), Options { keys: vec!["secret".into()], ..Options::default() });
    for (method, path) in ROUTES {
        for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("x-api-key", "secre")]] {
            let response = send(&app, request(method, path, headers)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            let text = body(response).await;
            assert_eq!(
                text.contains("\"type\":\"error\""),
                path.starts_with("/v1/messages"),
                "{path}: {text}"
            );
        }
        let response = send(&app, request(method, path, &[("authorization", "Bearer secret")])).await;
        assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    for path in ["/health", "/v1/health", "/v1/v1/readyz", "/health/", "/livez", "/readyz", "/metrics", "/"] {
        assert_eq!(send(&app, get(path)).await.status(), StatusCode::OK, "{path}");
    }
    // What is open is not a way to anything else, however it is written.
    for path in [
        "/page/../props",
        "/page/%2e%2e/props",
        "/page/..%2fprops",
        "//props",
        "/v1//props",
        "/livez/../props",
        "/props/",
        "/props?/livez",
        "/v1/v1/props",
        "/metrics/../props",
        "/PROPS",
        "/health/../slots",
    ] {
        for method in ["GET", "HEAD", "POST"] {
            let response = send(&app, request(method, path, &[])).await;
            assert_ne!(response.status(), StatusCode::OK, "{method} {path}");
            let text = body(response).await;
            assert!(!text.contains("deepseek") && !text.contains("n_ctx"), "{method} {path}: {text}");
        }
    }
    // Asking for permission tells nothing but what may be asked.
    for (method, path) in ROUTES {
        let asked = [
            ("origin", "http://localhost:8080"),
            ("host", "localhost:8080"),
            ("access-control-request-method", method),
        ];
        let response = send(&app, request("OPTIONS", path, &asked)).await;
        assert_eq!(
            (response.status(), body(response).await),
            (StatusCode::NO_CONTENT, String::new()),
            "{path}"
        );
    }
}

/// A page elsewhere that is allowed still needs the key, and a page that has the key still must be allowed.
#[tokio::test]
async fn host_origin_and_key_must_all_be_right() {
    let options = Options {
        keys: vec!["secret".into()],
        origins: vec!["https://chat.example".into()],
        ..Options::default()
    };
    let app = app(&Script::new([Line::new("a")]), options);
    for (method, path) in ROUTES {
        for host in ["localhost:8080", "evil.example"] {
            for origin in ["https://chat.example", "https://evil.example"] {
                for key in ["Bearer secret", "Bearer wrong"] {
                    let headers = [("host", host), ("origin", origin), ("authorization", key)];
                    let response = send(&app, request(method, path, &headers)).await;
                    let strange =
                        host == "evil.example" || (origin == "https://evil.example" && method != "GET");
                    let want = match (strange, key) {
                        (true, _) => Some(StatusCode::FORBIDDEN),
                        (false, "Bearer wrong") => Some(StatusCode::UNAUTHORIZED),
                        _ => None,
                    };
                    let status = response.status();
                    match want {
                        Some(want) => assert_eq!(status, want, "{method} {path} {headers:?}"),
                        None => {
                            assert!(![401, 403].contains(&status.as_u16()), "{method} {path} {headers:?}")
                        }
                    }
                    // No answer may be read by a page that is not allowed.
                    let allowed = response.headers().get("access-control-allow-origin");
                    assert!(allowed.is_none_or(|allowed| allowed == "https://chat.example"));
                    assert!(!response.headers().contains_key("access-control-allow-credentials"));
                }
            }
        }
    }
}

#[tokio::test]
async fn only_this_machine_is_answered_under_its_own_names() {
    let app = app(
        &Script::new([Line::new("a")]),
        Options { hosts: vec!["box.local".into()], ..Options::default() },
    );
    for (method, path) in ROUTES {
        for host in
            ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1"]
        {
            let response = send(&app, request(method, path, &[("host", host)])).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{host} {path}");
        }
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "box.local:8080"] {
            let response = send(&app, request(method, path, &[("host", host)])).await;
            assert_ne!(response.status(), StatusCode::FORBIDDEN, "{host} {path}");
        }
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_not_ask() {
    let options = Options { origins: vec!["https://chat.example".into()], ..Options::default() };
    let app = app(&Script::new([Line::new("a")]), options);
    for (method, path) in ROUTES.into_iter().filter(|(method, _)| *method != "GET") {
        for (origin, allowed) in [
            ("https://evil.example", false),
            ("null", false),
            ("http://localhost:9", false),
            ("http://localhost:8080", true),
            ("https://chat.example", true),
        ] {
            let response =
                send(&app, request(method, path, &[("host", "localhost:8080"), ("origin", origin)])).await;
            assert_eq!(response.status() != StatusCode::FORBIDDEN, allowed, "{origin} {method} {path}");
        }
    }
    let asked = [("origin", "https://chat.example"), ("access-control-request-method", "POST")];
    let response = send(&app, request("OPTIONS", CHAT, &asked)).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "https://chat.example");
    let response =
        send(&app, request("OPTIONS", CHAT, &[("origin", "https://evil.example"), asked[1]])).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

// ---- paths, methods, numbers of requests

#[tokio::test]
async fn paths_are_found_however_clients_put_them_together() {
    let app = saying("a");
    for path in [
        "/chat/completions",
        "/v1/chat/completions",
        "/v1/v1/chat/completions",
        "/v1/chat/completions/?beta=true",
    ] {
        assert_eq!(ask(&app, path, &hi()).await.0, StatusCode::OK, "{path}");
    }
    let head = send(&app, request("HEAD", "/v1/models", &[])).await;
    assert_eq!((head.status(), body(head).await), (StatusCode::OK, String::new()));
    assert_eq!(send(&app, request("OPTIONS", CHAT, &[])).await.status(), StatusCode::NO_CONTENT);
    let wrong = send(&app, request("GET", CHAT, &[])).await;
    assert_eq!(
        (wrong.status(), &wrong.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap())
    );
    assert_eq!(send(&app, request("POST", "/v1/embeddings", &[])).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(ask(&app, "/v1/responses/compact", &json!({})).await.0, StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn a_request_keeps_its_number() {
    let app = saying("a");
    for (given, kept) in [("abc-1", true), ("with space", false), ("", false)] {
        let response = send(&app, request("GET", "/health", &[("x-request-id", given)])).await;
        let id = response.headers()["x-request-id"].clone();
        assert_eq!(id == given, kept);
        assert_eq!(response.headers()["request-id"], id);
    }
}

// ---- metrics

/// Every line is a sample of a family that was announced, counters only grow, and the names that routers read
/// are there.
#[tokio::test]
async fn metrics_are_well_formed() {
    let options = Options { llamacpp_metrics: true, ..Options::default() };
    let app = app(&Script::new([Line::new("Hm.</think>a")]), options);
    let read = async || body(send(&app, get("/metrics")).await).await;
    let before = read().await;
    ask(&app, CHAT, &hi()).await;
    ask(&app, CHAT, &json!({ "messages": 3 })).await;
    let after = read().await;
    let samples = |text: &str| {
        let mut types = std::collections::HashMap::new();
        let mut samples = std::collections::HashMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(
                    types.insert(name.to_owned(), kind.to_owned()).is_none(),
                    "{name} is announced twice"
                );
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))
                    .filter(|f| types.contains_key(*f));
                let kind =
                    types.get(family.unwrap_or(name)).unwrap_or_else(|| panic!("{name} is not announced"));
                let value: f64 = value.parse().unwrap();
                assert!(
                    samples.insert(series.to_owned(), (kind.clone(), value)).is_none(),
                    "{series} is there twice"
                );
            }
        }
        samples
    };
    let (before, after) = (samples(&before), samples(&after));
    for (series, (kind, value)) in &before {
        assert!(kind == "gauge" || after[series].1 >= *value, "{series} went down");
    }
    let grew = |series: &str| after[series].1 - before[series].1;
    assert_eq!(grew("ds4_requests_total{api=\"chat\",status=\"ok\"}"), 1.0);
    assert_eq!(grew("ds4_requests_total{api=\"chat\",status=\"client_error\"}"), 1.0);
    assert_eq!(grew("ds4_ttft_seconds_count"), 1.0);
    for name in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"] {
        assert!(
            after.contains_key(&format!("{name}{{model_name=\"deepseek-v4-flash\",engine=\"0\"}}")),
            "{name}"
        );
    }
    assert!(after.contains_key("llamacpp:requests_processing"));
}

/// As `promtool check metrics` has it: names, units, help, histograms that add up; and the series that others read.
#[tokio::test]
async fn metrics_pass_a_lint() {
    let script = Script::new([Line::new(&format!("Hm.</think>ok{CALL}"))]);
    let app = app(&script, Options { llamacpp_metrics: true, ..Options::default() });
    let mut request = hi();
    request["tools"] = weather();
    ask(&app, CHAT, &request).await;
    let text = body(send(&app, get("/metrics")).await).await;
    let (mut kinds, mut helped) = (BTreeMap::new(), BTreeSet::new());
    // By the name of a histogram's part and its labels but `le`: bounds and counts, in their order.
    let mut buckets = BTreeMap::<String, Vec<(f64, f64)>>::new();
    let mut counts = BTreeMap::new();
    let is_name = |name: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_:".contains(&b);
        name.bytes().all(fits) && !name.as_bytes()[0].is_ascii_digit()
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name) && !help.trim().is_empty(), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(
                name.starts_with("llamacpp:") || (kind == "counter") == name.ends_with("_total"),
                "{line}"
            );
            assert!(["_bucket", "_sum", "_count"].iter().all(|end| !name.ends_with(end)), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        assert!(is_name(name), "{line}");
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let read = |label: &str| {
            let (label, value) = label.split_once('=').unwrap();
            assert!(is_name(label) && value.starts_with('"') && value.ends_with('"'), "{line}");
            (label.to_owned(), value.trim_matches('"').to_owned())
        };
        let mut labels: BTreeMap<String, String> = labels.map(read).collect();
        if name.starts_with("vllm:") {
            assert!(labels["engine"] == "0" && labels.contains_key("model_name"), "{line}");
        }
        let bound = labels.remove("le");
        if let (Some(part), Some(bound)) = (name.strip_suffix("_bucket"), bound) {
            buckets.entry(format!("{part} {labels:?}")).or_default().push((bound.parse().unwrap(), value));
        } else if let Some(part) = name.strip_suffix("_count") {
            counts.insert(format!("{part} {labels:?}"), value);
        }
    }
    assert!(kinds.keys().eq(helped.iter()), "each family has both");
    assert!(buckets.len() > 8 && buckets.keys().eq(counts.keys()), "{:?}", buckets.keys());
    for (histogram, steps) in &buckets {
        assert!(steps.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{histogram}: {steps:?}");
        assert_eq!(steps.last(), Some(&(f64::INFINITY, counts[histogram])), "{histogram}");
    }
    for name in [
        "ds4_requests_total",
        "ds4_requests_running",
        "ds4_requests_waiting",
        "ds4_queue_seconds",
        "ds4_prefill_seconds",
        "ds4_ttft_seconds",
        "ds4_itl_seconds",
        "ds4_e2e_seconds",
        "ds4_prompt_tokens_total",
        "ds4_generated_tokens_total",
        "ds4_prefix_cache_queries_tokens_total",
        "ds4_prefix_cache_hit_tokens_total",
        "ds4_prefix_miss_total",
        "ds4_kv_slots",
        "ds4_kv_tokens_used",
        "ds4_kv_usage_ratio",
        "ds4_tool_calls_total",
        "ds4_constraint_compile_seconds",
        "ds4_device_errors_total",
        "ds4_build_info",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:cache_config_info",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_queue_time_seconds",
        "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds",
    ] {
        assert!(kinds.contains_key(name), "{name}");
    }
}

// ---- what comes from outside

/// Any JSON at all.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop_oneof![Just("text"), Just("user"), Just("function"), Just("auto"), Just("json_schema")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let names = prop_oneof![
            Just("type"),
            Just("role"),
            Just("content"),
            Just("name"),
            Just("function"),
            Just("id"),
            Just("text"),
            Just("tool_calls"),
            Just("arguments"),
            Just("input"),
            Just("effort"),
            Just("schema"),
            Just("x"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((names, inner), 0..5).prop_map(|members| members
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

const FIELDS: [&str; 24] = [
    "messages",
    "tools",
    "tool_choice",
    "thinking",
    "reasoning",
    "reasoning_effort",
    "response_format",
    "stop",
    "n",
    "logprobs",
    "logit_bias",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stream_options",
    "system",
    "input",
    "text",
    "output_config",
    "previous_response_id",
    "prompt",
    "echo",
    "metadata",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever a field holds, the answer is a reply or a refusal that is the caller's, and the next request works.
    #[test]
    fn any_value_of_any_field_is_answered(field in proptest::sample::select(&FIELDS[..]), value in any_json(), which in 0usize..4) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let app = saying("a");
            let (path, mut request) = questions()[which].clone();
            request[field] = value;
            let (status, _) = ask(&app, path, &request).await;
            prop_assert!(status == StatusCode::OK || status == StatusCode::BAD_REQUEST, "{} of {}", status, request);
            prop_assert_eq!(ask(&app, path, &questions()[which].1).await.0, StatusCode::OK);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_prompt_of_tokens_is_taken_as_it_is() {
    let script = Script::new([Line { finish: Finish::MaxTokens, ..Line::new("ab") }]);
    let app = app(&script, Options::default());
    ask(&app, "/v1/completions", &json!({ "prompt": [7, 8, 9], "max_tokens": 2 })).await;
    assert!(
        matches!(&script.jobs.lock().unwrap()[0].prompt, JobPrompt::Tokens(tokens) if tokens == &[7, 8, 9])
    );
    let text = json!({ "content": "Hello <think>", "with_pieces": true });
    let (_, tokens) = ask(&app, "/tokenize", &text).await;
    let ids: Vec<Value> =
        tokens["tokens"].as_array().unwrap().iter().map(|token| token["id"].clone()).collect();
    let (_, back) = ask(&app, "/detokenize", &json!({ "tokens": ids })).await;
    assert_eq!(back["content"], "Hello <think>");
}

#[tokio::test]
async fn the_page_comes_in_parts_that_load_nothing_from_elsewhere() {
    let app = app(&Script::new([]), Options { keys: vec!["secret".to_owned()], ..Options::default() });
    let index = body(send(&app, get("/")).await).await;
    let named = |text: &str| -> Vec<String> {
        let parts = text.split('"').filter(|word| word.starts_with("/page/") || word.starts_with("./"));
        parts.map(|word| word.replace("./", "/page/")).collect()
    };
    let mut wanted = named(&index);
    assert!(wanted.contains(&"/page/app.js".to_owned()));
    let mut at = 0;
    while let Some(path) = wanted.get(at).cloned() {
        let answer = send(&app, get(&path)).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
        let tag = answer.headers()["etag"].clone();
        for more in named(&body(answer).await) {
            if !wanted.contains(&more) {
                wanted.push(more);
            }
        }
        let mut again = get(&path);
        again.headers_mut().insert("if-none-match", tag);
        assert_eq!(send(&app, again).await.status(), StatusCode::NOT_MODIFIED);
        at += 1;
    }
    assert_eq!(at, 12, "every part is used: {wanted:?}");
    assert_eq!(send(&app, get("/page/none")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(send(&app, get("/props")).await.status(), StatusCode::UNAUTHORIZED);
}

/// Every reference in the OpenAPI document is to something that is in it.
#[tokio::test]
async fn the_document_refers_to_what_it_has() {
    fn references(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                into.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| references(member, into));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, into)),
            _ => {}
        }
    }
    let app = app(&Script::new([]), Options::default());
    let document: Value = serde_json::from_str(&body(send(&app, get("/openapi.json")).await).await).unwrap();
    let mut all = Vec::new();
    references(&document, &mut all);
    assert!(all.len() > 20);
    for reference in all {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} is not there");
    }
}
