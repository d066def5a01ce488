//! Numbers that clients reckon with: what is counted, told and remembered agrees, whichever way it is asked for.

mod common;

use axum::http::StatusCode;
use common::*;
use engine::{CacheSource, Refusal};
use serde_json::{Map, Value, json};
use server::Options;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

// ---- usage

/// The parts of every API's usage add up, from nothing to all of the prompt known, from memory or from the store, whole
/// and streamed.
#[tokio::test]
async fn usage_adds_up_in_every_api() {
    let said = "Hm.</think>Hello";
    let hi = json!([{ "role": "user", "content": "Hi" }]);
    for (cached, source) in [
        (0, CacheSource::Nothing),
        (3, CacheSource::Memory),
        (3, CacheSource::Rewind),
        (3, CacheSource::Disk),
        (3, CacheSource::Remote),
        (usize::MAX, CacheSource::Memory),
    ] {
        let script = Script::new([Line::new(said)]);
        *script.cached.lock().unwrap() = cached;
        *script.source.lock().unwrap() = source;
        let source = source.name();
        let app = app(&script, Options::default());
        let sampled = script.vocabulary().encode_trusted(said).len() as u64 + 1;
        let reasoning = script.vocabulary().encode_trusted("Hm.</think>").len() as u64;

        let request = json!({ "messages": hi, "stream_options": { "include_usage": true } });
        let (_, chat) = ask(&app, CHAT, &request).await;
        let prompt = script.prompt_tokens(0).len() as u64;
        let known = (cached as u64).min(prompt);
        let usage = &chat["usage"];
        let want = [prompt, sampled, prompt + sampled, known, reasoning, known, prompt - known, 0, 0];
        let pointers = [
            "/prompt_tokens",
            "/completion_tokens",
            "/total_tokens",
            "/prompt_tokens_details/cached_tokens",
            "/completion_tokens_details/reasoning_tokens",
            "/prompt_cache_hit_tokens",
            "/prompt_cache_miss_tokens",
            "/completion_tokens_details/accepted_prediction_tokens",
            "/completion_tokens_details/rejected_prediction_tokens",
        ];
        assert_eq!(pointers.map(|pointer| number(usage, pointer)), want);
        assert!(usage["prompt_tokens_details"].get("cache_write_tokens").is_none());
        let timings = &chat["timings"];
        assert_eq!((&timings["cache_source"], number(timings, "/cache_n")), (&json!(source), known));
        assert_eq!(number(timings, "/prompt_n"), prompt - known);
        assert_eq!(number(timings, "/predicted_n"), sampled);
        let streamed = clients::chat(&stream(&app, CHAT, &request).await);
        assert_eq!(&streamed["usage"], usage);

        let (_, response) = ask(&app, RESPONSES, &json!({ "input": "Hi" })).await;
        let usage = &response["usage"];
        let pointers = [
            "/input_tokens",
            "/output_tokens",
            "/total_tokens",
            "/input_tokens_details/cached_tokens",
            "/output_tokens_details/reasoning_tokens",
        ];
        let want = [prompt, sampled, prompt + sampled, known, reasoning];
        assert_eq!(pointers.map(|pointer| number(usage, pointer)), want);
        assert_eq!(response["timings"]["cache_source"], source);
        assert_eq!(
            &clients::responses(&stream(&app, RESPONSES, &json!({ "input": "Hi" })).await)["usage"],
            usage
        );

        let (_, message) = ask(&app, MESSAGES, &json!({ "messages": hi })).await;
        let usage = &message["usage"];
        let pointers = [
            "/input_tokens",
            "/cache_creation_input_tokens",
            "/cache_read_input_tokens",
            "/output_tokens",
            "/output_tokens_details/thinking_tokens",
        ];
        assert_eq!(
            pointers.map(|pointer| number(usage, pointer)),
            [prompt - known, 0, known, sampled, reasoning]
        );
        let text = stream(&app, MESSAGES, &json!({ "messages": hi })).await;
        assert_eq!(&clients::messages(&text)["usage"], usage);
        let begun = &events(&text)[0]["message"]["usage"];
        assert_eq!(number(begun, "/input_tokens") + number(begun, "/cache_read_input_tokens"), prompt);
    }
}

