//! What a reply must look like: JSON, a schema, a tool call. The engine enforces it token by token; here the ways
//! of saying it are read.

use crate::App;
use crate::error::{ApiError, Fault};
use crate::fields::Fields;
use engine::constraint::{Calls, Rules, Shape, Tool};
use engine::{Constraint, ConstraintError};
use serde_json::Value;
use text::chat::request::{ChatRequest, ResponseFormat, ToolChoice};

/// What the content must look like, and the field that says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Form {
    /// The shape; `None` for any.
    pub shape: Option<Shape>,
    /// The field.
    pub field: &'static str,
    /// What the text must look like that a tool takes, by the tool's name.
    pub inputs: Vec<(String, Shape)>,
}

impl Form {
    /// Reads the API's own format, which stands in `field`, and the extensions of other servers: at most one of them
    /// may ask for something.
    ///
    /// # Errors
    ///
    /// If one is of a wrong type, or there are two.
    pub fn read(fields: &Fields<'_>, format: Option<&Value>, field: &'static str) -> Result<Form, ApiError> {
        let own = match format.filter(|format| !format.is_null()) {
            Some(format) => Form::of_format(format, field)?,
            None => Form::default(),
        };
        let other = Form::of_extensions(fields)?;
        match (&own.shape, &other.shape) {
            (_, None) => Ok(own),
            (None, Some(_)) => Ok(other),
            (Some(_), Some(_)) => Err(ApiError::invalid(other.field, "more than one shape is asked for")),
        }
    }

    /// Reads a format object: `{"type": "json_schema", ...}` as chat completions nest it, Responses and Messages
    /// write it flat.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn of_format(format: &Value, field: &'static str) -> Result<Form, ApiError> {
        let shape = match format["type"].as_str() {
            None => return Err(ApiError::missing(&format!("{field}.type"))),
            Some("text") => None,
            Some("json_object") => Some(Shape::JsonObject),
            Some("json_schema") => {
                let inner =
                    format.get("json_schema").filter(|inner| inner.get("schema").is_some()).unwrap_or(format);
                let schema = inner.get("schema").filter(|schema| !schema.is_null());
                let schema =
                    schema.ok_or_else(|| ApiError::missing(&format!("{field}.json_schema.schema")))?;
                let strict = inner["strict"].as_bool().unwrap_or(false);
                Some(Shape::JsonSchema { schema: schema.clone(), strict })
            }
            Some("regex") if format["pattern"].is_string() => {
                Some(Shape::Regex(format["pattern"].as_str().unwrap_or_default().to_owned()))
            }
            Some(_) => {
                let problem = "the types `text`, `json_object` and `json_schema` are known";
                return Err(ApiError::invalid(&format!("{field}.type"), problem));
            }
        };
        Ok(Form { shape, field, inputs: Vec::new() })
    }

    /// Reads the extensions of other servers.
    ///
    /// # Errors
    ///
    /// If one is of a wrong type, or there are two.
    pub fn of_extensions(fields: &Fields<'_>) -> Result<Form, ApiError> {
        let mut forms = Vec::new();
        for (field, read) in EXTENSIONS {
            if let Some(value) = fields.get(field) {
                forms.push(Form { shape: Some(read(value, field)?), field, inputs: Vec::new() });
            }
        }
        if let Some(object) = fields.object("structured_outputs")? {
            let inner = Fields::new(object, "structured_outputs.");
            for (name, field, read) in INNER {
                if let Some(value) = inner.get(name) {
                    forms.push(Form { shape: Some(read(value, field)?), field, inputs: Vec::new() });
                }
            }
        }
        if let [_, second, ..] = &forms[..] {
            return Err(ApiError::invalid(second.field, "more than one shape is asked for"));
        }
        Ok(forms.pop().unwrap_or_default())
    }

    /// Tells the prompt about it, as far as the model was trained on that.
    pub fn declare(&self, chat: &mut ChatRequest) {
        chat.response_format = match &self.shape {
            Some(Shape::JsonSchema { schema, .. }) => ResponseFormat::JsonSchema(schema.clone()),
            Some(Shape::JsonObject) => ResponseFormat::JsonObject,
            _ => ResponseFormat::Text,
        };
    }

    /// What the engine has to enforce for this request. `allowed` are the only tools that may be called.
    ///
    /// # Errors
    ///
    /// If it cannot be enforced.
    pub fn constraint(
        &self,
        app: &App,
        chat: &ChatRequest,
        allowed: Option<&[String]>,
        single_call: bool,
    ) -> Result<Option<Constraint>, ApiError> {
        let calls = match &chat.tool_choice {
            ToolChoice::Auto | ToolChoice::None => Calls::Auto,
            ToolChoice::Required => Calls::Required,
            ToolChoice::Named(name) => Calls::Named(name.clone()),
        };
        let may_call = |name: &str| allowed.is_none_or(|names| names.iter().any(|allowed| allowed == name));
        let tools =
            chat.tools.iter().filter(|tool| chat.tool_choice != ToolChoice::None && may_call(tool.0.name()));
        let tools = tools.map(|tool| Tool {
            name: tool.0.name().to_owned(),
            parameters: tool.0.function.get("parameters").cloned().unwrap_or(Value::Null),
            // Only then are other names impossible where the model may call as it likes.
            strict: allowed.is_some() || tool.0.function.get("strict") == Some(&Value::Bool(true)),
            input: self.inputs.iter().find(|(name, _)| name == tool.0.name()).map(|(_, shape)| shape.clone()),
        });
        let rules = Rules { content: self.shape.clone(), tools: tools.collect(), calls, single_call };
        if rules == Rules::default() {
            return Ok(None);
        }
        let begun = std::time::Instant::now();
        let built = app.loaded()?.constraints().build(&rules);
        app.metrics.constraint_built(begun.elapsed());
        built.map_err(|error| self.refusal(&error))
    }

    fn refusal(&self, error: &ConstraintError) -> ApiError {
        let (fault, field) = match error {
            ConstraintError::UnknownTool(_) | ConstraintError::NoTools => (Fault::Invalid, "tool_choice"),
            ConstraintError::NoMarker(_) => (Fault::Unsupported, "tools"),
            ConstraintError::Invalid { what, .. } if what.starts_with("tool") => (Fault::Schema, "tools"),
            _ if self.shape.is_none() => (Fault::Schema, "tools"),
            _ => (Fault::Schema, self.field),
        };
        ApiError::new(fault, format!("{field}: {error}")).at(field)
    }
}

