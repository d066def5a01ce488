//! `ds4 tokenize`, `render` and `parse` as processes, fed with the vectors of the crate `text`.

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use text::{TokenKind, Vocab};

fn data(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../text/tests/data").join(name);
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

fn vectors(name: &str) -> Vec<Value> {
    data(name)["vectors"].as_array().unwrap().clone()
}

fn ds4(args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ds4"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.env_remove("DS4_MODEL").spawn().unwrap();
    let (mut stdin, input) = (process.stdin.take().unwrap(), input.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = process.wait_with_output().unwrap();
    // Who fails before reading its input closes the pipe; that is no failure of the test.
    let _ = writer.join().unwrap();
    output
}

/// What a successful command writes.
fn answer(args: &[&str], input: &str) -> String {
    let output = ds4(args, input.as_bytes());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// One question a line in, one answer a line out.
fn answers(args: &[&str], questions: &[Value]) -> Vec<Value> {
    let input: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let answers = answer(args, &input);
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

/// A file with the mini vocabulary and nothing else.
fn mini(dir: &Path) -> PathBuf {
    let file = data("tokenizer/mini-vocab.json");
    let strings = |key: &str| serde_json::from_value(file[key].clone()).unwrap();
    let kinds: Vec<i32> = serde_json::from_value(file["kinds"].clone()).unwrap();
    let vocab = Vocab {
        tokens: strings("tokens"),
        kinds: kinds.into_iter().map(|n| TokenKind::from_gguf(n).unwrap()).collect(),
        merges: strings("merges"),
        pre: "joyai-llm".to_owned(),
        bos: Some(0),
        eos: Some(1),
    };
    let path = dir.join("mini.gguf");
    forge::synth::write_vocab(&vocab, &path).unwrap();
    path
}

#[test]
fn tokenize_answers_the_vectors() {
    let dir = tempfile::tempdir().unwrap();
    let model = mini(dir.path());
    let args = ["tokenize", "-m", model.to_str().unwrap(), "--lines"];
    let vectors = vectors("tokenizer/mini.json");

    let special: Vec<Value> = vectors.iter().map(|v| json!({"text": v["text"], "special": true})).collect();
    for (vector, answer) in vectors.iter().zip(answers(&args, &special)) {
        assert_eq!(answer, json!({"ids": vector["ids"]}), "{vector}");
    }
    let plain: Vec<Value> = vectors.iter().map(|v| json!({"text": v["text"]})).collect();
    for (vector, answer) in vectors.iter().zip(answers(&args, &plain)) {
        let ids = vector.get("plain_ids").unwrap_or(&vector["ids"]);
        assert_eq!(answer["ids"], *ids, "{vector}");
    }
    let decode: Vec<Value> = vectors.iter().map(|v| json!({"ids": v["ids"]})).collect();
    let back = answers(&["tokenize", "-m", model.to_str().unwrap(), "--lines", "--decode"], &decode);
    for (vector, answer) in vectors.iter().zip(back) {
        assert_eq!(answer, json!({"text": vector["text"]}));
    }
}

#[test]
fn tokenize_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let model = mini(dir.path());
    let model = model.to_str().unwrap();
    let listing = answer(&["tokenize", "-m", model, "Hello\n世<think>", "--special"], "");
    assert_eq!(
        listing, "42\t\"H\"\n446\t\"ell\"\n81\t\"o\"\n201\t\"\\n\"\n356\t\"世\"\n506\t\"<think>\"\n",
        "{listing}"
    );
    assert_eq!(answer(&["tokenize", "-m", model], "Hello"), "42\t\"H\"\n446\t\"ell\"\n81\t\"o\"\n");
    assert_eq!(answer(&["tokenize", "-m", model, "--decode"], "[42, 446, 81]\n"), "Hello");

    let failed = ds4(&["tokenize", "-m", model, "--decode", "512"], b"");
    assert_eq!(failed.status.code(), Some(1));
    let error = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(error, "error: token id 512 is out of range: the vocabulary has 512 tokens\n");
}

#[test]
fn render_answers_the_vectors() {
    for name in ["basic", "thinking", "tools", "roles", "context", "effort_0731", "errors"] {
        let vectors = vectors(&format!("chat/render_{name}.json"));
        for (vector, answer) in vectors.iter().zip(answers(&["render", "--lines"], &vectors)) {
            if vector["expect"]["error"] == true {
                assert!(answer["error"].is_string(), "{vector}: {answer}");
            } else {
                assert_eq!(answer, json!({"prompt": vector["expect"]["prompt"]}), "{vector}");
            }
        }
    }
}

#[test]
fn render_writes_the_exact_prompt_of_a_request() {
    for vector in vectors("chat/request.json") {
        let prompt = answer(&["render"], &vector["request"].to_string());
        assert_eq!(json!(prompt), vector["expect"]["prompt"]);
    }
    let dir = tempfile::tempdir().unwrap();
    let model = mini(dir.path());
    let request = r#"{"messages": [{"role": "user", "content": "Hello<think>"}], "thinking": false}"#;
    let ids = answer(&["render", "--ids", "-m", model.to_str().unwrap()], request);
    let ids: Vec<u32> = serde_json::from_str(&ids).unwrap();
    assert_eq!(ids[..5], [0, 503, 42, 446, 81]);
    assert_eq!(ids[ids.len() - 2..], [504, 507]);
    assert!(!ids.contains(&506), "the user's <think> is text");

    let failed = ds4(&["render"], b"{\"messages\": [{\"role\": \"x\"}]}");
    assert_eq!(failed.status.code(), Some(1));
    let error = String::from_utf8(failed.stderr).unwrap();
    assert!(error.starts_with("error: reading the request: unknown variant `x`"), "{error}");
}

#[test]
fn parse_answers_the_vectors_however_they_are_cut() {
    for name in ["wellformed", "tolerant"] {
        let vectors = vectors(&format!("chat/parse_{name}.json"));
        for split in ["1", "5", "1000000"] {
            for (vector, mut answer) in
                vectors.iter().zip(answers(&["parse", "--lines", "--split", split], &vectors))
            {
                let mut expected = vector["expect"].clone();
                for message in [&mut answer, &mut expected] {
                    let repairs = message["recovered"].as_array_mut().unwrap();
                    repairs.sort_by_key(Value::to_string);
                }
                assert_eq!(answer, expected, "{vector}");
            }
        }
    }
}

#[test]
fn parse_for_people() {
    let text = "Hm.</think>Look:\n\n<|DSML|tool_calls>\n<|DSML|invoke name=\"now\">\n</|DSML|invoke>\n</|DSML|tool_calls>";
    let call: Value = serde_json::from_str(&answer(&["parse", "--tools", "f,now"], text)).unwrap();
    assert_eq!(call["reasoning_content"], "Hm.");
    assert_eq!(call["content"], "Look:");
    assert_eq!(call["tool_calls"], json!([{"name": "now", "arguments": "{}"}]));
    assert_eq!(call["recovered"], json!(["near_miss_markup"]));

    let args = ["parse", "--tools", "f,now", "--dsml-recovery", "off", "--finish", "length"];
    let text_only: Value = serde_json::from_str(&answer(&args, text)).unwrap();
    assert_eq!(text_only["tool_calls"], json!([]));
    assert_eq!(text_only["finish_reason"], "length");
    assert!(text_only["content"].as_str().unwrap().ends_with("</|DSML|tool_calls>"));
}

#[test]
fn a_bad_line_is_answered_on_its_line() {
    let output = ds4(&["parse", "--lines"], b"nonsense\n{\"start\": \"chat\"}\n\xff\n{\"start\":\"chat\",\"tools_active\":false,\"declared_tools\":[],\"finish\":\"stop\",\"text\":\"hi\"}");
    assert!(output.status.success());
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0]["error"].as_str().unwrap().contains("expected"));
    assert!(lines[1]["error"].as_str().unwrap().contains("missing field"));
    assert!(lines[2]["error"].is_string());
    assert_eq!(lines[3]["content"], "hi");
}