/// A prompt is counted once, whatever is made of it; what is written, each time.
#[tokio::test]
async fn several_replies_to_one_prompt_are_counted_as_that() {
    let said = "Hm.</think>Hello";
    let script = Script::new([Line::new(said)]);
    *script.cached.lock().unwrap() = 3;
    let app = app(&script, Options::default());
    let sampled = script.vocabulary().encode_trusted(said).len() as u64 + 1;
    for n in [1, 2, 8] {
        let request = json!({ "messages": [{ "role": "user", "content": "Hi" }], "n": n, "stream_options": { "include_usage": true } });
        let (_, whole) = ask(&app, CHAT, &request).await;
        let prompt = script.prompt_tokens(0).len() as u64;
        assert_eq!(whole["choices"].as_array().unwrap().len() as u64, n);
        assert_eq!(number(&whole, "/usage/prompt_tokens"), prompt);
        assert_eq!(number(&whole, "/usage/completion_tokens"), n * sampled);
        assert_eq!(number(&whole, "/usage/total_tokens"), prompt + n * sampled);
        assert_eq!(number(&whole, "/usage/completion_tokens_details/reasoning_tokens") % n, 0);
        assert_eq!(number(&whole, "/usage/prompt_cache_hit_tokens"), 3);
        let streamed = clients::chat(&stream(&app, CHAT, &request).await);
        assert_eq!(
            (&streamed["usage"], streamed["choices"].as_array().unwrap().len() as u64),
            (&whole["usage"], n)
        );

        let request = json!({ "prompt": ["Hi", "Ho ho"], "n": n });
        let (_, whole) = ask(&app, COMPLETIONS, &request).await;
        let tokens = |text: &str| script.vocabulary().encode(text).len() as u64 + 1; // and the first
        assert_eq!(number(&whole, "/usage/prompt_tokens"), tokens("Hi") + tokens("Ho ho"));
        assert_eq!(number(&whole, "/usage/completion_tokens"), 2 * n * sampled);
        let order: Vec<u64> =
            whole["choices"].as_array().unwrap().iter().map(|it| number(it, "/index")).collect();
        assert_eq!(order, (0..2 * n).collect::<Vec<_>>());
    }
}

/// Usage is told at the end of a stream to whoever asks for it, and to nobody else.
#[tokio::test]
async fn usage_is_told_to_those_who_ask() {
    for (always, asked, told) in [
        (false, json!(null), false),
        (false, json!({}), false),
        (false, json!({ "include_usage": false }), false),
        (false, json!({ "include_usage": true }), true),
        (true, json!(null), true),
        (true, json!({ "include_usage": false }), false),
    ] {
        let options = Options { always_usage: always, ..Options::default() };
        let app = app(&Script::new([Line::new("</think>Hello")]), options);
        for path in [CHAT, COMPLETIONS] {
            let request = json!({ "prompt": "Hi", "messages": [{ "role": "user", "content": "Hi" }], "stream_options": asked });
            let text = stream(&app, path, &request).await;
            assert_eq!(text.contains("\"usage\":{"), told, "{always} {asked}: {text}");
            assert_eq!(text.matches("\"choices\":[]").count(), usize::from(told));
        }
    }
}

// ---- scoring

