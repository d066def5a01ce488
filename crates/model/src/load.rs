//! From a GGUF file to a [`Model`] on a backend.
//!
//! Start at [`load`]. First the metadata gives a [`Config`]; then [`inventory`] lists every tensor that a
//! model of this config has, with its shape, and each is looked up and compared. Only when the whole
//! list is satisfied is anything handed to the backend. Sizes therefore never come from a file unchecked.
//!
//! Tensor names are those of llama.cpp's `deepseek4` architecture.

use crate::config::{Config, Ratio};
use crate::kv::KvFormatError;
use crate::ops::{DeviceError, Ops};
use crate::rope::Rope;
use crate::weights::{
    Attention, Compressor, Expert, Experts, Head, HyperConnection, Indexer, Layer, Matrix, Model, Mtp,
    MtpEntry, Norm, Router,
};
use gguf::{Gguf, TensorInfo, TensorType};
use quants::Format;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

/// Why a file is not a model that can be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages say what the fields are
pub enum LoadError {
    #[error(transparent)]
    Metadata(#[from] gguf::MetadataError),
    #[error(
        "this file is of architecture {found:?}: {what}; ds4 runs models of architecture \"deepseek4\" (DeepSeek V4 Flash and smaller ones like it)"
    )]
    Architecture { found: String, what: &'static str },
    #[error(
        "this file holds an MTP draft block only: give the main model's file, which has blk.0, and this one as --mtp-file"
    )]
    MtpOnly,
    #[error("key {key} is {found}, needed {need}")]
    Value { key: String, found: String, need: String },
    #[error("tensor {name} is missing")]
    MissingTensor { name: String },
    #[error("tensor {name} has dimensions {found:?}, needed {need:?} according to the metadata")]
    Shape { name: String, found: Vec<u64>, need: Vec<usize> },
    #[error("tensor {name} has type {found}, which ds4 cannot compute with; needed {need}")]
    Type { name: String, found: &'static str, need: &'static str },
    #[error("tensor {name}: token {token} has expert {expert}, but there are only {experts}")]
    ExpertTable { name: String, token: usize, expert: i64, experts: usize },
    #[error("tensor {name} holds a value that is not a number")]
    NotFinite { name: String },
    #[error(transparent)]
    KvFormat(#[from] KvFormatError),
    #[error("tensor {name}: {error}")]
    Device { name: String, error: DeviceError },
}

/// A tensor that a model must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Slowest axis first; a matrix is `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// What is in it.
    pub kind: Kind,
}

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Weights in any block format, one row an output.
    Matrix,
    /// A few numbers, used as f32.
    Vector,
    /// Expert ids.
    Table,
}

/// Every tensor of a model, in the order in which the forward pass meets them.
pub fn inventory(config: &Config) -> Vec<Tensor> {
    let mut list = Inventory { config, tensors: Vec::new() };
    list.matrix("token_embd", [config.vocab, config.width]);
    for layer in 0..config.layers() {
        list.layer(layer, config.ratios[layer]);
    }
    list.collapse("output_hc");
    list.vector("output_norm.weight", config.width);
    list.matrix("output", [config.vocab, config.width]);
    if config.mtp {
        let block = config.layers();
        list.layer(block, Ratio::None);
        list.matrix(&format!("blk.{block}.nextn.eh_proj"), [config.width, 2 * config.width]);
        for name in ["enorm", "hnorm"] {
            list.vector(&format!("blk.{block}.nextn.{name}.weight"), config.width);
        }
    }
    list.tensors
}

struct Inventory<'a> {
    config: &'a Config,
    tensors: Vec<Tensor>,
}

