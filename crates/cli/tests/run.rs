//! `ds4 run` as a process, with the built-in model and with a tiny random one.

mod common;

use common::{command, ds4, ds4_reading, golden};
use std::io::Read;

/// Arguments that make a tiny random model say five tokens.
fn mini(more: &[&str]) -> Vec<String> {
    let args = ["run", "-m", &golden("mini-bf16.gguf"), "--temp", "0", "-n", "5"];
    args.iter().chain(more).map(|&arg| arg.to_owned()).collect()
}

fn run_mini(more: &[&str]) -> common::Said {
    command(mini(more)).output().unwrap().into()
}

/// The number of prompt tokens that `--stats json` reports.
fn prompt_tokens(input: &str, args: &[&str]) -> u64 {
    let args = mini(&[args, &["--stats", "json"]].concat());
    let said = ds4_reading(input, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let stats: serde_json::Value = serde_json::from_str(said.err.lines().last().unwrap()).unwrap();
    stats["prompt_tokens"].as_u64().unwrap()
}

#[test]
fn the_built_in_model_answers() {
    let said = ds4(&["run", "--temp", "0", "What is 12 + 30?"]);
    assert_eq!((said.out.contains("42"), said.out.lines().count(), said.status), (true, 1, 0), "{said:?}");
    assert!(said.err.starts_with("model: the small one built into ds4"), "{said:?}");
    assert!(said.err.contains(" t/s; seed "), "{said:?}");
}

#[test]
fn reasoning_is_not_part_of_the_output() {
    let said = ds4(&["run", "--temp", "0", "--think", "What is 12 + 30?"]);
    assert!(said.out.contains("42") && said.out.lines().count() == 1, "{said:?}");
    let reasoning = said.err.lines().filter(|line| !line.starts_with("model: ") && !line.starts_with('['));
    assert!(reasoning.map(str::len).sum::<usize>() > 10, "{said:?}");
    assert!(!said.err.contains('\x1b'), "colours where nobody sees them: {said:?}");
}

#[test]
fn calls_of_tools_are_lines_of_json() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tools.json");
    let parameters =
        r#"{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}"#;
    let tool = format!(
        r#"[{{"type": "function", "function": {{"name": "get_weather", "description": "Get the weather of a city",
            "parameters": {parameters}}}}}]"#
    );
    std::fs::write(&file, tool).unwrap();
    let said =
        ds4(&["run", "--temp", "0", "--tools", file.to_str().unwrap(), "What is the weather in Bern?"]);
    let call = "{\"name\":\"get_weather\",\"arguments\":{\"city\":\"Bern\"}}\n";
    assert_eq!(said.out, call, "{said:?}");

    // In a chat the next line is the result of the call, and the model goes on with it.
    let script = "What is the weather in Bern?\n{\"temp\": 21, \"sky\": \"sunny\"}\n";
    let said = ds4_reading(script, &["run", "--chat", "--temp", "0", "--tools", file.to_str().unwrap()]);
    let answer = said.out.strip_prefix(call).unwrap_or_else(|| panic!("{said:?}"));
    assert!(answer.contains("21") && answer.lines().count() == 1, "{said:?}");
}

#[test]
fn argument_and_standard_input_make_one_prompt() {
    let together = prompt_tokens("", &["one\n\ntwo"]);
    assert_eq!(prompt_tokens("two\n", &["one"]), together);
    assert_eq!(prompt_tokens("one\n\ntwo\n\n", &[]), together);
}

#[test]
fn a_seed_makes_the_same_answer_again() {
    let answer = |seed| {
        run_mini(&["--temp", "1.5", "--min-p", "0", "-n", "40", "--seed", seed, "Hello"].map(|a| a)).out
    };
    assert_eq!(answer("1"), answer("1"));
    assert_ne!(answer("1"), answer("2"));
}

#[test]
fn an_answer_ends_where_it_is_told_to() {
    let whole = run_mini(&["Hello"]);
    assert!(whole.err.contains("reply: 5 tokens") && whole.err.contains("cut at --max-tokens"), "{whole:?}");
    let answer = whole.out.trim_end();
    let stop: String = answer.chars().skip(3).take(2).collect();
    let stopped = run_mini(&["--stop", &stop, "Hello"]);
    assert_eq!(stopped.out.trim_end(), answer.split(&stop).next().unwrap());
    let full = run_mini(&["--ctx", "7", "-n", "100", "--raw", "one two"]);
    assert!(full.err.contains("the context is full"), "{full:?}");
}

