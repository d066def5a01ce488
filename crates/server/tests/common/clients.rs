//! Clients that are strict: each puts a streamed answer together as those of its kind do, and checks on the way every
//! rule that one of them depends on.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A frame of a stream: the name of its event, if it has one, and its data.
pub type Frame = (Option<String>, String);

/// The frames of a stream, without comments.
pub fn frames(text: &str) -> Vec<Frame> {
    assert!(text.ends_with("\n\n"), "the last frame is cut off: {text}");
    let frames = text.split_terminator("\n\n").filter(|frame| !frame.starts_with(':'));
    let read = |frame: &str| {
        let (mut event, mut data) = (None, None);
        for line in frame.split('\n') {
            if let Some(name) = line.strip_prefix("event: ") {
                assert!(event.replace(name.to_owned()).is_none(), "{frame}");
            } else {
                let line = line.strip_prefix("data: ").unwrap_or_else(|| panic!("a strange line: {frame}"));
                assert!(data.replace(line.to_owned()).is_none(), "{frame}");
            }
        }
        (event, data.expect("a frame has data"))
    };
    frames.map(read).collect()
}

/// The JSON of each frame; the last must be `[DONE]` if `done`.
fn values(text: &str, done: bool) -> Vec<(Option<String>, Value)> {
    let mut frames = frames(text);
    if done {
        assert_eq!(frames.pop().unwrap().1, "[DONE]", "{text}");
    }
    let read = |(event, data): Frame| (event, serde_json::from_str(&data).unwrap());
    frames.into_iter().map(read).collect()
}

/// Adds a delta to a text member, which may be null.
fn add(object: &mut Value, member: &str, delta: &str) {
    let before = object[member].as_str().unwrap_or_default();
    object[member] = json!(format!("{before}{delta}"));
}

#[derive(Default)]
struct Choice {
    message: Value,
    finish: Option<Value>,
}

/// What a client of chat completions makes of a stream: `choices` and `usage`.
pub fn chat(text: &str) -> Value {
    let mut choices = BTreeMap::<u64, Choice>::new();
    let (mut usage, mut head) = (Value::Null, None);
    for (event, chunk) in values(text, true) {
        assert_eq!(event, None);
        assert!(usage.is_null(), "usage is the last chunk: {text}");
        let same = json!([chunk["id"], chunk["created"], chunk["model"], chunk["object"]]);
        assert_eq!(*head.get_or_insert(same.clone()), same);
        usage = chunk["usage"].clone();
        assert_eq!(usage.is_null(), !chunk["choices"].as_array().unwrap().is_empty());
        for part in chunk["choices"].as_array().unwrap() {
            let index = part["index"].as_u64().unwrap();
            let is_first = !choices.contains_key(&index);
            let choice = choices.entry(index).or_default();
            let delta = part["delta"].as_object().unwrap();
            assert!(choice.finish.is_none(), "something comes after the end: {text}");
            if is_first {
                assert_eq!(json!(delta), json!({ "role": "assistant", "content": "" }));
                choice.message = json!({ "role": "assistant", "content": null, "refusal": null });
                continue;
            }
            for (name, value) in delta {
                match name.as_str() {
                    "content" | "reasoning_content" => {
                        assert_ne!(value, "", "{part}");
                        add(&mut choice.message, name, value.as_str().unwrap());
                    }
                    "tool_calls" => tool_calls(&mut choice.message, value),
                    other => panic!("{other} in a delta: {part}"),
                }
            }
            if !part["finish_reason"].is_null() {
                assert!(delta.is_empty());
                choice.finish = Some(part["finish_reason"].clone());
            }
        }
    }
    let whole = choices.into_values().enumerate().map(|(index, choice)| {
        let finish = choice.finish.unwrap_or_else(|| panic!("choice {index} has no end: {text}"));
        json!({ "index": index, "message": choice.message, "finish_reason": finish })
    });
    json!({ "choices": whole.collect::<Value>(), "usage": usage })
}

fn tool_calls(message: &mut Value, deltas: &Value) {
    for delta in deltas.as_array().unwrap() {
        let index = delta["index"].as_u64().expect("every fragment has an index") as usize;
        if message["tool_calls"].is_null() {
            message["tool_calls"] = json!([]);
        }
        let calls = message["tool_calls"].as_array_mut().unwrap();
        if index == calls.len() {
            let name = delta["function"]["name"].as_str().expect("the first fragment has the name");
            assert!(!name.trim().is_empty() && delta["id"].as_str().unwrap().starts_with("call_"));
            assert_eq!((&delta["type"], &delta["function"]["arguments"]), (&json!("function"), &json!("")));
            let mut call = delta.clone();
            call.as_object_mut().unwrap().shift_remove("index");
            calls.push(call);
        } else {
            assert_eq!(index, calls.len() - 1, "a call ends before the next begins");
            assert!(["id", "type"].iter().all(|name| delta.get(name).is_none()), "{delta}");
            assert_eq!(delta["function"].as_object().unwrap().len(), 1);
            add(&mut calls[index]["function"], "arguments", delta["function"]["arguments"].as_str().unwrap());
        }
    }
}

