//! Rendering, request conversion and prompt tokens against the vectors of the reference encoder.

mod common;

use serde::Deserialize;
use serde_json::{Map, Value};
use text::chat::request::{ChatRequest, Conversation, RequestDefaults};
use text::chat::{Message, Profile, RenderOptions, render};
use text::{Marker, Prompt};

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
