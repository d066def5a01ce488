//! The messages of a conversation as they are kept: what was said, and the tokens that said it.

use serde::{Deserialize, Serialize};
use text::Prompt;
use text::chat::message::{AssistantMessage, ToolMessage, UserMessage};
use text::chat::replay::SampledTurn;
use text::chat::{Message, Replay, ToolCall};

/// One message after the system prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// The user.
    User(String),
    /// The model.
    Assistant(Answer),
    /// What a call gave.
    ToolResult {
        /// Which call.
        call_id: String,
        /// What it gave.
        content: String,
    },
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// How it came to it; empty if it did not think.
    pub reasoning: String,
    /// Its words.
    pub content: String,
    /// The tools it calls.
    pub calls: Vec<Call>,
    /// The tokens, if they say what the fields above say.
    pub sampled: Option<SampledTurn>,
    /// The calls as they were sampled, if they are known apart from the rest.
    pub block: Option<Prompt>,
}

/// A call that waits for its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// What the result refers to.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The arguments, as JSON text.
    pub arguments: String,
}

impl Turn {
    /// Forgets the tokens: another model may spell the text otherwise.
    pub fn forget_spelling(&mut self) {
        if let Turn::Assistant(answer) = self {
            (answer.sampled, answer.block) = (None, None);
        }
    }

    /// The turn in the renderer's terms.
    pub fn message(&self) -> Message {
        match self {
            Turn::User(content) => {
                Message::User(UserMessage { content: content.clone(), ..UserMessage::default() })
            }
            Turn::ToolResult { call_id, content } => {
                Message::Tool(ToolMessage { tool_call_id: Some(call_id.clone()), content: content.clone() })
            }
            Turn::Assistant(answer) => Message::Assistant(AssistantMessage {
                reasoning_content: answer.reasoning.clone(),
                content: answer.content.clone(),
                tool_calls: answer.calls.iter().map(Call::message).collect(),
                replay: answer.replay(),
                ..AssistantMessage::default()
            }),
        }
    }
}

impl Answer {
    /// What was sampled for it, as far as it is known.
    fn replay(&self) -> Option<Replay> {
        let known = self.calls.is_empty() || self.block.is_some();
        known.then(|| Replay { turn: self.sampled.clone(), block: self.block.clone().unwrap_or_default() })
    }
}

impl Call {
    fn message(&self) -> ToolCall {
        ToolCall { id: Some(self.id.clone()), name: self.name.clone(), arguments: self.arguments.clone() }
    }
}
