//! A request made into messages that the renderer knows.
//!
//! Nothing is moved or rewritten that would change an earlier part of the prompt between two
//! requests of a session.

use serde_json::{Value, json};

use super::{
    ChatRequest, Content, CustomCall, RequestFunction, RequestMessage, RequestRole, RequestToolCall,
    ResponseFormat, Thinking, ToolChoice,
};
use crate::Prompt;
use crate::chat::message::{
    AssistantMessage, Instructions, Message, Reminder, Tool, ToolCall, ToolMessage, UserMessage,
};
use crate::chat::profile::{Effort, Profile};
use crate::chat::render::{RenderError, RenderOptions, ThinkingMode, render};
use crate::chat::tools;
use crate::json::to_json;
use crate::reply::{ReplyOptions, Start};

/// What applies where a request is silent.
#[derive(Clone, Copy, Debug)]
pub struct RequestDefaults {
    /// The checkpoint.
    pub profile: Profile,
    /// Whether to think.
    pub think: bool,
    /// How hard; `None` leaves it to the checkpoint.
    pub effort: Option<Effort>,
}

impl Default for RequestDefaults {
    fn default() -> Self {
        Self { profile: Profile::default(), think: true, effort: None }
    }
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Something that is not text.
    #[error("messages[{message}].content: parts of type {kind:?} are not supported here")]
    Part {
        /// Index of the message.
        message: usize,
        /// The part's type.
        kind: String,
    },
    /// A call of nothing.
    #[error("messages[{message}].tool_calls[{call}] has no function")]
    Call {
        /// Index of the message.
        message: usize,
        /// Index of the call.
        call: usize,
    },
}

/// A conversation ready to be rendered, and what is needed to read the reply.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The messages.
    pub messages: Vec<Message>,
    /// How to render them.
    pub options: RenderOptions,
    /// What the prompt ends with beyond the messages.
    pub ending: Ending,
    /// Whether calls in the reply are calls: tools are declared and may be used.
    pub tools_active: bool,
    /// The names of the tools.
    pub declared_tools: Vec<String>,
}

/// What a prompt ends with beyond its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing.
    Plain,
    /// The opening of a block of calls: the model must call something.
    OpenBlock,
    /// The beginning of the reasoning, given by the client.
    OpenReasoning(String),
}

impl Conversation {
    /// Makes messages of a request.
    ///
    /// # Errors
    ///
    /// If a message has content that cannot be rendered.
    pub fn new(request: ChatRequest, defaults: &RequestDefaults) -> Result<Self, RequestError> {
        let (mode, effort) = thinking(&request, defaults);
        let continues = request.continue_final_message;
        let mut messages = Vec::with_capacity(request.messages.len() + 1);
        for (at, message) in request.messages.into_iter().enumerate() {
            messages.push(convert(at, message)?);
        }
        lead_with_system(&mut messages);

        let tools: Vec<Tool> = request.tools.into_iter().map(|tool| tool.0).collect();
        let declared_tools: Vec<String> = tools.iter().map(|tool| tool.name().to_owned()).collect();
        let tools_active = !tools.is_empty() && request.tool_choice != ToolChoice::None;
        let must_call = matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        declare(tools, request.response_format, &mut messages);

        let mut ending = continue_last(&mut messages, continues, mode);
        if ending == Ending::Plain {
            ask_for_reply(&mut messages);
        }
        let is_prefill = matches!(messages.last(), Some(Message::Assistant(last)) if last.wo_eos);
        if must_call && tools_active && mode == ThinkingMode::Chat && !is_prefill {
            ending = Ending::OpenBlock;
        }
        let options = RenderOptions::new(mode, effort, defaults.profile);
        Ok(Self { messages, options, ending, tools_active, declared_tools })
    }

    /// Renders the prompt.
    ///
    /// # Errors
    ///
    /// See [`RenderError`].
    pub fn prompt(&self) -> Result<Prompt, RenderError> {
        let mut prompt = render(&self.messages, &[], &self.options)?;
        match &self.ending {
            Ending::Plain => {}
            Ending::OpenBlock => tools::open_block(&mut prompt),
            Ending::OpenReasoning(reasoning) => prompt.text(reasoning),
        }
        Ok(prompt)
    }

