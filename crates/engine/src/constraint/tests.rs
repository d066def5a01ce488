//! Constraints on a small vocabulary, most of whose tokens are single bytes.

use super::*;
use crate::reading::Form;
use forge::synth::byte_vocab;
use serde_json::json;
use std::time::{Duration, Instant};
use text::ReplyOptions;
use text::reply::Start;

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::new(byte_vocab(512)).unwrap())
}

fn build(rules: &Rules) -> Result<Constraint, ConstraintError> {
    Constraints::new(tokenizer()).build(rules).map(|constraint| constraint.expect("something is constrained"))
}

fn content(shape: Shape) -> Rules {
    Rules { content: Some(shape), ..Rules::default() }
}

fn schema(schema: Value) -> Rules {
    content(Shape::JsonSchema { schema, strict: true })
}

fn tool(name: &str, parameters: Value, strict: bool) -> Tool {
    Tool { name: name.into(), parameters, strict, input: None }
}

fn calls(calls: Calls, tools: &[Tool]) -> Rules {
    Rules { tools: tools.to_vec(), calls, ..Rules::default() }
}

fn chat(start: Start) -> Form {
    Form::Chat(ReplyOptions { start, tools_active: true, ..ReplyOptions::default() })
}

/// How much of a reply the rules let through, and whether it may end there.
fn follow(rules: &Rules, start: Start, reply: &str) -> (String, bool) {
    let tokenizer = tokenizer();
    let mut masking = Masking::new(build(rules).unwrap(), &chat(start), &tokenizer).unwrap();
    let allowed = |masking: &mut Masking| {
        let mut logits = vec![0.0; tokenizer.len()];
        masking.mask(&mut logits, &tokenizer).unwrap();
        move |token: u32| logits[token as usize] == 0.0
    };
    let mut said = Vec::new();
    for token in tokenizer.encode_trusted(reply) {
        if !allowed(&mut masking)(token) {
            return (tokenizer.decode(&said).unwrap(), false);
        }
        said.push(token);
        if masking.accept(token, &tokenizer).unwrap() {
            return (tokenizer.decode(&said).unwrap(), true);
        }
    }
    let may_end = allowed(&mut masking)(tokenizer.eos());
    (tokenizer.decode(&said).unwrap(), may_end)
}

#[track_caller]
fn accepts(rules: &Rules, reply: &str) {
    assert_eq!(follow(rules, Start::Chat, reply), (reply.to_owned(), true));
}

/// The reply gets as far as `to` and not further, and cannot end there.
#[track_caller]
fn stops(rules: &Rules, reply: &str, to: &str) {
    assert_eq!(follow(rules, Start::Chat, reply), (to.to_owned(), false));
}

const DSML: &str = "｜DSML｜";

/// A block of one call, with these parameters.
fn block(name: &str, parameters: &str) -> String {
    let call = format!("<{DSML}invoke name=\"{name}\">\n{parameters}</{DSML}invoke>\n");
    format!("\n\n<{DSML}tool_calls>\n{call}</{DSML}tool_calls>")
}

fn parameter(name: &str, string: bool, value: &str) -> String {
    format!("<{DSML}parameter name=\"{name}\" string=\"{string}\">{value}</{DSML}parameter>\n")
}

