//! [`Config`]: what a GGUF file says of the model in it, checked.
//!
//! Every size is read from metadata under the prefix `deepseek4.`; nothing is assumed from the name of
//! a model. What is specific is the architecture, and a file of another one is refused with a message
//! that says what it is. That the tensors have the shapes these numbers promise is checked in
//! [`crate::load`].

use crate::load::LoadError;
use crate::rope::Yarn;
use crate::timeline::PAGE;
use gguf::{Gguf, Metadata};

/// Hyper-parameters of a model of architecture `deepseek4`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.name`, or nothing.
    pub name: String,
    /// Token ids.
    pub vocab: usize,
    /// Positions the model knows.
    pub context: usize,
    /// d, width of a stream.
    pub width: usize,
    /// Residual streams.
    pub hc: usize,
    /// Sinkhorn rounds of a hyper-connection.
    pub sinkhorn: usize,
    /// Epsilon of the hyper-connections.
    pub hc_eps: f32,
    /// Epsilon of all RMS norms.
    pub rms_eps: f32,
    /// How each main layer compresses its past.
    pub ratios: Vec<Ratio>,
    /// Query heads.
    pub heads: usize,
    /// D, width of a head.
    pub head_dim: usize,
    /// Components of a head, at its end, that carry the rotary embedding.
    pub rope_dim: usize,
    /// Rank of the query projection.
    pub q_lora: usize,
    /// Groups of the output projection.
    pub out_groups: usize,
    /// Rank of the output projection in each group.
    pub out_lora: usize,
    /// Sliding window in tokens, the current one included.
    pub window: usize,
    /// Heads of the indexer.
    pub index_heads: usize,
    /// Width of an index key.
    pub index_dim: usize,
    /// Compressed rows the indexer keeps.
    pub top_k: usize,
    /// Routed experts.
    pub experts: usize,
    /// Routed experts used for a token.
    pub experts_used: usize,
    /// Inner width of an expert, by layer (the MTP block's last, if there is one).
    pub expert_width: Vec<usize>,
    /// What the shares of the experts of a token add up to.
    pub expert_scale: f32,
    /// The first layers, which choose experts by token id.
    pub hash_layers: usize,
    /// SwiGLU limit of routed experts, by layer; infinite if there is none.
    pub clamp: Vec<f32>,
    /// SwiGLU limit of the shared expert, by layer.
    pub clamp_shared: Vec<f32>,
    /// RoPE base of layers that see the window only.
    pub rope_base: f32,
    /// RoPE base of layers that compress.
    pub compressed_rope_base: f32,
    /// Context extension of layers that compress.
    pub yarn: Option<Yarn>,
    /// Whether the file has a block that drafts a further token.
    pub mtp: bool,
}

/// How a layer sees beyond its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ratio {
    /// Not at all.
    None,
    /// One row for 4 tokens, drawing on 8, of which an indexer chooses (CSA).
    Csa,
    /// One row for 128 tokens, all of them visible (HCA).
    Hca,
}

impl Ratio {
    /// Tokens to one compressed row.
    pub fn tokens(self) -> usize {
        match self {
            Ratio::None => PAGE,
            Ratio::Csa => 4,
            Ratio::Hca => 128,
        }
    }

    /// Width of one token's k, and of its g, for rows of `width`.
    pub fn inner_width(self, width: usize) -> usize {
        if self == Ratio::Csa { 2 * width } else { width }
    }

    /// First position whose compressor input is still needed at position `p`.
    pub fn frontier_from(self, p: usize) -> usize {
        match self {
            Ratio::None => p,
            Ratio::Csa => (p / 4 * 4).saturating_sub(4),
            Ratio::Hca => p / 128 * 128,
        }
    }
}