    /// How the reply to this conversation is to be read.
    pub fn reply_options(&self) -> ReplyOptions {
        let prefilled = matches!(self.messages.last(), Some(Message::Assistant(last)) if last.wo_eos);
        let start = match (&self.ending, self.options.mode) {
            (Ending::OpenBlock, _) => Start::Block,
            (Ending::OpenReasoning(_), _) => Start::Thinking,
            (Ending::Plain, ThinkingMode::Thinking) if !prefilled => Start::Thinking,
            (Ending::Plain, _) => Start::Chat,
        };
        ReplyOptions {
            start,
            tools_active: self.tools_active,
            declared_tools: self.declared_tools.clone(),
            ..ReplyOptions::default()
        }
    }
}

/// Off wins over any effort; absent means the default.
fn thinking(request: &ChatRequest, defaults: &RequestDefaults) -> (ThinkingMode, Option<Effort>) {
    let effort = request.reasoning_effort.as_deref();
    let on = request.thinking.as_ref().map_or(defaults.think || effort.is_some(), Thinking::on);
    if !on || effort == Some("none") {
        return (ThinkingMode::Chat, None);
    }
    let effort = match effort {
        Some("max" | "ultra") => Effort::Max,
        Some("minimal" | "low") => Effort::Low,
        Some(_) => Effort::High,
        None => defaults.effort.unwrap_or(Effort::High),
    };
    // The first checkpoints have words for the most effort only.
    let has_words = defaults.profile == Profile::V4_0731 || effort == Effort::Max;
    (ThinkingMode::Thinking, has_words.then_some(effort))
}

fn convert(at: usize, message: RequestMessage) -> Result<Message, RequestError> {
    let in_result = message.role == RequestRole::Tool;
    let content = flatten(at, message.content, in_result)?;
    Ok(match message.role {
        RequestRole::System => Message::System(Instructions { content, ..Instructions::default() }),
        RequestRole::User => Message::User(UserMessage { content, ..UserMessage::default() }),
        RequestRole::Tool => Message::Tool(ToolMessage { tool_call_id: message.tool_call_id, content }),
        RequestRole::LatestReminder => Message::LatestReminder(Reminder { content }),
        RequestRole::Assistant => {
            let reasonings = [message.reasoning_content, message.reasoning, message.reasoning_text];
            let reasoning = reasonings.into_iter().flatten().find(|text| !text.is_empty());
            let mut tool_calls = Vec::with_capacity(message.tool_calls.len());
            for (index, call) in message.tool_calls.into_iter().enumerate() {
                let missing = RequestError::Call { message: at, call: index };
                tool_calls.push(convert_call(call).ok_or(missing)?);
            }
            tool_calls.extend(message.function_call.map(|function| convert_function(None, function)));
            Message::Assistant(AssistantMessage {
                reasoning_content: reasoning.unwrap_or_default(),
                content,
                tool_calls,
                wo_eos: message.prefix,
                ..AssistantMessage::default()
            })
        }
    })
}

/// Parts are joined by an empty line. What is not text is an error, but in a tool's result a word
/// about it: the client did not write that and cannot leave it out.
fn flatten(message: usize, content: Option<Content>, in_result: bool) -> Result<String, RequestError> {
    let parts = match content {
        None => return Ok(String::new()),
        Some(Content::Text(text)) => return Ok(text),
        Some(Content::Parts(parts)) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        texts.push(match &*part.kind {
            "text" | "input_text" | "output_text" => part.text.unwrap_or_default(),
            "refusal" => part.refusal.unwrap_or_default(),
            kind if in_result => format!("[Unsupported {kind}]"),
            _ => return Err(RequestError::Part { message, kind: part.kind }),
        });
    }
    Ok(texts.join("\n\n"))
}

