//! Exact replay: what was sampled is rendered as it was, and so a prompt goes on from the last one.

mod common;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use text::chat::replay::{ReplayEntry, ReplayLimits, ReplayScope, ReplayStore, SampledTurn};
use text::chat::{Message, Profile, RenderOptions, ThinkingMode, render};
use text::reply::{Finish, Start};
use text::{Reply, ReplyOptions, ReplyParser, Sampled, Segment};

fn scope(client: &str) -> ReplayScope {
    ReplayScope { client: client.to_owned(), model: "m".to_owned(), profile: Profile::V4 }
}

fn read(text: &str, start: Start) -> Reply {
    let options = ReplyOptions { start, tools_active: true, ..ReplyOptions::default() };
    let mut parser = ReplyParser::new(options);
    parser.push_text(text.as_bytes());
    parser.finish(Finish::Stop).1
}

#[derive(Deserialize)]
struct ReplayVector {
    id: String,
    messages: Vec<Message>,
    options: RenderOptions,
    replay_store: Vec<StoredBlock>,
    expect: Expect,
}

#[derive(Deserialize)]
struct StoredBlock {
    ids: Vec<String>,
    raw: String,
}

#[derive(Deserialize)]
struct Expect {
    prompt: String,
    replayed: bool,
}

#[test]
fn vectors() {
    for mut vector in common::vectors::<ReplayVector>("chat/replay.json") {
        let mut store = ReplayStore::default();
        for stored in &vector.replay_store {
            let reply = read(&stored.raw, Start::Chat);
            store.insert(ReplayEntry::new(scope(""), &reply, &stored.ids, None).unwrap());
        }
        let found = store.attach(&scope(""), &mut vector.messages);
        assert_eq!(found > 0, vector.expect.replayed, "{}", vector.id);
        let prompt = render(&vector.messages, &[], &vector.options).unwrap();
        assert_eq!(prompt.to_string(), vector.expect.prompt, "{}", vector.id);
        let is_spelled = |segment: &Segment| matches!(segment, Segment::Text(text) if text.contains("DSML"));
        assert!(!prompt.segments().iter().any(is_spelled), "{}: a marker became text", vector.id);
    }
}

const CALL: &str = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\
    <｜DSML｜parameter name=\"x\" string=\"false\">[1,2]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

fn entry(client: &str, id: &str) -> ReplayEntry {
    let reply = read(&format!("why</think>ok{CALL}"), Start::Thinking);
    ReplayEntry::new(scope(client), &reply, &[id.to_owned()], None).unwrap()
}

fn message(id: &str, content: &str) -> Vec<Message> {
    let call =
        json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"x\": [1, 2]}"}});
    let message = json!({"role": "assistant", "content": content, "tool_calls": [call]});
    serde_json::from_value(json!([message])).unwrap()
}

#[test]
fn one_client_does_not_get_anothers_text() {
    let mut store = ReplayStore::default();
    store.insert(entry("alice", "call_1"));
    assert_eq!(store.attach(&scope("bob"), &mut message("call_1", "ok")), 0);
    assert_eq!(store.attach(&scope("alice"), &mut message("call_1", "ok")), 1);
    let other_model = ReplayScope { model: "n".to_owned(), ..scope("alice") };
    assert_eq!(store.attach(&other_model, &mut message("call_1", "ok")), 0);
}

