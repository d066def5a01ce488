//! The reply parser against the vectors, and what must hold for any output.

mod any_bytes;
mod common;

use std::collections::BTreeSet;

use any_bytes::check_events;
use proptest::prelude::*;
use serde::Deserialize;
use text::chat::message::{AssistantMessage, UserMessage};
use text::chat::{Message, Profile, RenderOptions, ThinkingMode, ToolCall, render};
use text::reply::{Finish, FinishReason, Repair, SamplingState, Start};
use text::{Reply, ReplyOptions, ReplyParser};

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

/// A well-formed reply is rendered as it was sampled.
#[test]
fn what_was_read_is_rendered_as_it_was_written() {
    #[derive(Deserialize)]
    struct RoundTrip {
        id: String,
        start: Start,
        text: String,
        round_trip: bool,
    }
    let mut checked = 0;
    for vector in common::vectors::<RoundTrip>("chat/parse_wellformed.json") {
        if !vector.round_trip {
            continue;
        }
        let text = vector.text.strip_suffix("<｜end▁of▁sentence｜>").unwrap_or(&vector.text);
        let options = ReplyOptions { start: vector.start, tools_active: true, ..ReplyOptions::default() };
        let reply = parse(&options, [text.as_bytes()], Finish::Stop);
        let calls = reply.tool_calls.into_iter().map(|call| ToolCall {
            id: None,
            name: call.name,
            arguments: call.arguments,
        });
        let message = AssistantMessage {
            reasoning_content: reply.reasoning_content,
            content: reply.content,
            tool_calls: calls.collect(),
            ..AssistantMessage::default()
        };
        let mode = if vector.start == Start::Thinking { ThinkingMode::Thinking } else { ThinkingMode::Chat };
        let options = RenderOptions::new(mode, None, Profile::V4);
        let user = Message::User(UserMessage::default());
        let before = render(std::slice::from_ref(&user), &[], &options).unwrap().to_string();
        let after = render(&[user, Message::Assistant(message)], &[], &options).unwrap().to_string();
        assert_eq!(after, before + text + "<｜end▁of▁sentence｜>", "{}", vector.id);
        checked += 1;
    }
    assert!(checked > 20, "only {checked} vectors can be rendered again");
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

/// Pieces that replies are made of, whole and in halves, well and badly spelled.
const FRAGMENTS: [&str; 44] = [
    "<think>",
    "</think>",
    "｜DSML｜",
    "<｜DSML｜tool_calls>",
    "</｜DSML｜tool_calls>",
    "<｜DSML｜invoke name=\"f\">",
    "<｜DSML｜invoke name=\"g\">",
    "<｜DSML｜invoke name=\"f\"/>",
    "<｜DSML｜invoke>",
    "<｜DSML｜invoke name=\"f\n",
    "</｜DSML｜invoke>",
    "<｜DSML｜parameter name=\"a\" string=\"true\">",
    "<｜DSML｜parameter name=\"b\" string=\"false\">",
    "<｜DSML｜parameter name=\"a\" string=\"maybe\">",
    "<｜DSML｜parameter name=\"a\">",
    "</｜DSML｜parameter>",
    "<|DSML|tool_calls>",
    "<|DSML|invoke name='f'>",
    "</|DSML|invoke>",
    "<|DSML|parameter name=“a” string=“true”>",
    "</|DSML|parameter>",
    "<｜｜DSML｜｜tool_calls>",
    "</｜｜DSML｜｜tool_calls>",
    "<DSML｜toolcalls>",
    "<｜DSML｜ calls>",
    "</｜DSML｜ calls>",
    "<｜DSML｜",
    "</",
    "<",
    "｜",
    "DSML",
    "\n",
    "\n\n",
    " ",
    "text",
    "STOP",
    "ST",
    "{\"a\": 1}",
    "{",
    "\"",
    "\\",
    "[1,",
    "é世🦀",
    ">",
];

fn output() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop::sample::select(FRAGMENTS.to_vec()).prop_map(|text| text.as_bytes().to_vec());
    let bytes = prop::collection::vec(any::<u8>(), 0..3);
    let cut = (fragment.clone(), 0usize..8).prop_map(|(mut text, cut)| {
        text.truncate(text.len().saturating_sub(cut));
        text
    });
    prop::collection::vec(prop_oneof![20 => fragment, 1 => bytes, 1 => cut], 0..24)
        .prop_map(|fragments| fragments.concat())
}

fn options() -> impl Strategy<Value = ReplyOptions> {
    let start = prop::sample::select(vec![Start::Thinking, Start::Chat, Start::Block]);
    let stop = prop::sample::subsequence(vec!["STOP".to_owned(), "\n\n".to_owned(), "TT".to_owned()], 0..3);
    (start, any::<bool>(), any::<bool>(), stop).prop_map(|(start, tools, recovery, stop)| ReplyOptions {
        start,
        tools_active: tools || start == Start::Block,
        declared_tools: vec!["f".to_owned()],
        recovery,
        stop,
    })
}

