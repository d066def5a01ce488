"""The `deepseek4` architecture in PyTorch, whole sequences at a time, made to be trained.

Parameters carry the tensor names of the GGUF file: `blk.1.attn_q_a` here is `blk.1.attn_q_a.weight`
there, with the same layout. `check_reference.py` holds this file to reference logits.

A batch is `[b, t]` tokens. A row of it may hold several documents, each starting at a multiple of 128:
then no compressed row mixes two of them, and a mask by document number makes each one independent.

Axis names: `b` rows of the batch, `t` tokens, `s` streams, `d` width, `h` heads, `D` head size, `c` compressed rows.
Start at `Model.forward`, then `Block.forward`.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

ALIGN = 128  # documents and sequence lengths are multiples of this, the coarsest compress ratio


def rms(x, weight=None, eps=1e-6):
    """RMS norm over the last axis, in f32."""
    x = x.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x if weight is None else x * weight


def rope_frequencies(cfg, compressed):
    """The angular frequencies `[rope_dims / 2]` of a layer: plain, or YaRN-scaled if it compresses."""
    n = cfg.rope_dims
    theta = cfg.compress_theta if compressed else cfg.rope_theta
    freq = theta ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
    if compressed:
        def corner(turns):
            return n * math.log(cfg.yarn_original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(corner(cfg.yarn_fast)), 0)
        high = min(math.ceil(corner(cfg.yarn_slow)), n - 1)
        ramp = ((torch.arange(n // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
        freq = freq / cfg.yarn_factor * ramp + freq * (1 - ramp)
    return freq.float()


def rope_table(cfg, compressed, length):
    """cos and sin `[length, rope_dims / 2]` of the f32 product position x frequency."""
    angle = torch.arange(length, dtype=torch.float32)[:, None] * rope_frequencies(cfg, compressed)[None]
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    """RoPE on the last `2 * cos.shape[-1]` components, as interleaved pairs. Pass `-sin` for the inverse."""
    n = 2 * cos.shape[-1]
    keep, turn = x[..., :-n].float(), x[..., -n:].float()
    a, b = turn[..., 0::2], turn[..., 1::2]
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    return torch.cat((keep, turned), -1)


# --- the roundings of the FP8/FP4 KV formats, passed straight through by the gradient ---


def _power_of_two_scale(x, block, floor, limit):
    blocks = x.unflatten(-1, (-1, block))
    amax = blocks.abs().amax(-1, keepdim=True).clamp_min(floor)
    return blocks, torch.exp2(torch.ceil(torch.log2(amax / limit)))


def fp8_round(x, block=64):
    """E4M3 with one power-of-two scale a block."""
    blocks, scale = _power_of_two_scale(x, block, 1e-4, 448.0)
    return ((blocks / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale).flatten(-2)


def fp4_round(x, block=32):
    """E2M1 with one power-of-two scale a block; ties to the even code."""
    blocks, scale = _power_of_two_scale(x, block, 6 * 2.0**-126, 6.0)
    a = (blocks / scale).abs().clamp_max(6)
    a = torch.where(a < 2, (a * 2).round() / 2, torch.where(a < 4, a.round(), (a / 2).round() * 2))
    return (a * blocks.sign() * scale).flatten(-2)


def hadamard(n, device):
    """The normalised Hadamard matrix of size n, a power of two."""
    m = torch.ones(1, 1, device=device)
    while len(m) < n:
        m = torch.cat((torch.cat((m, m), 1), torch.cat((m, -m), 1)))
    return m * n**-0.5


def round_kv(cfg, row, rounded):
    """FP8 on the components without RoPE, for the batch rows that `rounded[b]` selects."""
    n = row.shape[-1] - cfg.rope_dims
    if n % 64:
        return row
    keep = row[..., :n]
    keep = keep + torch.where(rounded.view(-1, *[1] * (row.dim() - 1)), fp8_round(keep) - keep, 0.0).detach()
    return torch.cat((keep, row[..., n:]), -1)


def round_index(x, rounded):
    """Hadamard and FP4 on an indexer query or row, turned back so that the caller sees no rotation."""
    turn = hadamard(x.shape[-1], x.device)
    with torch.autocast(x.device.type, enabled=False):
        rough = fp4_round(x @ turn) @ turn
    return x + torch.where(rounded.view(-1, *[1] * (x.dim() - 1)), rough - x, 0.0).detach()


def hc_enter(cfg, streams, fn, base, scale, norm):
    """Into a sub-layer: `[b,t,s,d]` -> its normed input `[b,t,d]`, `post [b,t,s]` and the doubly stochastic `comb [b,t,s,s]`."""
    n = cfg.streams
    with torch.autocast(streams.device.type, enabled=False):
        z = rms(streams.flatten(-2), eps=cfg.rms_eps) @ fn.T
        pre = torch.sigmoid(z[..., :n] * scale[0] + base[:n]) + cfg.hc_eps
        post = 2 * torch.sigmoid(z[..., n : 2 * n] * scale[1] + base[n : 2 * n])
        comb = (z[..., 2 * n :] * scale[2] + base[2 * n :]).unflatten(-1, (n, n))
        comb = comb.softmax(-1) + cfg.hc_eps
        comb = comb / (comb.sum(-2, keepdim=True) + cfg.hc_eps)
        for _ in range(cfg.sinkhorn - 1):
            comb = comb / (comb.sum(-1, keepdim=True) + cfg.hc_eps)
            comb = comb / (comb.sum(-2, keepdim=True) + cfg.hc_eps)
        mixed = sum(pre[..., j, None] * streams[..., j, :] for j in range(n))
        return rms(mixed, norm, cfg.rms_eps), post, comb


def hc_leave(streams, y, post, comb):
    """Out of a sub-layer: `X'[k] = post[k] y + sum_j comb[j,k] X[j]`, source first and destination second."""
    n = streams.shape[-2]
    y = y.float()
    return torch.stack([
        post[..., k, None] * y + sum(comb[..., j, k, None] * streams[..., j, :] for j in range(n))
        for k in range(n)
    ], -2)


def collapse(cfg, streams, fn, base, scale):
    """The head's way out of the streams: `[b,t,s,d]` -> `[b,t,d]`."""
    with torch.autocast(streams.device.type, enabled=False):
        z = rms(streams.flatten(-2), eps=cfg.rms_eps) @ fn.T
        pre = torch.sigmoid(z * scale + base) + cfg.hc_eps
        return (pre[..., None] * streams).sum(-2)


