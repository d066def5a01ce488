//! What must hold for any bytes at all: shared by the tests and the fuzz targets.

// Each test binary and fuzz target uses its own part of this.
#![allow(dead_code)]

use text::chat::request::{ChatRequest, Conversation, RequestDefaults};
use text::chat::{Message, Profile, RenderOptions, ThinkingMode, render};
use text::reply::{Finish, Repair, Start};
use text::{Event, Reply, ReplyOptions, ReplyParser};

/// Reads bytes as a reply, whole and cut. The first byte chooses how: it stands for the options.
pub fn read_reply(bytes: &[u8]) {
    let Some((&choice, text)) = bytes.split_first() else { return };
    let options = ReplyOptions {
        start: [Start::Thinking, Start::Chat, Start::Block][usize::from(choice % 3)],
        tools_active: choice & 0x40 == 0,
        declared_tools: vec!["f".to_owned(), "get_weather".to_owned()],
        recovery: choice & 0x80 == 0,
        stop: if choice & 0x20 == 0 { Vec::new() } else { vec!["stop".to_owned(), "\n\n".to_owned()] },
    };
    let finish = if choice & 0x10 == 0 { Finish::Stop } else { Finish::Length };
    let read = |size: usize| {
        let mut parser = ReplyParser::new(options.clone());
        let mut events = Vec::new();
        for portion in text.chunks(size) {
            events.extend(parser.push_text(portion));
            let _ = (parser.sampling_state(), parser.is_done());
        }
        let (last, reply) = parser.finish(finish);
        events.extend(last);
        check_events(&events, &reply);
        reply
    };
    let whole = read(text.len().max(1));
    assert_eq!(read(1), whole, "bytewise");
    assert_eq!(read(1 + usize::from(choice & 0xF)), whole, "in portions");
}

/// Renders bytes as a request, and as messages for the renderer: a prompt or an error.
pub fn render_json(bytes: &[u8]) {
    for profile in [Profile::V4, Profile::V4_0731] {
        if let Ok(request) = serde_json::from_slice::<ChatRequest>(bytes) {
            let defaults = RequestDefaults { profile, ..RequestDefaults::default() };
            if let Ok(conversation) = Conversation::new(request, &defaults) {
                let _ = conversation.prompt().map(|prompt| prompt.to_string());
                let _ = conversation.reply_options();
            }
        }
        if let Ok(messages) = serde_json::from_slice::<Vec<Message>>(bytes) {
            for mode in [ThinkingMode::Chat, ThinkingMode::Thinking] {
                let options = RenderOptions::new(mode, None, profile);
                let (context, rest) = messages.split_at(messages.len() / 2);
                let _ = (render(&messages, &[], &options), render(rest, context, &options));
            }
        }
    }
}

/// The deltas add up to the reply, and every call that began ends.
pub fn check_events(events: &[Event], reply: &Reply) {
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
