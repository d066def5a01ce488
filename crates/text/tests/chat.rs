//! Rendering, request conversion and prompt tokens against the vectors of the reference encoder.

mod common;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use text::chat::request::{ChatRequest, Conversation, RequestDefaults};
use text::chat::{Message, Profile, RenderOptions, render};
use text::reply::Start;
use text::{Marker, Prompt, Segment, TokenKind, Tokenizer};

#[derive(Deserialize)]
struct RenderVector {
    id: String,
    messages: Value,
    #[serde(default)]
    context: Value,
    options: Value,
    profile: Value,
    expect: Expect,
}

#[derive(Deserialize)]
struct Expect {
    prompt: Option<String>,
    #[serde(default)]
    error: bool,
}

/// Reads and renders, as a caller with JSON would.
fn render_vector(vector: &RenderVector) -> Result<Prompt, String> {
    let text = |error: serde_json::Error| error.to_string();
    let messages: Vec<Message> = serde_json::from_value(vector.messages.clone()).map_err(text)?;
    let context: Option<Vec<Message>> = serde_json::from_value(vector.context.clone()).map_err(text)?;
    let mut options: RenderOptions = serde_json::from_value(vector.options.clone()).map_err(text)?;
    options.profile = serde_json::from_value(vector.profile.clone()).map_err(text)?;
    render(&messages, &context.unwrap_or_default(), &options).map_err(|error| error.to_string())
}

fn check_render(file: &str) {
    for vector in common::vectors::<RenderVector>(file) {
        let got = render_vector(&vector).map(|prompt| prompt.to_string());
        match (got, &vector.expect) {
            (Ok(prompt), Expect { prompt: Some(expected), .. }) => {
                assert_eq!(&prompt, expected, "{}", vector.id)
            }
            (Err(_), Expect { error: true, .. }) => {}
            (got, _) => panic!("{}: {got:?}", vector.id),
        }
    }
}

#[test]
fn basic() {
    check_render("chat/render_basic.json");
}

#[test]
fn thinking() {
    check_render("chat/render_thinking.json");
}

#[test]
fn tools() {
    check_render("chat/render_tools.json");
}

#[test]
fn roles() {
    check_render("chat/render_roles.json");
}

#[test]
fn context() {
    check_render("chat/render_context.json");
}

#[test]
fn effort_of_the_0731_line() {
    check_render("chat/render_effort_0731.json");
}

#[test]
fn errors() {
    check_render("chat/render_errors.json");
}

#[derive(Deserialize)]
struct RequestVector {
    id: String,
    request: Map<String, Value>,
    expect: Expect,
}

#[test]
fn requests() {
    for vector in common::vectors::<RequestVector>("chat/request.json") {
        let mut request = vector.request.clone();
        let profile: Profile =
            request.remove("profile").map_or(Profile::V4, |name| serde_json::from_value(name).unwrap());
        let request: ChatRequest = serde_json::from_value(Value::Object(request)).unwrap();
        let defaults = RequestDefaults { profile, ..RequestDefaults::default() };
        let conversation = Conversation::new(request, &defaults).unwrap();
        let prompt = conversation.prompt().unwrap().to_string();
        assert_eq!(Some(prompt), vector.expect.prompt, "{}", vector.id);
    }
}

#[derive(Deserialize)]
struct TokenVector {
    id: String,
    render_vector: Option<String>,
    segments: Vec<(String, String)>,
    expect: ExpectTokens,
}

#[derive(Deserialize)]
struct ExpectTokens {
    ids: Vec<u32>,
}

/// The prompt of a token vector; its text segments may be neighbours.
fn prompt_of(vector: &TokenVector) -> Prompt {
    let mut prompt = Prompt::new();
    for (kind, text) in &vector.segments {
        match &**kind {
            "S" => prompt.marker(Marker::ALL.into_iter().find(|marker| marker.text() == text).unwrap()),
            _ => prompt.text(text),
        }
    }
    prompt
}

fn every_render_vector() -> impl Iterator<Item = RenderVector> {
    ["basic", "thinking", "tools", "roles", "context", "effort_0731"]
        .into_iter()
        .flat_map(|name| common::vectors(&format!("chat/render_{name}.json")))
}

#[test]
fn only_the_renderer_writes_markers() {
    let mut checked = 0;
    for vector in common::vectors::<TokenVector>("chat/tokens_prompts.json") {
        let Some(id) = &vector.render_vector else { continue };
        let rendered = every_render_vector().find(|render| render.id == *id).unwrap();
        assert_eq!(render_vector(&rendered).unwrap(), prompt_of(&vector), "{}", vector.id);
        checked += 1;
    }
    assert!(checked > 10, "only {checked} vectors name their source");
}

#[test]
fn prompt_tokens() {
    let Some(tokenizer) = common::published("prompt_tokens") else { return };
    for vector in common::vectors::<TokenVector>("chat/tokens_prompts.json") {
        let ids = tokenizer.encode_prompt(&prompt_of(&vector)).unwrap();
        assert_eq!(ids, vector.expect.ids, "{}", vector.id);
    }
}

/// A conversation with `text` in every place where text can be, as a client would send it.
fn everywhere(text: &str) -> Value {
    let schema =
        json!({"name": text, "description": text, "parameters": {"properties": {text: {"enum": [text]}}}});
    let call = json!({"id": text, "function": {"name": text, "arguments": json!({text: text, "n": [text]}).to_string()}});
    json!({
        "messages": [
            {"role": "system", "content": text},
            {"role": "latest_reminder", "content": text},
            {"role": "user", "content": [{"type": "text", "text": text}, {"type": "text", "text": text}]},
            {"role": "assistant", "content": text, "reasoning_content": text, "tool_calls": [call, call]},
            {"role": "tool", "tool_call_id": text, "content": [{"type": "text", "text": text}, {"type": text}]},
            {"role": "tool", "tool_call_id": text, "content": text},
            {"role": "assistant", "content": text, "reasoning": text},
            {"role": "system", "content": text},
            {"role": "user", "content": text},
        ],
        "tools": [{"type": "function", "function": schema}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"title": text}}},
        "reasoning_effort": "max",
    })
}

