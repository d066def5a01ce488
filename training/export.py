"""Writes a checkpoint as a GGUF file.

usage: export.py CHECKPOINT OUT.gguf [--full] [--tiny]

Shipped form: routed experts MXFP4, other matrices Q8_0, mHC mixing F16, routers, norms and tables as they are.
`--full`: matrices BF16, the rest F32. The MTP block lies in the same file as the last block (`blk.N.nextn.*`).
"""

import argparse
import pathlib

import gguf
import torch
from gguf import GGMLQuantizationType as Type

import train
from config import POCKET, TINY
from model import Model, gguf_names
from tokenizer import Tokenizer


def type_of(name, tensor, full):
    """The block format of a tensor."""
    part = name.removesuffix(".weight").split(".")[-1]
    if not tensor.is_floating_point():
        return Type.I32
    if tensor.ndim == 1 or part == "ffn_gate_inp":
        return Type.F32
    if part.startswith("hc_") or part.endswith("_hc_fn") or part.endswith("_ape"):
        return Type.F32 if full else Type.F16
    if full:
        return Type.BF16
    return Type.MXFP4 if part.endswith("_exps") else Type.Q8_0


def write_architecture(writer, cfg):
    """The `deepseek4.*` keys."""
    blocks = cfg.layers + cfg.mtp_layers
    prefix = "deepseek4."
    integers = {
        "block_count": blocks, "context_length": cfg.context, "embedding_length": cfg.width,
        "embedding_length_out": cfg.streams * cfg.width, "vocab_size": cfg.vocab,
        "attention.head_count": cfg.heads, "attention.head_count_kv": 1,
        "attention.key_length": cfg.head_dim, "attention.value_length": cfg.head_dim,
        "attention.q_lora_rank": cfg.q_lora, "attention.output_lora_rank": cfg.o_lora,
        "attention.output_group_count": cfg.o_groups, "attention.sliding_window": cfg.window,
        "attention.indexer.head_count": cfg.index_heads, "attention.indexer.key_length": cfg.index_dim,
        "attention.indexer.top_k": cfg.top_k, "rope.dimension_count": cfg.rope_dims,
        "rope.scaling.original_context_length": cfg.yarn_original,
        "expert_count": cfg.experts, "expert_used_count": cfg.experts_used, "expert_shared_count": 1,
        "expert_feed_forward_length": cfg.expert_ff, "expert_gating_func": 4, "hash_layer_count": cfg.hash_layers,
        "hyper_connection.count": cfg.streams, "hyper_connection.sinkhorn_iterations": cfg.sinkhorn,
        "nextn_predict_layers": cfg.mtp_layers,
    }
    floats = {
        "attention.layer_norm_rms_epsilon": cfg.rms_eps, "attention.compress_rope_freq_base": cfg.compress_theta,
        "rope.freq_base": cfg.rope_theta, "rope.scaling.factor": cfg.yarn_factor,
        "rope.scaling.yarn_beta_fast": cfg.yarn_fast, "rope.scaling.yarn_beta_slow": cfg.yarn_slow,
        "expert_weights_scale": cfg.expert_scale, "hyper_connection.epsilon": cfg.hc_eps,
    }
    for key, value in integers.items():
        writer.add_uint32(prefix + key, value)
    for key, value in floats.items():
        writer.add_float32(prefix + key, value)
    writer.add_array(prefix + "attention.compress_ratios", [*cfg.ratios, *[0] * cfg.mtp_layers])
    writer.add_string(prefix + "rope.scaling.type", "yarn")
    writer.add_bool(prefix + "expert_weights_norm", True)
    for key in ("swiglu_clamp_exp", "swiglu_clamp_shexp"):
        writer.add_array(prefix + key, [float(cfg.swiglu_limit)] * blocks)


def write_tokenizer(writer, spec):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("joyai-llm")
    writer.add_token_list(spec["tokens"])
    writer.add_token_types(spec["types"])
    writer.add_token_merges(spec["merges"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def write(model, spec, path, full):
    writer = gguf.GGUFWriter(path, "deepseek4")
    writer.add_type("model")
    writer.add_name("ds4 pocket")
    writer.add_description("a tiny trained model with every part of the architecture")
    writer.add_license("mit")
    writer.add_file_type(32 if full else 38)
    writer.add_quantization_version(2)
    write_architecture(writer, model.cfg)
    write_tokenizer(writer, spec)
    for name, tensor in gguf_names(model):
        kind = type_of(name, tensor, full)
        values = tensor.cpu().contiguous().numpy()
        if kind == Type.I32:
            writer.add_tensor(name, values.astype("int32"))
        else:
            writer.add_tensor(name, gguf.quantize(values.astype("float32"), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Model(TINY if options.tiny else POCKET)
    train.load(model, options.checkpoint)
    write(model, Tokenizer(train.TOKENIZER).spec, options.out, options.full)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
