//! The body of a Responses request: items made into chat messages.

use super::items::unseal;
use super::tools::{Toolbox, exposed, shell_arguments};
use crate::App;
use crate::ask::{Api, Ask};
use crate::chat::read_message as read_chat_message;
use crate::error::{ApiError, Fault};
use crate::fields::{Fields, kind};
use crate::guard::Client;
use crate::params::Params;
use crate::shape::Form;
use crate::thinking::Think;
use serde_json::{Value, json};
use std::collections::HashSet;
use text::chat::request::{
    ChatRequest, Content, CustomCall, RequestFunction, RequestMessage, RequestRole, RequestToolCall,
};
use text::json::to_json;

/// A request and how to answer it.
pub(super) struct ResponsesBody {
    pub ask: Ask,
    pub style: Style,
}

/// How to answer.
#[derive(Clone, Debug)]
pub(super) struct Style {
    pub stream: bool,
    /// Whether reasoning is told as a summary.
    pub summary: bool,
    pub logprobs: bool,
    pub store: bool,
    pub toolbox: Toolbox,
    /// The request, of which the response repeats a part.
    pub body: Value,
    /// All items up to the reply.
    pub items: Vec<Value>,
    /// What the client should know about how it was understood.
    pub warnings: Vec<String>,
}

impl ResponsesBody {
    /// Reads a body.
    pub fn read(body: Value, app: &App, client: &Client) -> Result<ResponsesBody, ApiError> {
        let fields = Fields::of_body(&body)?;
        let speaker = app.loaded()?;
        if fields.flag("background")? == Some(true) {
            return Err(ApiError::unsupported(
                "background",
                "responses in the background are not offered here",
            ));
        }
        if fields.get("conversation").is_some() {
            return Err(ApiError::unsupported(
                "conversation",
                "use `previous_response_id`, or send the whole history",
            ));
        }
        if fields.get("prompt").is_some() {
            return Err(ApiError::unsupported("prompt", "prompt templates are not offered here"));
        }
        let model = fields.text("model")?.unwrap_or_default().to_owned();
        let mut params = Params::read(&fields, 1, &app.options, speaker.info().vocab)?;
        if params.n > 1 {
            return Err(ApiError::unsupported("n", "this API gives one reply"));
        }
        let include = fields.list("include")?.map_or(&[][..], Vec::as_slice);
        let logprobs = include.iter().any(|what| what == "message.output_text.logprobs");
        let top = fields.whole("top_logprobs", 0..=20)?;
        if logprobs || top.is_some_and(|top| top > 0) {
            params.logprobs = Some(top.unwrap_or(0) as usize);
        }
        let (toolbox, functions) = Toolbox::read(&fields)?;
        let choice = toolbox.choice(fields.get("tool_choice"))?;
        let items = history(&fields, app, client)?;
        let mut chat = ChatRequest { tools: functions, tool_choice: choice.choice, ..ChatRequest::default() };
        if let Some(instructions) = fields.text("instructions")? {
            chat.messages.push(message(RequestRole::System, instructions.to_owned()));
        }
        let mut reader = Reader { messages: chat.messages, warnings: toolbox.warnings.clone() };
        for (at, item) in items.iter().enumerate() {
            reader.item(item, &format!("input[{at}]"))?;
        }
        chat.messages = reader.messages;
        if chat.messages.is_empty() {
            return Err(ApiError::invalid("input", "at least one item is needed"));
        }
        let format = fields.object("text")?.and_then(|text| text.get("format"));
        let shape = Form { inputs: toolbox.inputs(), ..Form::read(&fields, format, "text.format")? };
        let summary = fields.object("reasoning")?.and_then(|reasoning| reasoning.get("summary"));
        let one_call = fields.flag("parallel_tool_calls")? == Some(false);
        let ask = Ask {
            api: Api::Responses,
            model,
            think: Think::read(&fields)?,
            chat,
            shape,
            allowed: choice.allowed,
            one_call,
            call_prefix: "call_",
            warnings: reader.warnings,
            params,
        };
        let style = Style {
            stream: ask.params.stream,
            summary: summary.is_some_and(|summary| !summary.is_null() && summary != "none"),
            logprobs: ask.params.logprobs.is_some(),
            store: app.options.response_store > 0 && fields.flag("store")?.unwrap_or(true),
            toolbox,
            items,
            body: Value::Null,
            warnings: Vec::new(),
        };
        Ok(ResponsesBody { ask, style: Style { body, ..style } })
    }
}