impl Inventory<'_> {
    fn add(&mut self, name: String, shape: Vec<usize>, kind: Kind) {
        self.tensors.push(Tensor { name, shape, kind });
    }

    fn matrix<const N: usize>(&mut self, stem: &str, shape: [usize; N]) {
        self.add(format!("{stem}.weight"), shape.to_vec(), Kind::Matrix);
    }

    fn vector(&mut self, name: &str, len: usize) {
        self.add(name.to_owned(), vec![len], Kind::Vector);
    }

    fn layer(&mut self, layer: usize, ratio: Ratio) {
        let c = self.config;
        let blk = |name: &str| format!("blk.{layer}.{name}");
        self.hyper_connection(&blk("hc_attn"));
        self.vector(&blk("attn_norm.weight"), c.width);
        self.matrix(&blk("attn_q_a"), [c.q_lora, c.width]);
        self.vector(&blk("attn_q_a_norm.weight"), c.q_lora);
        self.matrix(&blk("attn_q_b"), [c.heads * c.head_dim, c.q_lora]);
        self.matrix(&blk("attn_kv"), [c.head_dim, c.width]);
        self.vector(&blk("attn_kv_a_norm.weight"), c.head_dim);
        self.vector(&blk("attn_sinks.weight"), c.heads);
        self.matrix(&blk("attn_output_a"), [c.out_groups * c.out_lora, c.heads / c.out_groups * c.head_dim]);
        self.matrix(&blk("attn_output_b"), [c.width, c.out_groups * c.out_lora]);
        if ratio != Ratio::None {
            self.compressor(&blk("attn_compressor"), ratio, c.head_dim);
        }
        if ratio == Ratio::Csa {
            self.matrix(&blk("indexer.attn_q_b"), [c.index_heads * c.index_dim, c.q_lora]);
            self.matrix(&blk("indexer.proj"), [c.index_heads, c.width]);
            self.compressor(&blk("indexer_compressor"), ratio, c.index_dim);
        }
        self.hyper_connection(&blk("hc_ffn"));
        self.vector(&blk("ffn_norm.weight"), c.width);
        self.matrix(&blk("ffn_gate_inp"), [c.experts, c.width]);
        if layer < c.hash_layers {
            self.add(blk("ffn_gate_tid2eid.weight"), vec![c.vocab, c.experts_used], Kind::Table);
        } else {
            self.vector(&blk("exp_probs_b.bias"), c.experts);
        }
        let width = c.expert_width[layer];
        for (name, rows, cols) in [("gate", width, c.width), ("up", width, c.width), ("down", c.width, width)]
        {
            self.matrix(&blk(&format!("ffn_{name}_exps")), [c.experts, rows, cols]);
            self.matrix(&blk(&format!("ffn_{name}_shexp")), [rows, cols]);
        }
    }

    fn hyper_connection(&mut self, stem: &str) {
        let (rows, streams) = (self.config.hc_rows(), self.config.hc * self.config.width);
        self.matrix(&format!("{stem}_fn"), [rows, streams]);
        self.vector(&format!("{stem}_base.weight"), rows);
        self.vector(&format!("{stem}_scale.weight"), 3);
    }

    fn collapse(&mut self, stem: &str) {
        let (hc, streams) = (self.config.hc, self.config.hc * self.config.width);
        self.matrix(&format!("{stem}_fn"), [hc, streams]);
        self.vector(&format!("{stem}_base.weight"), hc);
        self.vector(&format!("{stem}_scale.weight"), 1);
    }

    fn compressor(&mut self, stem: &str, ratio: Ratio, width: usize) {
        let (inner, d) = (ratio.inner_width(width), self.config.width);
        self.matrix(&format!("{stem}_kv"), [inner, d]);
        self.matrix(&format!("{stem}_gate"), [inner, d]);
        self.add(format!("{stem}_ape.weight"), vec![ratio.tokens(), inner], Kind::Vector);
        self.vector(&format!("{stem}_norm.weight"), width);
    }
}

/// A file whose metadata and tensors fit together: what is left to do is to hand it to a backend.
pub struct Checked<'a> {
    /// The model's numbers.
    pub config: Config,
    /// Tensors in the file that the model does not use.
    pub unused: Vec<String>,
    gguf: &'a Gguf,
    tensors: HashMap<String, (Tensor, &'a TensorInfo)>,
}

