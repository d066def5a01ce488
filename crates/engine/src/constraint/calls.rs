//! The grammar of a block of tool calls, in the model's markup.
//!
//! ```text
//! block     = LF LF "<" M "tool_calls>" LF invoke+ "</" M "tool_calls>"
//! invoke    = "<" M "invoke name=" DQ tool DQ ">" LF (LF | parameter*) "</" M "invoke>" LF
//! parameter = "<" M "parameter name=" DQ name DQ " string=" DQ ("true" | "false") DQ ">" value "</" M "parameter>" LF
//! M         = the control token ｜DSML｜
//! ```
//!
//! A text value is raw: it ends where `</` is followed by the control token, so any text can be one. A text
//! of a tool with a grammar for it ([`Tool::input`](super::Tool)) is one of that grammar. A text
//! with a `pattern` or `format` is written as JSON instead (`string="false"` and quotes), where the grammar
//! engine knows these keywords; both spellings give the same arguments.

use super::grammar::literal;
use super::{ConstraintError, Shape, Tool};
use serde_json::{Map, Value};
use std::fmt::Write;

/// The grammar of a block: rules in Lark syntax, and JSON schemas that they refer to by name.
pub(super) struct Block {
    pub(super) lark: String,
    /// Name, tool, schema.
    pub(super) schemas: Vec<(String, String, Value)>,
    /// Texts that tools take.
    pub(super) inputs: Vec<TextInput>,
}

/// The text that a tool takes.
pub(super) struct TextInput {
    /// The name of its grammar.
    pub(super) name: String,
    /// The tool.
    pub(super) tool: String,
    /// What is said before it after the control token of its parameter.
    pub(super) head: String,
    pub(super) shape: Shape,
}

/// Keywords that only the JSON spelling of a text can follow.
const JSON_ONLY: [&str; 2] = ["pattern", "format"];

/// Where a schema keeps what its references point to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