#[test]
fn content_follows_a_schema() {
    let rules = schema(json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": false,
    }));
    accepts(&rules, r#"{"name": "Ada \"é\"", "age": 36}"#);
    accepts(&rules, "{\n  \"name\": \"\",\n  \"age\": 0\n}");
    stops(&rules, "Sure! {", "");
    stops(&rules, r#"{"age": 36}"#, r#"{""#);
    stops(&rules, r#"{"name": "Ada", "age": -1}"#, r#"{"name": "Ada", "age": "#);
    stops(&rules, r#"{"name": "Ada"}"#, r#"{"name": "Ada""#);
    stops(&rules, "```json", "");
}

#[test]
fn an_object_is_any_object() {
    let rules = content(Shape::JsonObject);
    accepts(&rules, r#"{"a": [1, null, {"b": -2.5e3}]}"#);
    stops(&rules, "[1]", "");
}

/// Space without end is what a model writes that does not want to write JSON.
#[test]
fn space_inside_json_has_an_end() {
    let spaces = format!("{{{}", " ".repeat(200));
    let (said, _) = follow(&content(Shape::JsonObject), Start::Chat, &spaces);
    assert_eq!(said.len(), 81);
}

#[test]
fn content_follows_a_pattern_a_choice_or_a_grammar() {
    let rules = content(Shape::Regex(r"\d{3}/[a-f]+".into()));
    accepts(&rules, "123/beef");
    stops(&rules, "123-", "123");
    let rules = content(Shape::Choice(vec!["yes".into(), "no\"\u{7f}\n".into()]));
    accepts(&rules, "yes");
    accepts(&rules, "no\"\u{7f}\n");
    stops(&rules, "maybe", "");
    let rules = content(Shape::Lark("start: \"(\" start \")\" | \"x\"".into()));
    accepts(&rules, "((x))");
    stops(&rules, "((x)x", "((x)");
}

/// A control token is never text, however the grammar spells it.
#[test]
fn text_is_never_a_control_token() {
    let rules = content(Shape::Regex(r"(.|\n)*".into()));
    stops(&rules, "a<｜User｜>", "a");
    stops(&rules, "a</think>", "a");
}

#[test]
fn a_required_call_is_all_there_is() {
    let tools = [tool(
        "ls",
        json!({"type": "object", "properties": {"dir": {"type": "string"}, "n": {"type": "integer"}}}),
        false,
    )];
    let rules = calls(Calls::Required, &tools);
    let whole = block("ls", &parameter("dir", true, "/a < b </ \"c\" </x>"));
    accepts(&rules, &whole);
    accepts(&rules, &block("ls", &parameter("n", false, "[1, 2]")));
    accepts(&rules, &block("ls", "\n"));
    stops(&rules, "I would rather not", "");
    let head = format!("\n\n<{DSML}tool_calls>\n<{DSML}invoke name=\"");
    stops(&rules, &block("rm", "\n"), &head);
    // The prompt may have opened the block already.
    let rest = whole.strip_prefix(&format!("\n\n<{DSML}tool_calls>\n")).unwrap();
    assert_eq!(follow(&rules, Start::Block, rest), (rest.to_owned(), true));
    let twice = whole.replace(&format!("</{DSML}tool_calls>"), rest);
    accepts(&rules, &twice);
    let single = Rules { single_call: true, ..rules };
    accepts(&single, &whole);
    let one = &whole[..whole.len() - "tool_calls>".len() - DSML.len() - "</".len()];
    stops(&single, &twice, &format!("{one}<"));
}

/// A tool that takes text of a shape.
fn text_tool(name: &str, shape: Shape) -> Tool {
    let parameters =
        json!({"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]});
    Tool { input: Some(shape), ..tool(name, parameters, false) }
}

/// The grammar of patches that Codex sends.
const PATCH: &str = r#"
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"#;

#[test]
fn the_text_of_a_tool_follows_its_grammar() {
    let patch = "*** Begin Patch\n*** Add File: a</b>.html\n+<p></p>\n+\n*** End Patch";
    let call = |name: &str, text: &str| block(name, &parameter("input", true, text));
    for how in [Calls::Auto, Calls::Required] {
        let rules =
            calls(how, &[text_tool("patch", Shape::Lark(PATCH.into())), tool("other", Value::Null, false)]);
        accepts(&rules, &call("patch", patch));
        accepts(&rules, &call("patch", &format!("{patch}\n")));
        accepts(&rules, &block("other", "\n"));
        let until = |text: &str, to: &str| {
            let all = call("patch", text);
            stops(&rules, &all, &all[..all.find(to).unwrap() + to.len()]);
        };
        until("*** Begin\n", "*** Begin");
        until(&patch.replace("+<p>", "<p>"), ".html\n");
        until(&patch.replace("\n*** End Patch", "\n"), "+\n");
        stops(&rules, &block("patch", "\n"), block("patch", "").split("</").next().unwrap());
    }
}

/// A text may itself have what ends it.
#[test]
fn the_text_of_a_tool_ends_only_where_its_grammar_does() {
    let call = |text: &str| block("f", &parameter("input", true, text));
    let rules = |shape| calls(Calls::Required, &[text_tool("f", shape)]);
    let check = |shape: Shape, yes: &[&str], no: &[&str]| {
        let rules = rules(shape);
        yes.iter().for_each(|text| accepts(&rules, &call(text)));
        for text in no {
            let (said, may_end) = follow(&rules, Start::Chat, &call(text));
            assert!(!may_end && !said.ends_with("parameter>\n"), "{text}");
        }
    };
    check(Shape::Regex(".*".into()), &["", "a", "a</b></", "</"], &["a\nb"]);
    check(Shape::Regex("x</|y</z".into()), &["x</", "y</z"], &["x", "y", "y</"]);
    check(Shape::Lark("start: (\"<\" \"/\" W \">\")* W\nW: /[a-z]+/".into()), &["</a>b"], &["</a>", "</"]);
    check(
        Shape::Gbnf("root ::= \"<\" root* \"</>\"".into()),
        &["<</>", "<<</></>"],
        &["<</></>", "<", "</>"],
    );
    let two = json!({"type": "object", "properties": {"a": {}, "b": {}}});
    let wrong = Tool { parameters: two, ..text_tool("f", Shape::Regex("a".into())) };
    let error = |tool: Tool| build(&calls(Calls::Auto, &[tool])).unwrap_err().to_string();
    assert_eq!(error(wrong), "tool \"f\": a tool that takes plain text has one parameter");
    let wrong = error(text_tool("f", Shape::Gbnf("root ::= x".into())));
    assert_eq!(wrong, "tool \"f\": GBNF grammar: line 1, column 10: there is no rule \"x\"");
    assert!(error(text_tool("f", Shape::Regex("(".into()))).starts_with("tool \"f\": "));
}

/// A model that has no idea writes texts of the grammar, and nothing else.
#[test]
fn whatever_chance_gives_a_tool_is_text_of_its_grammar() {
    let grammar = "root ::= item (\",\" item)*\nitem ::= [0-9]{1,3} | \"(\" root? \")\" | \"</\" [a-c] \">\"";
    let rules =
        Rules { single_call: true, ..calls(Calls::Required, &[text_tool("f", Shape::Gbnf(grammar.into()))]) };
    let (constraint, tokenizer) = (build(&rules).unwrap(), tokenizer());
    let judge = build(&content(Shape::Gbnf(grammar.into()))).unwrap();
    let mut seen = std::collections::HashSet::new();
    for seed in 0..40 {
        let tokens = babble(&constraint, seed, 5000).unwrap();
        let Form::Chat(options) = chat(Start::Chat) else { unreachable!("it is a chat") };
        let mut reader = text::ReplyParser::new(options);
        for token in tokens {
            reader.push_token(token, &tokenizer).unwrap();
        }
        let (_, reply) = reader.finish(text::reply::Finish::Stop);
        assert!(reply.recovered.is_empty(), "{:?}", reply.recovered);
        let arguments: Value = serde_json::from_str(&reply.tool_calls[0].arguments).unwrap();
        let text = arguments["input"].as_str().unwrap();
        let mut matcher = judge.0.matcher.deep_clone();
        let all = matcher.consume_tokens(&tokenizer.encode(text)).is_ok();
        assert!(all && matcher.is_accepting().unwrap(), "{text:?}");
        seen.insert(text.to_owned());
    }
    assert!(seen.len() > 20 && seen.iter().any(|text| text.contains("</")), "{seen:?}");
}

#[test]
fn a_grammar_is_read_in_the_language_that_it_is_in() {
    let is_gbnf = |text: &str| matches!(Shape::grammar(text.to_owned()), Shape::Gbnf(_));
    assert!(is_gbnf("# x\n  root ::= \"a\"") && is_gbnf("root::=x") && is_gbnf("a-b_1\t::="));
    assert!(!is_gbnf("start: \"a ::= b\"") && !is_gbnf("::= a") && !is_gbnf(""));
}

#[test]
fn a_named_call_is_of_that_tool() {
    let tools = [tool("a", Value::Null, false), tool("b", Value::Null, false)];
    let rules = calls(Calls::Named("b".into()), &tools);
    accepts(&rules, &block("b", "\n"));
    stops(&rules, &block("a", "\n"), &format!("\n\n<{DSML}tool_calls>\n<{DSML}invoke name=\""));
    let unknown = build(&calls(Calls::Named("c".into()), &tools)).unwrap_err();
    assert_eq!(unknown.to_string(), "a call of tool \"c\" is required, but it is not declared");
}

#[test]
fn arguments_of_a_strict_tool_follow_its_schema() {
    let parameters = json!({
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "mode": {"type": "string", "enum": ["read", "write"]},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
            "until": {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 3}, {"type": "null"}]},
            "day": {"type": "string", "format": "date"},
        },
        "required": ["path", "lines"],
        "additionalProperties": false,
        "$defs": {"line": {"type": "integer"}},
    });
    let rules = calls(Calls::Required, &[tool("f", parameters, true)]);
    let path = parameter("path", true, "x\ny");
    let lines = parameter("lines", false, "[1, 2]");
    let with = |parameters: &[&str]| block("f", &parameters.concat());
    accepts(&rules, &with(&[&path, &lines]));
    accepts(&rules, &with(&[&path, &parameter("mode", true, "write"), &lines]));
    accepts(&rules, &with(&[&path, &lines, &parameter("until", true, "abc")]));
    accepts(&rules, &with(&[&path, &lines, &parameter("until", false, "null")]));
    accepts(&rules, &with(&[&path, &lines, &parameter("day", false, "\"2026-11-25\"")]));

    let refuses = |parameters: &[&str], at: &str| {
        let (said, done) = follow(&rules, Start::Chat, &with(parameters));
        assert!(said.ends_with(at) && !done, "{said}");
    };
    refuses(&[&lines], "parameter name=\"");
    refuses(&[&path], "\n<"); // not `</`
    refuses(&[&path, &parameter("mode", true, "append")], "string=\"true\">");
    refuses(&[&path, &parameter("mode", false, "1")], "string=\"");
    refuses(&[&path, &parameter("lines", false, "[true]")], "[");
    refuses(&[&path, &lines, &parameter("until", true, "xyz!")], "xyz");
    refuses(&[&path, &lines, &parameter("day", false, "\"today\"")], "\"");
    refuses(&[&path, &lines, &parameter("other", true, "")], "parameter name=\"");
}

#[test]
fn parameters_that_may_all_be_left_out() {
    let parameters = json!({
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}, "c": {"type": "boolean"}},
        "additionalProperties": false,
    });
    let rules = calls(Calls::Required, &[tool("f", parameters, true)]);
    let [a, b, c] = ["a", "b", "c"].map(|name| parameter(name, false, "true"));
    for parameters in ["\n", &a, &b, &c, &format!("{a}{c}"), &format!("{a}{b}{c}")] {
        accepts(&rules, &block("f", parameters));
    }
    let (said, _) = follow(&rules, Start::Chat, &block("f", &format!("{b}{a}")));
    assert!(said.ends_with("parameter name=\""), "{said}");
}

/// Schemas that describe no parameters but allow any, and that have everything behind a reference.
#[test]
fn other_ways_to_describe_parameters() {
    let any = calls(Calls::Required, &[tool("f", json!({"type": "object"}), true)]);
    accepts(&any, &block("f", &parameter("whatever", false, "{\"a\": 1}")));
    accepts(&any, &block("f", &parameter("whatever", true, "text")));
    accepts(&any, &block("f", "\n"));
    let behind = json!({
        "$ref": "#/$defs/Args",
        "$defs": {
            "Args": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}, "required": ["n"]},
            "N": {"type": "integer"},
        },
    });
    let rules = calls(Calls::Required, &[tool("f", behind, true)]);
    accepts(&rules, &block("f", &parameter("n", false, "5")));
    let (said, _) = follow(&rules, Start::Chat, &block("f", &parameter("n", false, "x")));
    assert!(said.ends_with("string=\"false\">"), "{said}");
}