/// Reads a shape from the value of a field.
type Read = fn(&Value, &'static str) -> Result<Shape, ApiError>;

const EXTENSIONS: [(&str, Read); 8] = [
    ("guided_json", schema),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", grammar),
    ("json_schema", schema),
    ("regex", regex),
    ("choice", choice),
    ("grammar", grammar),
];

const INNER: [(&str, &str, Read); 4] = [
    ("json", "structured_outputs.json", schema),
    ("regex", "structured_outputs.regex", regex),
    ("choice", "structured_outputs.choice", choice),
    ("grammar", "structured_outputs.grammar", grammar),
];

fn schema(value: &Value, field: &'static str) -> Result<Shape, ApiError> {
    let schema = match value {
        Value::String(text) => serde_json::from_str(text).map_err(|error| {
            ApiError::new(Fault::Schema, format!("{field} is not JSON: {error}")).at(field)
        })?,
        schema => schema.clone(),
    };
    Ok(Shape::JsonSchema { schema, strict: false })
}

fn text(value: &Value, field: &'static str) -> Result<String, ApiError> {
    value.as_str().map(str::to_owned).ok_or_else(|| ApiError::invalid(field, "a string was expected"))
}

fn regex(value: &Value, field: &'static str) -> Result<Shape, ApiError> {
    Ok(Shape::Regex(text(value, field)?))
}

fn grammar(value: &Value, field: &'static str) -> Result<Shape, ApiError> {
    Ok(Shape::grammar(text(value, field)?))
}

fn choice(value: &Value, field: &'static str) -> Result<Shape, ApiError> {
    let list = value.as_array().filter(|list| !list.is_empty());
    let texts = list.and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    texts.map(Shape::Choice).ok_or_else(|| ApiError::invalid(field, "a list of strings was expected"))
}
