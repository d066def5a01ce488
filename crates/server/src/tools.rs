//! Tools and the choice among them, as far as APIs agree.

use crate::error::ApiError;
use crate::fields::kind;
use serde_json::{Map, Value};
use text::chat::Tool;
use text::chat::request::{RequestTool, ToolChoice};

/// Most tools of one request.
const MAX_TOOLS: usize = 1024;

/// What may be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Whether something may or must be called.
    pub choice: ToolChoice,
    /// Only these, if there is a list.
    pub allowed: Option<Vec<String>>,
    /// The field, for errors.
    pub one_call: bool,
}

/// Reads `tool_choice` in OpenAI's forms, nested and flat.
///
/// # Errors
///
/// If it is none of them.
pub fn read_choice(value: Option<&Value>) -> Result<Choice, ApiError> {
    let Some(value) = value else { return Ok(Choice::default()) };
    let simple = |choice| Ok(Choice { choice, ..Choice::default() });
    let refuse = |problem: &str| Err(ApiError::invalid("tool_choice", problem));
    let known = "`auto`, `none`, `required`, a function or `allowed_tools` was expected";
    let word = match value {
        Value::String(word) => word,
        Value::Object(object) => match object.get("type").and_then(Value::as_str) {
            Some("function" | "custom") => {
                let name = value.pointer("/function/name").or_else(|| value.pointer("/custom/name"));
                let name = name.or_else(|| value.get("name")).and_then(Value::as_str);
                return match name {
                    Some(name) => simple(ToolChoice::Named(name.to_owned())),
                    None => refuse("the function has no name"),
                };
            }
            Some("allowed_tools") => return allowed_tools(value.get("allowed_tools").unwrap_or(value)),
            Some(word) => word,
            None => return refuse(known),
        },
        other => return refuse(&format!("{} is given; {known}", kind(other))),
    };
    match word {
        "auto" => simple(ToolChoice::Auto),
        "none" => simple(ToolChoice::None),
        "required" | "any" => simple(ToolChoice::Required),
        _ => refuse(known),
    }
}

fn allowed_tools(value: &Value) -> Result<Choice, ApiError> {
    let choice = match value["mode"].as_str() {
        Some("required") => ToolChoice::Required,
        _ => ToolChoice::Auto,
    };
    let tools = value["tools"].as_array().ok_or_else(|| ApiError::missing("tool_choice.tools"))?;
    let name = |tool: &Value| {
        let name = tool.pointer("/function/name").or_else(|| tool.pointer("/custom/name"));
        let name = name.or_else(|| tool.get("name"));
        // Some tools have no name but their type.
        let kind = || tool.get("type").filter(|kind| *kind != "function" && *kind != "custom");
        Some(name.or_else(kind)?.as_str()?.to_owned())
    };
    let names = tools.iter().map(name).collect::<Option<Vec<_>>>();
    let names = names.ok_or_else(|| ApiError::invalid("tool_choice.tools", "each tool needs a name"))?;
    Ok(Choice { choice, allowed: Some(names), one_call: false })
}

/// Checks the definition of a function and puts it into the form that the prompt shows. Unknown members are left out.
///
/// # Errors
///
/// If it has no name.
pub fn function(definition: &Map<String, Value>, field: &str) -> Result<RequestTool, ApiError> {
    match definition.get("name").and_then(Value::as_str) {
        Some(name) if !name.is_empty() && name.len() <= 256 => {}
        Some(_) => return Err(ApiError::invalid(&format!("{field}.name"), "1 to 256 bytes were expected")),
        None => return Err(ApiError::missing(&format!("{field}.name"))),
    }
    if let Some(parameters) = definition.get("parameters")
        && !parameters.is_object()
        && !parameters.is_null()
    {
        let problem = format!("{} is given, a JSON schema was expected", kind(parameters));
        return Err(ApiError::invalid(&format!("{field}.parameters"), problem));
    }
    // The prompt shows the definition as the client wrote it, but only what belongs to one: clients put hints in there
    // that move between requests (`cache_control`), and everything after them would have to be read again.
    let mut function = definition.clone();
    function.retain(|name, _| matches!(name.as_str(), "name" | "description" | "parameters" | "strict"));
    Ok(RequestTool(Tool { function }))
}

/// What to say of a tool that only a provider could carry out.
pub fn left_out(field: &str, kind: &str) -> String {
    let kind: String = kind.chars().take(40).collect();
    format!("{field}: tools of type `{kind}` are not known here, and the model was not told of it")
}

/// The list of tools, not too long.
///
/// # Errors
///
/// If it is.
pub fn check_count(tools: &[Value]) -> Result<(), ApiError> {
    match tools.len() {
        0..=MAX_TOOLS => Ok(()),
        n => Err(ApiError::invalid("tools", format!("{n} tools; at most {MAX_TOOLS} are allowed"))),
    }
}