#[test]
fn reasoning_comes_back_with_unchanged_text() {
    let mut store = ReplayStore::default();
    store.insert(entry("", "call_1"));
    let reasoning = |mut messages: Vec<Message>, store: &mut ReplayStore| {
        store.attach(&scope(""), &mut messages);
        match messages.remove(0) {
            Message::Assistant(message) => message.reasoning_content,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reasoning(message("call_1", "ok"), &mut store), "why");
    assert_eq!(reasoning(message("call_1", "edited"), &mut store), "");
}

#[test]
fn what_was_not_used_for_longest_is_forgotten() {
    let mut store = ReplayStore::new(ReplayLimits { ids: 2, bytes: usize::MAX });
    store.insert(entry("", "a"));
    store.insert(entry("", "b"));
    assert_eq!(store.attach(&scope(""), &mut message("a", "ok")), 1);
    store.insert(entry("", "c"));
    assert_eq!(store.attach(&scope(""), &mut message("b", "ok")), 0);
    assert_eq!(store.attach(&scope(""), &mut message("a", "ok")), 1);
    let order: Vec<&str> = store.entries().map(|entry| &*entry.calls[0].id).collect();
    assert_eq!(order, ["c", "a"]);

    let one = store.bytes() / 2;
    let mut small = ReplayStore::new(ReplayLimits { ids: 100, bytes: one * 3 / 2 });
    small.insert(entry("", "a"));
    small.insert(entry("", "b"));
    assert_eq!((small.ids(), small.bytes()), (1, one));
    small.insert(entry("", "b"));
    assert_eq!((small.ids(), small.bytes()), (1, one), "the same id again replaces");
}

#[test]
fn entries_survive_on_disk() {
    let mut entry = entry("", "a");
    let tokens = Sampled { ids: vec![1, 2], text: "why".to_owned() };
    entry.turn = Some(SampledTurn { reasons: true, tokens });
    let json = serde_json::to_string(&entry).unwrap();
    assert_eq!(serde_json::from_str::<ReplayEntry>(&json).unwrap(), entry);
}

/// What a model says in one turn of a simulated session.
#[derive(Clone, Debug)]
struct Turn {
    reasoning: String,
    content: String,
    /// Name and value of each parameter of each call, the value as the model spells it.
    calls: Vec<Vec<(String, &'static str)>>,
    user: String,
}

impl Turn {
    fn sampled(&self, mode: ThinkingMode) -> String {
        let mut text = String::new();
        if mode == ThinkingMode::Thinking {
            text += &format!("{}</think>", self.reasoning);
        }
        text += &self.content;
        if self.calls.is_empty() {
            return text;
        }
        text += "\n\n<｜DSML｜tool_calls>\n";
        for call in &self.calls {
            text += "<｜DSML｜invoke name=\"f\">\n";
            for (name, value) in call {
                text += &format!(
                    "<｜DSML｜parameter name=\"{name}\" string=\"false\">{value}</｜DSML｜parameter>\n"
                );
            }
            text += "</｜DSML｜invoke>\n";
        }
        text + "</｜DSML｜tool_calls>"
    }
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let value =
        prop::sample::select(vec!["1", "2.0", "[1,2]", " {\"b\":1,\"a\":[]}", "true", "\"s\"", "1e2"]);
    let call = prop::collection::vec(("[a-c]{1,2}", value), 0..3);
    let turn = ("[a-z \n<]{0,8}", "[a-z \n]{0,8}", prop::collection::vec(call, 0..3), "[a-z <>]{0,8}");
    let turn = turn.prop_map(|(reasoning, content, calls, user)| Turn { reasoning, content, calls, user });
    prop::collection::vec(turn, 1..6)
}

/// The client's idea of a turn: JSON, read and written by a program that sorts keys and, in turns with
/// calls, does not keep reasoning.
fn as_a_client_sends_it(reply: &Reply, ids: &[String]) -> Value {
    if ids.is_empty() {
        let (reasoning, content) = (&reply.reasoning_content, &reply.content);
        return json!({"role": "assistant", "content": content, "reasoning_content": reasoning});
    }
    let calls = ids.iter().zip(&reply.tool_calls).map(|(id, call)| {
        let mut arguments: Map<String, Value> = serde_json::from_str(&call.arguments).unwrap();
        arguments.sort_keys();
        let arguments = serde_json::to_string(&arguments).unwrap();
        json!({"id": id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
    });
    json!({"role": "assistant", "content": reply.content, "tool_calls": calls.collect::<Vec<_>>()})
}

/// Plays a session; every prompt must begin with the one before it and what was generated then.
fn play(turns: &[Turn], mode: ThinkingMode) -> Result<(), TestCaseError> {
    let tokenizer = common::mini();
    let options = RenderOptions::new(mode, None, Profile::V4);
    let reasons = mode == ThinkingMode::Thinking;
    let start = if reasons { Start::Thinking } else { Start::Chat };
    let mut store = ReplayStore::default();
    let mut history = vec![
        json!({"role": "system", "content": "S", "tools": [{"type": "function", "function": {"name": "f"}}]}),
        json!({"role": "user", "content": "go"}),
    ];
    let mut expected = Vec::new();
    for (number, turn) in turns.iter().enumerate() {
        let mut messages: Vec<Message> = serde_json::from_value(Value::Array(history.clone())).unwrap();
        store.attach(&scope(""), &mut messages);
        let prompt = tokenizer.encode_prompt(&render(&messages, &[], &options).unwrap()).unwrap();
        prop_assert!(prompt.starts_with(&expected), "turn {} rewrites the prompt", number);

        let sampled = tokenizer.encode_trusted(&turn.sampled(mode));
        let mut parser = ReplyParser::new(ReplyOptions { start, tools_active: true, ..Default::default() });
        for &id in &sampled {
            parser.push_token(id, tokenizer).unwrap();
        }
        let reply = parser.finish(Finish::Stop).1;
        prop_assert_eq!(reply.tool_calls.len(), turn.calls.len());

        let ids: Vec<String> =
            (0..reply.tool_calls.len()).map(|call| format!("call_{number}_{call}")).collect();
        let tokens = Sampled { ids: sampled.clone(), text: tokenizer.decode(&sampled).unwrap() };
        let entry = ReplayEntry::new(scope(""), &reply, &ids, Some(SampledTurn { reasons, tokens }));
        prop_assert_eq!(entry.is_some(), !ids.is_empty());
        entry.into_iter().for_each(|entry| store.insert(entry));

        history.push(as_a_client_sends_it(&reply, &ids));
        for id in ids.iter().rev() {
            history.push(json!({"role": "tool", "tool_call_id": id, "content": "result"}));
        }
        if ids.is_empty() || !turn.user.is_empty() {
            history.push(json!({"role": "user", "content": turn.user}));
        }
        expected = prompt;
        expected.extend(sampled);
        expected.push(tokenizer.eos());
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_session_never_rewrites_its_prompt(turns in turns()) {
        play(&turns, ThinkingMode::Thinking)?;
        play(&turns, ThinkingMode::Chat)?;
    }
}