/// What a client of completions makes of a stream: texts and ends, by index.
pub fn completions(text: &str) -> Value {
    let mut choices = BTreeMap::<u64, Value>::new();
    for (event, chunk) in values(text, true) {
        assert_eq!((event, &chunk["object"]), (None, &json!("text_completion")));
        for part in chunk["choices"].as_array().unwrap() {
            let choice = choices.entry(part["index"].as_u64().unwrap()).or_insert_with(|| json!({}));
            assert!(choice["finish_reason"].is_null());
            add(choice, "text", part["text"].as_str().unwrap());
            choice["finish_reason"] = part["finish_reason"].clone();
        }
    }
    choices.into_values().collect()
}

/// What a client of Responses makes of a stream: the last response, held against every event before it.
pub fn responses(text: &str) -> Value {
    let events = values(text, true);
    let (mut output, mut open, mut part) = (Vec::<Value>::new(), None::<Value>, String::new());
    let mut last_index = -1;
    let mut response = Value::Null;
    for (number, (name, event)) in events.iter().enumerate() {
        let kind = event["type"].as_str().unwrap();
        assert_eq!(name.as_deref(), Some(kind));
        assert_eq!(event["sequence_number"], number);
        assert!(!is_last(&response), "something comes after {response}");
        if number < 2 {
            assert_eq!(kind, ["response.created", "response.in_progress"][number]);
        }
        if let Some(whole) = event.get("response") {
            assert!(response.is_null() || response["id"] == whole["id"]);
            assert!(is_last(whole) != kind.ends_with("in_progress") || kind == "response.created");
            response = whole.clone();
            continue;
        }
        let index = event["output_index"].as_i64().expect("an event of an item has its index");
        match kind {
            "response.output_item.added" => {
                // A call that was begun and is none has no end.
                assert!(open.as_ref().is_none_or(is_call) && index > last_index, "{text}");
                (last_index, open, part) = (index, Some(event["item"].clone()), String::new());
                assert_eq!(event["item"]["status"], "in_progress");
            }
            "response.output_item.done" => {
                let begun = open.take().expect("an item that was begun");
                let item = &event["item"];
                assert_eq!((&item["id"], &item["type"], index), (&begun["id"], &begun["type"], last_index));
                assert_ne!(item["status"], "in_progress");
                output.push(item.clone());
            }
            _ => {
                let item = open.as_mut().unwrap_or_else(|| panic!("{kind} of no item"));
                assert_eq!((&event["item_id"], index), (&item["id"], last_index));
                let is_part = ["content_index", "summary_index"].iter().any(|name| event[*name] == 0);
                assert_eq!(is_part, item["type"] == "message" || item["type"] == "reasoning");
                if kind.ends_with("part.added") {
                    assert!(item.as_object_mut().unwrap().insert("part".into(), json!(true)).is_none());
                } else if kind.ends_with(".delta") {
                    assert!(!is_part || item["part"] == true, "a delta before its part: {text}");
                    part.push_str(event["delta"].as_str().unwrap());
                } else {
                    let said = event.get("part").unwrap_or(event);
                    let said = ["text", "arguments", "input"].iter().find_map(|name| said[*name].as_str());
                    assert_eq!(said, Some(&*part), "{kind}");
                }
            }
        }
    }
    assert!(is_last(&response) && open.as_ref().is_none_or(is_call), "{text}");
    assert_eq!(response["output"], json!(output));
    response
}

fn is_call(item: &Value) -> bool {
    item["type"].as_str().is_some_and(|kind| kind.ends_with("_call"))
}

fn is_last(response: &Value) -> bool {
    ["completed", "incomplete", "failed"].iter().any(|status| response["status"] == *status)
}

/// What a client of messages makes of a stream.
pub fn messages(text: &str) -> Value {
    let (mut message, mut json, mut open, mut stopped) = (Value::Null, String::new(), false, false);
    for (at, (name, event)) in values(text, false).into_iter().enumerate() {
        let kind = event["type"].as_str().unwrap();
        assert_eq!(name.as_deref(), Some(kind));
        assert!(!stopped && (at == 0) == (kind == "message_start"), "{text}");
        let blocks = message["content"].as_array().map_or(0, Vec::len);
        match kind {
            "message_start" => {
                message = event["message"].clone();
                assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &Value::Null));
                assert_eq!(message["usage"]["output_tokens"], 0);
            }
            "content_block_start" => {
                assert!(!open && event["index"] == blocks, "{text}");
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
                json.clear();
                open = true;
            }
            "content_block_delta" => {
                assert!(open && event["index"] == blocks - 1, "{text}");
                let block = &mut message["content"][blocks - 1];
                let delta = &event["delta"];
                let mut add_to = |member: &str| add(block, member, delta[member].as_str().unwrap());
                match delta["type"].as_str().unwrap() {
                    "thinking_delta" => add_to("thinking"),
                    "signature_delta" => add_to("signature"),
                    "text_delta" => add_to("text"),
                    "input_json_delta" => json.push_str(delta["partial_json"].as_str().unwrap()),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert!(std::mem::take(&mut open) && event["index"] == blocks - 1, "{text}");
                let block = &mut message["content"][blocks - 1];
                if block["type"] == "tool_use" {
                    assert_eq!(block["input"], json!({}));
                    block["input"] = serde_json::from_str(&json).unwrap_or_else(|_| json!({ "_cut": json }));
                }
                assert!(block["type"] != "thinking" || block["signature"] != "");
            }
            "message_delta" => {
                assert!(!open && message["stop_reason"].is_null());
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => stopped = true,
            "ping" => {}
            other => panic!("{other}: {text}"),
        }
    }
    assert!(stopped && !message["stop_reason"].is_null(), "{text}");
    message
}
