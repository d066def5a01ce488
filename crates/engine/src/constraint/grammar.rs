//! From rules to a grammar that can be followed.

use super::calls::Block;
use super::{
    Begin, Calls, Compiled, Constraint, ConstraintError, Input, MAX_REGEX, MAX_RULES, Rules, Shape, gbnf,
};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;
use text::{Marker, Tokenizer};

/// Space between two elements of JSON. A model that cannot decide what to say next likes to write more and
/// more of it: this much is enough for any sensible indentation.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,80}";

/// The name of the content's grammar, where it is one of several.
const CONTENT: &str = "content";

/// The most tools with a grammar for their text.
const MAX_INPUTS: usize = 16;

/// Grammars that refer to each other by name; the first is where the reply begins.
pub(super) struct Grammars {
    parts: Vec<Part>,
    /// Those of texts that tools take, once more, each alone: what is said before its text, and it.
    inputs: Vec<(String, String, Part)>,
}

/// One grammar, and what to call it in an error.
struct Part {
    what: String,
    grammar: GrammarWithLexer,
}

impl Grammars {
    /// The grammar of rules, and where it begins; `None` if they allow everything.
    pub(super) fn new(
        rules: &Rules,
        tokenizer: &Tokenizer,
    ) -> Result<Option<(Self, Begin)>, ConstraintError> {
        check_size(rules)?;
        let tools = match &rules.calls {
            Calls::Named(name) => {
                let named: Vec<_> = rules.tools.iter().filter(|tool| tool.name == *name).cloned().collect();
                if named.is_empty() {
                    return Err(ConstraintError::UnknownTool(name.clone()));
                }
                named
            }
            Calls::Required if rules.tools.is_empty() => return Err(ConstraintError::NoTools),
            Calls::Auto | Calls::Required => rules.tools.clone(),
        };
        let content = rules.content.as_ref().filter(|_| rules.calls == Calls::Auto);
        // A model that calls as it likes may also call what was not declared.
        let any = rules.calls == Calls::Auto && !tools.iter().any(|tool| tool.is_strict());
        let in_block = match content {
            None if any && (tools.is_empty() || !rules.single_call) => return Ok(None),
            Some(shape) if tools.is_empty() => {
                let grammars = Grammars { parts: vec![content_part(shape)?], inputs: Vec::new() };
                return Ok(Some((grammars, Begin::Content)));
            }
            content => content,
        };
        let dsml = tokenizer.marker_id(Marker::Dsml).ok_or(ConstraintError::NoMarker(Marker::Dsml))?;
        let block = match in_block {
            None if any => Block::one(dsml),
            _ => Block::new(&tools, rules.single_call, dsml)?,
        };
        let start =
            if in_block.is_some() { format!("start: @{CONTENT} | block") } else { "start: block".into() };
        let mut parts = vec![Part {
            what: "tools".into(),
            grammar: GrammarWithLexer::from_lark(format!("{start}\n{}", block.lark)),
        }];
        if let Some(shape) = in_block {
            parts.push(named(content_part(shape)?, CONTENT));
        }
        for (name, tool, schema) in block.schemas {
            let what = format!("tool {tool:?}");
            parts.push(named(Part { what, grammar: json_grammar(schema, true) }, &name));
        }
        let mut inputs = Vec::new();
        for input in block.inputs {
            let what = format!("tool {:?}", input.tool);
            let part = content_part(&input.shape).map_err(|error| error.of(&what))?;
            parts.push(named(Part { what: what.clone(), grammar: part.grammar.clone() }, &input.name));
            let tool = format!("invoke name=\"{}\">", input.tool);
            inputs.push((tool, input.head, Part { what, ..part }));
        }
        let begin = match (in_block, &rules.calls) {
            (None, Calls::Auto) => Begin::Block,
            _ => Begin::Content,
        };
        Ok(Some((Grammars { parts, inputs }, begin)))
    }

