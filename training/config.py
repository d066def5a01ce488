"""The shape of a `deepseek4` model: every number the maths needs, and the pocket model's choice of them."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Config:
    """Names follow the metadata keys of the GGUF file; `ratios` has one compress ratio a main layer."""

    vocab: int = 2048
    width: int = 256
    ratios: tuple = (0, 4, 128, 4, 128, 4)
    mtp_layers: int = 1
    heads: int = 8
    head_dim: int = 96  # 64 without RoPE, one FP8 block, + 32 with
    rope_dims: int = 32
    q_lora: int = 128
    o_groups: int = 2
    o_lora: int = 128
    window: int = 64
    index_heads: int = 4
    index_dim: int = 64
    top_k: int = 32
    experts: int = 8
    experts_used: int = 2
    expert_ff: int = 128
    expert_scale: float = 1.5
    hash_layers: int = 2
    swiglu_limit: float = 8.0
    streams: int = 4
    sinkhorn: int = 4
    hc_eps: float = 1e-6
    rms_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_theta: float = 160000.0
    yarn_factor: float = 4.0
    yarn_original: int = 1024
    yarn_fast: float = 32.0
    yarn_slow: float = 1.0
    context: int = 4096

    @property
    def layers(self):
        """Main layers, the MTP block not counted."""
        return len(self.ratios)

    def ratio(self, layer):
        """Compress ratio of a block; the MTP block, which comes last, sees only its window."""
        return self.ratios[layer] if layer < self.layers else 0

    def is_hashed(self, layer):
        """Whether a block picks its experts by token id."""
        return layer < self.hash_layers


POCKET = Config()

# A model for trying the pipeline on a CPU: same kinds of layers, a few thousand tokens a second.
TINY = Config(
    vocab=2048, width=128, ratios=(0, 4, 128, 4), heads=4, q_lora=64, o_lora=64,
    index_heads=2, experts=4, expert_ff=64,
)


def config_from_metadata(read):
    """Builds a `Config` from GGUF metadata; `read(key)` returns the value of `deepseek4.<key>`."""
    mtp = read("nextn_predict_layers") or 0
    layers = read("block_count") - mtp
    clamp = read("swiglu_clamp_exp")
    values = dict(
        vocab=read("vocab_size"), width=read("embedding_length"),
        ratios=tuple(read("attention.compress_ratios")[:layers]), mtp_layers=mtp,
        heads=read("attention.head_count"), head_dim=read("attention.key_length"),
        rope_dims=read("rope.dimension_count"), q_lora=read("attention.q_lora_rank"),
        o_groups=read("attention.output_group_count"), o_lora=read("attention.output_lora_rank"),
        window=read("attention.sliding_window"), index_heads=read("attention.indexer.head_count"),
        index_dim=read("attention.indexer.key_length"), top_k=read("attention.indexer.top_k"),
        experts=read("expert_count"), experts_used=read("expert_used_count"),
        expert_ff=read("expert_feed_forward_length"), expert_scale=read("expert_weights_scale"),
        hash_layers=read("hash_layer_count"), swiglu_limit=clamp[0] if isinstance(clamp, list) else clamp,
        streams=read("hyper_connection.count"), sinkhorn=read("hyper_connection.sinkhorn_iterations"),
        hc_eps=read("hyper_connection.epsilon"), rms_eps=read("attention.layer_norm_rms_epsilon"),
        rope_theta=read("rope.freq_base"), compress_theta=read("attention.compress_rope_freq_base"),
        yarn_factor=read("rope.scaling.factor"), yarn_original=read("rope.scaling.original_context_length"),
        yarn_fast=read("rope.scaling.yarn_beta_fast"), yarn_slow=read("rope.scaling.yarn_beta_slow"),
        context=read("context_length"),
    )
    assert set(values) == {f.name for f in fields(Config)}
    return Config(**values)