impl Config {
    /// Reads and checks the metadata of a file.
    ///
    /// # Errors
    ///
    /// If the file is of another architecture, or a key is missing, of a wrong type or out of range.
    pub fn read(gguf: &Gguf) -> Result<Config, LoadError> {
        let md = gguf.metadata();
        check_architecture(md)?;
        let keys = Keys { md };
        keys.must_be("attention.head_count_kv", 1, Some(1))?;
        keys.must_be("expert_shared_count", 1, None)?;
        keys.must_be("expert_gating_func", 4, None)?;
        keys.must_be("leading_dense_block_count", 0, Some(0))?;
        if keys.opt_u32("expert_group_count")?.unwrap_or(0) > 1 {
            return Err(keys.refused(
                "expert_group_count",
                "more than 1",
                "expert groups are not part of DeepSeek V4 Flash",
            ));
        }
        if !md.bool(&keys.name("expert_weights_norm"))? {
            return Err(keys.refused("expert_weights_norm", "false", "true"));
        }
        let (layers, mtp) = count_layers(gguf, &keys)?;
        let shared_key =
            ["swiglu_clamp_shexp", "swiglu_clamp_exp"].into_iter().find(|key| md.contains(&keys.name(key)));
        let head_dim = keys.size("attention.key_length")?;
        keys.must_be("attention.value_length", head_dim as u32, None)?;
        let config = Config {
            name: md.opt_str("general.name")?.unwrap_or_default().to_owned(),
            vocab: vocab(gguf, &keys)?,
            context: keys.size("context_length")?,
            width: keys.size("embedding_length")?,
            hc: keys.size("hyper_connection.count")?,
            sinkhorn: keys.size("hyper_connection.sinkhorn_iterations")?,
            hc_eps: keys.positive("hyper_connection.epsilon")?,
            rms_eps: keys.positive("attention.layer_norm_rms_epsilon")?,
            ratios: ratios(&keys, layers)?,
            heads: keys.size("attention.head_count")?,
            head_dim,
            rope_dim: keys.size("rope.dimension_count")?,
            q_lora: keys.size("attention.q_lora_rank")?,
            out_groups: keys.size("attention.output_group_count")?,
            out_lora: keys.size("attention.output_lora_rank")?,
            window: keys.size("attention.sliding_window")?,
            index_heads: keys.size("attention.indexer.head_count")?,
            index_dim: keys.size("attention.indexer.key_length")?,
            top_k: keys.size("attention.indexer.top_k")?,
            experts: keys.size("expert_count")?,
            experts_used: keys.size("expert_used_count")?,
            expert_width: keys.per_layer_size("expert_feed_forward_length", layers, mtp)?,
            expert_scale: keys.positive("expert_weights_scale")?,
            hash_layers: keys.u32("hash_layer_count")? as usize,
            clamp: keys.limits("swiglu_clamp_exp", layers, mtp)?,
            clamp_shared: keys.limits(shared_key.unwrap_or("swiglu_clamp_exp"), layers, mtp)?,
            rope_base: keys.positive("rope.freq_base")?,
            compressed_rope_base: keys.positive("attention.compress_rope_freq_base")?,
            yarn: yarn(&keys)?,
            mtp,
        };
        config.check_together(&keys)?;
        Ok(config)
    }

    /// Main layers.
    pub fn layers(&self) -> usize {
        self.ratios.len()
    }

    /// Whether any layer chooses among its compressed rows.
    pub fn has_indexer(&self) -> bool {
        self.ratios.contains(&Ratio::Csa)
    }

    /// Rows of a hyper-connection's matrix: pre and post of each stream, comb of each pair.
    pub fn hc_rows(&self) -> usize {
        self.hc * (2 + self.hc)
    }

    /// What no single key can say.
    fn check_together(&self, keys: &Keys<'_>) -> Result<(), LoadError> {
        let at_most = |key, found: usize, most: usize, why| {
            if found <= most {
                Ok(())
            } else {
                Err(keys.refused(key, &found.to_string(), &format!("at most {most}, {why}")))
            }
        };
        at_most("expert_used_count", self.experts_used, self.experts, "the number of experts")?;
        at_most("attention.sliding_window", self.window, PAGE, "the length of a page of the KV cache")?;
        at_most("rope.dimension_count", self.rope_dim, self.head_dim - 1, "less than the head size")?;
        at_most("hyper_connection.count", self.hc, 16, "the largest count this engine handles")?;
        at_most(
            "hyper_connection.sinkhorn_iterations",
            self.sinkhorn,
            1000,
            "the largest count this engine handles",
        )?;
        at_most("context_length", self.context, 1 << 30, "the longest context this engine handles")?;
        if self.has_indexer() {
            at_most("rope.dimension_count", self.rope_dim, self.index_dim, "the width of an index key")?;
        }
        if !self.rope_dim.is_multiple_of(2) {
            return Err(keys.refused("rope.dimension_count", &self.rope_dim.to_string(), "an even number"));
        }
        if !self.heads.is_multiple_of(self.out_groups) {
            let need = format!("a divisor of the {} heads", self.heads);
            return Err(keys.refused("attention.output_group_count", &self.out_groups.to_string(), &need));
        }
        Ok(())
    }
}

