//! The body of a Messages request, made into chat messages.

use super::{thought, typed};
use crate::App;
use crate::ask::{Api, Ask};
use crate::error::ApiError;
use crate::fields::{Fields, kind};
use crate::params::Params;
use crate::shape::Form;
use crate::thinking::Think;
use crate::tools;
use axum::http::HeaderMap;
use serde_json::{Map, Value, json};
use text::chat::request::{
    ChatRequest, Content, RequestFunction, RequestMessage, RequestRole, RequestTool, RequestToolCall,
    ToolChoice,
};
use text::json::to_json;

/// A request and how to answer it.
pub(super) struct MessagesBody {
    pub ask: Ask,
    pub style: Style,
}

/// How to answer.
#[derive(Clone, Debug)]
pub(super) struct Style {
    pub stream: bool,
    pub model: String,
    /// Whether thinking is to be carried, not shown.
    pub omit_thinking: bool,
    /// Whether the client knows the reason `model_context_window_exceeded`.
    pub knows_context_full: bool,
    /// What the client should know about how it was understood.
    pub warnings: Vec<String>,
}

impl MessagesBody {
    /// Reads a body.
    pub fn read(body: &Value, app: &App) -> Result<MessagesBody, ApiError> {
        let fields = Fields::of_body(body)?;
        let speaker = app.loaded()?;
        let model = fields.text("model")?.unwrap_or_default().to_owned();
        let params = Params::read(&fields, 0, &app.options, speaker.info().vocab)?;
        fields.list("stop_sequences")?;
        if params.n > 1 {
            return Err(ApiError::unsupported("n", "this API gives one reply"));
        }
        let mut warnings = Vec::new();
        let mut chat = ChatRequest { tools: read_tools(&fields, &mut warnings)?, ..ChatRequest::default() };
        let (choice, one_call) = tool_choice(&fields)?;
        chat.tool_choice = choice;
        system(&fields, &mut chat.messages)?;
        let list = fields.list("messages")?.ok_or_else(|| ApiError::missing("messages"))?;
        if list.is_empty() {
            return Err(ApiError::invalid("messages", "at least one message is needed"));
        }
        for (at, message) in list.iter().enumerate() {
            read_message(message, &format!("messages[{at}]"), &mut chat.messages, &mut warnings)?;
        }
        let mut think = Think::read(&fields)?;
        // What was begun by the client has no room for thinking before it.
        let is_begun =
            |last: &RequestMessage| last.role == RequestRole::Assistant && last.tool_calls.is_empty();
        if chat.messages.last().is_some_and(is_begun) {
            chat.continue_final_message = true;
            think = Think { on: Some(false), ..Think::default() };
        }
        let config = fields.object("output_config")?;
        let shape = match config.and_then(|config| config.get("format")).filter(|format| !format.is_null()) {
            Some(format) => Form::read(&fields, Some(format), "output_config.format")?,
            None => Form::read(&fields, fields.get("output_format"), "output_format")?,
        };
        let display = fields.get("thinking").and_then(|thinking| thinking["display"].as_str());
        let style = Style {
            stream: params.stream,
            model: model.clone(),
            omit_thinking: display == Some("omitted"),
            knows_context_full: false,
            warnings: Vec::new(),
        };
        let ask = Ask {
            api: Api::Messages,
            model,
            chat,
            think,
            params,
            shape,
            allowed: None,
            one_call,
            call_prefix: "toolu_",
            warnings,
        };
        Ok(MessagesBody { ask, style })
    }
}

/// Whether the client said that it knows the reason for a full context.
pub(super) fn knows_context_full(headers: &HeaderMap) -> bool {
    let betas = headers.get_all("anthropic-beta").iter().filter_map(|value| value.to_str().ok());
    betas.into_iter().any(|betas| betas.contains("model-context-window-exceeded"))
}

