//! What the golden tests share.
#![allow(dead_code)] // not every test binary uses all of it

use gguf::Gguf;
use model::{
    DraftEntry, DraftState, Entry, KvFormat, Model, NoTap, Ops, Timeline, Wanted, draft, forward, load,
};
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

    /// Of the logits of all tokens, those of the positions that the golden has.
    pub fn stored(&self, logits: &[f32], vocab: usize) -> Vec<f32> {
        self.positions.iter().flat_map(|&p| &logits[p * vocab..(p + 1) * vocab]).copied().collect()
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
        let (now, later) = rest.split_at(rest.len().min(chunk));
        let mut batch = [Entry { timeline, tokens: now, wanted: Wanted::All }];
        let output = forward(model, ops, &mut batch, &mut NoTap).unwrap();
        logits.extend(ops.read(&output.logits.unwrap()).unwrap());
        rest = later;
    }
    logits
}

/// Largest difference in each row, sorted.
pub fn worst_by_row(got: &[f32], want: &[f32], vocab: usize) -> Vec<f32> {
    assert_eq!(got.len(), want.len());
    // `max` would pass over what is not a number.
    let far = |(a, b): (&f32, &f32)| if a.is_nan() { f32::INFINITY } else { (a - b).abs() };
    let row = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(far).fold(0.0, f32::max);
    let mut rows: Vec<f32> = got.chunks_exact(vocab).zip(want.chunks_exact(vocab)).map(row).collect();
    rows.sort_by(f32::total_cmp);
    rows
}

/// The limits of exact arithmetic: f32 activations and an f32 cache; for the worst row and the median.
pub const EXACT: [f32; 2] = [3e-4, 5e-5];

/// Holds rows to limits for the worst of them and the median.
pub fn assert_near(name: &str, got: &[f32], want: &[f32], vocab: usize, limits: [f32; 2]) {
    let rows = worst_by_row(got, want, vocab);
    let (median, worst) = (rows[rows.len() / 2], rows[rows.len() - 1]);
    println!("{name}: median row {median:.2e}, worst row {worst:.2e}");
    assert!(
        worst <= limits[0] && median <= limits[1],
        "{name}: median row {median:.2e}, worst row {worst:.2e}"
    );
}

/// The draft block, which is fed each token with the streams of the one before, against a golden.
pub fn assert_golden_draft<B: Ops>(ops: &B, golden: &Golden, name: &str) {
    assert_golden_draft_of(ops, &golden.gguf(), golden, name);
}

/// That of a model that may have been put together in another way.
pub fn assert_golden_draft_of<B: Ops>(ops: &B, gguf: &Gguf, golden: &Golden, name: &str) {
    let model = load(ops, gguf).unwrap();
    let vocab = model.config.vocab;
    let mut timeline = Timeline::new(ops, &model.config, KvFormat::F32);
    let (tokens, next) = (&golden.tokens[..golden.tokens.len() - 1], &golden.tokens[1..]);
    let mut batch = [Entry { timeline: &mut timeline, tokens, wanted: Wanted::Streams }];
    let streams = forward(&model, ops, &mut batch, &mut NoTap).unwrap().streams.unwrap();
    let mut state = DraftState::new(ops, &model, KvFormat::F32, 1);
    let mut entries = [DraftEntry { state: &mut state, tokens: next, wanted: Wanted::All }];
    let output = draft(&model, ops, &streams, &mut entries, &mut NoTap).unwrap();
    let logits = ops.read(&output.logits.unwrap()).unwrap();
    let positions = golden.member("/mtp/positions").as_array().unwrap();
    let row = |p: &Value| &logits[p.as_u64().unwrap() as usize * vocab..][..vocab];
    let got: Vec<f32> = positions.iter().flat_map(row).copied().collect();
    let want = golden.floats(golden.member("/mtp/logits_file").as_str().unwrap());
    assert_near(&format!("{name} draft"), &got, &want, vocab, EXACT);

    // The same in parts, of which only the last row is asked for.
    let mut state = DraftState::new(ops, &model, KvFormat::F32, 1);
    let parts = [0..3, 3..next.len() - 2, next.len() - 2..next.len()];
    let mut last = None;
    for (nth, part) in parts.into_iter().enumerate() {
        let wanted = if nth == 0 { Wanted::None } else { Wanted::Last };
        let mut entries = [DraftEntry { state: &mut state, tokens: &next[part.clone()], wanted }];
        let some = ops.take_rows(&streams, &part.collect::<Vec<_>>());
        let output = draft(&model, ops, &some, &mut entries, &mut NoTap).unwrap();
        assert_eq!(output.logits.is_some(), wanted == Wanted::Last, "{name}: part {nth}");
        last = output.logits;
    }
    let (got, want) = (ops.read(&last.unwrap()).unwrap(), &logits[(next.len() - 1) * vocab..]);
    assert_near(&format!("{name} draft in parts"), &got, want, vocab, EXACT);
}
