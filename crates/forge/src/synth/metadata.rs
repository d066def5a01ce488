//! The metadata of a synthetic model, with the keys that published files have, in their order.

use gguf::{Metadata, Strings, Value};
use text::Vocab;

use super::{Sizes, Synthetic};

/// All keys of the model.
pub(super) fn of(model: &Synthetic) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "deepseek4");
    metadata.insert("general.type", "model");
    metadata.insert("general.name", model.name.as_str());
    metadata.insert("general.description", "random weights: the text it writes means nothing");
    metadata.insert("general.file_type", model.recipe.file_type());
    metadata.insert("general.quantization_version", 2u32);
    sizes(&mut metadata, &model.sizes, model.vocab.tokens.len() as u32);
    tokenizer(&mut metadata, &model.vocab);
    metadata
}

fn sizes(metadata: &mut Metadata, sizes: &Sizes, vocab: u32) {
    let blocks = sizes.layers() as u32 + u32::from(sizes.mtp);
    let clamps = || vec![sizes.clamp; blocks as usize];
    // The published files have an entry for the draft block, whether or not it is in the file.
    let ratios: Vec<i32> = sizes.ratios.iter().map(|&ratio| ratio as i32).chain([0]).collect();

    let mut set = |key: &str, value: Value| metadata.insert(format!("deepseek4.{key}"), value);
    set("block_count", blocks.into());
    set("context_length", sizes.context.into());
    set("embedding_length", sizes.width.into());
    set("embedding_length_out", sizes.hc.saturating_mul(sizes.width).into());
    set("vocab_size", vocab.into());
    set("attention.head_count", sizes.heads.into());
    set("attention.head_count_kv", 1u32.into());
    set("attention.key_length", sizes.head_dim.into());
    set("attention.value_length", sizes.head_dim.into());
    set("attention.layer_norm_rms_epsilon", 1e-6f32.into());
    set("attention.q_lora_rank", sizes.q_lora.into());
    set("attention.output_lora_rank", sizes.out_lora.into());
    set("attention.output_group_count", sizes.out_groups.into());
    set("attention.sliding_window", sizes.window.into());
    set("attention.compress_ratios", ratios.into());
    set("attention.compress_rope_freq_base", 160_000f32.into());
    set("attention.indexer.head_count", sizes.index_heads.into());
    set("attention.indexer.key_length", sizes.index_dim.into());
    set("attention.indexer.top_k", sizes.top_k.into());
    set("rope.dimension_count", sizes.rope_dim.into());
    set("rope.freq_base", 10_000f32.into());
    set("rope.scaling.type", "yarn".into());
    set("rope.scaling.factor", sizes.yarn_factor.into());
    set("rope.scaling.original_context_length", sizes.original_context.into());
    set("rope.scaling.yarn_beta_fast", 32f32.into());
    set("rope.scaling.yarn_beta_slow", 1f32.into());
    set("expert_count", sizes.experts.into());
    set("expert_used_count", sizes.experts_used.into());
    set("expert_shared_count", 1u32.into());
    set("expert_feed_forward_length", sizes.expert_width.into());
    set("expert_gating_func", 4u32.into()); // sqrt(softplus)
    set("expert_weights_norm", true.into());
    set("expert_weights_scale", 1.5f32.into());
    set("swiglu_clamp_exp", clamps().into());
    set("swiglu_clamp_shexp", clamps().into());
    set("hash_layer_count", sizes.hash_layers.into());
    set("hyper_connection.count", sizes.hc.into());
    set("hyper_connection.sinkhorn_iterations", sizes.sinkhorn.into());
    set("hyper_connection.epsilon", 1e-6f32.into());
    set("nextn_predict_layers", u32::from(sizes.mtp).into());
}

/// The keys of a file that has a tokenizer and nothing else.
pub(super) fn of_vocab(vocab: &Vocab) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "deepseek4");
    metadata.insert("general.type", "vocab");
    tokenizer(&mut metadata, vocab);
    metadata
}

fn tokenizer(metadata: &mut Metadata, vocab: &Vocab) {
    let mut set = |key: &str, value: Value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    set("model", "gpt2".into());
    set("pre", vocab.pre.as_str().into());
    set("tokens", vocab.tokens.iter().collect::<Strings>().into());
    set("token_type", vocab.kinds.iter().map(|&kind| kind as i32).collect::<Vec<_>>().into());
    set("merges", vocab.merges.iter().collect::<Strings>().into());
    if let Some(bos) = vocab.bos {
        set("bos_token_id", bos.into());
    }
    if let Some(eos) = vocab.eos {
        set("eos_token_id", eos.into());
        set("padding_token_id", eos.into());
    }
    set("add_bos_token", false.into());
    set("add_eos_token", false.into());
}