/// Checks a file from end to end without reading weights, except the tables of hash-routed layers.
///
/// # Errors
///
/// The first thing that is wrong with the file.
pub fn check(gguf: &Gguf) -> Result<Checked<'_>, LoadError> {
    let config = Config::read(gguf)?;
    let mut tensors = HashMap::new();
    for tensor in inventory(&config) {
        let info = check_tensor(gguf, &config, &tensor)?;
        tensors.insert(tensor.name.clone(), (tensor, info));
    }
    for tensor in own_head(gguf, &config) {
        let info = check_tensor(gguf, &config, &tensor)?;
        tensors.insert(tensor.name.clone(), (tensor, info));
    }
    let unused =
        gguf.tensors().map(|t| &t.name).filter(|name| !tensors.contains_key(*name)).cloned().collect();
    Ok(Checked { config, unused, gguf, tensors })
}

/// What an MTP block may have of its own of what is behind the last layer, as far as the file has it: the final norm, and the
/// collapse of the streams. Without them it shares the main model's.
fn own_head(gguf: &Gguf, config: &Config) -> Vec<Tensor> {
    let mut list = Inventory { config, tensors: Vec::new() };
    let block = format!("blk.{}.nextn", config.layers());
    if config.mtp && gguf.tensor(&format!("{block}.shared_head_norm.weight")).is_some() {
        list.vector(&format!("{block}.shared_head_norm.weight"), config.width);
    }
    if config.mtp && gguf.tensor(&format!("{block}.hc_head_fn.weight")).is_some() {
        list.collapse(&format!("{block}.hc_head"));
    }
    list.tensors
}

fn check_tensor<'a>(gguf: &'a Gguf, config: &Config, tensor: &Tensor) -> Result<&'a TensorInfo, LoadError> {
    let name = tensor.name.clone();
    let info = gguf.tensor(&name).ok_or_else(|| LoadError::MissingTensor { name: name.clone() })?;
    if !shape_fits(config, tensor, info) {
        let need = tensor.shape.iter().rev().copied().collect();
        return Err(LoadError::Shape { name, found: info.dims.clone(), need });
    }
    let found = info.kind.name();
    match tensor.kind {
        Kind::Matrix if Format::from_ggml_id(info.kind.id()).is_none() => {
            let need = "F32, F16, BF16, Q8_0, Q2_K to Q6_K, IQ2_XXS or MXFP4";
            Err(LoadError::Type { name, found, need })
        }
        Kind::Vector if !matches!(info.kind, TensorType::F32 | TensorType::F16 | TensorType::BF16) => {
            Err(LoadError::Type { name, found, need: "F32, F16 or BF16" })
        }
        Kind::Table => check_table(gguf, config, info).map(|()| info),
        _ => Ok(info),
    }
}

/// Whether the file's dimensions, fastest axis first, are the shape. The grouped output projection is
/// also written with an axis for the groups.
fn shape_fits(config: &Config, tensor: &Tensor, info: &TensorInfo) -> bool {
    let fits = |shape: &[usize]| {
        (0..info.dims.len().max(shape.len())).all(|axis| {
            let need = shape.len().checked_sub(axis + 1).map_or(1, |i| shape[i]);
            info.dim(axis) == need as u64
        })
    };
    let grouped = || {
        let [rows, cols] = tensor.shape[..] else {
            return false;
        };
        fits(&[config.out_groups, rows / config.out_groups, cols])
    };
    fits(&tensor.shape) || (tensor.name.ends_with("attn_output_a.weight") && grouped())
}

fn check_table(gguf: &Gguf, config: &Config, info: &TensorInfo) -> Result<(), LoadError> {
    let name = || info.name.clone();
    if info.kind != TensorType::I32 {
        return Err(LoadError::Type { name: name(), found: info.kind.name(), need: "I32" });
    }
    let bad = |id: &i32| !(0..config.experts as i64).contains(&i64::from(*id));
    match read_i32(&gguf.data(info)).enumerate().find(|(_, id)| bad(id)) {
        Some((i, id)) => {
            let (token, expert, experts) = (i / config.experts_used, i64::from(id), config.experts);
            Err(LoadError::ExpertTable { name: name(), token, expert, experts })
        }
        None => Ok(()),
    }
}