fn request(json: Value) -> Conversation {
    let request: ChatRequest = serde_json::from_value(json).unwrap();
    Conversation::new(request, &RequestDefaults::default()).unwrap()
}

fn markers(prompt: &Prompt) -> Vec<Marker> {
    let markers = prompt.segments().iter().filter_map(|segment| match segment {
        Segment::Marker(marker) => Some(*marker),
        _ => None,
    });
    markers.collect()
}

/// Whatever a client writes, and wherever, the control tokens of the prompt are the renderer's.
#[test]
fn no_field_can_smuggle_a_control_token() {
    let harmless = markers(&request(everywhere("x")).prompt().unwrap());
    let check = |tokenizer: &Tokenizer| {
        let is_control = |id: &u32| tokenizer.kind(*id) != Some(TokenKind::Normal);
        for id in (0..tokenizer.len() as u32).filter(is_control) {
            let text = tokenizer.decode(&[id]).unwrap();
            let prompt = request(everywhere(&text)).prompt().unwrap();
            assert_eq!(markers(&prompt), harmless, "{text}");
            let ids = tokenizer.encode_prompt(&prompt).unwrap();
            assert_eq!(ids.iter().filter(|id| is_control(id)).count(), harmless.len(), "{text}");
        }
    };
    check(common::mini());
    if let Some(tokenizer) = common::published("no_field_can_smuggle_a_control_token") {
        check(tokenizer);
    }
}

proptest! {
    /// Without spelled control tokens in the data, segments make no difference.
    #[test]
    fn segments_encode_like_the_whole_string(text in r"[a-z0-9<>/ \n\t世カ🦀{}.]{0,20}") {
        let tokenizer = common::mini();
        let prompt = request(everywhere(&text)).prompt().unwrap();
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        prop_assert_eq!(ids, tokenizer.encode_trusted(&prompt.to_string()));
    }
}

fn prompt_end(json: Value) -> (String, Start, bool) {
    let conversation = request(json);
    let prompt = conversation.prompt().unwrap().to_string();
    let options = conversation.reply_options();
    (prompt[prompt.rfind("<｜User｜>").unwrap()..].to_owned(), options.start, options.tools_active)
}

#[test]
fn the_reply_is_read_from_where_the_prompt_ends() {
    let user = json!({"role": "user", "content": "q"});
    let tool = json!({"type": "function", "name": "now"});
    let check = |json, end: &str, start, tools_active| {
        assert_eq!(prompt_end(json), (end.to_owned(), start, tools_active));
    };
    check(json!({"messages": [user]}), "<｜User｜>q<｜Assistant｜><think>", Start::Thinking, false);
    let off = json!({"messages": [user], "thinking": {"type": "disabled"}, "tools": [tool]});
    check(off, "<｜User｜>q<｜Assistant｜></think>", Start::Chat, true);
    let none = json!({"messages": [user], "tools": [tool], "tool_choice": "none"});
    check(none, "<｜User｜>q<｜Assistant｜><think>", Start::Thinking, false);
    let named = json!({"type": "function", "function": {"name": "now"}});
    let forced = json!({"messages": [user], "tools": [tool], "tool_choice": named, "thinking": false});
    check(forced, "<｜User｜>q<｜Assistant｜></think>\n\n<｜DSML｜tool_calls>\n", Start::Block, true);

    let begun = json!({"role": "assistant", "content": "I"});
    let prefill = json!({"messages": [user, begun], "continue_final_message": true});
    check(prefill, "<｜User｜>q<｜Assistant｜><think></think>I", Start::Chat, false);
    let thought = json!({"role": "assistant", "content": null, "reasoning_content": "hm", "prefix": true});
    let thinking = json!({"messages": [user, thought]});
    check(thinking, "<｜User｜>q<｜Assistant｜><think>hm", Start::Thinking, false);
}

#[test]
fn what_a_request_cannot_say_is_named() {
    let refused = |json: Value, message: &str| {
        let error = match serde_json::from_value::<ChatRequest>(json) {
            Ok(request) => Conversation::new(request, &RequestDefaults::default()).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(message), "{error:?} does not say {message:?}");
    };
    let messages = |message: Value| json!({"messages": [{"role": "user", "content": "q"}, message]});
    let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]});
    refused(messages(image), "messages[1].content: parts of type \"image_url\"");
    refused(messages(json!({"role": "narrator"})), "unknown variant `narrator`");
    refused(messages(json!({"role": "user", "content": 7})), "content must be a string");
    let call = json!({"role": "assistant", "tool_calls": [{"id": "x"}]});
    refused(messages(call), "messages[1].tool_calls[0] has no function");
    refused(json!({"tool_choice": "maybe"}), "tool_choice is \"maybe\"");
    refused(json!({"response_format": {"type": "json_schema"}}), "has no schema");
}

#[test]
fn a_marker_that_the_vocabulary_lacks_is_named() {
    let messages: Vec<Message> =
        serde_json::from_value(json!([{"role": "user", "content": "q", "task": "query"}])).unwrap();
    let options = RenderOptions::new(text::chat::ThinkingMode::Chat, None, Profile::V4);
    let prompt = render(&messages, &[], &options).unwrap();
    let error = common::mini().encode_prompt(&prompt).unwrap_err();
    assert!(error.to_string().contains("<｜query｜>"), "{error}");
}