    /// What tells these grammars from others.
    pub(super) fn hash(&self, begin: Begin) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        hash.update(&[begin as u8]);
        for part in &self.parts {
            let GrammarWithLexer { name, json_schema, lark_grammar } = &part.grammar;
            let json = json_schema.as_ref().map(Value::to_string);
            for field in [name, &json, lark_grammar] {
                let field = field.as_deref().unwrap_or_default();
                hash.update(&(field.len() as u64).to_le_bytes()).update(field.as_bytes());
            }
        }
        hash.finalize().into()
    }

    pub(super) fn compile(
        self,
        factory: Arc<ParserFactory>,
        begin: Begin,
    ) -> Result<Constraint, ConstraintError> {
        let what = match &self.parts[..] {
            [only] => only.what.clone(),
            _ => "the rules".to_owned(),
        };
        let compile = |what: String, grammars: Vec<GrammarWithLexer>| {
            let grammar = TopLevelGrammar { grammars, max_tokens: None };
            on_a_thread(factory.clone(), grammar)
                .map_err(|error| ConstraintError::Invalid { what, why: short(&error) })
        };
        let mut inputs = Vec::new();
        for (tool, head, Part { what, grammar }) in self.inputs {
            let (matcher, _) = compile(what, vec![grammar])?;
            inputs.push(Input { tool, head, matcher });
        }
        let (matcher, warnings) = compile(what, self.parts.into_iter().map(|part| part.grammar).collect())?;
        Ok(Constraint(Arc::new(Compiled { matcher, begin, warnings, inputs })))
    }
}

