//! `--schema` and its relatives: what the answer must look like.

use anyhow::{Context, bail};
use clap::Args;
use engine::constraint::{Rules, Shape};
use engine::{Constraint, Constraints};
use serde_json::Value;
use std::path::{Path, PathBuf};
use text::chat::Tool;

/// What the answer must look like. It is enforced token by token, so it holds whatever the model would rather say;
/// an answer that is cut off may be unfinished.
#[derive(Args)]
#[command(next_help_heading = "Form of the answer")]
#[group(multiple = false)]
pub struct ShapeArgs {
    /// The answer is JSON that this JSON schema describes: a file, or the schema itself. Reasoning is free, and so are
    /// calls of tools
    #[arg(long, value_name = "FILE|JSON")]
    schema: Option<String>,
    /// The answer is text that this regular expression matches, all of it
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
    /// The answer is text of the grammar in this file, in GBNF or llguidance's variant of Lark
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl ShapeArgs {
    /// Reads what was asked for; `None` if anything may be said.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or is not what it should be.
    pub fn shape(&self) -> anyhow::Result<Option<Shape>> {
        if let Some(schema) = &self.schema {
            let schema = schema_of(schema)?;
            return Ok(Some(Shape::JsonSchema { schema, strict: true }));
        }
        if let Some(regex) = &self.regex {
            return Ok(Some(Shape::Regex(regex.clone())));
        }
        let Some(path) = &self.grammar else { return Ok(None) };
        let grammar = std::fs::read_to_string(path);
        let grammar = grammar.with_context(|| format!("reading the grammar from {}", path.display()))?;
        Ok(Some(Shape::grammar(grammar)))
    }
}

/// A schema, written on the command line or in a file.
fn schema_of(text: &str) -> anyhow::Result<Value> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).context("--schema: this is not JSON");
    }
    let path = Path::new(text);
    let json = std::fs::read_to_string(path);
    let json = json.with_context(|| format!("reading the JSON schema from {}", path.display()))?;
    let schema = serde_json::from_str(&json).with_context(|| format!("{} is not JSON", path.display()))?;
    match schema {
        Value::Object(_) => Ok(schema),
        _ => bail!("{} is not a JSON schema, which is an object", path.display()),
    }
}

/// Makes the rules of a conversation's replies: the shape of the content, and the schemas of strict tools. `None` if
/// anything may be said.
///
/// # Errors
///
/// If they cannot be enforced.
pub fn constraint(
    constraints: &Constraints,
    shape: Option<Shape>,
    tools: &[Tool],
) -> anyhow::Result<Option<Constraint>> {
    let tools = tools.iter().map(|tool| engine::constraint::Tool {
        name: tool.name().to_owned(),
        parameters: tool.function.get("parameters").cloned().unwrap_or_default(),
        strict: tool.function.get("strict") == Some(&Value::Bool(true)),
        input: None,
    });
    let rules = Rules { content: shape, tools: tools.collect(), ..Rules::default() };
    let constraint = constraints.build(&rules).context("the answer cannot be held to what was asked for")?;
    for warning in constraint.iter().flat_map(Constraint::warnings) {
        eprintln!("warning: {warning}");
    }
    Ok(constraint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_written_out_or_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, r#"{"type": "object"}"#).unwrap();
        let want = serde_json::json!({"type": "object"});
        assert_eq!(schema_of(path).unwrap(), want);
        assert_eq!(schema_of(r#" {"type": "object"}"#).unwrap(), want);
        let error = |text: &str| crate::story(&schema_of(text).unwrap_err());
        assert!(error("{\"type\": ").starts_with("--schema: this is not JSON: "));
        assert!(error("no-such.json").starts_with("reading the JSON schema from no-such.json: "));
        std::fs::write(path, "[]").unwrap();
        assert_eq!(error(path), format!("{path} is not a JSON schema, which is an object"));
        std::fs::write(path, "type: object").unwrap();
        assert!(error(path).starts_with(&format!("{path} is not JSON: ")));
    }
}