/// Prose is free, and the rules begin with the block.
#[test]
fn a_model_that_need_not_call_may_say_what_it_likes() {
    let parameters = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let rules = calls(Calls::Auto, &[tool("f", parameters.clone(), true)]);
    accepts(&rules, "Nothing to do. <b>1 < 2</b>");
    let good = format!("Well:{}", block("f", &parameter("n", false, "5")));
    accepts(&rules, &good);
    let (said, done) = follow(&rules, Start::Chat, &format!("Well:{}", block("f", "\n")));
    assert!(said.ends_with("invoke name=\"f\">\n") && !done, "{said}");
    let free = calls(Calls::Auto, &[tool("f", parameters, false)]);
    assert!(Constraints::new(tokenizer()).build(&free).unwrap().is_none());
}

/// Whatever it calls, declared or not.
#[test]
fn a_model_that_need_not_call_may_be_held_to_one_call() {
    let tools = [tool("f", json!({"type": "object", "properties": {"n": {"type": "integer"}}}), false)];
    let rules = Rules { single_call: true, ..calls(Calls::Auto, &tools) };
    accepts(&rules, "Nothing to do.");
    let one = format!("Well:{}", block("g", &parameter("a b", true, "</x>\n")));
    accepts(&rules, &one);
    accepts(&rules, &block("f", "\n"));
    accepts(&rules, &block("f", &format!("{}{}", parameter("n", false, "[5]"), parameter("m", true, ""))));
    let end = format!("</{DSML}tool_calls>");
    let invoke = &one[one.find(&format!("<{DSML}invoke")).unwrap()..].replace(&end, "");
    stops(
        &rules,
        &one.replace(&end, &format!("{invoke}{end}")),
        &one.replace(&format!("/{DSML}tool_calls>"), ""),
    );
}

