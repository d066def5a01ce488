//! What a client asked for.
//!
//! The shape is that of OpenAI's Chat Completions with the liberties that clients take; other
//! dialects are translated to it by whoever speaks them. [`Conversation::new`] makes of it what the
//! renderer knows.

mod conversation;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::message::{Tool, null_as_default};
pub use conversation::{Conversation, Ending, RequestDefaults, RequestError};

/// A chat request: the part of it that decides the prompt.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// The conversation.
    pub messages: Vec<RequestMessage>,
    /// What the model may call.
    #[serde(deserialize_with = "null_as_default")]
    pub tools: Vec<RequestTool>,
    /// Whether it must.
    #[serde(deserialize_with = "null_as_default")]
    pub tool_choice: ToolChoice,
    /// Whether to think; absent means the server's default.
    pub thinking: Option<Thinking>,
    /// How hard to think.
    pub reasoning_effort: Option<String>,
    /// What the reply must look like.
    #[serde(deserialize_with = "null_as_default")]
    pub response_format: ResponseFormat,
    /// Whether the last message is the beginning of the reply.
    #[serde(deserialize_with = "null_as_default")]
    pub continue_final_message: bool,
}

/// One message of a request.
#[derive(Clone, Debug, Deserialize)]
pub struct RequestMessage {
    /// Who speaks.
    pub role: RequestRole,
    /// The text, whole or in parts.
    #[serde(default)]
    pub content: Option<Content>,
    /// Reasoning of an assistant message.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// Another name for it.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// And another.
    #[serde(default)]
    pub reasoning_text: Option<String>,
    /// Calls of an assistant message.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tool_calls: Vec<RequestToolCall>,
    /// A call in the form before `tool_calls`.
    #[serde(default)]
    pub function_call: Option<RequestFunction>,
    /// The call that a tool message answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// Whether a last assistant message is the beginning of the reply.
    #[serde(default, deserialize_with = "null_as_default")]
    pub prefix: bool,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestRole {
    /// The operator of the application.
    #[serde(alias = "developer")]
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool.
    #[serde(alias = "function")]
    Tool,
    /// A reminder, before the user message.
    LatestReminder,
}

/// Text, whole or in parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "content must be a string, a list of parts or null")]
pub enum Content {
    /// Whole.
    Text(String),
    /// In parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize)]
pub struct ContentPart {
    /// `text`, `image_url` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a text part.
    #[serde(default)]
    pub text: Option<String>,
    /// The text of a refusal.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// A tool definition: `{"type": "function", "function": {…}}`, or the inner object with `type` in
/// it.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Map<String, Value>")]
pub struct RequestTool(pub Tool);

impl From<Map<String, Value>> for RequestTool {
    fn from(mut tool: Map<String, Value>) -> Self {
        if let Some(Value::Object(function)) = tool.get_mut("function") {
            return Self(Tool { function: std::mem::take(function) });
        }
        tool.shift_remove("type");
        Self(Tool { function: tool })
    }
}

/// A call in the history.
#[derive(Clone, Debug, Deserialize)]
pub struct RequestToolCall {
    /// Its id.
    #[serde(default)]
    pub id: Option<String>,
    /// A call of a function.
    #[serde(default)]
    pub function: Option<RequestFunction>,
    /// A call of a tool that takes plain text.
    #[serde(default)]
    pub custom: Option<CustomCall>,
}

/// Name and arguments of a call.
#[derive(Clone, Debug, Deserialize)]
pub struct RequestFunction {
    /// An id in an unusual place.
    #[serde(default)]
    pub id: Option<String>,
    /// The function's name.
    pub name: String,
    /// JSON text, or the JSON itself.
    #[serde(default)]
    pub arguments: Value,
}

/// A call of a tool that takes plain text.
#[derive(Clone, Debug, Deserialize)]
pub struct CustomCall {
    /// The tool's name.
    pub name: String,
    /// The text.
    #[serde(default)]
    pub input: String,
}

/// Whether the model may or must call tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// It may not. The definitions stay in the prompt, which stays the same.
    None,
    /// It must.
    Required,
    /// It must call this one.
    Named(String),
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let named = value["function"]["name"].as_str().or(value["name"].as_str());
        match (value.as_str().or(value["type"].as_str()), named) {
            (Some("function"), Some(name)) => Ok(ToolChoice::Named(name.to_owned())),
            (Some("auto"), _) => Ok(ToolChoice::Auto),
            (Some("none"), _) => Ok(ToolChoice::None),
            (Some("required"), _) => Ok(ToolChoice::Required),
            _ => Err(serde::de::Error::custom(format!(
                "tool_choice is {value}; \"auto\", \"none\", \"required\" or a function was expected"
            ))),
        }
    }
}

/// Whether to think.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "thinking must be a boolean or an object with a type")]
pub enum Thinking {
    /// Yes or no.
    Switch(bool),
    /// `{"type": "disabled"}`; every other type means yes.
    Typed {
        /// The word.
        #[serde(rename = "type")]
        kind: String,
    },
}

impl Thinking {
    fn on(&self) -> bool {
        match self {
            Thinking::Switch(on) => *on,
            Thinking::Typed { kind } => kind != "disabled",
        }
    }
}

/// What the reply must look like.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Anything.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema(Value),
}

impl<'de> Deserialize<'de> for ResponseFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        match value["type"].as_str() {
            Some("text") => Ok(ResponseFormat::Text),
            Some("json_object") => Ok(ResponseFormat::JsonObject),
            Some("json_schema") => {
                let schema = value.pointer_mut("/json_schema/schema").map(Value::take);
                let schema = schema.or_else(|| value.get_mut("schema").map(Value::take));
                schema.map(ResponseFormat::JsonSchema).ok_or_else(|| {
                    serde::de::Error::custom("response_format is of type json_schema but has no schema")
                })
            }
            _ => Err(serde::de::Error::custom(format!(
                "response_format is {value}; type \"text\", \"json_object\" or \"json_schema\" was expected"
            ))),
        }
    }
}