/// Every token of a prompt that is scored has a row, the first of them without a probability, and the rows say the text.
#[tokio::test]
async fn each_token_of_a_scored_prompt_has_a_row() {
    let script = Script::new([Line::new("Hello wörld")]);
    let app = app(&script, Options::default());
    let ids = script.vocabulary().encode("Hello wörld");
    for (prompt, begins) in [(json!("Hello wörld"), true), (json!(ids), false)] {
        let request = json!({ "prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 2 });
        let (status, reply) = ask(&app, COMPLETIONS, &request).await;
        assert_eq!(status, StatusCode::OK, "{reply}");
        let jobs = script.jobs.lock().unwrap().len();
        // The engine says the rest of the prompt, whatever the script has: only what is asked of it counts here.
        let forced = script.jobs.lock().unwrap()[jobs - 1].request.forced.clone();
        assert_eq!(forced.len() + 1, ids.len() + usize::from(begins));
        let table = &reply["choices"][0]["logprobs"];
        assert_eq!(table["token_logprobs"][0], Value::Null);
        assert_eq!(table["tokens"][0] == "", begins, "{table}");
        let lengths = ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
            .map(|list| table[list].as_array().unwrap().len());
        assert!(lengths.iter().all(|&length| length == lengths[0]), "{table}");
        assert_eq!(number(&reply, "/usage/prompt_tokens") as usize, ids.len() + usize::from(begins));
    }
}

// ---- counts

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn text(&mut self) -> String {
        let words = [
            "fn main()",
            "{\n    ",
            "é🦀",
            "error[E0308]: ",
            "</think>",
            "<｜User｜>",
            " the",
            "\t",
            "日本",
            "\"x\": 1.50,",
            "\r\n",
        ];
        (0..self.roll(30)).map(|_| words[self.roll(words.len() as u64) as usize]).collect()
    }
}

/// A request as coding agents make them: instructions, tools, turns with calls and their results, thinking.
fn agents_request(dice: &mut Dice) -> (Value, Value) {
    let schema = json!({ "type": "object", "properties": { "path": { "type": "string" }, "limit": { "type": "number", "minimum": 1.0 } } });
    let names = ["Read", "Bash", "mcp__fs__list"];
    let (mut tools, mut functions) = (Vec::new(), Vec::new());
    for name in names.iter().take(dice.roll(4) as usize) {
        let description = dice.text();
        tools.push(json!({ "name": name, "description": description, "input_schema": schema, "cache_control": { "type": "ephemeral" } }));
        functions.push(json!({ "type": "function", "name": name, "description": description, "parameters": schema, "strict": false }));
    }
    let billing = format!("x-anthropic-billing-header: cc_version=2.1; cch={:x};", dice.roll(1 << 30));
    let instructions = dice.text();
    let system = json!([{ "type": "text", "text": billing }, { "type": "text", "text": format!("You are an agent. {instructions}") }]);
    let question = format!("Do it. {}", dice.text());
    let mut messages = vec![json!({ "role": "user", "content": question })];
    let mut items = vec![json!({ "role": "user", "content": [{ "type": "input_text", "text": question }] })];
    for turn in 0..dice.roll(5) {
        let (thought, said) = (dice.text(), format!("ok {}", dice.text()));
        let mut blocks = vec![
            json!({ "type": "thinking", "thinking": thought, "signature": "x" }),
            json!({ "type": "text", "text": said }),
        ];
        let mut results = Vec::new();
        items.push(json!({ "type": "reasoning", "summary": [], "content": [{ "type": "reasoning_text", "text": thought }] }));
        items.push(json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": said }] }));
        for call in 0..dice.roll(3) {
            let (id, input, result) = (
                format!("toolu_{turn}_{call}"),
                json!({ "path": dice.text(), "limit": dice.roll(99) }),
                dice.text(),
            );
            blocks.push(json!({ "type": "tool_use", "id": id, "name": "Read", "input": input }));
            items.push(json!({ "type": "function_call", "call_id": id, "name": "Read", "arguments": input.to_string() }));
            results.push(json!({ "type": "tool_result", "tool_use_id": id, "content": result, "is_error": dice.roll(4) == 0 }));
        }
        for result in &results {
            items.push(json!({ "type": "function_call_output", "call_id": result["tool_use_id"], "output": result["content"] }));
        }
        let text = format!("more {}", dice.text());
        results.push(json!({ "type": "text", "text": text }));
        items.push(json!({ "role": "user", "content": text }));
        messages.push(json!({ "role": "assistant", "content": blocks }));
        messages.push(json!({ "role": "user", "content": results }));
    }
    let thinking = [
        json!({ "type": "disabled" }),
        json!({ "type": "adaptive" }),
        json!({ "type": "enabled", "budget_tokens": 2000 }),
    ];
    let effort = ["none", "high", "max"][dice.roll(3) as usize];
    let message = json!({
        "model": "claude-opus-5", "max_tokens": 64, "system": system, "tools": tools, "messages": messages,
        "thinking": thinking[dice.roll(3) as usize], "metadata": { "user_id": "me" },
    });
    let response = json!({
        "model": "gpt-5", "instructions": instructions, "tools": functions, "input": items, "store": false,
        "reasoning": { "effort": effort }, "prompt_cache_key": "k",
    });
    (message, response)
}

/// What is counted beforehand is what the request then costs, for 200 requests like those of agents.
#[tokio::test]
async fn counts_are_what_requests_cost() {
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let mut dice = Dice(7);
    for nth in 0..200 {
        *script.cached.lock().unwrap() = dice.roll(500) as usize;
        let (message, response) = agents_request(&mut dice);
        let (_, counted) = ask(&app, "/v1/messages/count_tokens", &message).await;
        let (status, reply) = ask(&app, MESSAGES, &message).await;
        assert_eq!(status, StatusCode::OK, "{reply}");
        let parts = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];
        let sum: u64 = parts.iter().map(|part| reply["usage"][*part].as_u64().unwrap()).sum();
        assert_eq!(number(&counted, "/input_tokens"), sum, "request {nth}");
        assert!(sum > 20);
        let (_, counted) = ask(&app, "/v1/responses/input_tokens", &response).await;
        let (status, reply) = ask(&app, RESPONSES, &response).await;
        assert_eq!(status, StatusCode::OK, "{reply}");
        assert_eq!(
            counted,
            json!({ "object": "response.input_tokens", "input_tokens": number(&reply, "/usage/input_tokens") })
        );
    }
    // A count asks nothing of the engine.
    assert_eq!(script.jobs.lock().unwrap().len(), 400);
}

// ---- history

/// What was said comes back in each API's own form and is the very tokens that were sampled: whole or put together from a
/// stream, with members in another order, with other ids, without the reasoning.
#[tokio::test]
async fn replies_come_back_as_they_were_sampled() {
    let parameters = "<｜DSML｜parameter name=\"city\" string=\"true\">Zür\"ich\\\n🦀</｜DSML｜parameter>\n\
        <｜DSML｜parameter name=\"days\" string=\"false\">[1.50,  {\"b\":1,\"a\":2}]</｜DSML｜parameter>";
    let one = format!("<｜DSML｜invoke name=\"get_weather\">\n{parameters}\n</｜DSML｜invoke>\n");
    let none = "<｜DSML｜invoke name=\"get_weather\">\n\n</｜DSML｜invoke>\n";
    let block = |calls: &str| format!("\n\n<｜DSML｜tool_calls>\n{calls}</｜DSML｜tool_calls>");
    let courses = [
        "Hm.</think>Hello".to_owned(),
        format!("Hm.</think>ok{}", block(&one)),
        format!("Hm.</think>{}", block(&format!("{one}{none}{one}"))),
        format!("</think>ok{}", block(none)),
    ];
    for said in &courses {
        for path in [CHAT, RESPONSES, MESSAGES] {
            for (streamed, drop_reasoning, rewrite) in
                [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
            {
                round_trip(path, said, streamed, drop_reasoning, rewrite).await;
            }
        }
    }
    // In the API without turns, the text is the history.
    let script = Script::new([Line::new("Hello wörld 🦀"), Line::new("x")]);
    let app = app(&script, Options::default());
    let (_, reply) = ask(&app, COMPLETIONS, &json!({ "prompt": "Hi: ", "return_token_ids": true })).await;
    let text = reply["choices"][0]["text"].as_str().unwrap();
    ask(&app, COMPLETIONS, &json!({ "prompt": format!("Hi: {text}") })).await;
    assert_eq!(script.prompt(1), script.prompt(0) + "Hello wörld 🦀");
    let mut ids = script.prompt_tokens(0);
    ids.extend(
        reply["choices"][0]["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32),
    );
    ask(&app, COMPLETIONS, &json!({ "prompt": ids })).await;
    assert_eq!(script.prompt_tokens(2), ids);
}

async fn round_trip(path: &str, said: &str, streamed: bool, drop_reasoning: bool, rewrite: bool) {
    let script = Script::new([Line::new(said), Line::new("</think>done")]);
    let app = app(&script, Options::default());
    let tool = &weather()[0]["function"];
    let (tools, field) = match path {
        CHAT => (weather(), "messages"),
        MESSAGES => (json!([{ "name": tool["name"], "input_schema": tool["parameters"] }]), "messages"),
        _ => {
            (json!([{ "type": "function", "name": tool["name"], "parameters": tool["parameters"] }]), "input")
        }
    };
    let mut request =
        json!({ field: [{ "role": "user", "content": "Hi" }], "tools": tools, "max_tokens": 9999 });
    let reply = if streamed {
        let text = stream(&app, path, &request).await;
        match path {
            CHAT => clients::chat(&text),
            MESSAGES => clients::messages(&text),
            _ => clients::responses(&text),
        }
    } else {
        ask(&app, path, &request).await.1
    };
    let new_id =
        |id: &Value| if rewrite { json!(format!("x|{}|fc_1", id.as_str().unwrap())) } else { id.clone() };
    let turned = |value: &Value| if rewrite { backwards(value) } else { value.clone() };
    let mut back = Vec::new();
    match path {
        CHAT => {
            let mut message = reply["choices"][0]["message"].clone();
            let mut results = Vec::new();
            for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
                call["id"] = new_id(&call["id"]);
                let arguments: Value =
                    serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
                call["function"]["arguments"] = json!(turned(&arguments).to_string());
                results.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "sun" }));
            }
            if drop_reasoning {
                message.as_object_mut().unwrap().shift_remove("reasoning_content");
            }
            back.push(turned(&message));
            back.extend(results.into_iter().rev()); // in any order
        }
        MESSAGES => {
            let (mut blocks, mut results) = (Vec::new(), Vec::new());
            for block in reply["content"].as_array().unwrap() {
                let mut block = block.clone();
                if block["type"] == "tool_use" {
                    block["id"] = new_id(&block["id"]);
                    block["input"] = turned(&block["input"]);
                    results
                        .push(json!({ "type": "tool_result", "tool_use_id": block["id"], "content": "sun" }));
                }
                if !(drop_reasoning && block["type"] == "thinking") {
                    blocks.push(block);
                }
            }
            back.push(json!({ "role": "assistant", "content": blocks }));
            results.push(json!({ "type": "text", "text": "more" }));
            back.push(json!({ "role": "user", "content": results }));
        }
        _ => {
            let mut results = Vec::new();
            for item in reply["output"].as_array().unwrap() {
                let mut item = item.clone();
                if item["type"] == "function_call" {
                    item["call_id"] = new_id(&item["call_id"]);
                    let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
                    item["arguments"] = json!(turned(&arguments).to_string());
                    results.push(json!({ "type": "function_call_output", "call_id": item["call_id"], "output": "sun" }));
                }
                if item["type"] == "reasoning" {
                    if drop_reasoning {
                        continue;
                    }
                    item.as_object_mut().unwrap().shift_remove("content"); // as Codex does
                }
                back.push(turned(&item));
            }
            back.extend(results);
            back.push(json!({ "role": "user", "content": "more" }));
        }
    }
    request[field].as_array_mut().unwrap().extend(back);
    let (status, reply) = ask(&app, path, &request).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    let mut want = script.prompt_tokens(0);
    want.extend(script.vocabulary().encode_trusted(said));
    let what =
        format!("{path}, streamed {streamed}, without reasoning {drop_reasoning}, rewritten {rewrite}");
    assert!(
        script.prompt_tokens(1).starts_with(&want),
        "{what}\nwant {}{said}\ngot {}",
        script.prompt(0),
        script.prompt(1)
    );
}

