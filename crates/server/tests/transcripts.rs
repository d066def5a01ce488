//! What clients read on the wire, to the letter, for each API and each course that a reply can take; and that
//! whole answers and streamed ones say the same. `tests/clients` feeds what is recorded here to the libraries that people
//! use (`cargo xtask clients --only goldens`).
//!
//! After looking at a change, `INSTA_UPDATE=always cargo test -p server --test transcripts` accepts it.

mod common;

use common::*;
use engine::Finish;
use serde_json::{Value, json};
use server::Options;

/// An API, and how to ask in it.
struct Api {
    name: &'static str,
    path: &'static str,
    request: fn(bool) -> Value,
}

const APIS: [Api; 3] = [
    Api {
        name: "chat",
        path: "/v1/chat/completions",
        request: |tools| {
            let mut body = json!({
                "messages": [{ "role": "user", "content": "Hi" }], "seed": 1,
                "stream_options": { "include_usage": true },
            });
            if tools {
                body["tools"] = weather();
            }
            body
        },
    },
    Api {
        name: "responses",
        path: "/v1/responses",
        request: |tools| {
            let mut body = json!({ "input": "Hi", "seed": 1, "store": false });
            if tools {
                let mut tool = weather()[0]["function"].clone();
                tool["type"] = json!("function");
                body["tools"] = json!([tool]);
            }
            body
        },
    },
    Api {
        name: "messages",
        path: "/v1/messages",
        request: |tools| {
            let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 10_000 });
            if tools {
                let tool = &weather()[0]["function"];
                body["tools"] = json!([{
                    "name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"],
                }]);
            }
            body
        },
    },
];

/// Records what each API makes of a reply.
async fn check(name: &str, line: Line, tools: bool, change: impl Fn(&mut Value)) {
    for api in &APIS {
        let mut request = (api.request)(tools);
        change(&mut request);
        let script = Script::new([line.clone()]);
        let app = app(&script, Options::default());
        let text = stream(&app, api.path, &request).await;
        insta::assert_snapshot!(format!("{}_{name}", api.name), steady(&text));
        record_whole(&app, &format!("{}_{name}", api.name), api.path, &request).await;
    }
}

/// Records the same in one piece.
async fn record_whole(app: &axum::Router, name: &str, path: &str, request: &Value) {
    let (status, whole) = ask(app, path, request).await;
    if status.is_success() {
        insta::assert_snapshot!(format!("{name}_whole"), steady(&whole.to_string()));
    }
}

fn nothing(_: &mut Value) {}

#[tokio::test]
async fn text() {
    check("text", Line::new("</think>Hello, wörld 🦀"), false, nothing).await;
}

#[tokio::test]
async fn reasoning_and_text() {
    check("reasoning", Line::new("Hm.</think>Hello"), false, nothing).await;
}

#[tokio::test]
async fn a_call() {
    check("call", Line::new(&format!("Hm.</think>ok{CALL}")), true, nothing).await;
}

#[tokio::test]
async fn calls_side_by_side() {
    let two = CALL.replace(
        "</｜DSML｜invoke>\n",
        "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"get_weather\">\n\n</｜DSML｜invoke>\n",
    );
    check("calls", Line::new(&format!("</think>{}", two.trim_start())), true, nothing).await;
}

/// Models forget to end their reasoning before a call. It is carried out all the same, once.
#[tokio::test]
async fn a_call_in_reasoning() {
    check("call_in_reasoning", Line::new(&format!("Hm.{CALL}")), true, nothing).await;
}

/// Half a call is none.
#[tokio::test]
async fn a_call_that_is_cut_off() {
    let half = &CALL[..CALL.find("Bern").unwrap() + 2];
    check("cut_call", Line::cut(&format!("</think>ok{half}")), true, nothing).await;
}

#[tokio::test]
async fn a_stop_string_in_the_text() {
    check("stop_string", Line::new("</think>one two three"), false, |body| {
        body["stop_sequences"] = json!([" tw"]);
    })
    .await;
}

#[tokio::test]
async fn the_end_of_the_context() {
    let line = Line { finish: Finish::ContextFull, ..Line::new("</think>so mu") };
    check("context_full", line, false, nothing).await;
}

