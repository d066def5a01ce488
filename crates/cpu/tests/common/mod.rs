//! What the golden tests share.
#![allow(dead_code)] // not every test binary uses all of it

use gguf::Gguf;
use model::{Entry, Model, NoTap, Ops, Timeline, Wanted, forward};
use serde_json::Value;
use std::path::PathBuf;

/// A golden: a prompt for a tiny model, and what another implementation answers.
pub struct Golden {
    dir: PathBuf,
    json: Value,
    pub tokens: Vec<u32>,
    pub positions: Vec<usize>,
    /// `[positions, vocab]`
    pub logits: Vec<f32>,
}

impl Golden {
    pub fn load(name: &str) -> Golden {
        let here = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens");
        // Where the tests were packed for another machine, the files are not where they were built.
        let dir = std::env::var_os("DS4_GOLDENS").map_or_else(here, PathBuf::from);
        let text = std::fs::read_to_string(dir.join(format!("{name}.json"))).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let ints =
            |key: &str| json[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect::<Vec<_>>();
        let tokens = ints("tokens").into_iter().map(|t| t as u32).collect();
        let positions = ints("positions").into_iter().map(|p| p as usize).collect();
        let mut golden = Golden { dir, json, tokens, positions, logits: Vec::new() };
        golden.logits = golden.floats(golden.json["logits_file"].as_str().unwrap());
        golden
    }

    pub fn gguf(&self) -> Gguf {
        Gguf::open(&self.dir.join(self.json["model"].as_str().unwrap())).unwrap()
    }

    /// A member of the golden's description.
    pub fn member(&self, pointer: &str) -> &Value {
        self.json.pointer(pointer).unwrap()
    }

    pub fn floats(&self, file: &str) -> Vec<f32> {
        let bytes = std::fs::read(self.dir.join(file)).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// Feeds tokens in chunks of at most `chunk`; returns the logits of all of them, `[tokens, vocab]`.
pub fn feed<B: Ops>(
    model: &Model<B>,
    ops: &B,
    timeline: &mut Timeline<B>,
    tokens: &[u32],
    chunk: usize,
) -> Vec<f32> {
    let mut logits = Vec::new();
    let mut rest = tokens;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(chunk).min(timeline.room()));
        let mut batch = [Entry { timeline, tokens: now, wanted: Wanted::All }];
        let output = forward(model, ops, &mut batch, &mut NoTap).unwrap();
        logits.extend(ops.read(&output.logits.unwrap()).unwrap());
        rest = later;
    }
    logits
}
