//! What clients read on the wire, to the letter, for each API and each course that a reply can take; and that
//! whole answers and streamed ones say the same.
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
    let line = Line { fails_after: Some(4), ..Line::new("</think>Hello") };
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

/// The parts of a streamed answer, put together as clients do it, are the whole answer.
#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let courses = [
        Line::new("</think>Hello"),
        Line::new("Hm.</think>Hello"),
        Line::new(&format!("Hm.</think>ok{CALL}")),
        Line::new(&format!("Hm.{CALL}")),
        Line::cut("Hm"),
        Line::cut("Hm.</think>He"),
    ];
    for line in courses {
        for api in &APIS {
            let script = Script::new([line.clone()]);
            let app = app(&script, Options::default());
            let (_, whole) = ask(&app, api.path, &(api.request)(true)).await;
            let events = events(&stream(&app, api.path, &(api.request)(true)).await);
            let streamed = match api.name {
                "chat" => assemble_chat(&events),
                "responses" => events.last().unwrap()["response"].clone(),
                _ => assemble_message(&events),
            };
            let said = |answer: &Value| {
                let part = match api.name {
                    "chat" => json!([
                        answer["choices"][0]["message"],
                        answer["choices"][0]["finish_reason"],
                        answer["usage"]
                    ]),
                    "responses" => json!([answer["output"], answer["status"], answer["usage"]]),
                    _ => json!([answer["content"], answer["stop_reason"], answer["usage"]]),
                };
                steady(&part.to_string())
            };
            assert_eq!(said(&streamed), said(&whole), "{} of {line:?}", api.name);
        }
    }
}

/// What a client of chat completions makes of chunks.
fn assemble_chat(chunks: &[Value]) -> Value {
    let mut message = json!({ "role": "assistant", "content": null });
    let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::<Value>::new());
    let mut finish = Value::Null;
    for chunk in chunks {
        let Some(choice) = chunk["choices"].get(0) else { continue };
        let delta = &choice["delta"];
        content.push_str(delta["content"].as_str().unwrap_or_default());
        reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                let mut call = call.clone();
                call.as_object_mut().unwrap().shift_remove("index");
                calls.push(call);
            } else {
                let before = calls[index]["function"]["arguments"].as_str().unwrap();
                let more = call["function"]["arguments"].as_str().unwrap();
                calls[index]["function"]["arguments"] = json!(format!("{before}{more}"));
            }
        }
        if !choice["finish_reason"].is_null() {
            finish = choice["finish_reason"].clone();
        }
    }
    if !content.is_empty() || calls.is_empty() {
        message["content"] = json!(content);
    }
    if !reasoning.is_empty() {
        message["reasoning_content"] = json!(reasoning);
    }
    message["refusal"] = Value::Null;
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    let usage = &chunks.last().unwrap()["usage"];
    json!({ "choices": [{ "message": message, "finish_reason": finish }], "usage": usage })
}

/// What a client of messages makes of events.
fn assemble_message(events: &[Value]) -> Value {
    let mut message = Value::Null;
    let mut json = String::new();
    for event in events {
        match event["type"].as_str().unwrap() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                assert_eq!(event["index"], message["content"].as_array().unwrap().len());
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
                json.clear();
            }
            "content_block_delta" => {
                let block = message["content"].as_array_mut().unwrap().last_mut().unwrap();
                let delta = &event["delta"];
                let mut add = |field: &str, from: &str| {
                    let text = format!("{}{}", block[field].as_str().unwrap(), delta[from].as_str().unwrap());
                    block[field] = json!(text);
                };
                match delta["type"].as_str().unwrap() {
                    "thinking_delta" => add("thinking", "thinking"),
                    "signature_delta" => add("signature", "signature"),
                    "text_delta" => add("text", "text"),
                    _ => json.push_str(delta["partial_json"].as_str().unwrap()),
                }
            }
            "content_block_stop" => {
                let block = message["content"].as_array_mut().unwrap().last_mut().unwrap();
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&json).unwrap();
                }
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["usage"] = event["usage"].clone();
            }
            _ => {}
        }
    }
    message
}
