//! Messages and Responses, sentence by sentence: which prompt a request becomes, and which object a reply.

mod common;

use axum::http::{HeaderValue, StatusCode};
use common::*;
use engine::Finish;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::Options;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

/// The prompt that a request becomes.
async fn prompt(path: &str, request: Value) -> String {
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let (status, reply) = ask(&app, path, &request).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    script.prompt(0)
}

fn user(content: impl Into<Value>) -> Value {
    json!({ "role": "user", "content": content.into() })
}

fn assistant(content: impl Into<Value>) -> Value {
    json!({ "role": "assistant", "content": content.into() })
}

async fn of_messages(messages: impl Into<Value>) -> String {
    prompt(MESSAGES, json!({ "messages": messages.into() })).await
}

async fn of_items(items: impl Into<Value>) -> String {
    prompt(RESPONSES, json!({ "input": items.into() })).await
}

// ---- Messages

#[tokio::test]
async fn one_conversation_can_be_written_in_many_ways() {
    let text = |text: &str| json!([{ "type": "text", "text": text }]);
    let plain = of_messages(json!([user("Hi")])).await;
    assert_eq!(of_messages(json!([user(text("Hi"))])).await, plain);
    // Messages of one role in a row are one.
    let two = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    assert_eq!(of_messages(json!([user("a"), user("b")])).await, of_messages(json!([user(two)])).await);
    let parts = of_messages(json!([user("Hi"), assistant("a"), assistant("b"), user("c")])).await;
    let both = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    assert_eq!(of_messages(json!([user("Hi"), assistant(both), user("c")])).await, parts);
    let system = |value: Value| prompt(MESSAGES, json!({ "system": value, "messages": [user("Hi")] }));
    assert_eq!(system(json!("Be brief.")).await, system(text("Be brief.")).await);
    assert_eq!(system(json!("")).await, plain);
    // Anybody may speak first.
    assert!(of_messages(json!([assistant("Welcome."), user("Hi")])).await.contains("Welcome."));
    assert!(
        of_messages(json!([{ "role": "system", "content": "Be brief." }, user("Hi")]))
            .await
            .contains("Be brief.")
    );
}

/// What is said later by the system stays where it was said, and changes nothing before it.
#[tokio::test]
async fn a_late_instruction_stays_in_its_place() {
    let before = of_messages(json!([user("one"), assistant("two"), user("three")])).await;
    let late = json!({ "role": "system", "content": [{ "type": "text", "text": "Be brief." }] });
    let after = of_messages(json!([user("one"), assistant("two"), user("three"), late])).await;
    let shared = before.rfind("<｜Assistant｜>").unwrap();
    assert!(after.starts_with(&before[..shared]) && after[shared..].contains("Be brief."), "{after}");
}