def pool_windows(cfg, x, wkv, wgate, ape, norm, ratio, first, cos, sin):
    """One compressed row for each window of `ratio` tokens: `[b,t,d]` -> `[b,t/ratio,Dc]`, roped at the window's start.

    `first[b,c]` marks windows that open a document: they have no window before them to overlap with.
    """
    size = norm.shape[0]
    k = (x @ wkv.T).float().unflatten(1, (-1, ratio))
    g = (x @ wgate.T).float().unflatten(1, (-1, ratio)) + ape
    if ratio == 4:  # the first half of each token's columns belongs to the next window, the second to its own
        k, g = k.unflatten(-1, (2, size)), g.unflatten(-1, (2, size))
        before = F.pad(k[:, :-1, :, 0], (0, 0, 0, 0, 1, 0))
        before_gate = F.pad(g[:, :-1, :, 0], (0, 0, 0, 0, 1, 0))
        before_gate = before_gate.masked_fill(first[:, :, None, None], float("-inf"))
        k = torch.cat((before, k[..., 1, :]), 2)
        g = torch.cat((before_gate, g[..., 1, :]), 2)
    row = rms((g.softmax(2) * k).sum(2), norm, cfg.rms_eps)
    return rotate(row, cos[::ratio], sin[::ratio])


def attend(cfg, q, row, pooled, seen, sinks, doc, cos, sin):
    """Attention of `q [b,t,h,D]` over the window's rows `[b,t,D]` and the compressed rows `[b,c,D]` that `seen [b,t,c]` allows.

    `q` comes straight from its matrix; norm, RoPE and the inverse RoPE of the output happen here. A row is key and
    value at once. Returns `[b,t,h,D]` and, summed over heads, the share of attention that each compressed row got
    (`[b,t,c]`, no gradient), which is what the indexer learns to predict.
    """
    b, t, h, size = q.shape
    q = rotate(rms(q, eps=cfg.rms_eps), cos[:, None], sin[:, None]).to(row.dtype)
    w = cfg.window
    blocks = t // w
    # Each block of `window` queries needs exactly its own block of rows and the one before.
    own = row.view(b, blocks, w, size)
    near = torch.cat((F.pad(own[:, :-1], (0, 0, 0, 0, 1, 0)), own), 2)
    near_doc = doc.view(b, blocks, w)
    near_doc = torch.cat((F.pad(near_doc[:, :-1], (0, 0, 1, 0), value=-1), near_doc), 2)
    i = torch.arange(w, device=q.device)[:, None] + w
    j = torch.arange(2 * w, device=q.device)[None]
    visible = ((j <= i) & (j > i - w)) & (near_doc[:, :, None] == doc.view(b, blocks, w)[..., None])

    scale = size**-0.5
    queries = q.reshape(b, blocks, w * h, size)
    near_score = (queries @ near.transpose(-1, -2)).float().view(b, blocks, w, h, 2 * w) * scale
    near_score = near_score.masked_fill(~visible[:, :, :, None], float("-inf")).view(b, t, h, 2 * w)
    top = torch.maximum(near_score.detach().amax(-1), sinks.detach())
    if pooled is not None:
        far_score = (q.reshape(b, t * h, size) @ pooled.transpose(-1, -2)).float().view(b, t, h, -1) * scale
        far_score = far_score.masked_fill(~seen[:, :, None], float("-inf"))
        top = torch.maximum(top, far_score.detach().amax(-1))

    near_exp = (near_score - top[..., None]).exp()
    total = near_exp.sum(-1) + (sinks - top).exp()
    out = (near_exp.view(b, blocks, w * h, 2 * w).to(near.dtype) @ near).view(b, t, h, size).float()
    share = None
    if pooled is not None:
        far_exp = (far_score - top[..., None]).exp()
        total = total + far_exp.sum(-1)
        out = out + (far_exp.view(b, t * h, -1).to(pooled.dtype) @ pooled).view(b, t, h, size).float()
        share = (far_exp.detach() / total.detach()[..., None]).sum(2)
    return rotate(out / total[..., None], cos[:, None], -sin[:, None]), share


