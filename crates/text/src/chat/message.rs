//! The messages that the renderer turns into a prompt.
//!
//! They are not what a client sends: [`request`](super::request) makes these from that. They read
//! the same JSON as the reference encoder, so its test vectors can be fed to the renderer as they
//! are.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::replay::Replay;
use crate::Marker;

/// One message of a conversation.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// Text for the model, before the conversation.
    System(Instructions),
    /// The same, in the place of a user message; must not be empty.
    Developer(Instructions),
    /// What the user says.
    User(UserMessage),
    /// What the model said.
    Assistant(AssistantMessage),
    /// What a tool call gave.
    Tool(ToolMessage),
    /// Something to keep in mind; comes before the user message.
    LatestReminder(Reminder),
}

/// A system or developer message.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Instructions {
    /// The text.
    #[serde(deserialize_with = "text")]
    pub content: String,
    /// Tools the model may call.
    #[serde(deserialize_with = "null_as_default")]
    pub tools: Vec<Tool>,
    /// What the reply should look like, usually a JSON schema.
    pub response_format: Option<Value>,
    /// A quick task to do next.
    pub task: Option<Task>,
}

/// A user message.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct UserMessage {
    /// The text.
    #[serde(deserialize_with = "text")]
    pub content: String,
    /// A URL found in the text, for [`Task::ReadUrl`]; written after the text.
    pub extracted_url: Option<String>,
    /// A quick task to do next.
    pub task: Option<Task>,
}

/// An assistant message.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AssistantMessage {
    /// Its reasoning; empty if there was none or it is not known.
    #[serde(deserialize_with = "null_as_default")]
    pub reasoning_content: String,
    /// The text.
    #[serde(deserialize_with = "text")]
    pub content: String,
    /// The calls at its end.
    #[serde(deserialize_with = "null_as_default")]
    pub tool_calls: Vec<ToolCall>,
    /// A quick task to do next.
    pub task: Option<Task>,
    /// Whether the turn is left open, for the model to go on with.
    #[serde(deserialize_with = "null_as_default")]
    pub wo_eos: bool,
    /// What the model sampled for this message, if that is known and the message still says it.
    #[serde(skip)]
    pub replay: Option<Replay>,
}

/// The result of a tool call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolMessage {
    /// The call that it answers.
    pub tool_call_id: Option<String>,
    /// The result. Parts that are not text are replaced by a word about them.
    #[serde(deserialize_with = "text")]
    pub content: String,
}

/// A reminder.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reminder {
    /// The text.
    #[serde(deserialize_with = "text")]
    pub content: String,
}

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Tool {
    /// Its name, description and parameters, shown to the model with everything else in here.
    pub function: Map<String, Value>,
}

impl Tool {
    /// The name; empty if the definition has none.
    pub fn name(&self) -> &str {
        self.function.get("name").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "WireToolCall")]
pub struct ToolCall {
    /// What its result will refer to.
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// The arguments: an object as JSON text, if the model wrote it well.
    pub arguments: String,
}

#[derive(Deserialize)]
struct WireToolCall {
    id: Option<String>,
    function: WireFunction,
}

#[derive(Deserialize)]
struct WireFunction {
    id: Option<String>,
    name: String,
    #[serde(default)]
    arguments: String,
}

impl From<WireToolCall> for ToolCall {
    fn from(wire: WireToolCall) -> Self {
        let WireFunction { id, name, arguments } = wire.function;
        Self { id: wire.id.or(id), name, arguments }
    }
}

/// A short job that the model has a head for. Public APIs do not offer these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Search or answer?
    Action,
    /// Write search queries.
    Query,
    /// Which sources have authority?
    Authority,
    /// Which domain is this about?
    Domain,
    /// Read the URL in the text?
    ReadUrl,
    /// Write a title for the conversation.
    Title,
}

impl Task {
    pub(crate) fn marker(self) -> Marker {
        match self {
            Task::Action => Marker::Action,
            Task::Query => Marker::Query,
            Task::Authority => Marker::Authority,
            Task::Domain => Marker::Domain,
            Task::ReadUrl => Marker::ReadUrl,
            Task::Title => Marker::Title,
        }
    }
}

/// Reads `null` as if the member were absent.
pub(crate) fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads text that is given as a string, in parts, or not at all.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "content must be a string, a list of parts or null")]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
    }
    #[derive(Deserialize)]
    struct Part {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        text: String,
    }
    Ok(match Option::deserialize(deserializer)? {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let texts: Vec<String> = parts
                .into_iter()
                .map(
                    |part| {
                        if part.kind == "text" { part.text } else { format!("[Unsupported {}]", part.kind) }
                    },
                )
                .collect();
            texts.join("\n\n")
        }
    })
}