#[tokio::test]
async fn results_come_first_and_failures_are_seen() {
    let calls = json!([{ "type": "text", "text": "ok" },
        { "type": "tool_use", "id": "toolu_1", "name": "f", "input": {} },
        { "type": "tool_use", "id": "toolu_2", "name": "f", "input": {} }]);
    let results = json!([{ "type": "text", "text": "and now" },
        { "type": "tool_result", "tool_use_id": "toolu_2", "content": "second", "is_error": true },
        { "type": "tool_result", "tool_use_id": "toolu_1", "content": [{ "type": "text", "text": "first" },
            { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AA==" } }] },
        { "type": "tool_result", "tool_use_id": "toolu_9", "content": "a stranger's" },
        { "type": "document", "title": "T", "source": { "type": "text", "media_type": "text/plain", "data": "body" } },
        { "type": "search_result", "title": "S", "source": "x", "content": [{ "type": "text", "text": "found" }] }]);
    let prompt = of_messages(json!([user("Hi"), assistant(calls), user(results)])).await;
    for part in
        ["<tool_result>first", "[Unsupported image]", "Error: second", "a stranger's", "T\n\nbody", "found"]
    {
        assert!(prompt.contains(part), "{part} is not in {prompt}");
    }
    assert!(prompt.find("<tool_result>first").unwrap() < prompt.find("and now").unwrap(), "{prompt}");
}

/// What an assistant said is sent back with every request from then on: nothing in it may end the session.
#[tokio::test]
async fn history_is_taken_as_it_is() {
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let blocks = json!([
        { "type": "redacted_thinking", "data": "c29tZWJvZHkgZWxzZSdz" },
        { "type": "thinking", "thinking": "Hm.", "signature": "" },
        { "type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": { "query": "x" } },
        { "type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [] },
        { "type": "mcp_tool_use", "id": "mcptoolu_1", "name": "f", "server_name": "s", "input": {} },
        { "type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": [] },
        { "type": "something_new", "x": 1 },
        { "type": "text", "text": "the end", "citations": null },
    ]);
    let request = json!({ "messages": [user("Hi"), assistant(blocks), user("more")] });
    let (status, reply) = ask(&app, MESSAGES, &request).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    assert!(reply["warnings"][0].as_str().unwrap().contains("something_new"));
    assert!(script.prompt(0).contains("[server_tool_use]") && script.prompt(0).contains("the end"));
    // What a user says is another matter: it would be lost.
    for block in [
        json!({ "type": "something_new" }),
        json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AA==" } }),
        json!({ "type": "document", "source": { "type": "base64", "media_type": "application/pdf", "data": "AA==" } }),
    ] {
        let (status, error) = ask(&app, MESSAGES, &json!({ "messages": [user(json!([block]))] })).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            error["error"]["message"].as_str().unwrap().starts_with("messages[0].content[0]."),
            "{error}"
        );
    }
}

#[tokio::test]
async fn tools_are_declared_and_chosen() {
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let schema = r#"{"type": "object", "properties": {"b": {"type": "number", "minimum": 1.50}, "a": {}}}"#;
    let schema: Value = serde_json::from_str(schema).unwrap();
    let tools = json!([
        { "name": "f", "description": "F", "input_schema": schema, "cache_control": { "type": "ephemeral" } },
        { "type": "custom", "name": "g", "input_schema": { "type": "object" }, "defer_loading": true },
        { "type": "web_search_20250305", "name": "web_search", "max_uses": 5 },
        { "type": "computer_20250124", "name": "computer", "display_width_px": 1 },
    ]);
    let choices = [
        (json!(null), false),
        (json!({ "type": "auto" }), false),
        (json!({ "type": "none" }), false),
        (json!({ "type": "any" }), true),
        (json!({ "type": "tool", "name": "g" }), true),
    ];
    for (at, (choice, constrained)) in choices.into_iter().enumerate() {
        let request = json!({ "tools": tools, "tool_choice": choice, "messages": [user("Hi")] });
        let (status, reply) = ask(&app, MESSAGES, &request).await;
        assert_eq!(status, StatusCode::OK, "{choice}: {reply}");
        let job = script.jobs.lock().unwrap()[at].clone();
        assert_eq!(job.request.constraint.is_some(), constrained, "{choice}");
        // It cannot call without this marker.
        assert_eq!(job.request.sampling.bias.is_empty(), choice != json!({ "type": "none" }));
        let prompt = script.prompt(at);
        // The client's order, numbers as the reference encoder writes them, and nothing that is no part of a definition.
        let definition = r#"{"name": "f", "description": "F", "parameters": {"type": "object", "properties": {"b": {"type": "number", "minimum": 1.5}, "a": {}}}}"#;
        assert!(prompt.contains(definition), "{prompt}");
        for left_out in ["web_search", "computer"] {
            assert!(!prompt.contains(left_out));
            assert!(reply["warnings"].to_string().contains(left_out), "nobody is told: {reply}");
        }
        assert!(!prompt.contains("cache_control"));
    }
    for (choice, param) in [
        (json!({ "type": "tool", "name": "none" }), "tool_choice"),
        (json!({ "type": "tool" }), "tool_choice.name"),
        (json!({ "type": "sometimes" }), "tool_choice.type"),
        (json!("auto"), "tool_choice"),
    ] {
        let request = json!({ "tools": tools, "tool_choice": choice, "messages": [user("Hi")] });
        let (status, error) = ask(&app, MESSAGES, &request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(error["error"]["message"].as_str().unwrap().starts_with(param), "{error}");
    }
    // A strict tool's arguments follow its schema even where it may call as it likes.
    let strict = json!([{ "name": "f", "input_schema": schema, "strict": true }]);
    let (status, _) = ask(&app, MESSAGES, &json!({ "tools": strict, "messages": [user("Hi")] })).await;
    assert_eq!(status, StatusCode::OK);
    assert!(script.jobs.lock().unwrap().last().unwrap().request.constraint.is_some());
}

/// Tools that the client carries out and the provider knows by their type: the model is told what they take.
#[tokio::test]
async fn tools_known_by_their_type_are_described() {
    let declared = |kind: &str, name: &str| {
        prompt(MESSAGES, json!({ "tools": [{ "type": kind, "name": name }], "messages": [user("Hi")] }))
    };
    for (kind, name, takes, takes_not) in [
        ("bash_20250124", "bash", "restart", "view_range"),
        ("text_editor_20250728", "str_replace_based_edit_tool", "insert_text", "undo_edit"),
        ("text_editor_20250124", "str_replace_editor", "undo_edit", "insert_text"),
        ("memory_20250818", "memory", "old_path", "undo_edit"),
    ] {
        let prompt = declared(kind, name).await;
        let tool = prompt.lines().find(|line| line.contains(&format!("{{\"name\": \"{name}\""))).unwrap();
        assert!(tool.contains(takes) && !tool.contains(takes_not), "{kind}: {tool}");
    }
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let tools = json!([{ "type": "bash_20250124", "name": "bash" }]);
    let request = json!({ "tools": tools, "tool_choice": { "type": "tool", "name": "bash" }, "messages": [user("Hi")] });
    let (status, reply) = ask(&app, MESSAGES, &request).await;
    assert_eq!((status, reply.get("warnings")), (StatusCode::OK, None), "{reply}");
}

/// A reply that the client has begun is gone on with, and there is no room for thinking before it.
#[tokio::test]
async fn a_reply_that_was_begun_is_gone_on_with() {
    let request = json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 },
        "messages": [user("Hi"), assistant("The answer is")] });
    let prompt = prompt(MESSAGES, request).await;
    assert!(prompt.ends_with("<｜Assistant｜></think>The answer is"), "{prompt}");
}

/// Whatever a conversation ends with, it is the model's turn then.
#[tokio::test]
async fn a_conversation_that_nobody_ended_with_a_question_is_answered() {
    let call = json!({ "type": "tool_use", "id": "1", "name": "f", "input": {} });
    let function = json!({ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    for (path, request) in [
        (MESSAGES, json!({ "messages": [user("Hi"), assistant(json!([call]))] })),
        (MESSAGES, json!({ "messages": [{ "role": "system", "content": "Be brief." }] })),
        (CHAT, json!({ "messages": [user("Hi"), assistant("Hello")] })),
        (CHAT, json!({ "messages": [user("Hi"), { "role": "assistant", "tool_calls": [function] }] })),
        (CHAT, json!({ "messages": [{ "role": "system", "content": "Be brief." }] })),
        (
            RESPONSES,
            json!({ "input": [user("Hi"), { "type": "function_call", "call_id": "1", "name": "f", "arguments": "{}" }] }),
        ),
        (RESPONSES, json!({ "input": [], "instructions": "Be brief." })),
    ] {
        let prompt = prompt(path, request).await;
        assert!(prompt.ends_with("<｜User｜><｜Assistant｜><think>"), "{prompt}");
    }
}

#[tokio::test]
async fn thinking_that_is_not_shown_comes_back_all_the_same() {
    let script = Script::new([Line::new("secret</think>Hello"), Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    // With tools the template keeps what was thought.
    let tools = json!([{ "name": "f", "input_schema": { "type": "object" } }]);
    let thinking = json!({ "type": "adaptive", "display": "omitted" });
    let mut request = json!({ "tools": tools, "thinking": thinking, "messages": [user("Hi")] });
    let text = stream(&app, MESSAGES, &request).await;
    assert!(!text.contains("secret") && !text.contains("thinking_delta"), "{text}");
    let message = clients::messages(&text);
    assert_eq!(message["content"][0]["thinking"], "");
    // In a server that remembers nothing, the signature alone must bring it back.
    let other = Script::new([Line::new("</think>ok")]);
    request["messages"] = json!([user("Hi"), assistant(message["content"].clone()), user("more")]);
    ask(&common::app(&other, Options::default()), MESSAGES, &request).await;
    assert!(other.prompt(0).contains("secret</think>Hello"), "{}", other.prompt(0));
}

#[tokio::test]
async fn ends_are_told_in_words_that_the_client_knows() {
    let full = Line { finish: Finish::ContextFull, ..Line::new("</think>so mu") };
    let ask_with = async |line: &Line, beta: Option<&'static str>| {
        let mut request = post(MESSAGES, &json!({ "messages": [user("Hi")], "stop_sequences": ["STOP"] }));
        request.headers_mut().insert("anthropic-version", HeaderValue::from_static("2199-01-01"));
        if let Some(beta) = beta {
            request.headers_mut().insert("anthropic-beta", HeaderValue::from_static(beta));
        }
        let app = app(&Script::new([line.clone()]), Options::default());
        let answer: Value = serde_json::from_str(&body(send(&app, request).await).await).unwrap();
        (answer["stop_reason"].as_str().unwrap().to_owned(), answer["stop_sequence"].clone())
    };
    let said = |reason: &str| (reason.to_owned(), Value::Null);
    assert_eq!(ask_with(&full, None).await, said("max_tokens"));
    let betas = "a-2025-01-01,model-context-window-exceeded-2025-08-26";
    assert_eq!(ask_with(&full, Some(betas)).await, said("model_context_window_exceeded"));
    assert_eq!(ask_with(&Line::cut("</think>so mu"), None).await, said("max_tokens"));
    assert_eq!(ask_with(&Line::new("</think>so much"), None).await, said("end_turn"));
    let stopped = ask_with(&Line::new("</think>so STOP"), None).await;
    assert_eq!(stopped, ("stop_sequence".to_owned(), json!("STOP")));
}

// ---- Responses

#[tokio::test]
async fn a_response_has_all_its_members() {
    let app = saying("Hm.</think>Hello");
    let tools =
        json!([{ "type": "function", "name": "f", "parameters": { "type": "object" }, "strict": false }]);
    let request = json!({
        "input": "Hi", "instructions": "Be brief.", "tools": tools, "max_output_tokens": 99, "temperature": 0.5,
        "metadata": { "a": "b" }, "reasoning": { "effort": "low", "summary": "auto" }, "user": "me",
        "truncation": "auto", "service_tier": "flex", "include": ["reasoning.encrypted_content"], "store": false,
    });
    let (_, reply) = ask(&app, RESPONSES, &request).await;
    for (member, want) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("error", json!(null)),
        ("incomplete_details", json!(null)),
        ("instructions", json!("Be brief.")),
        ("metadata", json!({ "a": "b" })),
        ("max_output_tokens", json!(99)),
        ("previous_response_id", json!(null)),
        ("reasoning", json!({ "effort": "low", "summary": "auto" })),
        ("store", json!(false)),
        ("text", json!({ "format": { "type": "text" } })),
        ("truncation", json!("disabled")),
        ("user", json!("me")),
        ("temperature", json!(0.5)),
        ("top_p", json!(1.0)),
        ("parallel_tool_calls", json!(true)),
        ("tool_choice", json!("auto")),
        ("tools", tools),
        ("model", json!("deepseek-v4-flash")),
    ] {
        assert_eq!(reply.get(member), Some(&want), "{member}");
    }
    assert!(reply["id"].as_str().unwrap().starts_with("resp_") && reply["created_at"].is_u64());
    let usage = &reply["usage"];
    for member in [
        "/input_tokens",
        "/output_tokens",
        "/total_tokens",
        "/input_tokens_details/cached_tokens",
        "/input_tokens_details/cache_write_tokens",
        "/output_tokens_details/reasoning_tokens",
    ] {
        assert!(usage.pointer(member).is_some_and(Value::is_u64), "{member} in {usage}");
    }
    let [thought, message] = &reply["output"].as_array().unwrap()[..] else { panic!("{reply}") };
    assert_eq!(thought["summary"], json!([{ "type": "summary_text", "text": "Hm." }]));
    assert_eq!(thought["content"], json!([{ "type": "reasoning_text", "text": "Hm." }]));
    assert!(thought["encrypted_content"].as_str().unwrap().len() > 4);
    let part = json!({ "type": "output_text", "text": "Hello", "annotations": [], "logprobs": [] });
    assert_eq!((&message["role"], &message["content"]), (&json!("assistant"), &json!([part])));

    // What runs has the same members.
    let text = stream(&app, RESPONSES, &request).await;
    let first = &events(&text)[0]["response"];
    assert_eq!((&first["status"], &first["output"]), (&json!("in_progress"), &json!([])));
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(names(first).iter().all(|name| names(&reply).contains(name)));
}

/// Reasoning is found wherever a client kept it, and belongs to what follows it.
#[tokio::test]
async fn reasoning_comes_back_from_where_it_is() {
    let (_, reply) = ask(&saying("Hm.</think>Hello"), RESPONSES, &json!({ "input": "Hi" })).await;
    let sealed = reply["output"][0]["encrypted_content"].clone();
    let after = |thought: Value| async move {
        let request = json!({
            "tools": [{ "type": "function", "name": "f" }],
            "input": [{ "role": "user", "content": "Hi" }, thought,
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "Hello" }] },
                { "role": "user", "content": "more" }],
        });
        prompt(RESPONSES, request).await
    };
    let want = after(json!({ "type": "reasoning", "summary": [], "content": [{ "type": "reasoning_text", "text": "Hm." }] })).await;
    assert!(want.contains("<think>Hm.</think>Hello<｜end▁of▁sentence｜>"), "{want}");
    assert_eq!(after(json!({ "type": "reasoning", "summary": [], "encrypted_content": sealed })).await, want);
    assert_eq!(
        after(json!({ "type": "reasoning", "summary": [{ "type": "summary_text", "text": "Hm." }] })).await,
        want
    );
    // What cannot be read is left out.
    for thought in [
        json!({ "type": "reasoning", "summary": [], "encrypted_content": "gAAAAABother" }),
        json!({ "type": "reasoning" }),
        json!({ "type": "reasoning", "content": null, "summary": null, "encrypted_content": 3 }),
    ] {
        assert!(after(thought).await.contains("<think></think>Hello"));
    }
}