fn convert_call(call: RequestToolCall) -> Option<ToolCall> {
    match (call.function, call.custom) {
        (Some(function), _) => Some(convert_function(call.id, function)),
        (None, Some(CustomCall { name, input })) => {
            Some(ToolCall { id: call.id, name, arguments: to_json(&json!({ "input": input })) })
        }
        (None, None) => None,
    }
}

/// Arguments that are JSON but not an object would be refused by the renderer; they are treated
/// like text that is not JSON at all.
fn convert_function(id: Option<String>, function: RequestFunction) -> ToolCall {
    let arguments = match function.arguments {
        Value::Null => "{}".to_owned(),
        Value::String(text) => text,
        other => to_json(&other),
    };
    let is_other_json = matches!(serde_json::from_str(&arguments), Ok(value) if !Value::is_object(&value));
    let arguments = if is_other_json { to_json(&json!({ "arguments": arguments })) } else { arguments };
    ToolCall { id: id.or(function.id), name: function.name, arguments }
}

/// System messages at the front become one; later ones become user messages in their place.
fn lead_with_system(messages: &mut Vec<Message>) {
    let mut leading = Vec::new();
    let mut rest = Vec::with_capacity(messages.len());
    for message in messages.drain(..) {
        match message {
            Message::System(it) if rest.is_empty() => leading.push(it.content),
            Message::System(Instructions { content, .. }) => {
                rest.push(Message::User(UserMessage { content, ..UserMessage::default() }));
            }
            other => rest.push(other),
        }
    }
    if !leading.is_empty() {
        leading.retain(|content| !content.is_empty());
        let content = leading.join("\n\n");
        messages.push(Message::System(Instructions { content, ..Instructions::default() }));
    }
    messages.append(&mut rest);
}

/// Gives tools and schema to the system message at the front, which is made if there is none.
fn declare(tools: Vec<Tool>, format: ResponseFormat, messages: &mut Vec<Message>) {
    let response_format = match format {
        ResponseFormat::JsonSchema(schema) => Some(schema),
        // The reply is constrained to be an object; the prompt says nothing about it.
        ResponseFormat::JsonObject | ResponseFormat::Text => None,
    };
    if tools.is_empty() && response_format.is_none() {
        return;
    }
    if !matches!(messages.first(), Some(Message::System(_))) {
        messages.insert(0, Message::System(Instructions::default()));
    }
    if let Some(Message::System(system)) = messages.first_mut() {
        system.tools = tools;
        system.response_format = response_format;
    }
}

/// Only what a user says, or a tool, is followed by the beginning of a reply. After anything else (the model's own finished
/// turn, nothing but instructions) the user says nothing, so that the model knows that it is its turn.
fn ask_for_reply(messages: &mut Vec<Message>) {
    let is_answered = match messages.last() {
        None => true, // nothing to reply to: refused elsewhere
        Some(Message::System(_)) => false,
        Some(Message::Assistant(last)) => last.wo_eos,
        Some(_) => true,
    };
    if !is_answered {
        messages.push(Message::User(UserMessage::default()));
    }
}

/// Leaves the last message open if it is the beginning of the reply. Only the last can be.
fn continue_last(messages: &mut Vec<Message>, continues: bool, mode: ThinkingMode) -> Ending {
    let end = messages.len().saturating_sub(1);
    for message in &mut messages[..end] {
        if let Message::Assistant(message) = message {
            message.wo_eos = false;
        }
    }
    let follows_user = end > 0 && matches!(messages[end - 1], Message::User(_) | Message::Tool(_));
    let Some(Message::Assistant(last)) = messages.last_mut() else { return Ending::Plain };
    last.wo_eos |= continues;
    let only_reasons =
        last.content.is_empty() && last.tool_calls.is_empty() && !last.reasoning_content.is_empty();
    if last.wo_eos && only_reasons && follows_user && mode == ThinkingMode::Thinking {
        let reasoning = std::mem::take(&mut last.reasoning_content);
        messages.pop();
        return Ending::OpenReasoning(reasoning);
    }
    Ending::Plain
}
