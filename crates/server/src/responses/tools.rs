//! Tools of every kind, as functions that the model can call, and its calls as items of the kind they were.

use super::input_text::input_text;
use crate::error::ApiError;
use crate::fields::{Fields, kind};
use crate::ids;
use crate::tools::{self, Choice};
use engine::constraint::Shape;
use serde_json::{Map, Value, json};
use text::chat::request::{RequestTool, ToolChoice};

/// What a function that the model calls stands for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Toolbox {
    tools: Vec<Known>,
    /// What the client should know about tools that were left out.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug)]
struct Known {
    /// The name that the model uses.
    function: String,
    kind: Kind,
    /// The name that the client uses.
    name: String,
    namespace: Option<String>,
    /// What the text must look like that it takes.
    input: Option<Shape>,
}

/// How a call is told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As `function_call`.
    Function,
    /// As `custom_tool_call`, with plain text.
    Custom,
    /// As `local_shell_call`.
    LocalShell,
    /// As `shell_call`.
    Shell,
    /// As `apply_patch_call`.
    Patch,
}

/// The name of a function in a namespace, as the model sees it.
pub(super) fn exposed(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) if !namespace.is_empty() && !name.starts_with(namespace) => {
            format!("{namespace}__{name}")
        }
        _ => name.to_owned(),
    }
}

impl Toolbox {
    /// Reads `tools`. What only a provider can carry out is left out.
    pub fn read(fields: &Fields<'_>) -> Result<(Toolbox, Vec<RequestTool>), ApiError> {
        let (mut toolbox, mut functions) = (Toolbox::default(), Vec::new());
        let list = fields.list("tools")?.map_or(&[][..], Vec::as_slice);
        tools::check_count(list)?;
        for (at, tool) in list.iter().enumerate() {
            toolbox.add(tool, None, &format!("tools[{at}]"), &mut functions)?;
        }
        Ok((toolbox, functions))
    }

    /// Adds a tool, or those of a namespace, and the functions that stand for them.
    ///
    /// # Errors
    ///
    /// If it makes no sense.
    pub fn add(
        &mut self,
        tool: &Value,
        namespace: Option<&str>,
        field: &str,
        functions: &mut Vec<RequestTool>,
    ) -> Result<(), ApiError> {
        let Value::Object(object) = tool else {
            return Err(ApiError::invalid(field, format!("{} is given, an object was expected", kind(tool))));
        };
        let text = |name: &str| object.get(name).and_then(Value::as_str);
        let (kind, function) = match text("type") {
            Some("function") | None => (Kind::Function, plain_function(object)),
            Some("custom") => (Kind::Custom, text_function(object)),
            Some("namespace") => {
                let list = object.get("tools").and_then(Value::as_array);
                let list = list.ok_or_else(|| ApiError::missing(&format!("{field}.tools")))?;
                tools::check_count(list)?;
                for (at, inner) in list.iter().enumerate() {
                    let is_space = inner["type"] == "namespace";
                    if is_space {
                        return Err(ApiError::invalid(
                            &format!("{field}.tools[{at}]"),
                            "namespaces do not nest",
                        ));
                    }
                    self.add(inner, text("name"), &format!("{field}.tools[{at}]"), functions)?;
                }
                return Ok(());
            }
            Some("local_shell") => (Kind::LocalShell, local_shell()),
            Some("shell") => (Kind::Shell, shell()),
            Some("apply_patch") => (Kind::Patch, apply_patch()),
            // Search, pictures, other computers: the provider's, and there is none.
            Some(other) => {
                self.warnings.push(tools::left_out(field, other));
                return Ok(());
            }
        };
        let mut function = function;
        let name = function.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let full = exposed(namespace, &name);
        if function.contains_key("name") {
            function.insert("name".to_owned(), json!(full));
        }
        functions.push(tools::function(&function, field)?);
        let namespace = namespace.filter(|space| !space.is_empty()).map(str::to_owned);
        let format = object.get("format").filter(|_| text("type") == Some("custom"));
        let input =
            format.map(|format| input_shape(format, &format!("{field}.format"))).transpose()?.flatten();
        self.tools.push(Known { function: full, kind, name, namespace, input });
        Ok(())
    }