fn finish() -> impl Strategy<Value = Finish> {
    prop::sample::select(vec![Finish::Stop, Finish::Length])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_output_reads_the_same_however_it_is_cut(
        options in options(),
        text in output(),
        size in 1usize..9,
        finish in finish(),
    ) {
        let whole = parse(&options, [&*text], finish);
        prop_assert_eq!(parse(&options, text.chunks(size), finish), whole);
    }

    /// Where a text is cut into its own tokens, it does not matter that they are tokens.
    #[test]
    fn tokens_read_like_their_spelling(options in options(), text in output(), finish in finish()) {
        let mut text = String::from_utf8_lossy(&text).into_owned();
        // Half a spelled marker at the end is the one thing that only text can have.
        let ends_in = |marker: &str| marker.char_indices().skip(1).any(|(at, _)| text.ends_with(&marker[..at]));
        if FRAGMENTS[..3].iter().any(|marker| ends_in(marker)) {
            text.push('.');
        }
        let tokenizer = common::mini();
        let mut parser = ReplyParser::new(options.clone());
        let mut events = Vec::new();
        for id in tokenizer.encode_trusted(&text) {
            events.extend(parser.push_token(id, tokenizer).unwrap());
        }
        let (last, mut reply) = parser.finish(finish);
        events.extend(last);
        check_events(&events, &reply);
        let mut expected = parse(&options, [text.as_bytes()], finish);
        // Tokens after the end are not even read.
        for reply in [&mut reply, &mut expected] {
            reply.recovered.remove(&Repair::TextAfterToolBlock);
            reply.block = None;
        }
        prop_assert_eq!(reply, expected);
    }

    #[test]
    fn any_tokens_can_be_read(options in options(), ids in prop::collection::vec(0u32..512, 0..60)) {
        let mut parser = ReplyParser::new(options);
        let mut events = Vec::new();
        for id in ids {
            events.extend(parser.push_token(id, common::mini()).unwrap());
            let _ = parser.sampling_state();
        }
        let (last, reply) = parser.finish(Finish::Length);
        events.extend(last);
        check_events(&events, &reply);
    }
}

/// A call is made only if it was complete, and for a name that was declared if there was any doubt.
#[test]
fn with_recovery_off_a_misspelling_is_text() {
    let text = "<|DSML|tool_calls>\n<|DSML|invoke name=\"f\">\n</|DSML|invoke>\n</|DSML|tool_calls>";
    let options = |recovery| ReplyOptions {
        start: Start::Chat,
        tools_active: true,
        declared_tools: vec!["f".to_owned()],
        recovery,
        stop: Vec::new(),
    };
    assert_eq!(parse(&options(true), [text.as_bytes()], Finish::Stop).tool_calls.len(), 1);
    assert_eq!(parse(&options(false), [text.as_bytes()], Finish::Stop).content, text);
    let orphan = "<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>";
    assert_eq!(parse(&options(true), [orphan.as_bytes()], Finish::Stop).tool_calls.len(), 1);
    assert_eq!(parse(&options(false), [orphan.as_bytes()], Finish::Stop).tool_calls.len(), 0);
}

/// Each of these is several million steps if it is read once, and would not end today if it were read
/// again with every byte.
#[test]
fn endless_output_takes_its_time_and_no_more() {
    let options = ReplyOptions {
        start: Start::Chat,
        tools_active: true,
        declared_tools: vec!["f".to_owned()],
        stop: vec!["aaaaaaaaaaaaaaab".to_owned()],
        ..ReplyOptions::default()
    };
    let open = "<｜DSML｜tool_calls>";
    let value = format!("{open}<｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"a\" string=\"false\">");
    for (before, endless) in [
        ("", "a"),
        ("", "\n"),
        ("", "<"),
        ("", "<｜"),
        ("", "<｜DSML｜invoke name=\""),
        (open, " "),
        (open, "<｜DSML｜invoke name=\"f\"/>"),
        (&value, "["),
        (&value, "</｜DSML｜para"),
        (&value, "1</｜DSML｜parameter><｜DSML｜parameter name=\"a\">"),
        ("<｜DSML｜invoke name=\"f\"/>", "\n"),
        ("<｜DSML｜invoke name=\"", "f"),
    ] {
        let text = before.to_owned() + &endless.repeat(1_000_000 / endless.len());
        parse(&options, text.as_bytes().chunks(3), Finish::Length);
    }
}

#[test]
fn a_stop_string_ends_content_only() {
    let options = ReplyOptions { stop: vec!["END".to_owned()], ..ReplyOptions::default() };
    let mut parser = ReplyParser::new(options);
    parser.push_text(b"in reasoning END is fine</think>but here, EN");
    assert!(!parser.is_done());
    parser.push_text(b"D it stops");
    assert!(parser.is_done());
    let (_, reply) = parser.finish(Finish::Length);
    assert_eq!(reply.reasoning_content, "in reasoning END is fine");
    assert_eq!(reply.content, "but here, ");
    assert_eq!(reply.stop_string.as_deref(), Some("END"));
    assert_eq!(reply.finish_reason, FinishReason::Stop);
}

/// The end-of-sentence token and the tokens of other turns end a reply; they are not text.
#[test]
fn a_reply_ends_where_the_model_leaves_its_turn() {
    let tokenizer = common::mini();
    for marker in [text::Marker::Eos, text::Marker::User, text::Marker::Assistant] {
        let mut parser = ReplyParser::new(ReplyOptions { start: Start::Chat, ..ReplyOptions::default() });
        for id in tokenizer.encode_trusted(&format!("hi{marker}more")) {
            parser.push_token(id, tokenizer).unwrap();
        }
        assert!(parser.is_done());
        assert_eq!(parser.finish(Finish::Stop).1.content, "hi");
    }
}
