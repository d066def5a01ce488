//! `ds4 serve` as a process.
#![cfg(unix)]

mod common;

use common::command;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};

/// A server on the pocket model, ended with SIGTERM.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// A server that answers, with its pages in `store`.
    fn start(store: &Path) -> Server {
        Server::start_on("cpu", store)
    }

    fn start_on(backend: &str, store: &Path) -> Server {
        let store = store.to_str().unwrap();
        let args = ["serve", "--port", "0", "--backend", backend, "--store", store];
        let mut process = command(args).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let listening = lines.find_map(|line| line.strip_prefix("listening on http://").map(str::to_owned));
        lines.find(|line| line.starts_with("ready")).expect("the model is loaded");
        // Whoever closes this end makes the server's next line an error.
        std::thread::spawn(move || lines.for_each(drop));
        Server { process, address: listening.expect("an address") }
    }

    /// The answer to a chat request.
    fn chat(&self, request: &Value) -> Value {
        let body = request.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    fn stop(mut self) {
        let killed = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(killed.success());
        assert!(self.process.wait().unwrap().success(), "a server that is asked to stop has done well");
    }
}

/// Tokens of the prompt, how many of them had been read before, and the reply.
fn read(answer: &Value) -> (u64, u64, String) {
    let usage = &answer["usage"];
    let count = |value: &Value| value.as_u64().expect("a count");
    let content = answer["choices"][0]["message"]["content"].as_str().expect("content").to_owned();
    (count(&usage["prompt_tokens"]), count(&usage["prompt_tokens_details"]["cached_tokens"]), content)
}

/// What was read before a restart need not be read after it, and the reply is the same.
#[test]
fn a_restarted_server_knows_what_it_had_read() {
    let folder = tempfile::tempdir().unwrap();
    let request = json!({
        "messages": [
            {"role": "system", "content": "You are kind. ".repeat(200)},
            {"role": "user", "content": "What is 12 + 30?"},
        ],
        "thinking": {"type": "disabled"},
        "temperature": 0,
        "max_tokens": 20,
    });
    let ask = || {
        let server = Server::start(&folder.path().join("store"));
        let answer = server.chat(&request);
        server.stop();
        read(&answer)
    };
    let (prompt, cached, first) = ask();
    assert_eq!(cached, 0);
    let (_, cached, second) = ask();
    assert!(cached < prompt && cached > prompt - 64, "{cached} of {prompt} tokens");
    assert_eq!(second, first);
}

/// A server on the GPU (a software device will do) answers as one on the CPU, calls tools, and takes over what the other has
/// read, in both directions.
#[test]
#[cfg(feature = "gpu")]
fn servers_on_the_gpu_and_on_the_cpu_share_what_they_have_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let request = |system: &str| {
        json!({
            "messages": [
                {"role": "system", "content": system.repeat(200)},
                {"role": "user", "content": "What is 12 + 30?"},
            ],
            "thinking": {"type": "disabled"},
            "temperature": 0,
            "max_tokens": 20,
        })
    };
    let (kind, brief) = (request("You are kind. "), request("You are brief. "));
    let known = |(prompt, cached, reply): (u64, u64, String), first: &str| {
        assert!(cached < prompt && cached > prompt - 64, "{cached} of {prompt} tokens");
        assert_eq!(reply, first);
    };

    let cpu = Server::start(&store);
    let (_, _, first) = read(&cpu.chat(&kind));
    cpu.stop();
    let gpu = Server::start_on("gpu", &store);
    known(read(&gpu.chat(&kind)), &first);
    let (_, cached, other) = read(&gpu.chat(&brief));
    assert_eq!(cached, 0);
    let called = gpu.chat(&json!({
        "messages": [{"role": "user", "content": "What is the weather in Bern?"}],
        "tools": [{"type": "function", "function": {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        }}],
        "temperature": 0,
    }));
    gpu.stop();
    let call = &called["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(
        (&call["name"], &call["arguments"]),
        (&json!("get_weather"), &json!("{\"city\": \"Bern\"}")),
        "{called}"
    );
    let cpu = Server::start(&store);
    known(read(&cpu.chat(&brief)), &other);
    cpu.stop();
}

/// A place that cannot be one.
#[test]
fn a_store_that_cannot_be_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let said: common::Said = command(["serve", "--port", "0", "--store", path]).output().unwrap().into();
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains(&format!("opening the page store {path}")), "{said:?}");
}