/// The items of the input, after those of the response it goes on from.
fn history(fields: &Fields<'_>, app: &App, client: &Client) -> Result<Vec<Value>, ApiError> {
    let mut items = Vec::new();
    if let Some(id) = fields.text("previous_response_id")? {
        let mut store = app.responses();
        let kept = store.get(id, client).ok_or_else(|| {
            let message =
                "the previous response is not stored here (any more): send the whole history instead";
            ApiError::new(Fault::PreviousResponse, message).at("previous_response_id")
        })?;
        items.extend_from_slice(&kept.items);
    }
    match fields.get("input") {
        None if items.is_empty() => return Err(ApiError::missing("input")),
        None => {}
        Some(Value::String(text)) => items.push(json!({
            "type": "message", "role": "user", "content": [{ "type": "input_text", "text": text }],
        })),
        Some(Value::Array(list)) => {
            let mut known: HashSet<String> = items.iter().filter_map(id_of).collect();
            for (at, item) in list.iter().enumerate() {
                if item["type"] != "item_reference" {
                    items.push(item.clone());
                    continue;
                }
                let id = id_of(item).unwrap_or_default();
                if known.contains(&id) {
                    continue; // it came with the previous response
                }
                let stored = app.responses().item(&id, client).ok_or_else(|| {
                    let problem = "no such item is stored here (any more): send the item itself";
                    ApiError::invalid(&format!("input[{at}]"), problem)
                })?;
                items.push(stored);
                known.insert(id);
            }
        }
        Some(other) => {
            let problem = format!("{} is given, a string or a list of items was expected", kind(other));
            return Err(ApiError::invalid("input", problem));
        }
    }
    Ok(items)
}

fn message(role: RequestRole, text: String) -> RequestMessage {
    RequestMessage {
        role,
        content: Some(Content::Text(text)),
        reasoning_content: None,
        reasoning: None,
        reasoning_text: None,
        tool_calls: Vec::new(),
        function_call: None,
        tool_call_id: None,
        prefix: false,
    }
}

/// Puts messages together. Reasoning, text and calls that follow each other are one turn of the model.
struct Reader {
    messages: Vec<RequestMessage>,
    warnings: Vec<String>,
}

impl Reader {
    fn item(&mut self, item: &Value, field: &str) -> Result<(), ApiError> {
        if !item.is_object() {
            return Err(ApiError::invalid(field, format!("{} is given, an object was expected", kind(item))));
        }
        match item["type"].as_str() {
            Some("message") => self.message(item, field)?,
            None if item.get("role").is_some() => self.message(item, field)?,
            Some("reasoning") => self.reasoning(item),
            Some("function_call") => {
                let name =
                    item["name"].as_str().ok_or_else(|| ApiError::missing(&format!("{field}.name")))?;
                let name = exposed(item["namespace"].as_str(), name);
                self.call(item, name, item["arguments"].clone());
            }
            Some("custom_tool_call") => {
                let name =
                    item["name"].as_str().ok_or_else(|| ApiError::missing(&format!("{field}.name")))?;
                let input = item["input"].as_str().unwrap_or_default().to_owned();
                let id = call_id(item);
                let name = exposed(item["namespace"].as_str(), name);
                let call = RequestToolCall { id, function: None, custom: Some(CustomCall { name, input }) };
                self.turn().tool_calls.push(call);
            }
            Some("local_shell_call") => {
                self.call(item, "local_shell".to_owned(), shell_arguments(&item["action"]));
            }
            Some("shell_call") => self.call(item, "shell".to_owned(), shell_arguments(&item["action"])),
            Some("apply_patch_call") => self.call(item, "apply_patch".to_owned(), item["operation"].clone()),
            Some(kind) if kind.ends_with("_call_output") => self.output(item),
            Some("compaction" | "context_compaction") => {
                let text = item["encrypted_content"]
                    .as_str()
                    .and_then(unseal)
                    .unwrap_or_else(|| texts(&item["summary"]));
                match text.is_empty() {
                    true => self.warnings.push(format!("{field}: the summary is sealed by another server")),
                    false => self.messages.push(message(RequestRole::System, text)),
                }
            }
            // What a provider's own tools did: a word about it.
            Some(kind)
                if kind.ends_with("_call") || kind.starts_with("mcp_") || kind.starts_with("program") =>
            {
                self.say(&format!("[{}]", kind.chars().take(40).collect::<String>()));
            }
            // A refusal here would end a whole session of an agent.
            other => self.warnings.push(format!(
                "{field}: items of type {:?} are not known here and were left out",
                other.unwrap_or("none").chars().take(40).collect::<String>()
            )),
        }
        Ok(())
    }