/// No item ends a session, whatever made it.
#[tokio::test]
async fn every_item_is_taken() {
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let kinds = [
        "web_search_call",
        "tool_search_call",
        "tool_search_output",
        "image_generation_call",
        "file_search_call",
        "code_interpreter_call",
        "computer_call",
        "computer_call_output",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "program",
        "program_output",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "compaction",
        "context_compaction",
        "something_new",
    ];
    let mut input = vec![json!({ "role": "user", "content": "Hi" })];
    for kind in kinds {
        input.push(json!({ "type": kind, "id": "x_1", "call_id": "c_1", "status": "completed" }));
        input.push(json!({ "type": kind }));
    }
    let (status, reply) = ask(&app, RESPONSES, &json!({ "input": input })).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    let warned = reply["warnings"].to_string();
    assert!(warned.contains("something_new") && !warned.contains("web_search_call"), "{warned}");
    let summary = json!([{ "type": "summary_text", "text": "It was long." }]);
    let prompt =
        of_items(json!([{ "type": "compaction", "summary": summary }, { "role": "user", "content": "Hi" }]))
            .await;
    assert!(prompt.contains("It was long."));
    // A message in any role; the system's later ones stay in their place.
    let prompt =
        of_items(json!([{ "role": "user", "content": "one" }, { "role": "developer", "content": "two" },
        { "type": "message", "role": "assistant", "content": [{ "type": "refusal", "refusal": "three" }] },
        { "role": "system", "content": [{ "type": "input_text", "text": "four" }] }]))
        .await;
    let places = ["one", "two", "three", "four"]
        .map(|text| prompt.find(text).unwrap_or_else(|| panic!("{text}: {prompt}")));
    assert!(places.is_sorted());
}