fn read_i32(bytes: &[u8]) -> impl Iterator<Item = i32> + '_ {
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Loads a model. Matrices stay in the mapped file, as far as the backend leaves them there.
///
/// # Errors
///
/// As [`check`], or if the backend has no room.
pub fn load<B: Ops>(ops: &B, gguf: &Gguf) -> Result<Model<B>, LoadError> {
    check(gguf)?.load(ops, &|_, _| {})
}

impl Checked<'_> {
    /// As [`load`], for somebody who wants to know how far it is.
    ///
    /// - `watch`: hears after each matrix how many bytes of matrices the backend has taken, and of how many
    ///
    /// # Errors
    ///
    /// If the backend has no room, or a vector has a value that is no number.
    pub fn load<B: Ops>(self, ops: &B, watch: &dyn Fn(u64, u64)) -> Result<Model<B>, LoadError> {
        let matrices = self.tensors.values().filter(|(tensor, _)| tensor.kind == Kind::Matrix);
        let total = matrices.map(|(_, info)| info.bytes).sum();
        let loader = Loader { ops, file: self, taken: Cell::new(0), total, watch };
        let config = &loader.file.config;
        let layers =
            (0..config.layers()).map(|i| loader.layer(i, config.ratios[i])).collect::<Result<_, _>>()?;
        let output = Arc::new(loader.matrix("output")?);
        let compressed_rope = Rope::new(config.rope_dim, config.compressed_rope_base, config.yarn);
        Ok(Model {
            fingerprint: fingerprint(loader.file.gguf),
            embedding: loader.matrix("token_embd")?,
            layers,
            mtp: config.mtp.then(|| loader.mtp(output.clone())).transpose()?,
            head: loader.head("output_hc", "output_norm.weight", output)?,
            plain_rope: Rope::new(config.rope_dim, config.rope_base, None),
            compressed_rope,
            config: loader.file.config,
        })
    }
}

/// Identifies a model: a hash of its metadata, and of name, type, shape and a sample of the data of
/// every tensor of its own. Reading all of a large model for this would take a minute.
pub fn fingerprint(gguf: &Gguf) -> [u8; 32] {
    const SAMPLE: usize = 4096;
    let mut hash = blake3::Hasher::new();
    for (key, value) in gguf.metadata().iter() {
        hash.update(format!("{key}={value}\n").as_bytes());
    }
    for info in gguf.own_tensors() {
        hash.update(format!("{} {:?} {}\n", info.name, info.dims, info.kind.name()).as_bytes());
        let data = gguf.data(info);
        for start in [0, data.len() / 2, data.len().saturating_sub(SAMPLE)] {
            hash.update(&data[start..(start + SAMPLE).min(data.len())]);
        }
    }
    *hash.finalize().as_bytes()
}

struct Loader<'a, B: Ops> {
    ops: &'a B,
    file: Checked<'a>,
    /// Bytes of matrices that the backend has taken, and all of them.
    taken: Cell<u64>,
    total: u64,
    watch: &'a dyn Fn(u64, u64),
}