impl Block {
    /// Calls of these tools, with parameters as declared.
    ///
    /// - `dsml`: the control token of the markup
    pub(super) fn new(tools: &[Tool], single: bool, dsml: u32) -> Result<Block, ConstraintError> {
        let mut block = Block::of(if single { "invoke" } else { "invoke+" }, dsml);
        let calls: Vec<_> = (0..tools.len()).map(|nth| format!("call_{nth}")).collect();
        block.rule("invoke", format!(r#""<" dsml ({}) "</" dsml "invoke>\n""#, calls.join(" | ")));
        for (nth, tool) in tools.iter().enumerate() {
            block.call(nth, tool)?;
        }
        Ok(block)
    }

    /// One call, of any name and with any parameters: for a model that calls what it likes, but one at a time.
    pub(super) fn one(dsml: u32) -> Block {
        let mut block = Block::of("invoke", dsml);
        let body = r#""<" dsml "invoke name=\"" NAME "\">\n" ("\n" | any_parameter+) "</" dsml "invoke>\n""#;
        block.rule("invoke", body.into());
        block.any_parameter("any");
        block
    }

    fn of(invokes: &str, dsml: u32) -> Block {
        let mut block = Block { lark: String::new(), schemas: Vec::new(), inputs: Vec::new() };
        block.rule("block", format!(r#""\n\n<" dsml "tool_calls>\n" {invokes} "</" dsml "tool_calls>""#));
        block.rule("dsml", format!("<[{dsml}]>"));
        block.rule("TEXT", r"/(.|\n)*<\//".into());
        block
    }

    fn rule(&mut self, name: &str, body: String) {
        writeln!(self.lark, "{name}: {body}").expect("a string takes everything");
    }

    fn call(&mut self, nth: usize, tool: &Tool) -> Result<(), ConstraintError> {
        let invalid = |why: String| ConstraintError::Invalid { what: format!("tool {:?}", tool.name), why };
        if tool.name.is_empty() || tool.name.contains(['"', '\n', '<']) {
            return Err(invalid("its name cannot be written in the markup of calls".into()));
        }
        let schema = parameters(&tool.parameters).map_err(invalid)?;
        let head = literal(&format!("invoke name=\"{}\">\n", tool.name));
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        if let Some(name) = properties.keys().find(|name| name.contains(['"', '\n', '<'])) {
            return Err(invalid(format!("parameter {name:?} cannot be written in the markup of calls")));
        }
        if let Some(shape) = &tool.input {
            let mut names = properties.keys();
            let (Some(name), None) = (names.next(), names.next()) else {
                return Err(invalid("a tool that takes plain text has one parameter".into()));
            };
            self.rule(&format!("call_{nth}"), format!("{head} p_{nth}"));
            self.input(nth, name, shape, tool);
            return Ok(());
        }
        let open = !matches!(schema.get("additionalProperties"), Some(Value::Bool(false)));
        if properties.is_empty() {
            let any = if open && !tool.parameters.is_null() { r#" | any_parameter+"# } else { "" };
            self.rule(&format!("call_{nth}"), format!(r#"{head} ("\n"{any})"#));
            if !any.is_empty() {
                self.any_parameter(&tool.name);
            }
            return Ok(());
        }
        for (at, (name, property)) in properties.iter().enumerate() {
            let values = values(property);
            self.parameter(&format!("p_{nth}_{at}"), name, values, tool);
        }
        let p = |at: usize| format!("p_{nth}_{at}");
        if !tool.strict {
            let each: Vec<_> = (0..properties.len()).map(p).collect();
            self.rule(&format!("call_{nth}"), format!(r#"{head} ("\n" | ({})+)"#, each.join(" | ")));
            return Ok(());
        }
        let required = required(schema, properties).map_err(invalid)?;
        // In the schema's order, in one line: rules inside rules cost the grammar engine stack.
        let each = (0..properties.len()).map(|at| p(at) + if required[at] { "" } else { "?" });
        let each = each.collect::<Vec<_>>().join(" ");
        let none = if required.contains(&true) { "" } else { r#""\n" | "# };
        self.rule(&format!("call_{nth}"), format!("{head} ({none}{each})"));
        Ok(())
    }

    /// A rule for one parameter of a tool.
    fn parameter(&mut self, rule: &str, name: &str, values: Values, tool: &Tool) {
        let start = |text: bool| literal(&format!("parameter name=\"{name}\" string=\"{text}\">"));
        let mut ways = Vec::new();
        if let Some(text) =
            values.text.filter(|_| tool.strict).or((!tool.strict && values.may_be_text).then_some(Text::Any))
        {
            let value = match text {
                Text::Any => "TEXT".into(),
                Text::OneOf(texts) => {
                    let texts: Vec<_> = texts.iter().map(|text| literal(&format!("{text}</"))).collect();
                    format!("({})", texts.join(" | "))
                }
                Text::Length { least, most } => {
                    let token = rule.to_uppercase();
                    let most = most.map_or(String::new(), |most| most.to_string());
                    self.rule(&token, format!(r"/(.|\n){{{least},{most}}}<\//"));
                    token
                }
            };
            ways.push(format!("{} {value}", start(true)));
        }
        if let Some(json) = values.json {
            let json = if tool.strict { with_definitions(json, &tool.parameters) } else { Value::Bool(true) };
            self.schemas.push((rule.to_owned(), tool.name.clone(), json));
            ways.push(format!(r#"{} @{rule} "</""#, start(false)));
        }
        self.rule(rule, format!(r#""<" dsml ({}) dsml "parameter>\n""#, ways.join(" | ")));
    }

    /// A rule for the text that a tool takes. `</` may be left out of it here, since the text's grammar may have taken it
    /// as its own; see [`super::Input`].
    fn input(&mut self, nth: usize, name: &str, shape: &Shape, tool: &Tool) {
        let head = format!("parameter name=\"{name}\" string=\"true\">");
        let rule = format!(r#""<" dsml {} @input_{nth} "</"? dsml "parameter>\n""#, literal(&head));
        self.rule(&format!("p_{nth}"), rule);
        let (name, tool) = (format!("input_{nth}"), tool.name.clone());
        self.inputs.push(TextInput { name, tool, head, shape: shape.clone() });
    }

    /// A rule for a parameter of which nothing is known.
    fn any_parameter(&mut self, tool: &str) {
        if self.lark.contains("\nany_parameter:") {
            return;
        }
        self.rule(
            "any_parameter",
            r#""<" dsml "parameter name=\"" NAME "\" string=\"" ("true\">" TEXT | "false\">" @any "</") dsml "parameter>\n""#.into(),
        );
        self.rule("NAME", r#"/[^"<\n]+/"#.into());
        self.schemas.push(("any".into(), tool.to_owned(), Value::Bool(true)));
    }
}

/// The schema of a tool's parameters, as an object.
fn parameters(schema: &Value) -> Result<&Map<String, Value>, String> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    let members = match schema {
        Value::Null => return Ok(&NONE),
        Value::Object(members) => members,
        _ => return Err("its parameters are not a JSON schema, which is an object".into()),
    };
    match members.get("$ref").and_then(Value::as_str) {
        // Pydantic and others write the object itself under the definitions.
        Some(reference) => {
            let target = reference.strip_prefix('#').and_then(|pointer| schema.pointer(pointer));
            let target = target.and_then(Value::as_object).filter(|target| !target.contains_key("$ref"));
            target.ok_or_else(|| format!("{reference:?} refers to nothing in the schema of its parameters"))
        }
        None => match members.get("type") {
            None => Ok(members),
            Some(kind) if kind == "object" => Ok(members),
            Some(kind) => Err(format!("its parameters have type {kind}, needed \"object\"")),
        },
    }
}

/// Which of the properties have to be there.
fn required(schema: &Map<String, Value>, properties: &Map<String, Value>) -> Result<Vec<bool>, String> {
    let names: Vec<&str> = match schema.get("required") {
        None => Vec::new(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err("\"required\" is not a list".into()),
    };
    match names.iter().find(|name| !properties.contains_key(**name)) {
        Some(name) => Err(format!("parameter {name:?} is required, but not described")),
        None => Ok(properties.keys().map(|name| names.contains(&&**name)).collect()),
    }
}

/// How the values of a parameter may be spelled; at least one way is there.
#[derive(Debug, PartialEq)]
struct Values {
    /// As raw text.
    text: Option<Text>,
    /// Whether some value is text, however it is spelled.
    may_be_text: bool,
    /// As JSON of this schema.
    json: Option<Value>,
}

/// Raw text.
#[derive(Debug, PartialEq)]
enum Text {
    Any,
    OneOf(Vec<String>),
    Length { least: u64, most: Option<u64> },
}

/// Tells text from other values in a parameter's schema.
fn values(schema: &Value) -> Values {
    let as_json = |may_be_text| Values { text: None, may_be_text, json: Some(schema.clone()) };
    let as_text = |text| Values { text: Some(text), may_be_text: true, json: None };
    let either = |text| Values { text: Some(text), may_be_text: true, json: Some(schema.clone()) };
    let Value::Object(members) = schema else {
        return if schema == &Value::Bool(true) { either(Text::Any) } else { as_json(false) };
    };
    let listed = match (members.get("enum"), members.get("const")) {
        (Some(Value::Array(values)), _) => Some(values.clone()),
        (_, Some(value)) => Some(vec![value.clone()]),
        _ => None,
    };
    if let Some(values) = listed {
        let texts: Vec<_> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        return match texts.len() {
            0 => as_json(false),
            n if n == values.len() => as_text(Text::OneOf(texts)),
            _ => either(Text::OneOf(texts)),
        };
    }
    if members.contains_key("$ref")
        || ["anyOf", "oneOf", "allOf"].iter().any(|key| members.contains_key(*key))
    {
        return combined(schema, members);
    }
    let kinds: Vec<&str> = match members.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => vec!["string", "anything else"],
    };
    if !kinds.contains(&"string") {
        return as_json(false);
    }
    if JSON_ONLY.iter().any(|key| members.contains_key(*key)) {
        return as_json(true);
    }
    let length = |key| members.get(key).and_then(Value::as_u64);
    let text = match (length("minLength"), length("maxLength")) {
        (None, None) => Text::Any,
        (least, most) => Text::Length { least: least.unwrap_or(0), most },
    };
    if kinds.len() == 1 { as_text(text) } else { either(text) }
}

/// Alternatives: text if one of them is plain text, and JSON of the whole. What is hidden behind references
/// is spelled as JSON.
fn combined(schema: &Value, members: &Map<String, Value>) -> Values {
    let ways = ["anyOf", "oneOf"].iter().find_map(|key| members.get(*key)).and_then(Value::as_array);
    let mut text = None;
    for way in ways.into_iter().flatten() {
        let found = values(way);
        text = text.or(found.text);
    }
    let may_be_text = text.is_some() || ways.is_none();
    Values { text, may_be_text, json: Some(schema.clone()) }
}

/// A part of a schema, with what its references may point to.
fn with_definitions(part: Value, whole: &Value) -> Value {
    let Value::Object(mut members) = part else { return part };
    for key in DEFINITIONS {
        if let (Some(definitions), false) = (whole.get(key), members.contains_key(key)) {
            members.insert(key.to_owned(), definitions.clone());
        }
    }
    Value::Object(members)
}