fn message(role: RequestRole, content: Option<Content>) -> RequestMessage {
    RequestMessage {
        role,
        content,
        reasoning_content: None,
        reasoning: None,
        reasoning_text: None,
        tool_calls: Vec::new(),
        function_call: None,
        tool_call_id: None,
        prefix: false,
    }
}

/// The system prompt: a text, or blocks of it.
fn system(fields: &Fields<'_>, messages: &mut Vec<RequestMessage>) -> Result<(), ApiError> {
    let texts = match fields.get("system") {
        None => return Ok(()),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(blocks)) => {
            let read = |(at, block): (usize, &Value)| text_of(block, &format!("system[{at}]"));
            blocks.iter().enumerate().map(read).collect::<Result<_, _>>()?
        }
        Some(other) => {
            let problem = format!("{} is given, a string or a list of text blocks was expected", kind(other));
            return Err(ApiError::invalid("system", problem));
        }
    };
    let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    if !texts.is_empty() {
        messages.push(message(RequestRole::System, Some(Content::Text(texts.join("\n\n")))));
    }
    Ok(())
}

fn text_of(block: &Value, field: &str) -> Result<String, ApiError> {
    match (block["type"].as_str(), block["text"].as_str()) {
        (Some("text") | None, Some(text)) => Ok(text.to_owned()),
        (Some("text"), None) => Err(ApiError::missing(&format!("{field}.text"))),
        _ => Err(ApiError::invalid(&format!("{field}.type"), "a text block was expected")),
    }
}

/// Adds a message, joined to the one before where the model sees them as one.
fn read_message(
    value: &Value,
    field: &str,
    messages: &mut Vec<RequestMessage>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let Value::Object(object) = value else {
        return Err(ApiError::invalid(field, format!("{} is given, an object was expected", kind(value))));
    };
    let whole = json_string(object.get("content"));
    let blocks = match object.get("content") {
        Some(Value::Array(blocks)) => blocks.as_slice(),
        Some(Value::String(_)) => std::slice::from_ref(&whole),
        None | Some(Value::Null) => return Err(ApiError::missing(&format!("{field}.content"))),
        Some(other) => {
            let problem = format!("{} is given, a string or a list of blocks was expected", kind(other));
            return Err(ApiError::invalid(&format!("{field}.content"), problem));
        }
    };
    match object.get("role").and_then(Value::as_str) {
        Some("user") => user(blocks, field, messages),
        Some("assistant") => assistant(blocks, field, messages, warnings),
        Some("system") => {
            let read = |(at, block): (usize, &Value)| text_of(block, &format!("{field}.content[{at}]"));
            let texts = blocks.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
            messages.push(message(RequestRole::System, Some(Content::Text(texts.join("\n\n")))));
            Ok(())
        }
        _ => Err(ApiError::invalid(&format!("{field}.role"), "`user`, `assistant` or `system` was expected")),
    }
}

/// A text as the block that it stands for.
fn json_string(content: Option<&Value>) -> Value {
    match content {
        Some(Value::String(text)) => json!({ "type": "text", "text": text }),
        _ => Value::Null,
    }
}

/// What a user says: results of calls first, then text.
fn user(blocks: &[Value], field: &str, messages: &mut Vec<RequestMessage>) -> Result<(), ApiError> {
    let mut texts = Vec::new();
    let is_empty = blocks.is_empty();
    for (at, block) in blocks.iter().enumerate() {
        let field = format!("{field}.content[{at}]");
        match block["type"].as_str() {
            Some("text") => texts.push(text_of(block, &field)?),
            Some("tool_result") => messages.push(result(block, &field)?),
            Some("document") => texts.push(document(block, &field)?),
            Some("search_result") => texts.push(to_json(block)),
            Some(other) => {
                let problem = format!(
                    "blocks of type `{}` are not supported here",
                    other.chars().take(40).collect::<String>()
                );
                return Err(ApiError::unsupported(&format!("{field}.type"), problem));
            }
            None => return Err(ApiError::missing(&format!("{field}.type"))),
        }
    }
    // Who says nothing has had a turn all the same.
    if !texts.is_empty() || is_empty {
        messages.push(message(RequestRole::User, Some(Content::Text(texts.join("\n\n")))));
    }
    Ok(())
}