#[test]
fn content_with_a_schema_may_be_a_call_instead() {
    let rules = Rules {
        content: Some(Shape::JsonObject),
        tools: vec![tool("f", Value::Null, false)],
        ..Rules::default()
    };
    accepts(&rules, "{\"a\": 1}");
    accepts(&rules, &block("f", "\n"));
    stops(&rules, "\n\nno", "\n\n");
}

#[test]
fn reasoning_is_free_and_does_not_end_the_turn() {
    let rules = content(Shape::JsonObject);
    let reply = "hm, {</ think>\n</think>{}";
    assert_eq!(follow(&rules, Start::Thinking, reply), (reply.to_owned(), true));
    assert_eq!(follow(&rules, Start::Thinking, "hm</think>no"), ("hm</think>".to_owned(), false));
    assert_eq!(follow(&rules, Start::Thinking, "hm"), ("hm".to_owned(), false));

    // What the model would give to the end of the turn goes to the end of its reasoning.
    let tokenizer = tokenizer();
    let mut masking = Masking::new(build(&rules).unwrap(), &chat(Start::Thinking), &tokenizer).unwrap();
    let mut logits = vec![0.0; tokenizer.len()];
    logits[tokenizer.eos() as usize] = 9.0;
    masking.mask(&mut logits, &tokenizer).unwrap();
    assert_eq!(logits[tokenizer.marker_id(Marker::ThinkClose).unwrap() as usize], 9.0);
    assert_eq!(logits[tokenizer.eos() as usize], f32::NEG_INFINITY);
    assert_eq!(logits[tokenizer.marker_id(Marker::Dsml).unwrap() as usize], f32::NEG_INFINITY);
}

