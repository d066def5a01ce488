//! How tools look in a prompt: their definitions, and calls that were made.
//!
//! Source: `encoding_dsv4.py` of the V4 checkpoints, whose text this is.

use serde_json::{Map, Value};

use super::message::{Tool, ToolCall};
use super::render::RenderError;
use crate::Marker::{Dsml, ThinkClose, ThinkOpen};
use crate::Prompt;
use crate::json::{to_json, write_object};

const BEFORE_SCHEMAS: &str = r#"## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

"#;

const AFTER_SCHEMAS: &str =
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

/// What comes before the first call of a turn, separator included.
pub(crate) fn open_block(prompt: &mut Prompt) {
    prompt.template("\n\n<｜DSML｜tool_calls>\n", &[Dsml]);
}

/// The block that explains tools to the model: each schema on its own line.
pub(crate) fn define(tools: &[Tool], prompt: &mut Prompt) {
    prompt.template(BEFORE_SCHEMAS, &[Dsml, ThinkOpen, ThinkClose]);
    let mut schemas = String::new();
    for (at, tool) in tools.iter().enumerate() {
        schemas.push_str(if at > 0 { "\n" } else { "" });
        write_object(&tool.function, &mut schemas);
    }
    prompt.text(&schemas);
    prompt.text(AFTER_SCHEMAS);
}

/// The calls of one turn, separator included.
pub(crate) fn call(calls: &[ToolCall], prompt: &mut Prompt) -> Result<(), RenderError> {
    open_block(prompt);
    for call in calls {
        prompt.template("<｜DSML｜invoke name=\"", &[Dsml]);
        prompt.text(&call.name);
        prompt.text("\">\n");
        push_parameters(&arguments(call)?, prompt);
        prompt.template("\n</｜DSML｜invoke>\n", &[Dsml]);
    }
    prompt.template("</｜DSML｜tool_calls>", &[Dsml]);
    Ok(())
}

/// The arguments by name. What is not JSON is passed on as it is, under the name `arguments`.
fn arguments(call: &ToolCall) -> Result<Map<String, Value>, RenderError> {
    match serde_json::from_str(&call.arguments) {
        Ok(Value::Object(arguments)) => Ok(arguments),
        Ok(_) => Err(RenderError::Arguments { tool: call.name.clone() }),
        Err(_) => Ok(Map::from_iter([("arguments".to_owned(), Value::String(call.arguments.clone()))])),
    }
}

/// Nothing is escaped: strings are written raw, all else as JSON.
fn push_parameters(arguments: &Map<String, Value>, prompt: &mut Prompt) {
    for (at, (name, value)) in arguments.iter().enumerate() {
        prompt.text(if at > 0 { "\n" } else { "" });
        prompt.template("<｜DSML｜parameter name=\"", &[Dsml]);
        prompt.text(name);
        match value {
            Value::String(text) => {
                prompt.text("\" string=\"true\">");
                prompt.text(text);
            }
            other => {
                prompt.text("\" string=\"false\">");
                prompt.text(&to_json(other));
            }
        }
        prompt.template("</｜DSML｜parameter>", &[Dsml]);
    }
}