#[tokio::test]
async fn a_failure_before_the_first_token() {
    let line = Line { fails_after: Some(0), ..Line::new("</think>Hello") };
    check("failure_at_once", line, false, nothing).await;
}

#[tokio::test]
async fn a_failure_in_the_middle() {
    let line = Line { fails_after: Some(3), ..Line::new("</think>Hello") };
    check("failure", line, false, nothing).await;
}

/// Several replies, and the probabilities of their tokens.
#[tokio::test]
async fn choices_with_probabilities() {
    let app = saying("</think>ab");
    let request = json!({
        "messages": [{ "role": "user", "content": "Hi" }],
        "n": 2, "logprobs": true, "top_logprobs": 2, "stream_options": { "include_usage": true },
    });
    insta::assert_snapshot!("chat_choices", steady(&stream(&app, "/v1/chat/completions", &request).await));
    let request = json!({ "prompt": ["Hi", [5, 6]], "logprobs": 1, "echo": false, "max_tokens": 3 });
    insta::assert_snapshot!("completions", steady(&stream(&app, "/v1/completions", &request).await));
}

/// The same cases in the API that continues a text.
#[tokio::test]
async fn continuations() {
    let cut = Line { finish: Finish::ContextFull, ..Line::new("so mu") };
    let fails = |after| Line { fails_after: Some(after), ..Line::new("Hello") };
    let lines = [
        ("text", Line::new("Hello, wörld 🦀")),
        ("stop_string", Line::new("one two three")),
        ("context_full", cut),
        ("failure_at_once", fails(0)),
        ("failure", fails(2)),
    ];
    for (name, line) in lines {
        let app = app(&Script::new([line]), Options::default());
        let request = json!({
            "prompt": "Hi", "seed": 1, "stop": [" tw"], "stream_options": { "include_usage": true },
        });
        let text = stream(&app, "/v1/completions", &request).await;
        insta::assert_snapshot!(format!("completions_{name}"), steady(&text));
        record_whole(&app, &format!("completions_{name}"), "/v1/completions", &request).await;
    }
}