    /// The turn of the model that is being put together.
    fn turn(&mut self) -> &mut RequestMessage {
        if self.messages.last().is_none_or(|last| last.role != RequestRole::Assistant) {
            let mut turn = message(RequestRole::Assistant, String::new());
            turn.content = None;
            self.messages.push(turn);
        }
        self.messages.last_mut().expect("just pushed")
    }

    fn say(&mut self, text: &str) {
        let turn = self.turn();
        turn.content = Some(Content::Text(match turn.content.take() {
            Some(Content::Text(before)) if !before.is_empty() => format!("{before}\n\n{text}"),
            _ => text.to_owned(),
        }));
    }

    fn message(&mut self, item: &Value, field: &str) -> Result<(), ApiError> {
        let read = read_chat_message(item, field)?;
        if read.role != RequestRole::Assistant {
            self.messages.push(read);
            return Ok(());
        }
        let text = match read.content {
            None => return Ok(()),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let texts = parts.into_iter().filter_map(|part| part.text.or(part.refusal));
                texts.collect::<Vec<_>>().join("\n\n")
            }
        };
        self.say(&text);
        Ok(())
    }

    /// Reasoning, from wherever it is.
    fn reasoning(&mut self, item: &Value) {
        let shown = texts(&item["content"]);
        let sealed = || item["encrypted_content"].as_str().and_then(unseal);
        let text = if shown.is_empty() { sealed().unwrap_or_else(|| texts(&item["summary"])) } else { shown };
        if text.is_empty() {
            return;
        }
        let turn = self.turn();
        turn.reasoning_content.get_or_insert_default().push_str(&text);
    }

    fn call(&mut self, item: &Value, name: String, arguments: Value) {
        let function = RequestFunction { id: None, name, arguments };
        let call = RequestToolCall { id: call_id(item), function: Some(function), custom: None };
        self.turn().tool_calls.push(call);
    }

    fn output(&mut self, item: &Value) {
        let text = match &item["output"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                let text = |part: &Value| match part["text"].as_str() {
                    Some(text) => text.to_owned(),
                    // What came of a command.
                    None if part.get("stdout").is_some() => to_json(part),
                    None => format!("[Unsupported {}]", part["type"].as_str().unwrap_or("part")),
                };
                parts.iter().map(text).collect::<Vec<_>>().join("\n\n")
            }
            Value::Null => String::new(),
            other => to_json(other),
        };
        // A patch has no other result than that.
        let text = match item["status"].as_str() {
            Some("failed") => format!("Failed. {text}").trim_end().to_owned(),
            Some("completed") if item["type"] == "apply_patch_call_output" && text.is_empty() => {
                "Done.".to_owned()
            }
            _ => text,
        };
        let mut result = message(RequestRole::Tool, text);
        result.tool_call_id = call_id(item);
        self.messages.push(result);
    }
}

fn id_of(item: &Value) -> Option<String> {
    item["id"].as_str().map(str::to_owned)
}

fn call_id(item: &Value) -> Option<String> {
    item["call_id"].as_str().or(item["id"].as_str()).map(str::to_owned)
}

/// The texts of a list of parts.
fn texts(parts: &Value) -> String {
    let list = parts.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n\n")
}

/// `tool_choice` as the response repeats it.
pub(super) fn choice_word(choice: Option<&Value>) -> Value {
    choice.filter(|choice| !choice.is_null()).cloned().unwrap_or_else(|| json!("auto"))
}
