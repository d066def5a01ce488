"""Muon for the matrices inside the layers, AdamW for everything else.

Muon orthogonalises each matrix's momentum (Newton-Schulz iterations of degree 5) and scales it so that its elements
are as large as AdamW's updates would be; both then share one learning rate. Sources: K. Jordan, "Muon" (2024), for
the coefficients; "Muon is scalable for LLM training" (2025) for the scale `0.2 sqrt(max(rows, columns))`.
"""

import torch


def orthogonalise(g, steps=5):
    """`[.., n, m]` -> nearly the nearest (semi-)orthogonal matrices, in bf16."""
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    x = x.mT if flip else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if flip else x


def is_inner_matrix(name, p):
    """Whether Muon takes it: the linear layers, not embeddings, mixing weights, routers or tables."""
    part = name.split(".")[-1]
    return (p.ndim >= 2 and name.startswith("blk.") and not part.startswith("hc_")
            and part not in ("ffn_gate_inp", "proj") and not part.endswith("_ape"))


class Muon(torch.optim.Optimizer):
    """Equal shapes are stacked and orthogonalised together: a handful of launches a step."""

    def __init__(self, params, lr=1e-3, momentum=0.95, weight_decay=0.1):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for same in by_shape.values():
                self.update(same, group)

    def update(self, params, group):
        momenta = []
        for p in params:
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            momenta.append(state["momentum"])
        grads = [p.grad for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, momenta, group["momentum"])
        size = 0.2 * max(params[0].shape[-2:]) ** 0.5
        update = orthogonalise(torch.stack(ahead)).float() * size
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"])