/// Reasoning that is told as a summary, a tool that takes plain text, one in a namespace, a shell, and a patch.
#[tokio::test]
async fn items_of_other_kinds() {
    let text = "<｜DSML｜parameter name=\"input\" string=\"true\">a \"b\"</｜DSML｜parameter>";
    let calls = format!(
        "Hm.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"edit\">\n{text}\n</｜DSML｜invoke>\n\
         <｜DSML｜invoke name=\"mcp__x__f\">\n\n</｜DSML｜invoke>\n\
         <｜DSML｜invoke name=\"shell\">\n<｜DSML｜parameter name=\"commands\" string=\"false\">[\"ls\"]</｜DSML｜parameter>\n</｜DSML｜invoke>\n\
         <｜DSML｜invoke name=\"apply_patch\">\n<｜DSML｜parameter name=\"type\" string=\"true\">delete_file</｜DSML｜parameter>\n\
         <｜DSML｜parameter name=\"path\" string=\"true\">a.txt</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    );
    let request = json!({
        "input": "Hi", "seed": 1, "store": false, "reasoning": { "summary": "auto" },
        "tools": [{ "type": "custom", "name": "edit" }, { "type": "shell" }, { "type": "apply_patch" },
                  { "type": "namespace", "name": "mcp__x", "tools": [{ "type": "function", "name": "f" }] }],
    });
    let app = saying(&calls);
    let answer = stream(&app, "/v1/responses", &request).await;
    clients::responses(&answer);
    insta::assert_snapshot!("responses_other_kinds", steady(&answer));
    record_whole(&app, "responses_other_kinds", "/v1/responses", &request).await;
}

/// Replies of every kind.
fn courses() -> Vec<Line> {
    let half = &CALL[..CALL.find("Bern").unwrap() + 2];
    let two = CALL.replace(
        "</｜DSML｜invoke>\n",
        "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"get_weather\">\n\n</｜DSML｜invoke>\n",
    );
    let wild = CALL.replace("Bern", "a \"b\" \\ </｜DSML｜param> <b>&amp;\u{1} 🦀\n{\"x\": é}");
    vec![
        Line::new("</think>Hello, wörld 🦀"),
        Line::new("Hm, ö🦀.</think>Hello\n\n<b>x</b> <｜ and\n"),
        Line::new(&format!("Hm.</think>ok{CALL}")),
        Line::new(&format!("</think>{}", two.trim_start())),
        Line::new(&format!("</think>{wild}")),
        Line::new(&format!("Hm.{CALL}")),
        Line::cut(&format!("</think>ok{half}")),
        Line::cut(&format!("</think>{half}")),
        Line::new("</think>one two STOP three"),
        Line { finish: Finish::ContextFull, ..Line::new("Hm.</think>so mu") },
        Line::cut("Hm"),
        Line::cut("Hm.</think>He"),
        Line::cut("Hm.</think>"),
        Line::new("</think>"),
    ]
}

/// What an answer says, without what is another one each time.
fn said(api: &str, answer: &Value) -> String {
    let part = match api {
        "chat" => {
            let mut choices = answer["choices"].clone();
            for choice in choices.as_array_mut().unwrap() {
                choice.as_object_mut().unwrap().shift_remove("logprobs");
                choice.sort_all_objects();
            }
            json!([choices, answer["usage"]])
        }
        "responses" => {
            json!([answer["output"], answer["status"], answer["incomplete_details"], answer["usage"]])
        }
        _ => json!([answer["content"], answer["stop_reason"], answer["stop_sequence"], answer["usage"]]),
    };
    steady(&part.to_string())
}

fn assembled(api: &str, text: &str) -> Value {
    match api {
        "chat" => clients::chat(text),
        "responses" => clients::responses(text),
        _ => clients::messages(text),
    }
}

fn with_stop(mut request: Value) -> Value {
    request["stop"] = json!(["STOP"]);
    request
}

/// The parts of a streamed answer, put together as clients do it, are the whole answer.
#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    for line in courses() {
        for api in &APIS {
            let script = Script::new([line.clone()]);
            let app = app(&script, Options::default());
            let request = with_stop((api.request)(true));
            let (_, whole) = ask(&app, api.path, &request).await;
            let text = stream(&app, api.path, &request).await;
            let streamed = assembled(api.name, &text);
            if api.name == "messages" && line.text.contains("Be") && !line.text.contains("Bern") {
                // Half a call was told already; the whole answer leaves it out.
                let blocks = streamed["content"].as_array().unwrap().len();
                assert_eq!(streamed["content"][blocks - 1]["input"]["_cut"], "{\"city\": \"Be");
                assert_eq!(whole["content"].as_array().unwrap().len(), blocks - 1);
                continue;
            }
            if api.name == "chat" && line.text.contains("Be") && !line.text.contains("Bern") {
                assert_eq!(
                    (&streamed["choices"][0]["finish_reason"], &whole["choices"][0]["finish_reason"]),
                    (&json!("length"), &json!("length"))
                );
                assert!(whole["choices"][0]["message"].get("tool_calls").is_none());
                continue;
            }
            assert_eq!(said(api.name, &streamed), said(api.name, &whole), "{} of {line:?}", api.name);
        }
    }
}

/// Wherever the engine cuts what it says, between any two bytes, clients read the same.
#[tokio::test(start_paused = true)]
async fn wherever_tokens_end_the_text_is_the_same() {
    for line in courses() {
        for api in &APIS {
            let cuts = (0..=line.text.len()).map(|cut| Line { cut: Some(cut), ..line.clone() });
            let app = app(&Script::new(cuts), Options::default());
            let request = with_stop((api.request)(true));
            let mut first = None;
            for cut in 0..=line.text.len() {
                let text = stream(&app, api.path, &request).await;
                let said = said(api.name, &assembled(api.name, &text));
                let first = first.get_or_insert_with(|| said.clone());
                assert_eq!(*first, said, "{} of {:?}, cut at {cut}", api.name, line.text);
            }
        }
    }
    let text = "Hello, wörld 🦀 STOP x";
    let cuts = (0..=text.len()).map(|cut| Line { cut: Some(cut), ..Line::new(text) });
    let app = app(&Script::new(cuts), Options::default());
    for cut in 0..=text.len() {
        let request = json!({ "prompt": "Hi", "stop": "STOP" });
        let answer = stream(&app, "/v1/completions", &request).await;
        let want = json!([{ "text": "Hello, wörld 🦀 ", "finish_reason": "stop" }]);
        assert_eq!(clients::completions(&answer), want, "cut at {cut}");
    }
}
