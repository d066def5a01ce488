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
        let store = store.to_str().unwrap();
        let mut process = command(["serve", "--port", "0", "--store", store]).spawn().unwrap();
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
        let usage = &answer["usage"];
        let count = |value: &Value| value.as_u64().expect("a count");
        let content = answer["choices"][0]["message"]["content"].as_str().expect("content").to_owned();
        (count(&usage["prompt_tokens"]), count(&usage["prompt_tokens_details"]["cached_tokens"]), content)
    };
    let (prompt, cached, first) = ask();
    assert_eq!(cached, 0);
    let (_, cached, second) = ask();
    assert!(cached < prompt && cached > prompt - 64, "{cached} of {prompt} tokens");
    assert_eq!(second, first);
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