/// The same with the members of all objects in the opposite order.
fn backwards(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members.iter().rev().map(|(name, value)| (name.clone(), backwards(value))).collect::<Map<_, _>>(),
        ),
        Value::Array(items) => items.iter().map(backwards).collect(),
        other => other.clone(),
    }
}

/// 4,096 calls and their results are read in a time that grows with their number, in every API that has calls.
#[tokio::test]
async fn long_histories_are_read_in_linear_time() {
    let history = |path: &str, pairs: usize| {
        let mut list = vec![json!({ "role": "user", "content": "Hi" })];
        for i in 0..pairs {
            let id = i.to_string();
            match path {
                "/apply-template" => {
                    list.push(json!({ "role": "assistant", "tool_calls": [{ "id": id, "type": "function", "function": { "name": "f", "arguments": "{}" } }] }));
                    list.push(json!({ "role": "tool", "tool_call_id": id, "content": "" }));
                }
                "/v1/messages/count_tokens" => {
                    list.push(json!({ "role": "assistant", "content": [{ "type": "tool_use", "id": id, "name": "f", "input": {} }] }));
                    list.push(json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": id, "content": "" }] }));
                }
                _ => {
                    list.push(
                        json!({ "type": "function_call", "call_id": id, "name": "f", "arguments": "{}" }),
                    );
                    list.push(json!({ "type": "function_call_output", "call_id": id, "output": "" }));
                }
            }
        }
        json!({ "messages": list, "input": list })
    };
    let app = saying("a");
    // All in one turn, too: the results then come in the opposite order.
    let mut one_turn = vec![json!({ "role": "user", "content": "Hi" })];
    let call = |i: usize| json!({ "type": "function_call", "call_id": i.to_string(), "name": "f", "arguments": "{}" });
    let result = |i: usize| json!({ "type": "function_call_output", "call_id": i.to_string(), "output": "" });
    one_turn.extend((0..4096).map(call));
    one_turn.extend((0..4096).rev().map(result));
    let time = async |path: &str, request: Value| {
        let begun = Instant::now();
        let (status, reply) = ask(&app, path, &request).await;
        assert_eq!(status, StatusCode::OK, "{reply}");
        begun.elapsed()
    };
    for path in ["/apply-template", "/v1/messages/count_tokens", "/v1/responses/input_tokens"] {
        time(path, history(path, 64)).await;
        // Linear would be 8 times as long, quadratic 64 times; other work on the machine may disturb one measurement.
        let mut ratio = f64::INFINITY;
        for _ in 0..5 {
            let (few, many) = (time(path, history(path, 512)).await, time(path, history(path, 4096)).await);
            ratio = ratio.min(many.as_secs_f64() / few.as_secs_f64());
            if ratio < 24.0 {
                break;
            }
        }
        assert!(ratio < 24.0, "{path}: 4096 pairs take {ratio:.1} times as long as 512");
    }
    time("/v1/responses/input_tokens", json!({ "input": one_turn })).await;
}

// ---- refusals

/// What common agents look for to know that a conversation must be compacted. Each was read in the agent's own code.
#[tokio::test]
async fn agents_know_that_a_prompt_is_too_long() {
    let script = Script::new([Line::new("a")]);
    let app = app(&script, Options::default());
    let long = "word ".repeat(30_000);
    let chat = json!([{ "role": "user", "content": long }]);
    for (path, request) in [
        (CHAT, json!({ "messages": chat })),
        (CHAT, json!({ "messages": chat, "stream": true })),
        (COMPLETIONS, json!({ "prompt": long })),
        (RESPONSES, json!({ "input": long, "stream": true })),
        (MESSAGES, json!({ "messages": chat, "stream": true })),
    ] {
        let (status, answer) = ask(&app, path, &request).await;
        let error = &answer["error"];
        assert_eq!((status, &error["type"]), (StatusCode::BAD_REQUEST, &json!("invalid_request_error")));
        let said = error["message"].as_str().unwrap();
        let numbers: Vec<u64> =
            said.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        let lower = said.to_lowercase();
        if path == MESSAGES {
            // Claude Code: /prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)/i; Pi and OpenCode: /prompt is too long/i
            assert!(
                said.starts_with("prompt is too long: ") && said.contains(" tokens > 20000 maximum"),
                "{said}"
            );
            assert!(numbers[0] > 20_000 && numbers[1] == 20_000);
        } else {
            // Codex, Cline: the code. Pi: /maximum context length is \d+ tokens/i, /reduce the length of the messages/i
            assert_eq!(error["code"], "context_length_exceeded");
            let want = format!(
                "This model's maximum context length is 20000 tokens. However, your request has {} tokens. \
                 Please reduce the length of the messages. (context_length_exceeded)",
                numbers[1]
            );
            assert_eq!((said, numbers[1] > 20_000), (&*want, true));
        }
        // OpenCode also takes `tokens` together with `maximum`.
        assert!(lower.contains("tokens") && lower.contains("maximum"));
        // Pi takes these for something else that can be tried again.
        assert!(!lower.contains("rate limit") && !lower.contains("too many requests"));
    }
    // Memory that will never do is the same case; a full queue is not.
    let hi = json!({ "messages": [{ "role": "user", "content": "Hi, how are you?" }] });
    *script.refusal.lock().unwrap() = Some(Refusal::Memory { need: 1000, free: 500, prompt: 40, limit: 20 });
    let (status, answer) = ask(&app, CHAT, &hi).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("context_length_exceeded"))
    );
    *script.refusal.lock().unwrap() =
        Some(Refusal::QueueFull { queued: 8, limit: 8, retry_after: Duration::from_secs(7) });
    let (status, answer) = ask(&app, CHAT, &hi).await;
    let said = answer["error"]["message"].as_str().unwrap().to_lowercase();
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limit_exceeded"))
    );
    assert!(said.contains("try again in 7s"), "{said}");
    for pattern in
        ["prompt is too long", "context length", "exceeds the limit of", "token limit", "too many tokens"]
    {
        assert!(!said.contains(pattern), "{said}");
    }
}

