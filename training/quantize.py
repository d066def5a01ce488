"""The block formats that the shipped file uses, simulated: what a weight is after a round trip."""

import torch


def mxfp4(w):
    """Blocks of 32 along the last axis: one power of two, elements from 0, .5, 1, 1.5, 2, 3, 4, 6 with a sign."""
    blocks = w.unflatten(-1, (-1, 32))
    amax = blocks.abs().amax(-1, keepdim=True)
    scale = torch.exp2(torch.floor(torch.log2(amax.clamp_min(1e-30))) - 2)
    a = (blocks / scale).abs().clamp_max(6)
    # Ties go to the smaller value: rounding a hair below the half keeps them down.
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    a = torch.ceil(a / step - 0.5) * step
    return (a * blocks.sign() * scale).flatten(-2)
