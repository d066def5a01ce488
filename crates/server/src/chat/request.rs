//! The body of a chat completion request.

use super::reply::{CLOSE, OPEN};
use crate::App;
use crate::ask::{Api, Ask};
use crate::error::{ApiError, Fault};
use crate::fields::{Fields, kind};
use crate::options::ReasoningField;
use crate::params::Params;
use crate::responses::tools::Toolbox;
use crate::shape::Form;
use crate::thinking::Think;
use crate::tools;
use serde::Deserialize;
use serde_json::{Map, Value};
use text::chat::request::{ChatRequest, Content, RequestMessage, RequestRole, RequestTool};

/// A request and how to answer it.
pub(super) struct ChatBody {
    pub ask: Ask,
    pub style: Style,
}

/// How to answer.
#[derive(Clone, Debug)]
pub(super) struct Style {
    pub stream: bool,
    pub include_usage: bool,
    pub progress: bool,
    pub logprobs: bool,
    /// What the functions that the model calls are to the client.
    pub toolbox: Toolbox,
    /// The model's name in the answer.
    pub model: String,
    pub warnings: Vec<String>,
}

impl Style {
    /// The same, when it is known how the request was understood.
    pub fn answering(mut self, app: &App, warnings: &[String]) -> Style {
        self.model = app.answer_name(&self.model);
        self.warnings = warnings.to_vec();
        self
    }
}

impl ChatBody {
    /// Reads a body.
    pub fn read(body: &Value, app: &App) -> Result<ChatBody, ApiError> {
        let fields = Fields::of_body(body)?;
        let speaker = app.loaded()?;
        refuse(&fields)?;
        let model = fields.text("model")?.unwrap_or_default().to_owned();
        let mut params = Params::read(&fields, 1, &app.options, speaker.info().vocab)?;
        params.logprobs = logprobs(&fields)?;
        let choice = tools::read_choice(fields.get("tool_choice"))?;
        let one_call = fields.flag("parallel_tool_calls")? == Some(false);
        let (toolbox, functions) = read_tools(&fields)?;
        let mut chat = ChatRequest {
            messages: messages(&fields)?,
            tools: functions,
            tool_choice: choice.choice,
            continue_final_message: fields.flag("continue_final_message")?.unwrap_or(false)
                || fields.flag("add_generation_prompt")? == Some(false),
            ..ChatRequest::default()
        };
        if app.options.reasoning_field == ReasoningField::Inline {
            chat.messages.iter_mut().for_each(inline_reasoning);
        }
        let form = Form::read(&fields, fields.get("response_format"), "response_format")?;
        let shape = Form { inputs: toolbox.inputs(), ..form };
        let options = fields.object("stream_options")?;
        let include_usage = match options {
            Some(object) => Fields::new(object, "stream_options.").flag("include_usage")?,
            None => None,
        };
        let style = Style {
            stream: params.stream,
            include_usage: include_usage.unwrap_or(app.options.always_usage),
            progress: fields.flag("return_progress")?.unwrap_or(false),
            logprobs: params.logprobs.is_some(),
            toolbox,
            model: model.clone(),
            warnings: Vec::new(),
        };
        let ask = Ask {
            api: Api::Chat,
            model,
            chat,
            think: Think::read(&fields)?,
            params,
            shape,
            allowed: choice.allowed,
            one_call,
            call_prefix: "call_",
            warnings: Vec::new(),
        };
        Ok(ChatBody { ask, style })
    }
}

/// What would change the answer and is not done here.
fn refuse(fields: &Fields<'_>) -> Result<(), ApiError> {
    for (field, instead) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if fields.get(field).is_some() {
            return Err(ApiError::unsupported(field, format!("no longer supported; use `{instead}`")));
        }
    }
    if let Some(list) = fields.list("modalities")?
        && list.iter().any(|kind| kind.as_str() != Some("text"))
    {
        return Err(ApiError::unsupported("modalities", "this server generates text only"));
    }
    if fields.get("audio").is_some() {
        return Err(ApiError::unsupported("audio", "this server generates text only"));
    }
    Ok(())
}

/// `logprobs: true` and `top_logprobs: 0..20`.
fn logprobs(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.whole("top_logprobs", 0..=20)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "only allowed if `logprobs` is true")),
    }
}

fn messages(fields: &Fields<'_>) -> Result<Vec<RequestMessage>, ApiError> {
    let list = fields.list("messages")?.ok_or_else(|| ApiError::missing("messages"))?;
    list.iter().enumerate().map(|(at, value)| read_message(value, &format!("messages[{at}]"))).collect()
}