#[test]
fn a_reader_who_leaves_early_is_no_error() {
    // With this seed it says some more before it ends by itself.
    let more = ["-n", "400", "--temp", "1", "--seed", "6", "--raw", "Hello"];
    let mut process = command(mini(&more)).spawn().unwrap();
    let mut first = [0];
    process.stdout.take().unwrap().read_exact(&mut first).unwrap(); // and closed here
    let mut err = String::new();
    process.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(process.wait().unwrap().success(), "{err}");
    assert_eq!(err, "");
}

/// The story of a conversation: it is remembered, saved, forgotten, and goes on where it was saved.
#[test]
fn a_chat_is_saved_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chat.ds4");
    let file = file.to_str().unwrap();
    let first = ds4_reading(&format!("Hello\n/save {file}\n"), &["run", "--chat", "--temp", "0"]);
    assert!(first.err.contains("saved 2 messages"), "{first:?}");

    let whole = ds4_reading("Hello\nThank you.\n", &["run", "--chat", "--temp", "0"]);
    let second = ds4_reading(&format!("/load {file}\nThank you.\n"), &["run", "--chat", "--temp", "0"]);
    assert!(second.err.contains("2 messages from"), "{second:?}");
    assert_eq!(format!("{}{}", first.out, second.out), whole.out);
    // All the model had read or said but the last token was still known.
    let known = |said: &common::Said| {
        let line = said.err.lines().rfind(|line| line.contains("of them known")).unwrap();
        line.split("t/s").next().unwrap().to_owned()
    };
    assert_eq!(known(&second).split(',').nth(1), known(&whole).split(',').nth(1));

    std::fs::write(file, "{\"ds4_conversation\":1}\n").unwrap();
    let third = ds4_reading(&format!("/load {file}\n/stats\n"), &["run", "--chat"]);
    assert!(third.err.contains("not a saved conversation") && third.err.contains("0 of "), "{third:?}");
    assert_eq!(third.status, 0);
}

#[test]
fn a_chat_obeys_commands() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "some notes\n").unwrap();
    let script = format!(
        "/system You are a parrot.\n/system\n/read {}\nHello\n/clear\n/stats\n/nonsense\n/quit\nnever said\n",
        file.display()
    );
    let args = mini(&["--chat"]);
    let said = ds4_reading(&script, &args.iter().map(String::as_str).collect::<Vec<_>>());
    for line in ["You are a parrot.", "11 characters come before", "context  0 of", "there is no /nonsense"] {
        assert!(said.err.contains(line), "{line}: {said:?}");
    }
    assert_eq!(
        said.err.matches("reply: 5 tokens").count(),
        2,
        "once as it was said, once in /stats: {said:?}"
    );
    assert_eq!(said.status, 0);
}

/// Ctrl-C stops the reply and not the chat.
#[cfg(unix)]
#[test]
fn an_interrupt_stops_the_reply() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    // Without the tokens that end a reply, it would go on until the context is full.
    let endless = ["0", "1", "2035", "2036", "2040"].map(|id| format!("--logit-bias={id}=-100"));
    let args = ["run", "--chat"].into_iter().chain(endless.iter().map(String::as_str));
    let mut process = command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    std::io::Write::write_all(&mut stdin, b"Hello\n").unwrap();
    let mut first = [0];
    out.read_exact(&mut first).unwrap();
    let pid = process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut rest = String::new();
    out.read_line(&mut rest).unwrap();
    std::io::Write::write_all(&mut stdin, b"/stats\n").unwrap();
    drop(stdin);
    let mut err = String::new();
    process.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(process.wait().unwrap().success(), "{err}");
    assert!(err.contains("interrupted]") && err.contains("context  "), "{err}");
}

#[test]
fn mistakes_are_explained() {
    let check = |said: common::Said, want: &str| {
        assert_eq!((said.out.as_str(), said.status), ("", 1), "{said:?}");
        assert_eq!(said.err.lines().last().unwrap(), format!("error: {want}"));
    };
    check(ds4(&["run"]), "no prompt: standard input is empty");
    check(run_mini(&["--top-p", "0", "Hello"]), "top-p is 0, needed more than 0 and at most 1");
    check(
        run_mini(&["--logit-bias", "512=1", "Hello"]),
        "a logit bias for token 512, but the vocabulary has 512 tokens",
    );
    let widths = "KV format f8 needs rows whose part without rotary embedding is a multiple of 64, \
                  and this model's is 96: use f16 or f32";
    check(run_mini(&["--kv", "f8", "Hello"]), widths);
    check(
        ds4(&["run", "-m", "no-such.gguf", "Hello"]),
        "opening the model: no-such.gguf: No such file or directory (os error 2)",
    );
    check(run_mini(&["--ctx", "3", "Hello"]), "the prompt has 7 tokens, but the context ends at 3");
}
