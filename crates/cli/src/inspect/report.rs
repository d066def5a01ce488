//! What a file holds: metadata, tensors by kind and by type, totals.

use super::plan::Plan;
use gguf::{Array, Gguf, TensorInfo, Value};
use serde::Serialize;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Longer arrays are shown by their first elements.
const SHORT_ARRAY: usize = 64;

/// Everything that `inspect` tells.
#[derive(Debug, Serialize)]
pub struct Report {
    pub files: Vec<PathBuf>,
    pub file_bytes: u64,
    /// Version of the GGUF format.
    pub version: u32,
    pub alignment: u64,
    pub warnings: Vec<String>,
    pub metadata: Map<String, serde_json::Value>,
    /// By what the tensors are for.
    pub purposes: Vec<Group>,
    /// By how they are stored.
    pub types: Vec<Group>,
    pub total: Group,
    pub tensors: Vec<Tensor>,
    pub model: Model,
}

/// Some tensors, added up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Group {
    pub name: String,
    pub tensors: u64,
    pub weights: u64,
    pub bytes: u64,
    /// How many of them have which type.
    pub types: BTreeMap<&'static str, u64>,
}

/// One tensor.
#[derive(Debug, Serialize)]
pub struct Tensor {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub dims: Vec<u64>,
    pub bytes: u64,
    pub file: usize,
    pub offset: u64,
}

/// Whether the file can be run, and what that takes.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Model {
    /// A model that this program runs.
    Runs {
        /// Tensors that the model does not use.
        unused: Vec<String>,
        layers: usize,
        draft_block: bool,
        plan: Plan,
    },
    /// Something else.
    Refused {
        /// Why it cannot be run.
        refused: String,
    },
}

impl Group {
    fn add(&mut self, tensor: &TensorInfo) {
        self.tensors += 1;
        self.weights = self.weights.saturating_add(tensor.elements());
        self.bytes += tensor.bytes;
        *self.types.entry(tensor.kind.name()).or_default() += 1;
    }

    /// Bits that a weight takes, on average.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes as f64 / self.weights.max(1) as f64
    }
}

impl Report {
    /// Reads all of it from `gguf`; `model` is what the loader found.
    pub fn new(gguf: &Gguf, model: Model) -> Self {
        let first_draft = match &model {
            Model::Runs { layers, draft_block: true, .. } => Some(*layers),
            _ => None,
        };
        let mut total = Group { name: "total".into(), ..Group::default() };
        gguf.tensors().for_each(|tensor| total.add(tensor));
        Self {
            files: gguf.files().map(Into::into).collect(),
            file_bytes: gguf.file_len(),
            version: gguf.version(),
            alignment: gguf.alignment(),
            warnings: gguf.warnings().iter().map(ToString::to_string).collect(),
            metadata: gguf.metadata().iter().map(|(key, value)| (key.to_owned(), to_json(value))).collect(),
            purposes: grouped(gguf, |tensor| purpose(&tensor.name, first_draft)),
            types: grouped(gguf, |tensor| tensor.kind.name()),
            total,
            tensors: gguf.tensors().map(Tensor::new).collect(),
            model,
        }
    }
}

impl Tensor {
    fn new(tensor: &TensorInfo) -> Self {
        Self {
            name: tensor.name.clone(),
            kind: tensor.kind.name(),
            dims: tensor.dims.clone(),
            bytes: tensor.bytes,
            file: tensor.shard,
            offset: tensor.offset,
        }
    }
}

/// Tensors that share a name under `name_of`, the largest group first.
fn grouped(gguf: &Gguf, name_of: impl Fn(&TensorInfo) -> &'static str) -> Vec<Group> {
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let name = name_of(tensor);
        let new = || Group { name: name.into(), ..Group::default() };
        groups.entry(name).or_insert_with(new).add(tensor);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    groups
}

