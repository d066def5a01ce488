"""Writes decode.json and encode.json beside this file, with gguf-py as the judge. See README.md."""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type

HERE = Path(__file__).parent
rng = np.random.default_rng(20240807)

# Where the f16 scales lie in a block. Random bytes there would mostly be huge or NaN.
SCALES = {
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.IQ2_XXS: [0],
}


def random_blocks(kind, count):
    """Random codes with sensible scales: zero, negative and subnormal ones among them."""
    size = GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES.get(kind, []):
        scale = (rng.standard_normal(count) * 10.0 ** rng.uniform(-7, 2, count)).astype(np.float16)
        scale[:3] = [0.0, -1.5, 6e-8]
        blocks[:, at : at + 2] = scale.view(np.uint8).reshape(count, 2)
    if kind == Type.MXFP4:
        blocks[:, 0] = rng.integers(0, 255, count)  # 255 is NaN
        blocks[:3, 0] = [0, 1, 254]
    return blocks


def decode_case(kind, count):
    blocks = random_blocks(kind, count)
    if kind in (Type.F16, Type.BF16):  # keep NaN out: its bits are nobody's promise
        with np.errstate(all="ignore"):
            blocks = blocks[np.isfinite(gguf.dequantize(blocks, kind)).all(axis=1)]
    values = gguf.dequantize(blocks, kind).astype(np.float32)
    return {
        "format": kind.name,
        "bytes": blocks.tobytes().hex(),
        "bits": values.view(np.uint32).ravel().tolist(),
    }


def encode_case(kind, rows):
    data = gguf.quantize(rows, kind)
    return {
        "format": kind.name,
        "bits": rows.view(np.uint32).ravel().tolist(),
        "bytes": data.tobytes().hex(),
    }


def rows_to_encode():
    """Heavy-tailed rows of 32 at many magnitudes, and plain ones: zeros, ties, one lone value."""
    rows = rng.standard_t(3, (24, 32)) * 10.0 ** rng.uniform(-4, 3, (24, 1))
    rows[0] = 0
    rows[1] = np.arange(32) * 0.25 - 4  # many ties in MXFP4
    rows[2] = 0
    rows[2, 7] = -3e-3
    rows[3] = np.where(np.arange(32) % 2, 127.0, 0.5)  # ties in Q8_0
    return rows.astype(np.float32)


def main():
    blocks = {Type.F32: 64, Type.F16: 256, Type.BF16: 256, Type.Q8_0: 12, Type.MXFP4: 12}
    kinds = [Type.F16, Type.BF16, Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ2_XXS, Type.MXFP4]
    decode = [decode_case(kind, blocks.get(kind, 6)) for kind in kinds]
    encode = [encode_case(kind, rows_to_encode()) for kind in [Type.F16, Type.BF16, Type.Q8_0, Type.MXFP4]]
    for name, cases in [("decode.json", decode), ("encode.json", encode)]:
        text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        (HERE / name).write_text(f"[\n{text}\n]\n")


main()