def index_scores(cfg, u, a, rows, cos, sin, rounded):
    """The indexer's opinion `[b,t,c]` of each compressed row: queries `u [b,t,heads,Di]`, head weights `a`, rows `[b,c,Di]`."""
    b, t = u.shape[:2]
    u = round_index(rotate(u, cos[:, None], sin[:, None]), rounded).to(rows.dtype)
    dots = (u.reshape(b, -1, cfg.index_dim) @ rows.transpose(-1, -2)).float().view(b, t, cfg.index_heads, -1)
    return (dots.relu() * (a.float() * (cfg.index_dim * cfg.index_heads) ** -0.5)[..., None]).sum(2)


def routed_hidden(cfg, gate, up, share):
    """The hidden layer of all experts side by side, each expert's part times its share of the token."""
    hidden = swiglu(cfg, gate, up).unflatten(-1, (cfg.experts, -1)) * share[..., None]
    return hidden.flatten(-2).to(gate.dtype)


def swiglu(cfg, gate, up):
    limit = cfg.swiglu_limit
    return F.silu(gate.float().clamp_max(limit)) * up.float().clamp(-limit, limit)


def compile_pieces():
    """Compiles the functions that move the most memory. Whole blocks would take minutes; these take one."""
    for name in ("hc_enter", "hc_leave", "attend", "index_scores", "routed_hidden"):
        globals()[name] = torch.compile(globals()[name], dynamic=False)


class Indexer(nn.Module):
    """What the indexer of a ratio-4 layer needs for its queries; its compressor belongs to the block."""

    def __init__(self, cfg):
        super().__init__()
        self.attn_q_b = matrix(cfg.index_heads * cfg.index_dim, cfg.q_lora)
        self.proj = matrix(cfg.index_heads, cfg.width)


def matrix(*shape, gain=0.7):
    """A weight `[.., out, in]` that keeps the size of its input, about."""
    return nn.Parameter(torch.randn(*shape) * gain * shape[-1] ** -0.5)


class NextToken(nn.Module):
    """The entrance and the last norm of the MTP block."""

    def __init__(self, cfg):
        super().__init__()
        self.eh_proj = matrix(cfg.width, 2 * cfg.width)
        self.enorm = nn.Parameter(torch.ones(cfg.width))
        self.hnorm = nn.Parameter(torch.ones(cfg.width))
        self.shared_head_norm = nn.Parameter(torch.ones(cfg.width))