    /// Reads `tool_choice`. Tools are named there as the client knows them.
    pub fn choice(&self, value: Option<&Value>) -> Result<Choice, ApiError> {
        // Tools that have no name but their type.
        if let Some(kind @ ("local_shell" | "shell" | "apply_patch")) =
            value.and_then(|it| it["type"].as_str())
        {
            return Ok(Choice { choice: ToolChoice::Named(kind.to_owned()), ..Choice::default() });
        }
        let mut choice = tools::read_choice(value)?;
        if let ToolChoice::Named(name) = &mut choice.choice {
            let namespace = value.and_then(|value| value["namespace"].as_str());
            *name = self.function(name, namespace);
        }
        for name in choice.allowed.iter_mut().flatten() {
            *name = self.function(name, None);
        }
        Ok(choice)
    }

    /// The function that stands for a tool of this name; the name itself if there is none.
    fn function(&self, name: &str, namespace: Option<&str>) -> String {
        let wanted = |known: &&Known| {
            known.name == name && namespace.is_none_or(|space| known.namespace.as_deref() == Some(space))
        };
        match self.find(name) {
            Some(known) if namespace.is_none() => known.function.clone(),
            _ => {
                self.tools.iter().find(wanted).map_or_else(|| name.to_owned(), |known| known.function.clone())
            }
        }
    }

    /// What the texts must look like that tools take, by the names that the model uses.
    pub fn inputs(&self) -> Vec<(String, Shape)> {
        let input = |known: &Known| Some((known.function.clone(), known.input.clone()?));
        self.tools.iter().filter_map(input).collect()
    }

    /// What a call of `function` is.
    pub fn kind(&self, function: &str) -> Kind {
        self.find(function).map_or(Kind::Function, |known| known.kind)
    }

    fn find(&self, function: &str) -> Option<&Known> {
        self.tools.iter().find(|known| known.function == function)
    }

    /// The item of a call, complete or just begun (then without arguments).
    pub fn item(&self, function: &str, call_id: &str, item_id: &str, arguments: Option<&str>) -> Value {
        let known = self.find(function);
        let name = known.map_or(function, |known| &known.name);
        let status = if arguments.is_some() { "completed" } else { "in_progress" };
        let arguments = arguments.unwrap_or_default();
        let mut item = match self.kind(function) {
            Kind::Function => json!({
                "id": item_id, "type": "function_call", "status": status,
                "call_id": call_id, "name": name, "arguments": arguments,
            }),
            Kind::Custom => json!({
                "id": item_id, "type": "custom_tool_call", "status": status,
                "call_id": call_id, "name": name,
                "input": if arguments.is_empty() { String::new() } else { input_text(arguments) },
            }),
            Kind::LocalShell => json!({
                "id": item_id, "type": "local_shell_call", "status": status,
                "call_id": call_id, "action": local_shell_action(arguments),
            }),
            Kind::Shell => json!({
                "id": item_id, "type": "shell_call", "status": status,
                "call_id": call_id, "action": shell_action(arguments), "environment": null,
            }),
            Kind::Patch => json!({
                "id": item_id, "type": "apply_patch_call", "status": status,
                "call_id": call_id, "operation": operation(arguments),
            }),
        };
        if let Some(namespace) = known.and_then(|known| known.namespace.as_deref()) {
            item["namespace"] = json!(namespace);
        }
        item
    }

    /// A new id for the item of a call.
    pub fn item_id(&self, function: &str) -> String {
        ids::fresh(match self.kind(function) {
            Kind::Function => "fc_",
            Kind::Custom => "ctc_",
            Kind::LocalShell => "lsh_",
            Kind::Shell => "sh_",
            Kind::Patch => "apc_",
        })
    }
}

fn plain_function(object: &Map<String, Value>) -> Map<String, Value> {
    // The nested form of chat completions is understood, too.
    if let Some(Value::Object(function)) = object.get("function") {
        return function.clone();
    }
    object.clone()
}

/// A tool that takes plain text, as a function with one parameter.
fn text_function(object: &Map<String, Value>) -> Map<String, Value> {
    let mut description = object.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(format) = object.get("format")
        && let (Some(syntax), Some(definition)) = (format["syntax"].as_str(), format["definition"].as_str())
    {
        description =
            format!("{description}\n\nThe input must match this {syntax} definition:\n{definition}");
    }
    let mut function = Map::new();
    if let Some(name) = object.get("name") {
        function.insert("name".to_owned(), name.clone());
    }
    function.insert("description".to_owned(), json!(description));
    function.insert("parameters".to_owned(), one_text("input", "The input, as plain text"));
    function
}

