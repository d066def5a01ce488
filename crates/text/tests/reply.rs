//! The reply parser against the vectors, and what must hold for any output.

mod common;

use std::collections::BTreeSet;

use serde::Deserialize;
use text::reply::{Finish, FinishReason, Repair, SamplingState, Start};
use text::{Event, Reply, ReplyOptions, ReplyParser};

#[derive(Deserialize)]
struct ParseVector {
    id: String,
    #[serde(flatten)]
    options: ReplyOptions,
    finish: Finish,
    text: String,
    expect: Expect,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Expect {
    reasoning_content: String,
    content: String,
    tool_calls: Vec<ExpectCall>,
    finish_reason: FinishReason,
    recovered: BTreeSet<Repair>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct ExpectCall {
    name: String,
    arguments: String,
}

impl From<Reply> for Expect {
    fn from(reply: Reply) -> Self {
        Self {
            reasoning_content: reply.reasoning_content,
            content: reply.content,
            tool_calls: reply
                .tool_calls
                .into_iter()
                .map(|call| ExpectCall { name: call.name, arguments: call.arguments })
                .collect(),
            finish_reason: reply.finish_reason,
            recovered: reply.recovered,
        }
    }
}

/// Feeds the portions; checks that the deltas add up.
fn parse<'a>(options: &ReplyOptions, portions: impl IntoIterator<Item = &'a [u8]>, finish: Finish) -> Reply {
    let mut parser = ReplyParser::new(options.clone());
    let mut events = Vec::new();
    for portion in portions {
        events.extend(parser.push_text(portion));
    }
    let (last, reply) = parser.finish(finish);
    events.extend(last);
    check_events(&events, &reply);
    reply
}

fn check_events(events: &[Event], reply: &Reply) {
    let (mut reasoning, mut content) = (String::new(), String::new());
    let mut calls: Vec<(String, String, Option<bool>)> = Vec::new();
    for event in events {
        match event {
            Event::Reasoning(delta) => reasoning.push_str(delta),
            Event::Content(delta) => content.push_str(delta),
            Event::CallStart { index, name } => {
                assert_eq!(*index, calls.len());
                calls.push((name.clone(), String::new(), None));
            }
            Event::Arguments { index, delta } => {
                assert_eq!(calls[*index].2, None, "arguments after the end");
                calls[*index].1.push_str(delta);
            }
            Event::CallEnd { index } => assert_eq!(calls[*index].2.replace(true), None),
            Event::CallDropped { index } => assert_eq!(calls[*index].2.replace(false), None),
        }
    }
    assert_eq!(reasoning, reply.reasoning_content);
    assert_eq!(content, reply.content);
    assert!(calls.iter().all(|call| call.2.is_some()), "a call neither ended nor dropped");
    let complete = calls.iter().enumerate().filter(|(_, call)| call.2 == Some(true));
    let complete: Vec<_> = complete.map(|(index, call)| (index, &call.0, &call.1)).collect();
    assert_eq!(complete.len(), reply.tool_calls.len());
    for ((index, name, arguments), call) in complete.into_iter().zip(&reply.tool_calls) {
        assert_eq!((index, name), (call.index, &call.name));
        if !reply.recovered.contains(&Repair::DuplicateParameter) {
            assert_eq!(arguments, &call.arguments);
        }
    }
}

fn check_parse(file: &str) {
    for vector in common::vectors::<ParseVector>(file) {
        let text = vector.text.strip_suffix("<｜end▁of▁sentence｜>").unwrap_or(&vector.text).as_bytes();
        let whole = parse(&vector.options, [text], vector.finish);
        for cut in 0..=text.len() {
            let (left, right) = text.split_at(cut);
            let reply = parse(&vector.options, [left, right], vector.finish);
            assert_eq!(reply, whole, "{} cut at {cut}", vector.id);
        }
        assert_eq!(parse(&vector.options, text.chunks(1), vector.finish), whole, "{} bytewise", vector.id);
        assert_eq!(Expect::from(whole), vector.expect, "{}", vector.id);
    }
}

#[test]
fn wellformed() {
    check_parse("chat/parse_wellformed.json");
}

#[test]
fn tolerant() {
    check_parse("chat/parse_tolerant.json");
}

#[derive(Deserialize)]
struct TokenVector {
    id: String,
    #[serde(flatten)]
    options: ReplyOptions,
    finish: Finish,
    token_ids: Vec<u32>,
    expect: Expect,
}

#[test]
fn tokens() {
    let Some(tokenizer) = common::published("tokens") else { return };
    for vector in common::vectors::<TokenVector>("chat/parse_tokens.json") {
        let mut parser = ReplyParser::new(vector.options);
        let mut events = Vec::new();
        for id in vector.token_ids {
            events.extend(parser.push_token(id, tokenizer).unwrap());
        }
        let (last, reply) = parser.finish(vector.finish);
        events.extend(last);
        check_events(&events, &reply);
        assert_eq!(Expect::from(reply), vector.expect, "{}", vector.id);
    }
}

#[derive(Deserialize)]
struct SamplingVector {
    id: String,
    start: Start,
    text: String,
    expect: ExpectStates,
}

#[derive(Deserialize)]
struct ExpectStates {
    state_from_byte: Vec<(usize, SamplingState)>,
}

#[test]
fn sampling_states() {
    for vector in common::vectors::<SamplingVector>("chat/sampling_state.json") {
        let options = ReplyOptions { start: vector.start, tools_active: true, ..ReplyOptions::default() };
        let mut parser = ReplyParser::new(options);
        let mut states = vec![(0, parser.sampling_state())];
        for (at, c) in vector.text.char_indices() {
            parser.push_text(c.to_string().as_bytes());
            let state = parser.sampling_state();
            if states.last().is_none_or(|last| last.1 != state) {
                states.push((at + c.len_utf8(), state));
            }
        }
        assert_eq!(states, vector.expect.state_from_byte, "{}", vector.id);
    }
}