#[test]
fn the_same_rules_are_made_once() {
    let constraints = Constraints::new(tokenizer());
    let get = |rules: &Rules| constraints.build(rules).unwrap().unwrap();
    let (a, b) = (schema(json!({"type": "array"})), schema(json!({"type": "object"})));
    let first = get(&a);
    assert!(Arc::ptr_eq(&first.0, &get(&a).0));
    assert!(!Arc::ptr_eq(&first.0, &get(&b).0));
    for n in 0..KEPT {
        get(&schema(json!({"const": n})));
    }
    assert!(!Arc::ptr_eq(&first.0, &get(&a).0));
}

#[test]
fn rules_that_cannot_be_followed_are_refused() {
    let check = |rules: &Rules, want: &str| {
        let error = build(rules).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    check(&schema(json!({"type": "objekt"})), "JSON schema: ");
    check(&schema(json!({"type": "object", "if": {}})), "if");
    check(&schema(json!({"$ref": "https://example.com/x"})), "JSON schema: ");
    check(&schema(json!({"$ref": "#/nowhere"})), "JSON schema: ");
    check(&schema(json!([])), "JSON schema: ");
    check(&content(Shape::Regex("a(".into())), "regular expression: ");
    check(&content(Shape::Lark("start: nowhere".into())), "nowhere");
    check(&content(Shape::Choice(vec![])), "choice: there is nothing to choose from");
    check(&calls(Calls::Required, &[]), "calls are required, but no tools are declared");
    let wrong = |parameters| calls(Calls::Required, &[tool("f", parameters, true)]);
    check(
        &wrong(json!({"type": "string"})),
        "tool \"f\": its parameters have type \"string\", needed \"object\"",
    );
    check(
        &wrong(json!({"properties": {"a": {}}, "required": ["b"]})),
        "parameter \"b\" is required, but not described",
    );
    check(&wrong(json!({"properties": {"a\"": {}}})), "cannot be written in the markup of calls");
    check(&calls(Calls::Required, &[tool("f\"", Value::Null, true)]), "its name cannot be written");
    let lenient = content(Shape::JsonSchema { schema: json!({"type": "object", "if": {}}), strict: false });
    assert_eq!(build(&lenient).unwrap().warnings().len(), 1);
}

/// Whatever is sent, the answer comes soon, and is a constraint or an error; so does every step.
#[test]
fn hostile_rules_cost_little() {
    let deep = |n: usize, leaf: &str, open: &str, close: &str| open.repeat(n) + leaf + &close.repeat(n);
    let nested = serde_json::from_str(&deep(60, "{}", "{\"type\":\"array\",\"items\":", "}")).unwrap();
    let pattern = json!({"type": "string", "pattern": "^(a|b)*c{1,50}$"});
    let wide: serde_json::Map<_, _> = (0..800).map(|n| (format!("p{n}"), pattern.clone())).collect();
    let object = |n| json!({"type": "object", "properties": {format!("p{n}"): {"type": "integer"}}});
    let every: Vec<_> = (0..300).map(object).collect();
    let forever = json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"});
    let chain = |name: &str| {
        let links = (0..4000).map(|n| format!("{name}{n}: {name}{}\n", n + 1));
        format!("start: {name}0\n{}{name}4000: \"x\"", links.collect::<String>())
    };
    let long = |n: usize| json!({"type": "array", "items": {"type": "number"}, "minItems": n});
    let hostile = [
        content(Shape::Regex("(((a{0,1000}){0,1000}){0,1000}){0,1000}".into())),
        content(Shape::Regex("(a|aa|aaa)*b{5000}(.*x){200}".into())),
        content(Shape::Regex("(?:.*a.{200}){50}".into())),
        content(Shape::Regex(deep(4000, "a", "(", ")"))),
        content(Shape::Regex("a*".repeat(1000))),
        content(Shape::Regex("(a|b)*c".repeat(1000))),
        content(Shape::Lark(format!("start: {}", deep(20_000, "\"a\"", "(", ")")))),
        content(Shape::Lark("start: start start | start | \"a\"".into())),
        content(Shape::Lark("start: a{1000000}\na: \"x\"{1000000}".into())),
        content(Shape::Lark(chain("a"))),
        content(Shape::Lark(chain("A"))),
        content(Shape::Choice(vec!["a".repeat(1000); 200])),
        content(Shape::Choice((0..4000).map(|n| format!("c{n}")).collect())),
        schema(nested),
        schema(json!({"type": "object", "properties": wide})),
        schema(json!({"allOf": every})),
        schema(json!({"anyOf": every})),
        schema(forever),
        schema(json!({"type": "string", "minLength": 4_000_000_000u64})),
        schema(long(4_000_000_000)),
        schema(json!({"type": "array", "items": long(3000), "minItems": 1000})),
        schema(json!({"type": "number", "multipleOf": 1e-300})),
        calls(Calls::Required, &[tool("f", json!({"type": "object", "properties": wide}), true)]),
    ];
    let constraints = Constraints::new(tokenizer());
    constraints.factory();
    for (nth, rules) in hostile.iter().enumerate() {
        let start = Instant::now();
        let built = constraints.build(rules);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(11), "rules {nth} took {took:?}: {:?}", built.err());
        if let Ok(Some(constraint)) = built {
            let start = Instant::now();
            let steps = babble(&constraint, 3, 200).map_or_else(|(steps, _)| steps, |reply| reply.len());
            let took = start.elapsed() / (steps as u32 + 1);
            assert!(took < Duration::from_secs(1), "rules {nth} took {took:?} a step");
        }
    }
    let error = |rules: &Rules| constraints.build(rules).unwrap_err().to_string();
    let long = "x".repeat(MAX_REGEX + 1);
    let want = format!("the regular expression has {} bytes; at most {MAX_REGEX} are accepted", long.len());
    assert_eq!(error(&content(Shape::Regex(long.clone()))), want);
    assert!(
        error(&schema(json!({"items": [{"pattern": long}]}))).starts_with("a pattern in the JSON schema has")
    );
    assert!(error(&schema(json!({"const": "x".repeat(MAX_RULES)}))).starts_with("the JSON schema has"));
}

