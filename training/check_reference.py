"""Holds `model.py` to reference logits: loads a GGUF file and compares every stored row.

usage: check_reference.py GOLDEN.json ...

A golden names its GGUF file, token ids, positions and a file of logits computed by another implementation
(transformers' `DeepseekV4ForCausalLM`, dequantized weights, f32), all beside it. Exit status 1 on a difference.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F

from gguf_io import read_model
from model import ALIGN

LIMIT = 3e-4  # worst logit; the reference's own f32 noise is a tenth of that


def rows_differ(rows, golden, member, folder):
    positions = member.get("positions", golden["positions"])
    want = np.fromfile(folder / member["logits_file"], "<f4").reshape(len(positions), -1)
    return float(np.abs(rows[positions] - want).max())


@torch.no_grad()
def check(path):
    golden = json.loads(path.read_text())
    model, _ = read_model(path.parent / golden["model"])
    tokens = torch.tensor([golden["tokens"]])
    padded = F.pad(tokens, (0, -tokens.shape[1] % ALIGN))
    streams, _, _ = model(padded)
    found = {"main": rows_differ(model.logits(streams)[0].numpy(), golden, golden, path.parent)}
    if "mtp" in golden:
        found["mtp"] = rows_differ(model.draft(streams, padded)[0][0].numpy(), golden, golden["mtp"], path.parent)
    ok = all(worst <= LIMIT for worst in found.values())
    print("PASS" if ok else "FAIL", path.name, {k: f"{v:.1e}" for k, v in found.items()})
    return ok


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    sys.exit(not all([check(pathlib.Path(p)) for p in sys.argv[1:]]))