// ---- members that nobody knows

/// Members that we do not know change nothing, wherever they are put: at every level of requests with everything in them.
#[tokio::test]
async fn unknown_members_change_nothing_at_any_level() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
    let requests = [
        (
            CHAT,
            json!({
                "messages": [{ "role": "system", "content": "s" }, { "role": "user", "content": [{ "type": "text", "text": "x" }] },
                    { "role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
                    { "role": "tool", "tool_call_id": "1", "content": [{ "type": "text", "text": "x" }] }],
                "tools": [{ "type": "function", "function": { "name": "f", "description": "d", "parameters": schema } }],
                "tool_choice": { "type": "function", "function": { "name": "f" } }, "stream_options": { "include_usage": true },
                "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } },
                "reasoning": { "effort": "high" }, "thinking": { "type": "enabled" },
            }),
        ),
        (
            MESSAGES,
            json!({
                "system": [{ "type": "text", "text": "s", "cache_control": { "type": "ephemeral" } }],
                "messages": [{ "role": "user", "content": [{ "type": "text", "text": "x" }] },
                    { "role": "assistant", "content": [{ "type": "thinking", "thinking": "Hm.", "signature": "x" }, { "type": "tool_use", "id": "1", "name": "f", "input": {} }] },
                    { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "1", "content": [{ "type": "text", "text": "x" }] }] }],
                "tools": [{ "name": "f", "description": "d", "input_schema": schema }], "tool_choice": { "type": "tool", "name": "f" },
                "thinking": { "type": "enabled" }, "output_config": { "effort": "high", "format": { "type": "json_schema", "schema": schema } },
            }),
        ),
        (
            RESPONSES,
            json!({
                "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "x" }] },
                    { "type": "reasoning", "summary": [{ "type": "summary_text", "text": "Hm." }] },
                    { "type": "function_call", "call_id": "1", "name": "f", "arguments": "{}" },
                    { "type": "function_call_output", "call_id": "1", "output": [{ "type": "input_text", "text": "x" }] },
                    { "type": "local_shell_call", "call_id": "2", "action": { "type": "exec", "command": ["ls"] } }],
                "tools": [{ "type": "function", "name": "f", "description": "d", "parameters": schema }, { "type": "custom", "name": "p", "format": { "type": "text" } },
                    { "type": "namespace", "name": "n", "tools": [{ "type": "function", "name": "g" }] }],
                "tool_choice": { "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "function", "name": "f" }] },
                "text": { "format": { "type": "json_schema", "name": "x", "schema": schema } }, "reasoning": { "effort": "high", "summary": "auto" },
            }),
        ),
        (
            COMPLETIONS,
            json!({ "prompt": "x", "stream_options": { "include_usage": true }, "structured_outputs": { "regex": "a" } }),
        ),
    ];
    let news = [
        json!(null),
        json!(true),
        json!(1e300),
        json!("x"),
        json!([1, { "type": "x" }]),
        json!({ "type": "image_url", "content": [] }),
    ];
    for (path, request) in requests {
        let script = Script::new([Line::new("</think>ok")]);
        let app = app(&script, Options::default());
        let outcome = async |request: &Value| {
            let (status, reply) = ask(&app, path, request).await;
            assert_eq!(status, StatusCode::OK, "{path}: {reply} to {request}");
            let jobs = script.jobs.lock().unwrap().len();
            let job = script.jobs.lock().unwrap()[jobs - 1].clone();
            let asked =
                format!("{:?} {:?} {:?}", job.request.max_tokens, job.request.sampling, job.request.form);
            (
                script.prompt(jobs - 1),
                asked,
                job.request.constraint.is_some(),
                reply["choices"].to_string().len(),
            )
        };
        let want = outcome(&request).await;
        let mut places = Vec::new();
        objects(&request, String::new(), &mut places);
        assert!(path == COMPLETIONS || places.len() > 12, "{places:?}");
        for place in places {
            for new in &news {
                let mut changed = request.clone();
                changed
                    .pointer_mut(&place)
                    .unwrap()
                    .as_object_mut()
                    .unwrap()
                    .insert("quite_new".into(), new.clone());
                // Before all others, too.
                let reordered = backwards_at(&changed, &place);
                assert_eq!(outcome(&changed).await, want, "{path} at {place:?}: {new}");
                assert_eq!(outcome(&reordered).await, want, "{path} at {place:?}: {new}, first");
            }
        }
    }
}