fn check_architecture(md: &Metadata) -> Result<(), LoadError> {
    let found = md.str("general.architecture")?;
    if found == "deepseek4" {
        return Ok(());
    }
    let what = match found {
        "deepseek4-dspark" | "dflash" => {
            "a DSpark draft model, which supports a main model and cannot run alone"
        }
        "deepseek2" => "a DeepSeek V2 or V3 model",
        name if name.starts_with("deepseek4") || name.starts_with("deepseek41") => {
            "a later DeepSeek architecture (V4.1 has other layers, ratios and tensors)"
        }
        "clip" | "mmproj" => "a projector for images, not a language model",
        _ => "another kind of model",
    };
    Err(LoadError::Architecture { found: found.to_owned(), what })
}

/// Main layers, and whether an MTP block follows them in the file.
fn count_layers(gguf: &Gguf, keys: &Keys<'_>) -> Result<(usize, bool), LoadError> {
    if gguf.tensor("blk.0.attn_norm.weight").is_none() {
        let mtp_only = gguf.tensors().any(|t| t.name.starts_with("mtp.") || t.name.contains(".nextn."));
        return Err(if mtp_only {
            LoadError::MtpOnly
        } else {
            LoadError::MissingTensor { name: "blk.0.attn_norm.weight".into() }
        });
    }
    let blocks = keys.size("block_count")?;
    if blocks > 4096 {
        return Err(keys.refused("block_count", &blocks.to_string(), "at most 4096"));
    }
    let drafts = keys.opt_u32("nextn_predict_layers")?.unwrap_or(0) as usize;
    // Published main files count an MTP block in one of the two keys without having its tensors; those may have been joined.
    let has_block = |layers: &usize| gguf.tensor(&format!("blk.{layers}.nextn.eh_proj.weight")).is_some();
    let first_draft = [blocks.saturating_sub(drafts), blocks].into_iter().find(has_block);
    Ok(first_draft.filter(|&layers| layers > 0).map_or((blocks, false), |layers| (layers, true)))
}

fn vocab(gguf: &Gguf, keys: &Keys<'_>) -> Result<usize, LoadError> {
    let tokens = gguf.metadata().strings("tokenizer.ggml.tokens")?.len();
    let vocab = keys.opt_u32("vocab_size")?.map_or(tokens, |v| v as usize);
    if vocab != tokens || vocab == 0 {
        return Err(keys.refused(
            "vocab_size",
            &vocab.to_string(),
            &format!("{tokens}, the number of tokenizer.ggml.tokens"),
        ));
    }
    Ok(vocab)
}

fn ratios(keys: &Keys<'_>, layers: usize) -> Result<Vec<Ratio>, LoadError> {
    let key = "attention.compress_ratios";
    let found = keys.md.u32s(&keys.name(key))?;
    if found.len() < layers {
        return Err(keys.refused(
            key,
            &format!("{} entries", found.len()),
            &format!("one for each of {layers} layers"),
        ));
    }
    found[..layers]
        .iter()
        .map(|&ratio| match ratio {
            0 => Ok(Ratio::None),
            4 => Ok(Ratio::Csa),
            128 => Ok(Ratio::Hca),
            1 | 2 => Err(keys.refused(
                key,
                &ratio.to_string(),
                "0, 4 or 128 (1 and 2 belong to DeepSeek V4.1, which ds4 does not run)",
            )),
            _ => Err(keys.refused(key, &ratio.to_string(), "0, 4 or 128")),
        })
        .collect()
}

