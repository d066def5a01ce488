"""Reading a `deepseek4` GGUF file into a `Model`, weights dequantized to f32."""

import gguf
import numpy as np
import torch

from config import config_from_metadata
from model import Model, gguf_names


def read_model(path):
    """The model in a GGUF file, and its metadata as a dict."""
    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    model = Model(config_from_metadata(lambda key: metadata.get("deepseek4." + key)))
    tensors = {t.name: t for t in reader.tensors}
    with torch.no_grad():
        for name, target in gguf_names(model):
            source = tensors.pop(name)
            values = source.data if source.tensor_type == gguf.GGMLQuantizationType.I32 else (
                gguf.dequantize(source.data, source.tensor_type))
            target.copy_(torch.from_numpy(np.array(values)).reshape(target.shape))
    assert not tensors, f"tensors without a place: {sorted(tensors)}"
    return model, metadata