/// Writes what the rules allow and chance chooses, at most `most` tokens. An error comes with the number of
/// tokens before it.
fn babble(constraint: &Constraint, seed: u64, most: usize) -> Result<Vec<u32>, (usize, ConstraintError)> {
    let tokenizer = tokenizer();
    let masking = Masking::new(constraint.clone(), &chat(Start::Chat), &tokenizer);
    let mut masking = masking.map_err(|error| (0, error))?;
    let mut random = crate::random::Random::new(seed);
    let mut reply = Vec::new();
    while reply.len() < most {
        let mut logits = vec![0.0; tokenizer.len()];
        masking.mask(&mut logits, &tokenizer).map_err(|error| (reply.len(), error))?;
        let allowed: Vec<u32> =
            (0..).zip(&logits).filter(|(_, logit)| **logit == 0.0).map(|(token, _)| token).collect();
        let token = allowed[(random.unit() * allowed.len() as f64) as usize];
        if token == tokenizer.eos() {
            break;
        }
        reply.push(token);
        if masking.accept(token, &tokenizer).map_err(|error| (reply.len(), error))? {
            break;
        }
    }
    Ok(reply)
}

/// A model that has no idea writes JSON of the right shape.
#[test]
fn whatever_chance_writes_fulfils_the_schema() {
    let rules = schema(json!({
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b", 3]},
            "size": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
            "note": {"type": "string", "maxLength": 20},
        },
        "required": ["kind", "size"],
        "additionalProperties": false,
    }));
    let (constraint, tokenizer) = (build(&rules).unwrap(), tokenizer());
    for seed in 0..30 {
        let reply = tokenizer.decode(&babble(&constraint, seed, 5000).unwrap()).unwrap();
        let value: Value = serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{reply}: {error}"));
        assert!([json!("a"), json!("b"), json!(3)].contains(&value["kind"]), "{reply}");
        let size = value["size"].as_array().unwrap();
        assert!(size.len() <= 3 && size.iter().all(|n| n.as_i64().is_some_and(|n| n <= 99)), "{reply}");
        assert!(value.get("note").is_none_or(|note| note.as_str().unwrap().chars().count() <= 20), "{reply}");
    }
}