fn yarn(keys: &Keys<'_>) -> Result<Option<Yarn>, LoadError> {
    match keys.md.opt_str(&keys.name("rope.scaling.type"))?.unwrap_or("yarn") {
        "none" => Ok(None),
        "yarn" => Ok(Some(Yarn {
            factor: keys.positive_or("rope.scaling.factor", 16.0)?,
            original_context: keys.opt_u32("rope.scaling.original_context_length")?.unwrap_or(65536).max(1),
            beta_fast: keys.positive_or("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: keys.positive_or("rope.scaling.yarn_beta_slow", 1.0)?,
        })),
        other => Err(keys.refused("rope.scaling.type", other, "yarn or none")),
    }
}

/// Keys under the architecture's prefix.
struct Keys<'a> {
    md: &'a Metadata,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("deepseek4.{key}")
    }

    fn refused(&self, key: &str, found: &str, need: &str) -> LoadError {
        LoadError::Value { key: self.name(key), found: found.to_owned(), need: need.to_owned() }
    }

    fn u32(&self, key: &str) -> Result<u32, LoadError> {
        Ok(self.md.u32(&self.name(key))?)
    }

    fn opt_u32(&self, key: &str) -> Result<Option<u32>, LoadError> {
        Ok(self.md.opt_u32(&self.name(key))?)
    }

    /// A number of things of which there is at least one.
    fn size(&self, key: &str) -> Result<usize, LoadError> {
        match self.u32(key)? {
            0 => Err(self.refused(key, "0", "at least 1")),
            n => Ok(n as usize),
        }
    }

    fn positive(&self, key: &str) -> Result<f32, LoadError> {
        self.check_positive(key, self.md.f32(&self.name(key))?)
    }

    fn positive_or(&self, key: &str, default: f32) -> Result<f32, LoadError> {
        self.check_positive(key, self.md.opt_f32(&self.name(key))?.unwrap_or(default))
    }

    fn check_positive(&self, key: &str, value: f32) -> Result<f32, LoadError> {
        let good = value.is_finite() && value > 0.0;
        if good { Ok(value) } else { Err(self.refused(key, &value.to_string(), "a positive number")) }
    }

    fn must_be(&self, key: &str, need: u32, default: Option<u32>) -> Result<(), LoadError> {
        let found = match (self.opt_u32(key)?, default) {
            (Some(found), _) | (None, Some(found)) => found,
            (None, None) => self.u32(key)?,
        };
        if found == need { Ok(()) } else { Err(self.refused(key, &found.to_string(), &need.to_string())) }
    }

    /// A size for each main layer and, after them, the MTP block, which repeats the last if it has none.
    fn per_layer_size(&self, key: &str, layers: usize, mtp: bool) -> Result<Vec<usize>, LoadError> {
        let read = |n| self.md.u32_per_layer(&self.name(key), n);
        let values = with_draft(read, layers, mtp)?;
        match values.contains(&0) {
            true => Err(self.refused(key, "0", "at least 1")),
            false => Ok(values.into_iter().map(|v| v as usize).collect()),
        }
    }

    /// A SwiGLU limit for each main layer and the MTP block: zero and below mean that there is none.
    fn limits(&self, key: &str, layers: usize, mtp: bool) -> Result<Vec<f32>, LoadError> {
        let read = |n| self.md.f32_per_layer(&self.name(key), n);
        let values = with_draft(read, layers, mtp)?;
        match values.iter().any(|v| v.is_nan()) {
            true => Err(self.refused(key, "NaN", "a number")),
            false => Ok(values.into_iter().map(|v| if v > 0.0 { v } else { f32::INFINITY }).collect()),
        }
    }
}

/// Values of the main layers, and one more for the MTP block: the file's own, or the last layer's.
fn with_draft<T: Copy>(
    read: impl Fn(usize) -> Result<Vec<T>, gguf::MetadataError>,
    layers: usize,
    mtp: bool,
) -> Result<Vec<T>, LoadError> {
    if mtp && let Ok(values) = read(layers + 1) {
        return Ok(values);
    }
    let mut values = read(layers)?;
    values.extend(values.last().copied().filter(|_| mtp));
    Ok(values)
}
