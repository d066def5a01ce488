//! `ds4 run --schema`, `--regex` and `--grammar` as processes, with the built-in model.

mod common;

use common::{ds4, ds4_reading};
use serde_json::Value;

const PERSON: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
    "age": {"type": "integer", "minimum": 0, "maximum": 150}}, "required": ["name", "age"],
    "additionalProperties": false}"#;

fn is_person(text: &str) {
    let person: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(person["name"].is_string() && person["age"].as_u64().unwrap() <= 150, "{text}");
    assert_eq!(person.as_object().unwrap().len(), 2, "{text}");
}

#[test]
fn an_answer_follows_a_schema() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("person.json");
    std::fs::write(&file, PERSON).unwrap();
    for seed in ["1", "2", "3"] {
        for schema in [file.to_str().unwrap(), PERSON] {
            let said = ds4(&["run", "--schema", schema, "--seed", seed, "What is 12 + 30?"]);
            assert_eq!(said.status, 0, "{said:?}");
            is_person(&said.out);
        }
    }
}

/// Reasoning is free, and the answer after it is what was asked for.
#[test]
fn reasoning_is_not_held_to_the_form() {
    let args = ["run", "--temp", "0", "--think", "--regex", "Yes|No", "Is 91 prime?"];
    let said = ds4(&args);
    assert!(["Yes\n", "No\n"].contains(&&*said.out), "{said:?}");
    let reasoning = said.err.lines().filter(|line| !line.starts_with("model: ") && !line.starts_with('['));
    assert!(reasoning.map(str::len).sum::<usize>() > 10, "{said:?}");
}

#[test]
fn an_answer_follows_a_grammar_in_every_turn_of_a_chat() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sum.lark");
    std::fs::write(&file, "start: NUMBER \" + \" NUMBER\nNUMBER: /[1-9][0-9]?/\n").unwrap();
    let args = ["run", "--chat", "--temp", "0", "--grammar", file.to_str().unwrap(), "--stats", "json"];
    let said = ds4_reading("What is 12 + 30?\nHello\n", &args);
    let answers: Vec<_> = said.out.lines().collect();
    assert_eq!(answers.len(), 2, "{said:?}");
    for answer in answers {
        let (a, b) = answer.split_once(" + ").unwrap_or_else(|| panic!("{said:?}"));
        assert!(a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok(), "{said:?}");
    }
    // The text before a prompt that is not a chat's is held to it, too.
    let said = ds4(&["run", "--raw", "--regex", "[a-c]{5}", "Hello"]);
    assert_eq!((said.out.trim_end().len(), said.status), (5, 0), "{said:?}");
}

#[test]
fn forms_that_cannot_be_are_explained() {
    let check = |args: &[&str], want: &str| {
        let said = ds4(&[&["run"], args, &["Hello"]].concat());
        assert_eq!((&*said.out, said.status), ("", 1), "{said:?}");
        assert!(said.err.lines().any(|line| line.contains(want)), "{want}: {said:?}");
    };
    check(&["--regex", "(a"], "the answer cannot be held to what was asked for: regular expression: ");
    check(&["--schema", "no-such.json"], "reading the JSON schema from no-such.json: No such file");
    check(
        &["--schema", "{\"type\": \"nonsense\"}"],
        "the answer cannot be held to what was asked for: JSON schema: ",
    );
    check(&["--grammar", "no-such.lark"], "reading the grammar from no-such.lark: No such file");
    let said = ds4(&["run", "--regex", "a", "--schema", "{}", "Hello"]);
    assert_eq!(said.status, 2, "{said:?}");
}