/// And calls that the reply's reader has nothing to repair about.
#[test]
fn whatever_chance_calls_is_well_formed() {
    let parameters = json!({
        "type": "object",
        "properties": {
            "mode": {"type": "string", "enum": ["read", "write"]},
            "at": {"anyOf": [{"type": "integer", "maximum": 9}, {"type": "string", "maxLength": 9}]},
            "deep": {"type": "object", "properties": {"x": {"type": "boolean"}}, "additionalProperties": false},
        },
        "required": ["mode", "at"],
    });
    let rules = Rules {
        single_call: true,
        ..calls(Calls::Required, &[tool("one", parameters, true), tool("two", Value::Null, true)])
    };
    let (constraint, tokenizer) = (build(&rules).unwrap(), tokenizer());
    for seed in 0..30 {
        let tokens = babble(&constraint, seed, 5000).unwrap();
        let Form::Chat(options) = chat(Start::Chat) else { unreachable!("it is a chat") };
        let mut reader = text::ReplyParser::new(options);
        for token in tokens {
            reader.push_token(token, &tokenizer).unwrap();
        }
        let (_, reply) = reader.finish(text::reply::Finish::Stop);
        assert!(reply.recovered.is_empty(), "{:?}", reply.recovered);
        let call = &reply.tool_calls[0];
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        match &*call.name {
            "one" => {
                assert!(["read", "write"].contains(&arguments["mode"].as_str().unwrap()), "{arguments}");
                assert!(arguments["at"].as_i64().is_some_and(|n| n <= 9) || arguments["at"].is_string());
            }
            other => assert_eq!((other, arguments), ("two", json!({}))),
        }
    }
}