/// Reads one message.
///
/// # Errors
///
/// If it is none; the message never quotes it.
pub fn read_message(value: &Value, field: &str) -> Result<RequestMessage, ApiError> {
    let Value::Object(object) = value else {
        return Err(ApiError::invalid(field, format!("{} is given, an object was expected", kind(value))));
    };
    match object.get("role") {
        None | Some(Value::Null) => return Err(ApiError::missing(&format!("{field}.role"))),
        Some(Value::String(role)) => {
            let known = ["system", "developer", "user", "assistant", "tool", "function", "latest_reminder"];
            if !known.contains(&role.as_str()) {
                let problem = format!("one of {} was expected", known.map(|r| format!("`{r}`")).join(", "));
                return Err(ApiError::invalid(&format!("{field}.role"), problem));
            }
        }
        Some(other) => {
            let problem = format!("{} is given, a string was expected", kind(other));
            return Err(ApiError::invalid(&format!("{field}.role"), problem));
        }
    }
    let mut message = RequestMessage::deserialize(value).map_err(|error| {
        ApiError::new(Fault::Invalid, format!("{field}: {}", without_quotes(&error.to_string()))).at(field)
    })?;
    take_thinking(&mut message, value);
    Ok(message)
}

/// The words of a parser, without what they quote of the conversation.
fn without_quotes(message: &str) -> String {
    match message.find("string \"") {
        None => message.to_owned(),
        Some(at) => {
            let rest = &message[at..];
            let end = rest.rfind('"').map_or(rest.len(), |end| end + 1);
            format!("{}a string{}", &message[..at], &rest[end..])
        }
    }
}

/// Reasoning that was put among the content's parts goes where reasoning belongs, unless it is there already.
fn take_thinking(message: &mut RequestMessage, value: &Value) {
    let is_thinking = |kind: &str| matches!(kind, "thinking" | "reasoning" | "redacted_thinking");
    let Some(Content::Parts(parts)) = &mut message.content else { return };
    parts.retain(|part| !is_thinking(&part.kind));
    let told = [&message.reasoning_content, &message.reasoning, &message.reasoning_text];
    if message.role != RequestRole::Assistant || told.into_iter().flatten().any(|text| !text.is_empty()) {
        return;
    }
    let parts = value["content"].as_array().map_or(&[][..], Vec::as_slice);
    let texts = parts.iter().filter(|part| part["type"].as_str().is_some_and(is_thinking));
    let texts =
        texts.filter_map(|part| ["thinking", "reasoning", "text"].iter().find_map(|at| part[*at].as_str()));
    let reasoning: String = texts.collect();
    message.reasoning_content = (!reasoning.is_empty()).then_some(reasoning);
}

/// Reasoning that this server gave as a part of the content, and that comes back so.
fn inline_reasoning(message: &mut RequestMessage) {
    if message.role != RequestRole::Assistant {
        return;
    }
    let Some(Content::Text(text)) = &mut message.content else { return };
    let split = text.strip_prefix(OPEN).and_then(|rest| rest.split_once(CLOSE));
    if let Some((reasoning, content)) = split.map(|(a, b)| (a.to_owned(), b.to_owned())) {
        (message.reasoning_content, *text) = (Some(reasoning), content);
    }
}

/// Reads `tools`, nested or flat.
fn read_tools(fields: &Fields<'_>) -> Result<(Toolbox, Vec<RequestTool>), ApiError> {
    let (mut toolbox, mut functions) = (Toolbox::default(), Vec::new());
    let list = fields.list("tools")?.map_or(&[][..], Vec::as_slice);
    tools::check_count(list)?;
    for (at, tool) in list.iter().enumerate() {
        let field = format!("tools[{at}]");
        let Value::Object(object) = tool else {
            return Err(ApiError::invalid(
                &field,
                format!("{} is given, an object was expected", kind(tool)),
            ));
        };
        match object.get("type").filter(|kind| !kind.is_null()).map(|kind| kind.as_str().unwrap_or("?")) {
            None | Some("function") => {}
            Some("custom") => {
                toolbox.add(&flat(object), None, &field, &mut functions)?;
                continue;
            }
            Some(other) => {
                let problem = format!("tools of type `{}` are not supported here", shortened(other));
                return Err(ApiError::unsupported(&format!("{field}.type"), problem));
            }
        }
        functions.push(match object.get("function") {
            Some(Value::Object(function)) => tools::function(function, &format!("{field}.function"))?,
            Some(_) => {
                return Err(ApiError::invalid(&format!("{field}.function"), "an object was expected"));
            }
            None => tools::function(object, &field)?,
        });
    }
    Ok((toolbox, functions))
}

/// A tool that takes plain text as Responses write it: `custom` and `format.grammar` are no objects of their own there.
fn flat(tool: &Map<String, Value>) -> Value {
    let mut flat = tool.get("custom").and_then(Value::as_object).unwrap_or(tool).clone();
    flat.insert("type".to_owned(), "custom".into());
    if let Some(Value::Object(format)) = flat.get_mut("format")
        && let Some(Value::Object(grammar)) = format.remove("grammar")
    {
        format.extend(grammar);
    }
    Value::Object(flat)
}

/// A word of the client, in case it is no word.
fn shortened(word: &str) -> String {
    word.chars().take(40).collect()
}