/// Grammars are understood in both languages, and in the formats of tools; what is wrong with them is said.
#[tokio::test]
async fn grammars_are_enforced_or_refused() {
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let tool = |syntax: &str, definition: &str| {
        json!({ "input": "Hi", "tools": [{ "type": "custom", "name": "f",
        "format": { "type": "grammar", "syntax": syntax, "definition": definition } }] })
    };
    let reply = |grammar: &str| json!({ "input": "Hi", "grammar": grammar });
    for request in [
        reply("root ::= \"ok\" [a-z]?"),
        reply("start: \"ok\" /[a-z]/?"),
        tool("lark", "start: \"ok\""),
        tool("regex", "o+k"),
    ] {
        let (status, reply) = ask(&app, RESPONSES, &request).await;
        assert_eq!(status, StatusCode::OK, "{request}: {reply}");
        let jobs = script.jobs.lock().unwrap();
        assert!(jobs.last().unwrap().request.constraint.is_some(), "{request}");
    }
    for (request, param, words) in [
        (reply("root ::= \"ok"), "grammar", "line 1, column 10: this string is not closed"),
        (tool("regex", "("), "tools", "tool \"f\""),
        (tool("lark", "start: nowhere"), "tools", "nowhere"),
        (tool("ebnf", "x"), "tools[0].format.syntax", "`lark` or `regex`"),
    ] {
        let (status, reply) = ask(&app, RESPONSES, &request).await;
        assert_eq!((status, &reply["error"]["param"]), (StatusCode::BAD_REQUEST, &json!(param)), "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(words), "{reply}");
    }
}

#[tokio::test]
async fn tools_of_every_kind_can_be_chosen() {
    let tools = json!([
        { "type": "namespace", "name": "mcp__x", "tools": [{ "type": "function", "name": "f" }, { "type": "function", "name": "mcp__x__g" }] },
        { "type": "custom", "name": "apply_patch", "format": { "type": "grammar", "syntax": "lark", "definition": "start: /x/" } },
        { "type": "local_shell" }, { "type": "shell" }, { "type": "web_search" }, { "type": "file_search" },
        { "type": "image_generation" }, { "type": "code_interpreter" }, { "type": "computer_use_preview" },
        { "type": "mcp", "server_label": "s" }, { "type": "tool_search" },
    ]);
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    for (choice, constrained) in [
        (json!("auto"), true), // the text of `apply_patch` has a grammar
        (json!("none"), false),
        (json!("required"), true),
        (json!({ "type": "function", "name": "f" }), true),
        (json!({ "type": "function", "name": "f", "namespace": "mcp__x" }), true),
        (json!({ "type": "function", "name": "mcp__x__f" }), true),
        (json!({ "type": "custom", "name": "apply_patch" }), true),
        (json!({ "type": "local_shell" }), true),
        (json!({ "type": "shell" }), true),
        (
            json!({ "type": "allowed_tools", "mode": "required", "tools": [{ "type": "function", "name": "f" }, { "type": "web_search" }] }),
            true,
        ),
        (json!({ "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "local_shell" }] }), true),
    ] {
        let (status, reply) =
            ask(&app, RESPONSES, &json!({ "input": "Hi", "tools": tools, "tool_choice": choice })).await;
        assert_eq!(status, StatusCode::OK, "{choice}: {reply}");
        let jobs = script.jobs.lock().unwrap();
        assert_eq!(jobs.last().unwrap().request.constraint.is_some(), constrained, "{choice}");
    }
    let prompt = script.prompt(0);
    for name in ["mcp__x__f", "mcp__x__g", "apply_patch", "local_shell", "\"shell\"", "start: /x/"] {
        assert!(prompt.contains(name), "{name}: {prompt}");
    }
    assert!(!prompt.contains("mcp__x__mcp__x") && !prompt.contains("web_search"));
    for choice in
        [json!({ "type": "function", "name": "f", "namespace": "other" }), json!({ "type": "web_search" })]
    {
        let (status, error) =
            ask(&app, RESPONSES, &json!({ "input": "Hi", "tools": tools, "tool_choice": choice })).await;
        assert_eq!(
            (status, &error["error"]["param"]),
            (StatusCode::BAD_REQUEST, &json!("tool_choice")),
            "{choice}"
        );
    }
}

/// A tool that takes plain text, in chat completions: its calls have the text, whole and streamed, and come back as they are.
#[tokio::test]
async fn a_tool_of_plain_text_can_be_called_in_a_chat() {
    let said = "Hm.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"edit\">\n\
                <｜DSML｜parameter name=\"input\" string=\"true\">a \"b\"\nc</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    let script = Script::new([Line::new(said), Line::new(said), Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let format =
        json!({ "type": "grammar", "grammar": { "syntax": "lark", "definition": "start: /(.|\\n)+/" } });
    let tools = json!([{ "type": "custom", "custom": { "name": "edit", "description": "Edits", "format": format } },
                       { "type": "function", "function": { "name": "f" } }]);
    let request = json!({ "messages": [user("Hi")], "tools": tools });
    let text = stream(&app, CHAT, &request).await;
    let deltas: Vec<Value> = events(&text)
        .iter()
        .filter_map(|chunk| {
            chunk["choices"][0]["delta"]["tool_calls"].as_array().map(|calls| calls[0].clone())
        })
        .collect();
    assert_eq!(
        (&deltas[0]["type"], &deltas[0]["custom"]),
        (&json!("custom"), &json!({ "name": "edit", "input": "" }))
    );
    let input: String = deltas.iter().map(|delta| delta["custom"]["input"].as_str().unwrap()).collect();
    assert_eq!(input, "a \"b\"\nc");
    assert!(deltas.iter().all(|delta| delta.get("function").is_none() && delta["index"] == 0));
    let (_, reply) = ask(&app, CHAT, &request).await;
    let message = reply["choices"][0]["message"].clone();
    let call = message["tool_calls"][0].clone();
    assert_eq!(call["custom"], json!({ "name": "edit", "input": input }));
    assert!(script.prompt(0).contains("start: /") && script.prompt(0).contains("\"name\": \"f\""));
    let back =
        json!([user("Hi"), message, { "role": "tool", "tool_call_id": call["id"], "content": "done" }]);
    let choice = json!({ "type": "allowed_tools", "allowed_tools": { "mode": "auto", "tools": [{ "type": "custom", "custom": { "name": "edit" } }] } });
    let (status, reply) =
        ask(&app, CHAT, &json!({ "messages": back, "tools": tools, "tool_choice": choice })).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    let mut want = script.prompt_tokens(1);
    want.extend(script.vocabulary().encode_trusted(said));
    assert!(script.prompt_tokens(2).starts_with(&want), "{}", script.prompt(2));
}

/// A user who says nothing has had a turn: what came before is not gone on with.
#[tokio::test]
async fn nothing_said_is_a_turn() {
    let prompt = of_messages(json!([user("Hi"), assistant("Hello"), user(json!([]))])).await;
    assert!(prompt.ends_with("Hello<｜end▁of▁sentence｜><｜User｜><｜Assistant｜><think>"), "{prompt}");
}

/// A function whose name already begins with its namespace is told with both, as the client knows it.
#[tokio::test]
async fn a_call_in_a_namespace_is_told_with_it() {
    let call = "</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"mcp__x__g\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    let script = Script::new([Line::new(call), Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let tools = json!([{ "type": "namespace", "name": "mcp__x", "tools": [{ "type": "function", "name": "mcp__x__g" }] }]);
    let (_, reply) = ask(&app, RESPONSES, &json!({ "input": "Hi", "tools": tools })).await;
    let item = &reply["output"][0];
    assert_eq!((&item["name"], &item["namespace"]), (&json!("mcp__x__g"), &json!("mcp__x")));
    let back = json!([{ "role": "user", "content": "Hi" }, item, { "type": "function_call_output", "call_id": item["call_id"], "output": "x" }]);
    ask(&app, RESPONSES, &json!({ "input": back, "tools": tools })).await;
    assert_replayed(&script, call);
}

/// The prompt of the second request begins with that of the first and all that was said to it, to the token.
fn assert_replayed(script: &Arc<Script>, said: &str) {
    let mut want = script.prompt_tokens(0);
    want.extend(script.vocabulary().encode_trusted(said));
    let got = script.prompt_tokens(1);
    assert!(got.starts_with(&want), "{}", script.prompt(1));
}

/// A call of the local shell travels as an action with more in it, and is the same call when it is back.
#[tokio::test]
async fn a_shell_call_comes_back_as_it_was_sampled() {
    let call = "Hm.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"local_shell\">\n\
                <｜DSML｜parameter name=\"command\" string=\"false\">[\"ls\",  \"-l\"]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    let script = Script::new([Line::new(call), Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let tools = json!([{ "type": "local_shell" }]);
    let (_, reply) = ask(&app, RESPONSES, &json!({ "input": "Hi", "tools": tools })).await;
    let item = reply["output"][1].clone();
    assert_eq!(
        (&item["type"], &item["action"]["command"]),
        (&json!("local_shell_call"), &json!(["ls", "-l"]))
    );
    let back = json!([{ "role": "user", "content": "Hi" }, item,
        { "type": "local_shell_call_output", "call_id": item["call_id"], "output": "x" }]);
    ask(&app, RESPONSES, &json!({ "input": back, "tools": tools })).await;
    assert_replayed(&script, call);
}

/// Items that are stored can be referred to, by whoever stored them, with and without the response they came with.
#[tokio::test]
async fn stored_items_can_be_referred_to() {
    let script = Script::new([Line::new("Hm.</think>Hello"), Line::new("</think>ok")]);
    let options = Options { keys: vec!["a".into(), "b".into()], ..Options::default() };
    let app = app(&script, options);
    let ask_as = async |key: &'static str, request: &Value| {
        let mut request = post(RESPONSES, request);
        request.headers_mut().insert("x-api-key", HeaderValue::from_static(key));
        let response = send(&app, request).await;
        (response.status(), serde_json::from_str::<Value>(&body(response).await).unwrap())
    };
    let (_, first) = ask_as("a", &json!({ "input": "Hi" })).await;
    let refer = |at: usize| json!({ "type": "item_reference", "id": first["output"][at]["id"] });
    let input = json!([{ "role": "user", "content": "Hi" }, refer(0), refer(1), { "role": "user", "content": "more" }]);
    let (status, reply) = ask_as("a", &json!({ "input": input })).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    assert!(
        script.prompt(1).contains("</think>Hello<｜end▁of▁sentence｜><｜User｜>more"),
        "{}",
        script.prompt(1)
    );
    let (status, error) = ask_as("b", &json!({ "input": input })).await;
    assert_eq!((status, &error["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("input[1]")));
    let goes_on = json!({ "input": [refer(1), { "role": "user", "content": "more" }], "previous_response_id": first["id"] });
    let (status, _) = ask_as("a", &goes_on).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(script.prompt(2).matches("Hello").count(), 1);
}

/// A response can be looked at while it is written, and taken back, by whoever asked for it.
#[tokio::test(start_paused = true)]
async fn a_response_can_be_taken_back_while_it_is_written() {
    let slow =
        Line { pace: std::time::Duration::from_secs(1), ..Line::new("</think>Hello, here is a long text") };
    let script = Script::new([slow]);
    let app = app(&script, Options { keys: vec!["a".into(), "b".into()], ..Options::default() });
    let send_as = async |key: &'static str, mut request: axum::http::Request<axum::body::Body>| {
        request.headers_mut().insert("x-api-key", HeaderValue::from_static(key));
        send(&app, request).await
    };
    let json_as = async |key, request| {
        let response = send_as(key, request).await;
        (response.status(), serde_json::from_str::<Value>(&body(response).await).unwrap())
    };
    let mut told = send_as("a", post(RESPONSES, &json!({ "input": "Hi", "stream": true }))).await.into_body();
    let first = told.frame().await.unwrap().unwrap().into_data().unwrap();
    let id = events(std::str::from_utf8(&first).unwrap())[0]["response"]["id"].as_str().unwrap().to_owned();
    let (path, cancel) = (format!("{RESPONSES}/{id}"), format!("{RESPONSES}/{id}/cancel"));

    let (status, response) = json_as("a", get(&path)).await;
    assert_eq!((status, &response["status"]), (StatusCode::OK, &json!("in_progress")));
    assert_eq!(json_as("b", get(&path)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(json_as("b", post(&cancel, &json!({}))).await.0, StatusCode::NOT_FOUND);
    assert_eq!(script.dropped.load(Ordering::SeqCst), 0);
    let (status, response) = json_as("a", post(&cancel, &json!({}))).await;
    assert_eq!(
        (status, &response["id"], &response["status"]),
        (StatusCode::OK, &json!(id), &json!("cancelled"))
    );
    let rest = String::from_utf8(told.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let last = events(&rest).pop().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.failed"), &json!("cancelled"))
    );
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(script.dropped.load(Ordering::SeqCst), 1, "it is worked on no further");
    assert_eq!(json_as("a", get(&path)).await.0, StatusCode::NOT_FOUND);

    // One that is complete stays as it was.
    let (_, response) =
        json_as("a", post(RESPONSES, &json!({ "input": "Hi", "max_output_tokens": 1 }))).await;
    let id = response["id"].as_str().unwrap();
    let (status, after) = json_as("a", post(&format!("{RESPONSES}/{id}/cancel"), &json!({}))).await;
    assert_eq!((status, after), (StatusCode::OK, response));
}

/// Shells and patches are told as items of their own, and what came of them is in the prompt.
#[tokio::test]
async fn shells_and_patches_have_items_of_their_own() {
    let parameter = |name: &str, is_text: bool, value: &str| {
        format!("<｜DSML｜parameter name=\"{name}\" string=\"{is_text}\">{value}</｜DSML｜parameter>\n")
    };
    let invoke = |name: &str, parameters: &str| {
        format!("<｜DSML｜invoke name=\"{name}\">\n{parameters}</｜DSML｜invoke>\n")
    };
    let shell = invoke(
        "shell",
        &(parameter("commands", false, r#"["ls",  "pwd"]"#) + &parameter("timeout_ms", false, "5")),
    );
    let patch = parameter("path", true, "a.txt")
        + &parameter("type", true, "update_file")
        + &parameter("diff", true, "+x\n");
    let said = format!(
        "Hm.</think>\n\n<｜DSML｜tool_calls>\n{shell}{}</｜DSML｜tool_calls>",
        invoke("apply_patch", &patch)
    );
    let script = Script::new([Line::new(&said), Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let tools = json!([{ "type": "shell" }, { "type": "apply_patch" }]);
    let (_, reply) = ask(&app, RESPONSES, &json!({ "input": "Hi", "tools": tools })).await;
    let (shell, patch) = (reply["output"][1].clone(), reply["output"][2].clone());
    assert_eq!((&shell["type"], &patch["type"]), (&json!("shell_call"), &json!("apply_patch_call")));
    assert_eq!(
        shell["action"],
        json!({ "commands": ["ls", "pwd"], "timeout_ms": 5, "max_output_length": null })
    );
    assert_eq!(patch["operation"], json!({ "type": "update_file", "path": "a.txt", "diff": "+x\n" }));
    let outcome = json!([{ "stdout": "files", "stderr": "", "outcome": { "type": "exit", "exit_code": 7 } }]);
    let back = json!([{ "role": "user", "content": "Hi" }, reply["output"][0], shell, patch,
        { "type": "shell_call_output", "call_id": shell["call_id"], "output": outcome },
        { "type": "apply_patch_call_output", "call_id": patch["call_id"], "status": "failed", "output": "no such file" }]);
    let (status, reply) = ask(&app, RESPONSES, &json!({ "input": back, "tools": tools })).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    assert_replayed(&script, &said);
    let prompt = script.prompt(1);
    assert!(prompt.contains(r#""stdout": "files""#) && prompt.contains(r#""exit_code": 7"#), "{prompt}");
    assert!(prompt.contains("<tool_result>Failed. no such file</tool_result>"), "{prompt}");
}

/// What is left out of a request is not left out without a word.
#[tokio::test]
async fn what_is_left_out_is_said() {
    let app = saying("</think>ok");
    let tools = json!([{ "type": "web_search" }, { "type": "mcp", "server_label": "s" }]);
    let input = json!([{ "type": "compaction", "encrypted_content": "c29tZWJvZHkgZWxzZSdz" }, user("Hi")]);
    let (status, reply) = ask(&app, RESPONSES, &json!({ "input": input, "tools": tools })).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    let warnings = reply["warnings"].to_string();
    for word in ["web_search", "`mcp`", "input[0]"] {
        assert!(warnings.contains(word), "{warnings}");
    }
}

#[tokio::test]
async fn what_responses_cannot_do_is_refused_by_name() {
    let app = saying("</think>ok");
    for (field, value) in [
        ("background", json!(true)),
        ("conversation", json!({ "id": "conv_1" })),
        ("prompt", json!({ "id": "pmpt_1" })),
        ("previous_response_id", json!("resp_none")),
        ("n", json!(2)),
        ("max_output_tokens", json!(0)),
        ("top_logprobs", json!(21)),
        ("text", json!({ "format": { "type": "xml" } })),
        ("tool_choice", json!("required")),
    ] {
        let (status, error) = ask(&app, RESPONSES, &json!({ "input": "Hi", field: value })).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{field}");
        assert!(error["error"]["param"].as_str().unwrap().starts_with(field), "{error}");
    }
    let ignored = json!({
        "input": "Hi", "background": false, "conversation": null, "store": false, "safety_identifier": "x",
        "prompt_cache_key": "k", "prompt_cache_retention": "24h", "stream_options": { "include_obfuscation": true },
        "client_metadata": {}, "context_management": [], "max_tool_calls": 3, "text": { "verbosity": "low" },
    });
    assert_eq!(ask(&app, RESPONSES, &ignored).await.0, StatusCode::OK);
}

/// A response that is given up is told as failed, once, with a code that agents know.
#[tokio::test]
async fn failures_have_codes_that_agents_know() {
    let line = Line { fails_after: Some(2), ..Line::new("</think>Hello") };
    let script = Script::new([line]);
    let app = app(&script, Options::default());
    let text = stream(&app, RESPONSES, &json!({ "input": "Hi" })).await;
    let last = events(&text).pop().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["error"]["code"]),
        (&json!("response.failed"), &json!("server_error"))
    );
    assert_eq!(text.matches("event: response.failed").count(), 1);
    assert!(!text.contains("[DONE]"));
    let long = "word ".repeat(30_000);
    let (status, error) = ask(&app, RESPONSES, &json!({ "input": long, "stream": true })).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("context_length_exceeded"))
    );
}

#[tokio::test]
async fn probabilities_are_told_to_those_who_ask() {
    let app = saying("Hm.</think>Hi");
    let request = json!({ "input": "Hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    let (_, reply) = ask(&app, RESPONSES, &request).await;
    let entries = reply["output"][1]["content"][0]["logprobs"].as_array().unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        assert!(
            entry["logprob"].is_f64()
                && entry["bytes"].is_array()
                && entry["top_logprobs"].as_array().unwrap().len() == 2
        );
    }
    let streamed = clients::responses(&stream(&app, RESPONSES, &request).await);
    assert_eq!(streamed["output"][1]["content"][0]["logprobs"], json!(entries));
}

// ---- all APIs

/// A shape can be asked for in the API's own way or in that of other servers, in every API; twice is a mistake.
#[tokio::test]
async fn a_shape_is_never_dropped() {
    let script = Script::new([Line::new("</think>ok")]);
    let app = app(&script, Options::default());
    let object = json!({ "type": "object" });
    let own = json!({ "type": "json_schema", "schema": object, "name": "x", "json_schema": { "name": "x", "schema": object } });
    let apis = [
        (CHAT, json!({ "messages": [user("Hi")] }), json!({ "response_format": own })),
        (RESPONSES, json!({ "input": "Hi" }), json!({ "text": { "format": own } })),
        (MESSAGES, json!({ "messages": [user("Hi")] }), json!({ "output_config": { "format": own } })),
        ("/v1/completions", json!({ "prompt": "Hi" }), json!({ "guided_json": object })),
    ];
    let with = |request: &Value, more: &Value| {
        let mut request = request.clone();
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    for (path, plain, own) in apis {
        for more in [
            own.clone(),
            json!({ "guided_json": object }),
            json!({ "guided_regex": "[a-z]+" }),
            json!({ "guided_choice": ["a", "b"] }),
            json!({ "structured_outputs": { "regex": "[a-z]+" } }),
            json!({ "structured_outputs": { "json": object } }),
            json!({ "grammar": "start: \"a\"" }),
            json!({ "json_schema": object, "response_format": { "type": "text" } }),
        ] {
            let (status, reply) = ask(&app, path, &with(&plain, &more)).await;
            assert_eq!(status, StatusCode::OK, "{path} {more}: {reply}");
            assert!(
                script.jobs.lock().unwrap().last().unwrap().request.constraint.is_some(),
                "{path} {more}"
            );
        }
        let both = with(&with(&plain, &own), &json!({ "structured_outputs": { "choice": ["a"] } }));
        assert_eq!(ask(&app, path, &both).await.0, StatusCode::BAD_REQUEST, "{path}");
        let (status, error) = ask(&app, path, &with(&plain, &json!({ "guided_json": { "type": 7 } }))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(error["error"]["message"].as_str().unwrap().contains("guided_json"), "{error}");
    }
}

/// Content that is empty is null in chat completions, and reasoning among the parts of a message is reasoning.
#[tokio::test]
async fn parts_of_chat_messages_are_what_they_are() {
    for said in ["</think>", "Hm.</think>"] {
        let (_, reply) = ask(&saying(said), CHAT, &json!({ "messages": [user("Hi")] })).await;
        assert_eq!(reply["choices"][0]["message"]["content"], Value::Null);
    }
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    let of =
        |turn: Value| prompt(CHAT, json!({ "tools": tools, "messages": [user("Hi"), turn, user("more")] }));
    let want = of(json!({ "role": "assistant", "content": "Hello", "reasoning_content": "Hm." })).await;
    assert!(want.contains("<think>Hm.</think>Hello"));
    for turn in [
        json!({ "role": "assistant", "content": "Hello", "reasoning_content": "", "reasoning": "Hm." }),
        json!({ "role": "assistant", "content": "Hello", "reasoning_content": null, "reasoning_text": "Hm." }),
        json!({ "role": "assistant", "content": [{ "type": "thinking", "thinking": "Hm." }, { "type": "text", "text": "Hello" }] }),
        json!({ "role": "assistant", "reasoning_content": "Hm.", "content": [{ "type": "thinking", "thinking": "no" }, { "type": "refusal", "refusal": "Hello" }] }),
    ] {
        assert_eq!(of(turn.clone()).await, want, "{turn}");
    }
    let call = |arguments: Value| json!({ "role": "assistant", "content": null, "tool_calls": [{ "id": "1", "function": { "name": "f", "arguments": arguments } }] });
    assert_eq!(
        of(call(json!("{\"a\": 1.50}"))).await,
        of(call(json!({ "a": serde_json::from_str::<Value>("1.50").unwrap() }))).await
    );
    let legacy = json!({ "role": "assistant", "content": null, "function_call": { "name": "f", "arguments": "{\"a\": 1.50}" } });
    assert_eq!(of(legacy).await, of(call(json!("{\"a\": 1.50}"))).await);
    // One definition of a tool, nested or flat, with or without what is no part of it.
    let declared = |tool: Value| prompt(CHAT, json!({ "tools": [tool], "messages": [user("Hi")] }));
    let want = declared(
        json!({ "type": "function", "function": { "name": "f", "parameters": { "b": 1, "a": 1.0 } } }),
    )
    .await;
    assert_eq!(declared(json!({ "type": "function", "name": "f", "parameters": { "b": 1, "a": 1.0 }, "cache_control": {} })).await, want);
    assert_eq!(declared(json!({ "function": { "name": "f", "parameters": { "b": 1, "a": 1.0 }, "x": [] }, "cache_control": {} })).await, want);
    assert!(want.contains(r#"{"name": "f", "parameters": {"b": 1, "a": 1.0}}"#), "{want}");
    let none = prompt(CHAT, json!({ "messages": [user("Hi")] })).await;
    assert_eq!(prompt(CHAT, json!({ "tools": [], "messages": [user("Hi")] })).await, none);
}