/// A document in plain text; nothing is fetched.
fn document(block: &Value, field: &str) -> Result<String, ApiError> {
    let source = &block["source"];
    let text = match source["type"].as_str() {
        Some("text") => source["data"].as_str().map(str::to_owned),
        Some("content") => match &source["content"] {
            Value::String(text) => Some(text.clone()),
            Value::Array(parts) => {
                let texts: Option<Vec<&str>> = parts.iter().map(|part| part["text"].as_str()).collect();
                texts.map(|texts| texts.join("\n\n"))
            }
            _ => None,
        },
        _ => None,
    };
    let text = text.ok_or_else(|| {
        ApiError::unsupported(&format!("{field}.source"), "only documents of plain text are supported here")
    })?;
    Ok(match block["title"].as_str() {
        Some(title) => format!("{title}\n\n{text}"),
        None => text,
    })
}

fn result(block: &Value, field: &str) -> Result<RequestMessage, ApiError> {
    let id =
        block["tool_use_id"].as_str().ok_or_else(|| ApiError::missing(&format!("{field}.tool_use_id")))?;
    let mut text = match &block["content"] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let read = |part: &Value| match part["type"].as_str() {
                Some("text") => part["text"].as_str().unwrap_or_default().to_owned(),
                Some("search_result" | "document") => to_json(part),
                // The client did not choose this and cannot leave it out: the model is told that it was there.
                kind => format!("[Unsupported {}]", kind.unwrap_or("part")),
            };
            parts.iter().map(read).collect::<Vec<_>>().join("\n\n")
        }
        other => {
            let problem = format!("{} is given, a string or a list of blocks was expected", kind(other));
            return Err(ApiError::invalid(&format!("{field}.content"), problem));
        }
    };
    if block["is_error"].as_bool() == Some(true) && !text.to_ascii_lowercase().contains("error") {
        text = format!("Error: {text}");
    }
    let mut message = message(RequestRole::Tool, Some(Content::Text(text)));
    message.tool_call_id = Some(id.to_owned());
    Ok(message)
}

/// What the model said. Several messages in a row are one turn of it.
fn assistant(
    blocks: &[Value],
    field: &str,
    messages: &mut Vec<RequestMessage>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let follows_itself = messages.last().is_some_and(|last| last.role == RequestRole::Assistant);
    if !follows_itself {
        messages.push(message(RequestRole::Assistant, None));
    }
    let turn = messages.last_mut().expect("just pushed");
    let mut reasoning = turn.reasoning_content.take().unwrap_or_default();
    let mut texts = Vec::new();
    if let Some(Content::Text(text)) = turn.content.take() {
        texts.push(text);
    }
    for (at, block) in blocks.iter().enumerate() {
        let field = format!("{field}.content[{at}]");
        match block["type"].as_str() {
            Some("text") => texts.push(text_of(block, &field)?),
            Some("thinking") => {
                let shown = block["thinking"].as_str().unwrap_or_default();
                let carried = || block["signature"].as_str().and_then(thought::carried);
                reasoning.push_str(&if shown.is_empty() {
                    carried().unwrap_or_default()
                } else {
                    shown.to_owned()
                });
            }
            Some("redacted_thinking") => {
                reasoning.push_str(&block["data"].as_str().and_then(thought::carried).unwrap_or_default());
            }
            Some("tool_use") => turn.tool_calls.push(call(block, &field)?),
            // What a provider's own tools did: a word about it, so that the conversation makes sense.
            Some(kind @ ("server_tool_use" | "mcp_tool_use")) => texts.push(format!("[{kind}]")),
            Some(kind) if kind.ends_with("_tool_result") && kind.len() <= 60 => {
                texts.push(format!("[{kind}]"));
            }
            // The client did not choose what an assistant said, and sends it with every request from now on: a
            // refusal here would end its whole session.
            Some(other) => warnings.push(format!(
                "{field}: blocks of type `{}` are not known here and were left out",
                other.chars().take(40).collect::<String>()
            )),
            None => return Err(ApiError::missing(&format!("{field}.type"))),
        }
    }
    turn.content = (!texts.is_empty()).then(|| Content::Text(texts.join("\n\n")));
    turn.reasoning_content = (!reasoning.is_empty()).then_some(reasoning);
    Ok(())
}