/// Compiles a grammar, and looks whether anything fulfils it: the first step finds that out.
fn matcher(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<(Matcher, Vec<String>), String> {
    let mut matcher = Matcher::new(factory.create_parser(grammar));
    if let Some(error) = matcher.get_error() {
        return Err(error);
    }
    match matcher.deep_clone().compute_mask_or_eos() {
        Ok(_) => Ok((matcher.clone(), matcher.grammar_warnings())),
        Err(error) if error.to_string().starts_with("NoExtension") => Err("nothing fulfils it".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The grammar engine's compiler calls itself for rules inside rules, and nobody knows how many there are.
const STACK: usize = 256 << 20; // only what is used is ever really there

/// How long to wait for rules to be compiled. Large schemas of real APIs take a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(10);

fn on_a_thread(
    factory: Arc<ParserFactory>,
    grammar: TopLevelGrammar,
) -> Result<(Matcher, Vec<String>), String> {
    let (send, receive) = sync_channel(1);
    let work = move || drop(send.send(matcher(&factory, grammar)));
    let thread = std::thread::Builder::new().name("constraint".into()).stack_size(STACK).spawn(work);
    thread.map_err(|error| format!("no thread to compile it: {error}"))?;
    receive.recv_timeout(PATIENCE).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(format!("too involved: not compiled after {PATIENCE:?}")),
        RecvTimeoutError::Disconnected => Err("the grammar engine gave up on it".into()),
    })
}

/// The first lines of a message of the grammar engine, which may go on with the whole grammar.
pub(super) fn short(message: &str) -> String {
    let lines = message.lines().take_while(|line| !line.starts_with('<'));
    let text = lines.take(6).collect::<Vec<_>>().join("\n");
    let end = text.char_indices().nth(500).map_or(text.len(), |(at, _)| at);
    text[..end].trim_end().to_owned()
}

fn check_size(rules: &Rules) -> Result<(), ConstraintError> {
    let check = |what, found, most| match found > most {
        true => Err(ConstraintError::TooLarge { what, found, most }),
        false => Ok(()),
    };
    for shape in rules.content.iter().chain(rules.tools.iter().filter_map(|tool| tool.input.as_ref())) {
        match shape {
            Shape::JsonObject => {}
            Shape::JsonSchema { schema, .. } => {
                check("the JSON schema", schema.to_string().len(), MAX_RULES)?;
                check("a pattern in the JSON schema", longest_pattern(schema), MAX_REGEX)?;
            }
            Shape::Regex(regex) => check("the regular expression", regex.len(), MAX_REGEX)?,
            Shape::Lark(grammar) | Shape::Gbnf(grammar) => {
                check("the grammar", grammar.len(), MAX_RULES / 4)?
            }
            Shape::Choice(texts) => {
                check("the choice", texts.iter().map(|text| text.len() + 8).sum(), MAX_RULES)?;
            }
        }
    }
    if rules.tools.iter().filter(|tool| tool.input.is_some()).count() > MAX_INPUTS {
        let why = format!("more than {MAX_INPUTS} have a grammar for their text");
        return Err(ConstraintError::Invalid { what: "tools".into(), why });
    }
    let schemas = || rules.tools.iter().map(|tool| &tool.parameters);
    check("all tools together", schemas().map(|schema| schema.to_string().len()).sum(), 4 * MAX_RULES)?;
    check("a pattern in a tool's schema", schemas().map(longest_pattern).max().unwrap_or(0), MAX_REGEX)
}

/// The length of the longest `pattern`, or name in `patternProperties`, anywhere in a schema.
fn longest_pattern(schema: &Value) -> usize {
    match schema {
        Value::Array(items) => items.iter().map(longest_pattern).max().unwrap_or(0),
        Value::Object(members) => {
            let own = |(key, value): (&String, &Value)| match (key.as_str(), value) {
                ("pattern", Value::String(pattern)) => pattern.len(),
                ("patternProperties", Value::Object(patterns)) => {
                    let longest = patterns.keys().map(String::len).max().unwrap_or(0);
                    longest.max(longest_pattern(value))
                }
                _ => longest_pattern(value),
            };
            members.iter().map(own).max().unwrap_or(0)
        }
        _ => 0,
    }
}

fn named(mut part: Part, name: &str) -> Part {
    part.grammar.name = Some(name.to_owned());
    part
}

fn content_part(shape: &Shape) -> Result<Part, ConstraintError> {
    let (what, grammar) = match shape {
        Shape::JsonObject => ("JSON object", json_grammar(json!({"type": "object"}), true)),
        Shape::JsonSchema { schema, strict } => ("JSON schema", json_grammar(schema.clone(), *strict)),
        Shape::Regex(regex) => ("regular expression", GrammarWithLexer::from_regex(regex)),
        Shape::Lark(grammar) => ("grammar", GrammarWithLexer::from_lark(grammar.clone())),
        Shape::Gbnf(grammar) => {
            let lark = gbnf::to_lark(grammar);
            let lark = lark.map_err(|why| ConstraintError::Invalid { what: "GBNF grammar".into(), why })?;
            ("GBNF grammar", GrammarWithLexer::from_lark(lark))
        }
        Shape::Choice(texts) if texts.is_empty() => {
            let why = "there is nothing to choose from".into();
            return Err(ConstraintError::Invalid { what: "choice".into(), why });
        }
        Shape::Choice(texts) => {
            let texts: Vec<_> = texts.iter().map(|text| literal(text)).collect();
            ("choice", GrammarWithLexer::from_lark(format!("start: {}", texts.join(" | "))))
        }
    };
    Ok(Part { what: what.to_owned(), grammar })
}

/// A grammar of JSON that a schema describes.
fn json_grammar(schema: Value, strict: bool) -> GrammarWithLexer {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        schema => schema,
    };
    if let Value::Object(members) = &mut schema {
        members.insert(
            "x-guidance".into(),
            json!({"whitespace_pattern": JSON_SPACE, "lenient": !strict, "coerce_one_of": !strict}),
        );
    }
    GrammarWithLexer::from_json_schema(schema)
}

/// Text as a string of the Lark syntax, which is that of JSON but for one character.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