impl<B: Ops> Loader<'_, B> {
    /// A tensor of the inventory.
    fn tensor(&self, name: &str) -> (&Tensor, &TensorInfo) {
        let (tensor, info) =
            self.file.tensors.get(name).unwrap_or_else(|| panic!("{name} is not in the inventory"));
        (tensor, info)
    }

    fn matrix(&self, stem: &str) -> Result<B::Matrix, LoadError> {
        let (tensor, info) = self.tensor(&format!("{stem}.weight"));
        let cols = *tensor.shape.last().expect("a matrix has two axes");
        let matrix = Matrix {
            name: tensor.name.clone(),
            format: Format::from_ggml_id(info.kind.id()).expect("checked"),
            rows: tensor.shape.iter().product::<usize>() / cols,
            cols,
            bytes: self.file.gguf.data(info),
        };
        let taken = self.ops.matrix(matrix);
        self.taken.set(self.taken.get() + info.bytes);
        // A matrix that is used in two places is taken twice.
        (self.watch)(self.taken.get().min(self.total), self.total);
        taken.map_err(|error| LoadError::Device { name: tensor.name.clone(), error })
    }

    fn vector(&self, name: &str) -> Result<B::Array, LoadError> {
        let (tensor, info) = self.tensor(name);
        let format = Format::from_ggml_id(info.kind.id()).expect("checked");
        let mut values = vec![0.0; tensor.shape.iter().product()];
        format.decode_row(&self.file.gguf.data(info), &mut values);
        if values.iter().any(|v| !v.is_finite()) {
            return Err(LoadError::NotFinite { name: name.to_owned() });
        }
        let width = *tensor.shape.last().expect("at least one axis");
        self.ops.array(values, width).map_err(|error| LoadError::Device { name: name.to_owned(), error })
    }

    fn norm(&self, name: &str) -> Result<Norm<B>, LoadError> {
        Ok(Norm { weight: self.vector(name)?, eps: self.file.config.rms_eps })
    }

    fn layer(&self, layer: usize, ratio: Ratio) -> Result<Layer<B>, LoadError> {
        let blk = |name: &str| format!("blk.{layer}.{name}");
        Ok(Layer {
            attn_hc: self.hyper_connection(&blk("hc_attn"))?,
            attn_norm: self.norm(&blk("attn_norm.weight"))?,
            attn: self.attention(layer, ratio)?,
            ffn_hc: self.hyper_connection(&blk("hc_ffn"))?,
            ffn_norm: self.norm(&blk("ffn_norm.weight"))?,
            router: self.router(layer)?,
            experts: Experts {
                stack: self.expert(layer, "exps", &self.file.config.clamp)?,
                count: self.file.config.experts,
            },
            shared: self.expert(layer, "shexp", &self.file.config.clamp_shared)?,
        })
    }

    fn hyper_connection(&self, stem: &str) -> Result<HyperConnection<B>, LoadError> {
        let c = &self.file.config;
        Ok(HyperConnection {
            weights: self.matrix(&format!("{stem}_fn"))?,
            base: self.vector(&format!("{stem}_base.weight"))?,
            scale: self.vector(&format!("{stem}_scale.weight"))?,
            hc: c.hc,
            iterations: c.sinkhorn,
            eps: c.hc_eps,
            rms_eps: c.rms_eps,
        })
    }

    fn attention(&self, layer: usize, ratio: Ratio) -> Result<Attention<B>, LoadError> {
        let c = &self.file.config;
        let blk = |name: &str| format!("blk.{layer}.{name}");
        Ok(Attention {
            q_a: self.matrix(&blk("attn_q_a"))?,
            q_a_norm: self.norm(&blk("attn_q_a_norm.weight"))?,
            q_b: self.matrix(&blk("attn_q_b"))?,
            kv: self.matrix(&blk("attn_kv"))?,
            kv_norm: self.norm(&blk("attn_kv_a_norm.weight"))?,
            sinks: self.vector(&blk("attn_sinks.weight"))?,
            out_a: self.matrix(&blk("attn_output_a"))?,
            out_b: self.matrix(&blk("attn_output_b"))?,
            heads: c.heads,
            head_dim: c.head_dim,
            groups: c.out_groups,
            compressor: (ratio != Ratio::None)
                .then(|| self.compressor(&blk("attn_compressor"), ratio, c.head_dim))
                .transpose()?,
            indexer: (ratio == Ratio::Csa).then(|| self.indexer(layer)).transpose()?,
        })
    }

    fn compressor(&self, stem: &str, ratio: Ratio, width: usize) -> Result<Compressor<B>, LoadError> {
        Ok(Compressor {
            kv: self.matrix(&format!("{stem}_kv"))?,
            gate: self.matrix(&format!("{stem}_gate"))?,
            ape: self.vector(&format!("{stem}_ape.weight"))?,
            norm: self.norm(&format!("{stem}_norm.weight"))?,
            ratio: ratio.tokens(),
            width,
            overlap: ratio == Ratio::Csa,
        })
    }

    fn indexer(&self, layer: usize) -> Result<Indexer<B>, LoadError> {
        let c = &self.file.config;
        Ok(Indexer {
            q_b: self.matrix(&format!("blk.{layer}.indexer.attn_q_b"))?,
            proj: self.matrix(&format!("blk.{layer}.indexer.proj"))?,
            heads: c.index_heads,
            width: c.index_dim,
            top_k: c.top_k,
            compressor: self.compressor(
                &format!("blk.{layer}.indexer_compressor"),
                Ratio::Csa,
                c.index_dim,
            )?,
        })
    }

    fn router(&self, layer: usize) -> Result<Router<B>, LoadError> {
        let c = &self.file.config;
        let by_token = layer < c.hash_layers;
        let table = || {
            let (_, info) = self.tensor(&format!("blk.{layer}.ffn_gate_tid2eid.weight"));
            read_i32(&self.file.gguf.data(info)).map(|id| id as u32).collect()
        };
        Ok(Router {
            gate: self.matrix(&format!("blk.{layer}.ffn_gate_inp"))?,
            bias: (!by_token).then(|| self.vector(&format!("blk.{layer}.exp_probs_b.bias"))).transpose()?,
            table: by_token.then(table),
            used: c.experts_used,
            scale: c.expert_scale,
        })
    }

    fn expert(&self, layer: usize, which: &str, clamp: &[f32]) -> Result<Expert<B>, LoadError> {
        Ok(Expert {
            gate: self.matrix(&format!("blk.{layer}.ffn_gate_{which}"))?,
            up: self.matrix(&format!("blk.{layer}.ffn_up_{which}"))?,
            down: self.matrix(&format!("blk.{layer}.ffn_down_{which}"))?,
            ff: self.file.config.expert_width[layer],
            clamp: clamp[layer],
        })
    }

    fn head(&self, collapse: &str, norm: &str, output: Arc<B::Matrix>) -> Result<Head<B>, LoadError> {
        let c = &self.file.config;
        Ok(Head {
            weights: self.matrix(&format!("{collapse}_fn"))?,
            base: self.vector(&format!("{collapse}_base.weight"))?,
            scale: self.vector(&format!("{collapse}_scale.weight"))?,
            hc: c.hc,
            eps: c.hc_eps,
            rms_eps: c.rms_eps,
            norm: self.norm(norm)?,
            output,
        })
    }

    /// The MTP block: it shares the main model's output matrix, and its collapse and norm as far as it has none.
    fn mtp(&self, output: Arc<B::Matrix>) -> Result<Mtp<B>, LoadError> {
        let block = self.file.config.layers();
        let own = |name: &str| self.file.tensors.contains_key(name);
        let norm = format!("blk.{block}.nextn.shared_head_norm.weight");
        let norm = if own(&norm) { &norm } else { "output_norm.weight" };
        let collapse = format!("blk.{block}.nextn.hc_head");
        let collapse = if own(&format!("{collapse}_fn.weight")) { &collapse } else { "output_hc" };
        Ok(Mtp {
            entry: MtpEntry {
                eh_proj: self.matrix(&format!("blk.{block}.nextn.eh_proj"))?,
                enorm: self.norm(&format!("blk.{block}.nextn.enorm.weight"))?,
                hnorm: self.norm(&format!("blk.{block}.nextn.hnorm.weight"))?,
                hc: self.file.config.hc,
            },
            layer: self.layer(block, Ratio::None)?,
            head: self.head(collapse, norm, output)?,
        })
    }
}