/// The new member of the object at `place` moved to its front.
fn backwards_at(value: &Value, place: &str) -> Value {
    let mut value = value.clone();
    let object = value.pointer_mut(place).unwrap().as_object_mut().unwrap();
    let (name, new) = object.iter().next_back().map(|(name, new)| (name.clone(), new.clone())).unwrap();
    object.shift_remove(&name);
    object.shift_insert(0, name, new);
    value
}

/// Where there are objects of the API's own, not of the caller's.
fn objects(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                // Schemas and arguments are data, and so is what a shell is called with.
                if !["parameters", "input_schema", "schema", "input", "action"].contains(&&**name)
                    || value.is_array()
                {
                    objects(value, format!("{at}/{name}"), out);
                }
            }
            out.push(at);
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| objects(value, format!("{at}/{i}"), out))
        }
        _ => {}
    }
}

// ---- company

/// Jobs of one request share nothing but the prompt: each has its own seed.
#[tokio::test]
async fn choices_differ_in_their_seeds() {
    let script: Arc<Script> = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    ask(&app, CHAT, &json!({ "messages": [{ "role": "user", "content": "Hi" }], "n": 3, "seed": 5 })).await;
    let seeds: Vec<u64> = script.jobs.lock().unwrap().iter().map(|job| job.request.seed).collect();
    assert_eq!(seeds, [5, 6, 7]);
}