class Block(nn.Module):
    """One layer: hyper-connected attention, then hyper-connected experts."""

    def __init__(self, cfg, layer):
        super().__init__()
        self.cfg, self.ratio, self.hashed = cfg, cfg.ratio(layer), cfg.is_hashed(layer)
        d, n = cfg.width, cfg.streams
        for part in ("attn", "ffn"):
            self.register_parameter(f"hc_{part}_fn", matrix(2 * n + n * n, n * d, gain=0.3))
            base = torch.zeros(2 * n + n * n)
            base[:n] = -1.0
            base[(2 * layer + (part == "ffn")) % n] = 1.0  # each sub-layer reads mostly one stream at first
            base[2 * n :] = 3 * torch.eye(n).flatten()  # and streams keep apart
            self.register_parameter(f"hc_{part}_base", nn.Parameter(base))
            self.register_parameter(f"hc_{part}_scale", nn.Parameter(torch.ones(3)))
            self.register_parameter(f"{part}_norm", nn.Parameter(torch.ones(d)))
        self.attn_q_a = matrix(cfg.q_lora, d)
        self.attn_q_a_norm = nn.Parameter(torch.ones(cfg.q_lora))
        self.attn_q_b = matrix(cfg.heads * cfg.head_dim, cfg.q_lora)
        self.attn_kv = matrix(cfg.head_dim, d)
        self.attn_kv_a_norm = nn.Parameter(torch.ones(cfg.head_dim))
        self.attn_sinks = nn.Parameter(torch.zeros(cfg.heads))
        self.attn_output_a = matrix(cfg.o_groups * cfg.o_lora, cfg.heads // cfg.o_groups * cfg.head_dim)
        self.attn_output_b = matrix(d, cfg.o_groups * cfg.o_lora, gain=0.2)
        if self.ratio:
            self.add_compressor("attn_compressor", cfg.head_dim)
        if self.ratio == 4:
            self.indexer = Indexer(cfg)
            self.add_compressor("indexer_compressor", cfg.index_dim)
        self.ffn_gate_inp = matrix(cfg.experts, d)
        if self.hashed:
            table = torch.stack([torch.randperm(cfg.experts)[: cfg.experts_used] for _ in range(cfg.vocab)])
            self.register_buffer("ffn_gate_tid2eid", table.int())
        else:
            self.register_buffer("exp_probs_b", torch.zeros(cfg.experts))
        for kind, count in (("exps", (cfg.experts,)), ("shexp", ())):
            self.register_parameter(f"ffn_gate_{kind}", matrix(*count, cfg.expert_ff, d))
            self.register_parameter(f"ffn_up_{kind}", matrix(*count, cfg.expert_ff, d))
            self.register_parameter(f"ffn_down_{kind}", matrix(*count, d, cfg.expert_ff, gain=0.2))
        if layer >= cfg.layers:
            self.nextn = NextToken(cfg)

    def add_compressor(self, name, size):
        wide = size * (2 if self.ratio == 4 else 1)
        self.register_parameter(f"{name}_kv", matrix(wide, self.cfg.width))
        self.register_parameter(f"{name}_gate", matrix(wide, self.cfg.width))
        self.register_parameter(f"{name}_ape", nn.Parameter(torch.zeros(self.ratio, wide)))
        self.register_parameter(f"{name}_norm", nn.Parameter(torch.ones(size)))

    def pool(self, name, x, first, cos, sin):
        weights = (getattr(self, f"{name}_{part}") for part in ("kv", "gate", "ape", "norm"))
        return pool_windows(self.cfg, x, *weights, self.ratio, first, cos, sin)

    def attention(self, x, doc, dense, rounded, cos, sin, pick_override):
        cfg = self.cfg
        b, t, _ = x.shape
        low = rms(x @ self.attn_q_a.T, self.attn_q_a_norm, cfg.rms_eps)
        q = (low @ self.attn_q_b.T).unflatten(-1, (cfg.heads, -1))
        row = rotate(rms(x @ self.attn_kv.T, self.attn_kv_a_norm, cfg.rms_eps), cos, sin)
        row = round_kv(cfg, row, rounded)
        half = torch.bfloat16 if torch.is_autocast_enabled(x.device.type) else torch.float32
        pooled = seen = scores = None
        if self.ratio:
            starts = doc[:, :: self.ratio]
            first = F.pad(starts[:, 1:] != starts[:, :-1], (1, 0), value=True)
            pooled = round_kv(cfg, self.pool("attn_compressor", x, first, cos, sin), rounded).to(half)
            last = torch.arange(1, t // self.ratio + 1, device=x.device) * self.ratio - 1
            seen = (last <= torch.arange(t, device=x.device)[:, None]) & (starts[:, None] == doc[:, :, None])
        if self.ratio == 4:
            # The indexer learns from the attention it serves, and from nothing else: its inputs carry no gradient.
            index = round_index(self.pool("indexer_compressor", x.detach(), first, cos, sin), rounded).to(half)
            u = (low.detach() @ self.indexer.attn_q_b.T).unflatten(-1, (cfg.index_heads, -1))
            scores = index_scores(cfg, u, x.detach() @ self.indexer.proj.T, index, cos, sin, rounded)
            choice = scores.detach().masked_fill(~seen, float("-inf"))
            if pick_override == "recent":  # the control of the evaluation: no search, only the newest rows
                choice = last.float().masked_fill(~seen, float("-inf"))
            cut = choice.topk(min(cfg.top_k, choice.shape[-1]), -1).values[..., -1:]
            seen = seen & ((choice >= cut) | dense[:, None, None])
        out, share = attend(cfg, q, row.to(half), pooled, seen, self.attn_sinks, doc, cos, sin)
        groups = out.reshape(b, t, cfg.o_groups, -1)
        low_out = torch.einsum("btgi,goi->btgo", groups, self.attn_output_a.unflatten(0, (cfg.o_groups, -1)))
        y = low_out.flatten(-2) @ self.attn_output_b.T
        return y, self.index_loss(scores, share, seen)

    def index_loss(self, scores, share, seen):
        """Cross-entropy of the indexer's softmax against the attention that compressed rows really got.

        Over the rows that took part. Tokens count by how much attention went far, so that the
        few that search decide over the many that do not.
        """
        if scores is None:
            return None
        mass = share.sum(-1)
        target = share / (mass[..., None] + 1e-9)
        guess = scores.masked_fill(~seen, -1e4).log_softmax(-1)
        entropy = (target * target.clamp_min(1e-9).log()).sum(-1)
        kl = entropy - (target * guess).sum(-1)
        return (kl * mass).sum() / (mass.sum() + 1e-6)

    def experts(self, x, tokens, doc):
        """Every expert on every token, unchosen ones weighted 0: at this size the cheapest way."""
        cfg = self.cfg
        with torch.autocast(x.device.type, enabled=False):
            s = torch.sqrt(F.softplus(x.float() @ self.ffn_gate_inp.T) + 1e-20)
            if self.hashed:
                chosen = self.ffn_gate_tid2eid[tokens].long()
            else:
                chosen = (s.detach() + self.exp_probs_b).topk(cfg.experts_used, -1).indices
            picked = F.one_hot(chosen, cfg.experts).sum(-2).float()
            share = s * picked
            share = cfg.expert_scale * share / share.sum(-1, keepdim=True)
            real = (doc >= 0).float()[..., None]
            load = (picked * real).sum((0, 1)) / (real.sum() * cfg.experts_used)
        gate = x @ self.ffn_gate_exps.flatten(0, 1).T
        up = x @ self.ffn_up_exps.flatten(0, 1).T
        y = routed_hidden(cfg, gate, up, share) @ self.ffn_down_exps.transpose(1, 2).flatten(0, 1)
        y = y + swiglu(cfg, x @ self.ffn_gate_shexp.T, x @ self.ffn_up_shexp.T) @ self.ffn_down_shexp.T
        return y, load

    def forward(self, streams, tokens, doc, dense, rounded, cos, sin, pick_override=None):
        """`[b,t,s,d]` -> the same, the indexer's loss (or None) and each expert's share of the tokens `[experts]`."""
        cfg = self.cfg
        x, post, comb = hc_enter(cfg, streams, self.hc_attn_fn, self.hc_attn_base, self.hc_attn_scale, self.attn_norm)
        y, index_loss = self.attention(x, doc, dense, rounded, cos, sin, pick_override)
        streams = hc_leave(streams, y, post, comb)
        x, post, comb = hc_enter(cfg, streams, self.hc_ffn_fn, self.hc_ffn_base, self.hc_ffn_scale, self.ffn_norm)
        y, load = self.experts(x, tokens, doc)
        return hc_leave(streams, y, post, comb), index_loss, load


class Model(nn.Module):
    """The whole model, MTP block last in `blk`."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        d, n = cfg.width, cfg.streams
        self.token_embd = nn.Parameter(torch.randn(cfg.vocab, d) * 0.7)
        self.output = nn.Parameter(torch.randn(cfg.vocab, d) * 0.02)
        self.output_norm = nn.Parameter(torch.ones(d))
        self.output_hc_fn = matrix(n, n * d, gain=0.3)
        self.output_hc_base = nn.Parameter(torch.zeros(n))
        self.output_hc_scale = nn.Parameter(torch.ones(1))
        self.blk = nn.ModuleList(Block(cfg, i) for i in range(cfg.layers + cfg.mtp_layers))
        self.tables = {}

    def rope(self, compressed, length, device):
        key = (compressed, length, device)
        if key not in self.tables:
            self.tables[key] = tuple(x.to(device) for x in rope_table(self.cfg, compressed, length))
        return self.tables[key]

    def run_block(self, block, streams, tokens, doc, dense, rounded, pick_override):
        cos, sin = self.rope(block.ratio != 0, tokens.shape[1], tokens.device)
        return block(streams, tokens, doc, dense, rounded, cos, sin, pick_override)

    def forward(self, tokens, doc=None, dense=None, rounded=None, pick_override=None):
        """The streams after the last main layer, the indexers' losses and the experts' loads.

        - `tokens [b,t]`: t a multiple of 128
        - `doc [b,t]`: document numbers, -1 for filling; one document if None
        - `dense [b]`: batch rows whose ratio-4 layers see every compressed row, without a choice by the indexer
        - `rounded [b]`: batch rows whose KV rows are rounded as the FP8/FP4 cache would
        - `pick_override`: `"recent"` replaces the indexer's choice by the newest rows
        """
        assert tokens.shape[1] % ALIGN == 0, "pad the sequence to a multiple of 128"
        doc, dense, rounded = self.defaults(tokens, doc, dense, rounded)
        streams = self.token_embd[tokens][:, :, None].expand(-1, -1, self.cfg.streams, -1).float().contiguous()
        index_losses, loads = [], []
        for block in self.blk[: self.cfg.layers]:
            streams, index_loss, load = self.run_block(block, streams, tokens, doc, dense, rounded, pick_override)
            index_losses += [] if index_loss is None else [index_loss]
            loads.append(load)
        return streams, index_losses, loads

    def defaults(self, tokens, doc, dense, rounded):
        no = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        return (
            torch.zeros_like(tokens) if doc is None else doc,
            no if dense is None else dense,
            no if rounded is None else rounded,
        )

    def logits(self, streams, norm=None):
        """`[b,t,s,d]` -> `[b,t,vocab]`."""
        x = collapse(self.cfg, streams, self.output_hc_fn, self.output_hc_base, self.output_hc_scale)
        return rms(x, self.output_norm if norm is None else norm, self.cfg.rms_eps) @ self.output.T

    def draft(self, streams, tokens, doc=None, rounded=None):
        """The MTP block: streams of position p and the token at p+1 give logits for p+2, and the block's loads."""
        doc, dense, rounded = self.defaults(tokens, doc, None, rounded)
        block = self.blk[self.cfg.layers]
        part, eps = block.nextn, self.cfg.rms_eps
        following = F.pad(tokens[:, 1:], (0, 1), value=1)
        e_proj, h_proj = part.eh_proj.chunk(2, 1)
        e = rms(self.token_embd[following], part.enorm, eps) @ e_proj.T
        x = (e[:, :, None] + rms(streams, part.hnorm, eps) @ h_proj.T).float()
        x, _, load = self.run_block(block, x, following, doc, dense, rounded, None)
        return self.logits(x, part.shared_head_norm), load


def gguf_names(model):
    """Pairs (GGUF tensor name, tensor) in the order of the file."""
    for name, value in model.state_dict().items():
        yield name + (".bias" if name.endswith("exp_probs_b") else ".weight"), value