fn call(block: &Value, field: &str) -> Result<RequestToolCall, ApiError> {
    let name = block["name"].as_str().ok_or_else(|| ApiError::missing(&format!("{field}.name")))?;
    let id = block["id"].as_str().map(str::to_owned);
    let arguments = match &block["input"] {
        // What could not be read when it was written travels as it was.
        Value::Object(object) if object.len() == 1 && object.get("_raw").is_some_and(Value::is_string) => {
            object["_raw"].clone()
        }
        Value::Null => Value::Object(Map::new()),
        other => other.clone(),
    };
    let function = RequestFunction { id: None, name: name.to_owned(), arguments };
    Ok(RequestToolCall { id, function: Some(function), custom: None })
}

/// Tools that the client carries out. Those that the provider does are left out: they do not exist here.
fn read_tools(fields: &Fields<'_>, warnings: &mut Vec<String>) -> Result<Vec<RequestTool>, ApiError> {
    let Some(list) = fields.list("tools")? else { return Ok(Vec::new()) };
    tools::check_count(list)?;
    let mut functions = Vec::new();
    for (at, tool) in list.iter().enumerate() {
        let field = format!("tools[{at}]");
        let Value::Object(tool) = tool else {
            return Err(ApiError::invalid(
                &field,
                format!("{} is given, an object was expected", kind(tool)),
            ));
        };
        let mut function = Map::new();
        match tool.get("type").and_then(Value::as_str) {
            None | Some("custom") => {}
            Some(kind) => match typed::known(kind) {
                Some((description, schema)) => {
                    function.insert("name".to_owned(), tool.get("name").cloned().unwrap_or_default());
                    function.insert("description".to_owned(), json!(description));
                    function.insert("parameters".to_owned(), schema);
                    functions.push(tools::function(&function, &field)?);
                    continue;
                }
                None => {
                    warnings.push(tools::left_out(&field, kind));
                    continue;
                }
            },
        }
        for (from, to) in [("name", "name"), ("description", "description"), ("input_schema", "parameters")] {
            if let Some(value) = tool.get(from).filter(|value| !value.is_null()) {
                function.insert(to.to_owned(), value.clone());
            }
        }
        // Nothing else of a tool that is not strict is told to the model.
        if tool.get("strict") == Some(&Value::Bool(true)) {
            function.insert("strict".to_owned(), Value::Bool(true));
        }
        functions.push(tools::function(&function, &field)?);
    }
    Ok(functions)
}

fn tool_choice(fields: &Fields<'_>) -> Result<(ToolChoice, bool), ApiError> {
    let Some(choice) = fields.object("tool_choice")? else { return Ok((ToolChoice::Auto, false)) };
    let inner = Fields::new(choice, "tool_choice.");
    let one_call = inner.flag("disable_parallel_tool_use")?.unwrap_or(false);
    let choice = match inner.text("type")?.ok_or_else(|| ApiError::missing("tool_choice.type"))? {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" => ToolChoice::Required,
        "tool" => {
            let name = inner.text("name")?.ok_or_else(|| ApiError::missing("tool_choice.name"))?;
            ToolChoice::Named(name.to_owned())
        }
        _ => {
            let problem = "`auto`, `any`, `tool` or `none` was expected";
            return Err(ApiError::invalid("tool_choice.type", problem));
        }
    };
    Ok((choice, one_call))
}
