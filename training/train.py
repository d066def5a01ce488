"""Trains the pocket model, from random weights or from a checkpoint.

usage: train.py --out DIR --minutes M [--total-minutes T] [--resume DIR] [--tiny] ...

The schedule runs on the clock: `--total-minutes` is the length of the whole training, `--minutes` of this run.
Progress 0..1 over the total decides the learning rate and the phase:

    from 0      ratio-4 layers see every compressed row; the indexer learns to predict where attention goes
    from 0.25   the indexer chooses for most rows of a batch, in the end for all
    from 0.55   experts are used as MXFP4 (straight-through), KV rows are rounded to FP8/FP4 in some rows of the batch

Writes `log.jsonl` and, once a minute, a checkpoint (f16 weights in parts below 15 MB, and the clock).
"""

import argparse
import json
import pathlib
import time

import torch
import torch.nn.functional as F

import evaluate
from batches import Batches
from config import POCKET, TINY
from model import Model, compile_pieces
from muon import Muon, is_inner_matrix
from quantize import mxfp4
from tokenizer import Tokenizer

TOKENIZER = pathlib.Path(__file__).with_name("tokenizer.json")
PART_BYTES = 15_000_000


def save(model, folder, clock):
    """Weights as f16 in parts small enough to travel, the clock beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    parts, size = [{}], 0
    for name, value in model.state_dict().items():
        value = value.half().cpu() if value.is_floating_point() else value.cpu()
        if size + value.nbytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = value
        size += value.nbytes
    for i, part in enumerate(parts):
        torch.save(part, folder / f"weights-{i}.pt")
    (folder / "clock.json").write_text(json.dumps(clock))


def load(model, folder):
    """Weights from a checkpoint folder; returns its clock."""
    state = {}
    for path in sorted(folder.glob("weights-*.pt")):
        state.update(torch.load(path, map_location="cpu"))
    model.load_state_dict(state)
    return json.loads((folder / "clock.json").read_text())


def shape_of_phase(progress):
    """(learning rate factor, share of dense rows, experts quantized?, share of rounded rows) at a point of the schedule."""
    rate = 1.0 if progress < 0.4 else max(0.02, 1 - (progress - 0.4) / 0.6)
    dense = 1.0 if progress < 0.25 else 0.3 if progress < 0.6 else 0.1 if progress < 0.85 else 0.0
    return rate, dense, progress >= 0.55, 0.3 if progress >= 0.55 else 0.0


def losses(model, streams, draft, tokens, doc, weight):
    """Weighted cross-entropies of the next token and of the one after it, and the share of right reply tokens."""
    logits = model.logits(streams)

    def entropy(logits, ahead):
        same = (doc[:, ahead:] == doc[:, :-ahead]) & (doc[:, ahead:] >= 0)
        w = weight[:, ahead:] * same
        each = F.cross_entropy(logits[:, :-ahead].float().flatten(0, 1), tokens[:, ahead:].flatten(), reduction="none")
        return (each * w.flatten()).sum() / w.sum(), w

    main, w = entropy(logits, 1)
    after, _ = entropy(draft, 2)
    reply = w > 0.5
    right = ((logits[:, :-1].argmax(-1) == tokens[:, 1:]) & reply).sum() / reply.sum()
    return main, after, right


class Trainer:
    def __init__(self, options):
        self.options = options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(options.seed)
        torch.set_float32_matmul_precision("high")
        self.model = Model(TINY if options.tiny else POCKET)
        self.clock = {"seconds": 0.0, "step": 0, "tokens": 0}
        if options.resume:
            self.clock = load(self.model, pathlib.Path(options.resume))
        self.model.to(self.device)
        if options.compile:
            torch._dynamo.config.cache_size_limit = 64
            compile_pieces()
        named = list(self.model.named_parameters())
        inner = [p for n, p in named if is_inner_matrix(n, p)]
        other = [p for n, p in named if not is_inner_matrix(n, p)]
        self.optimizers = [
            Muon(inner, lr=options.rate),
            torch.optim.AdamW(other, lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=self.device == "cuda"),
        ]
        self.experts = [p for n, p in named if n.endswith("_exps")]
        self.out = pathlib.Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = Tokenizer(TOKENIZER)

    def progress(self):
        return min(1.0, self.clock["seconds"] / (60 * (self.options.total_minutes or self.options.minutes)))

    def step(self, tokens, doc, weight):
        """One update; returns the numbers to log, as tensors."""
        rate, dense_share, quantized, rounded_share = shape_of_phase(self.progress())
        warm = min(1.0, (self.steps_here + 1) / 100)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.options.rate * rate * warm
        rows = len(tokens)
        dense = torch.rand(rows, device=self.device) < dense_share
        rounded = torch.rand(rows, device=self.device) < rounded_share
        masters = [p.detach().clone() for p in self.experts] if quantized else []
        for p in self.experts if quantized else []:
            p.data = mxfp4(p.data)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            streams, index_losses, loads = self.model(tokens, doc, dense, rounded)
            draft, draft_load = self.model.draft(streams, tokens, doc, rounded)
            main, after, right = losses(self.model, streams, draft, tokens, doc, weight)
            index = torch.stack(index_losses).mean()
            total = main + 0.2 * after + index
        total.backward()
        for p, master in zip(self.experts, masters):
            p.data = master
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        spread = self.balance([*loads, draft_load], 0.02 * rate)
        return torch.stack([main.detach(), after.detach(), index.detach(), right, spread])

    @torch.no_grad()
    def balance(self, loads, rate):
        """Nudges each router's bias towards equal use of the experts; returns the busiest expert's share."""
        worst = []
        for block, load in zip(self.model.blk, loads):
            if not block.hashed:
                block.exp_probs_b += rate * (1 / len(load) - load).clamp(-0.05, 0.05)
                worst.append(load.max())
        return torch.stack(worst).max()

    def report(self, values, elapsed):
        main, after, index, right, spread = values.tolist()
        line = dict(self.clock, seconds=round(self.clock["seconds"], 1), loss=round(main, 4), mtp=round(after, 4), index=round(index, 4),
                    right=round(right, 4), busiest=round(spread, 3), rate=round(self.clock["here"] / max(elapsed, 1e-9)))
        line.pop("here")
        with open(self.out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        print(line, flush=True)

    def abilities(self, count):
        """A short form of the evaluation, with the experts as they will ship."""
        masters = [p.detach().clone() for p in self.experts]
        for p in self.experts:
            p.data = mxfp4(p.data)
        skills = evaluate.SKILLS
        with torch.compiler.set_stance("force_eager"), torch.autocast(self.device, dtype=torch.bfloat16):
            tests = evaluate.make_tests(count, skills)
            shares, drafted = evaluate.run_tests(self.model, tests, self.tokenizer, self.options.length, rows_at_once=self.options.rows)
            far = {k: v for k, v in skills.items() if k.startswith("recall 1000-1700 tokens")}
            blind, _ = evaluate.run_tests(
                self.model, evaluate.make_tests(count, far), self.tokenizer, self.options.length, pick_override="recent", rows_at_once=self.options.rows)
        for p, master in zip(self.experts, masters):
            p.data = master
        line = {"seconds": round(self.clock["seconds"], 1), "abilities": {**shares, "mtp": drafted}, "without indexer": blind}
        with open(self.out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def run(self):
        options = self.options
        loader = iter(torch.utils.data.DataLoader(
            Batches(TOKENIZER, options.rows, options.length, f"{options.seed}/{self.clock['step']}"), batch_size=None,
            num_workers=options.workers, prefetch_factor=4 if options.workers else None, pin_memory=self.device == "cuda"))
        self.steps_here, self.clock["here"] = 0, 0
        begin = time.time()
        offset, saved, tested = self.clock["seconds"], begin, begin
        while time.time() - begin < options.minutes * 60 and (not options.steps or self.steps_here < options.steps):
            batch = [x.to(self.device, non_blocking=True) for x in next(loader)]
            values = self.step(batch[0].long(), batch[1].long(), batch[2])
            self.steps_here += 1
            self.clock["step"] += 1
            self.clock["tokens"] += batch[0].numel()
            self.clock["here"] += batch[0].numel()
            if self.steps_here % options.log_every == 0 or self.steps_here in (1, 2, 5):
                self.report(values, time.time() - begin)  # waits for the device
            if self.steps_here == 2:  # what was compiled until now does not count
                begin, self.clock["here"] = time.time(), 0
                saved = tested = begin
            self.clock["seconds"] = offset + time.time() - begin
            if time.time() - saved > 60:
                self.keep()
                saved = time.time()
            if options.test_minutes and time.time() - tested > 60 * options.test_minutes:
                self.abilities(options.test_count)
                tested = time.time()
        self.keep()
        if options.test_minutes:
            self.abilities(options.test_count)

    def keep(self):
        save(self.model, self.out / "checkpoint", {k: v for k, v in self.clock.items() if k != "here"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, required=True, help="how long this run may train")
    parser.add_argument("--total-minutes", type=float, help="length of the whole schedule; default: this run")
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    parser.add_argument("--resume", help="checkpoint folder to go on from")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--test-minutes", type=float, default=2.0, help="minutes between tests of abilities; 0: none")
    parser.add_argument("--test-count", type=int, default=40, help="tests for each ability")
    parser.add_argument("--compile", action="store_true", help="compile the costly pieces: about a minute, then twice as fast on a GPU")
    parser.add_argument("--tiny", action="store_true", help="a smaller model, for trying the pipeline")
    Trainer(parser.parse_args()).run()


if __name__ == "__main__":
    main()
