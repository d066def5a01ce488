//! What the session tests share: a tiny model with random weights, and its golden texts; see
//! tests/goldens/README.md.
#![allow(dead_code)] // not every test binary uses all of it

use cpu::Reference;
use engine::{Cancel, Event, Form, LoadedModel, Reply, Request, Sampling, Session};
use gguf::Gguf;
use model::KvFormat;
use std::path::PathBuf;
use std::sync::Arc;

pub type Loaded = Arc<LoadedModel<Reference>>;

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

pub fn load(file: &str) -> Loaded {
    let gguf = Gguf::open(&goldens().join(file)).unwrap();
    Arc::new(LoadedModel::load(Reference, &gguf, None).unwrap())
}

/// A prompt, and the tokens that another implementation continues it with, greedily.
pub fn golden(name: &str) -> (Vec<u32>, Vec<u32>) {
    let text = std::fs::read_to_string(goldens().join(format!("{name}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |pointer: &str| {
        let ids = json.pointer(pointer).unwrap().as_array().unwrap();
        ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    (ids("/tokens"), ids("/greedy/tokens"))
}

pub fn session(loaded: &Loaded) -> Session<Reference> {
    Session::new(loaded.clone(), KvFormat::F32, None)
}

/// A greedy request for plain text.
pub fn greedy(max_tokens: usize) -> Request {
    Request {
        sampling: Sampling::greedy(),
        seed: 0,
        max_tokens: Some(max_tokens),
        logprobs: None,
        form: Form::Plain { stop: Vec::new() },
        strict_markup: true,
        constraint: None,
        think_budget: None,
        min_tokens: 0,
        forced: Vec::new(),
    }
}

/// A reply that nobody watches.
pub fn reply(session: &mut Session<Reference>, prompt: &[u32], request: Request) -> Reply {
    session.reply(prompt, request, &Cancel::new(), &mut |_: Event| {}).unwrap()
}