/// How long it takes to know which tokens may come next, in the vocabulary of a real model: for `docs/serving.md`, with
/// `DS4_MODEL=… cargo test --release -p engine how_long_a_mask_takes -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, of the vocabulary of the model in $DS4_MODEL"]
fn how_long_a_mask_takes() {
    let path = std::env::var_os("DS4_MODEL").expect("DS4_MODEL names a model");
    let gguf = gguf::Gguf::open(std::path::Path::new(&path)).unwrap();
    let tokenizer = Arc::new(Tokenizer::new(crate::vocabulary(gguf.metadata()).unwrap()).unwrap());
    let constraints = Constraints::new(tokenizer.clone());
    let start = Instant::now();
    constraints.build(&content(Shape::Regex("a".into()))).unwrap();
    println!("vocabulary of {} tokens prepared in {:?}", tokenizer.len(), start.elapsed());
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "born": {"type": "string", "format": "date"},
            "email": {"type": "string", "pattern": "^[a-z]+@[a-z]+\\.[a-z]{2,3}$"},
            "kind": {"enum": ["student", "teacher", "other"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "addresses": {"type": "array", "maxItems": 3, "items": {"type": "object", "properties": {
                "street": {"type": "string"}, "number": {"type": "integer"}, "city": {"type": "string"},
            }, "required": ["street", "city"], "additionalProperties": false}},
        },
        "required": ["name", "born", "email", "kind", "age", "addresses"],
        "additionalProperties": false,
    });
    let shapes = [
        ("a typical schema", Shape::JsonSchema { schema: person, strict: true }),
        ("any JSON object", Shape::JsonObject),
        ("a regular expression", Shape::Regex("[A-Z][a-z]+( [A-Z][a-z]+)*, [0-9]{4}".into())),
    ];
    for (what, shape) in shapes {
        let start = Instant::now();
        let constraint = constraints.build(&content(shape)).unwrap().unwrap();
        println!("{what}: built in {:?}", start.elapsed());
        // The next mask is made while the model computes the logits that it is for. How long the one who waits for it
        // has to wait, if that takes no time at all, and if it takes as long as the quickest token of a large model.
        for meanwhile in [Duration::ZERO, Duration::from_millis(10)] {
            let mut times = Vec::new();
            let mut random = crate::random::Random::new(1);
            for _ in 0..10 {
                let mut masking = Masking::new(constraint.clone(), &chat(Start::Chat), &tokenizer).unwrap();
                for _ in 0..150 {
                    std::thread::sleep(meanwhile);
                    let mut logits = vec![0.0; tokenizer.len()];
                    let start = Instant::now();
                    masking.mask(&mut logits, &tokenizer).unwrap();
                    times.push(start.elapsed());
                    let allowed =
                        (0..).zip(&logits).filter(|(_, logit)| **logit == 0.0).map(|(token, _)| token);
                    let allowed: Vec<u32> = allowed.collect();
                    let token = allowed[(random.unit() * allowed.len() as f64) as usize];
                    if token == tokenizer.eos() || masking.accept(token, &tokenizer).unwrap() {
                        break;
                    }
                }
            }
            times.sort();
            let quantile = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
            let (p50, p99) = (quantile(0.5), quantile(0.99));
            println!(
                "  waited p50 {p50:?} p99 {p99:?} of {} tokens, {meanwhile:?} after the one before",
                times.len()
            );
        }
    }
}