/// What a tensor is for, by its name. Layers from `first_draft` on draft.
fn purpose(name: &str, first_draft: Option<usize>) -> &'static str {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let drafts =
        ["mtp.", "dspark."].iter().any(|prefix| name.starts_with(prefix)) || name.contains(".nextn.");
    if drafts || block.zip(first_draft).is_some_and(|(block, draft)| block >= draft) {
        return "draft block";
    }
    let purposes = [
        ("token_embd", "embedding"),
        ("output_hc", "hyper-connections"),
        ("attn_output", "attention"),
        ("output.", "output head"),
        ("_exps", "routed experts"),
        ("_shexp", "shared experts"),
        ("ffn_gate_inp", "routing"),
        ("exp_probs", "routing"),
        ("tid2eid", "routing"),
        ("indexer", "indexer"),
        ("compressor", "compressors"),
        (".hc_", "hyper-connections"),
        ("attn_norm", "norms"),
        ("ffn_norm", "norms"),
        ("output_norm", "norms"),
        ("attn_", "attention"),
        ("ffn_", "dense layers"),
    ];
    purposes.into_iter().find(|(part, _)| name.contains(part)).map_or("other", |(_, purpose)| purpose)
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(x) => json!(x),
        Value::I8(x) => json!(x),
        Value::U16(x) => json!(x),
        Value::I16(x) => json!(x),
        Value::U32(x) => json!(x),
        Value::I32(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::I64(x) => json!(x),
        Value::F32(x) => number(x),
        Value::F64(x) => number(x),
        Value::Bool(x) => json!(x),
        Value::String(x) => json!(String::from_utf8_lossy(x)),
        Value::Array(x) => array_to_json(x),
    }
}

/// A float in the shortest spelling that gives it back, which `json!` would widen to f64; null if it is
/// no number.
fn number(x: &impl std::fmt::Debug) -> serde_json::Value {
    format!("{x:?}").parse::<serde_json::Number>().map_or(json!(null), Into::into)
}

/// A short array as it is; of a long one its type, its length and its beginning.
fn array_to_json(array: &Array) -> serde_json::Value {
    let first = |n| array.iter().take(n).map(|value| to_json(&value)).collect::<Vec<_>>();
    if array.len() <= SHORT_ARRAY {
        return json!(first(SHORT_ARRAY));
    }
    json!({ "type": array.kind().name(), "length": array.len(), "first": first(8) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_tensors_are_for() {
        let check = |name: &str, want| assert_eq!(purpose(name, Some(5)), want, "{name}");
        check("token_embd.weight", "embedding");
        check("output.weight", "output head");
        check("output_norm.weight", "norms");
        check("output_hc_fn.weight", "hyper-connections");
        check("blk.4.hc_attn_base.weight", "hyper-connections");
        check("blk.4.attn_norm.weight", "norms");
        check("blk.4.attn_q_a_norm.weight", "attention");
        check("blk.4.attn_output_a.weight", "attention");
        check("blk.4.attn_compressor_norm.weight", "compressors");
        check("blk.4.indexer.attn_q_b.weight", "indexer");
        check("blk.4.indexer_compressor_kv.weight", "indexer");
        check("blk.4.ffn_gate_inp.weight", "routing");
        check("blk.4.ffn_gate_tid2eid.weight", "routing");
        check("blk.4.ffn_gate_exps.weight", "routed experts");
        check("blk.4.ffn_gate_shexp.weight", "shared experts");
        check("blk.5.attn_norm.weight", "draft block");
        check("mtp.0.e_proj.weight", "draft block");
        check("rope_freqs.weight", "other");
    }

    #[test]
    fn numbers_keep_their_spelling_and_long_arrays_are_cut() {
        assert_eq!(to_json(&Value::F32(1e-6)).to_string(), "1e-6");
        assert_eq!(to_json(&Value::F64(0.5)).to_string(), "0.5");
        assert_eq!(to_json(&Value::F32(f32::NAN)).to_string(), "null");
        assert_eq!(to_json(&Value::U64(u64::MAX)).to_string(), u64::MAX.to_string());
        assert_eq!(to_json(&vec![1u8, 2].into()).to_string(), "[1,2]");
        let long = to_json(&vec![7u8; 65].into()).to_string();
        assert_eq!(long, r#"{"type":"u8","length":65,"first":[7,7,7,7,7,7,7,7]}"#);
    }
}