/// What the text of a tool must look like: `{"type": "grammar", "syntax": "lark" | "regex", "definition": ...}`.
fn input_shape(format: &Value, field: &str) -> Result<Option<Shape>, ApiError> {
    if format["type"] != "grammar" {
        return Ok(None);
    }
    let definition = format["definition"].as_str();
    let definition = definition.ok_or_else(|| ApiError::missing(&format!("{field}.definition")))?.to_owned();
    match format["syntax"].as_str() {
        Some("lark") => Ok(Some(Shape::Lark(definition))),
        Some("regex") => Ok(Some(Shape::Regex(definition))),
        _ => Err(ApiError::invalid(&format!("{field}.syntax"), "`lark` or `regex` was expected")),
    }
}

fn one_text(name: &str, description: &str) -> Value {
    json!({
        "type": "object",
        "properties": { name: { "type": "string", "description": description } },
        "required": [name],
    })
}

fn as_object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => unreachable!("written as an object"),
    }
}

fn local_shell() -> Map<String, Value> {
    as_object(json!({
        "name": "local_shell",
        "description": "Runs a command on the user's computer and returns its output.",
        "parameters": {
            "type": "object",
            "properties": {
                "command": { "type": "array", "items": { "type": "string" }, "description": "The program and its arguments" },
                "working_directory": { "type": "string" },
                "timeout_ms": { "type": "integer" },
            },
            "required": ["command"],
        },
    }))
}

fn shell() -> Map<String, Value> {
    as_object(json!({
        "name": "shell",
        "description": "Runs commands in a shell and returns their output.",
        "parameters": {
            "type": "object",
            "properties": {
                "commands": { "type": "array", "items": { "type": "string" }, "description": "The commands, run one after another" },
                "timeout_ms": { "type": "integer" },
                "max_output_length": { "type": "integer", "description": "The most characters of output to return" },
            },
            "required": ["commands"],
        },
    }))
}

fn apply_patch() -> Map<String, Value> {
    as_object(json!({
        "name": "apply_patch",
        "description": "Creates, changes or deletes a file.",
        "parameters": {
            "type": "object",
            "properties": {
                "type": { "type": "string", "enum": ["create_file", "update_file", "delete_file"] },
                "path": { "type": "string", "description": "The file" },
                "diff": {
                    "type": "string",
                    "description": "What to change, as a diff in the V4A format: lines that begin with `+` are added, with `-` \
                                    removed, with a space kept; `@@` begins a section",
                },
            },
            "required": ["type", "path"],
        },
    }))
}

/// What the model called a tool with, out of the action that it became: without what the action says besides.
pub(super) fn shell_arguments(action: &Value) -> Value {
    let Value::Object(action) = action else { return action.clone() };
    let says = |name: &str, value: &Value| {
        name != "type" && !value.is_null() && value.as_object().is_none_or(|members| !members.is_empty())
    };
    let said = action.iter().filter(|(name, value)| says(name, value));
    Value::Object(said.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The action of a call of a shell.
fn shell_action(arguments: &str) -> Value {
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    let commands = match &arguments["commands"] {
        Value::Array(lines) => json!(lines),
        Value::String(line) => json!([line]),
        _ => json!([]),
    };
    json!({
        "commands": commands,
        "timeout_ms": arguments["timeout_ms"],
        "max_output_length": arguments["max_output_length"],
    })
}

/// What a call does to a file. One that has not come yet, or that cannot be read, is of no file.
fn operation(arguments: &str) -> Value {
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    let text = |name: &str| arguments[name].as_str().unwrap_or_default();
    match text("type") {
        "delete_file" => json!({ "type": "delete_file", "path": text("path") }),
        "create_file" => json!({ "type": "create_file", "path": text("path"), "diff": text("diff") }),
        _ => json!({ "type": "update_file", "path": text("path"), "diff": text("diff") }),
    }
}

/// The action of a call of the local shell.
fn local_shell_action(arguments: &str) -> Value {
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    let command = match &arguments["command"] {
        Value::Array(words) => json!(words),
        Value::String(line) => json!(["bash", "-lc", line]),
        _ => json!([]),
    };
    json!({
        "type": "exec",
        "command": command,
        "env": {},
        "working_directory": arguments["working_directory"],
        "timeout_ms": arguments["timeout_ms"],
        "user": null,
    })
}
