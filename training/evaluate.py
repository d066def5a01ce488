"""Measures what a model can do, on conversations it was never trained on.

usage: evaluate.py MODEL.gguf [--count N] [--rounded] [--recent] [--skills 'A;B'] [--json OUT]
       evaluate.py MODEL.gguf --ds4 BINARY [--count N] [--skills 'A;B'] [-- options of `ds4 logits`]

A test is a prompt and the one right reply. The reply counts as right if every token of it, the end of turn included,
is the model's first choice: then greedy decoding writes exactly this reply and stops. One forward pass tells.
With `--ds4` the engine itself decodes greedily (`ds4 logits --greedy`), and its tokens are compared with the reply.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import torch

import conversations as c
import retrieval
import tools
from model import ALIGN
from tokenizer import PAD_ID, Tokenizer

TOKENIZER = pathlib.Path(__file__).with_name("tokenizer.json")


@dataclass
class Test:
    """Segments of a conversation; its last reply is what is judged."""

    skill: str
    segments: list

    def prompt_and_reply(self):
        cut = len(self.segments)
        while self.segments[cut - 1][2]:
            cut -= 1
        return self.segments[:cut], self.segments[cut:]


def one_question(make, thinking):
    def build(rng):
        exchange = c.draw(rng, make, held_out=True)
        conversation = c.Conversation(thinking=thinking)
        conversation.add("user", exchange.user)
        conversation.reply(exchange.answer, exchange.think)
        return conversation
    return build


def any_fact(rng):
    return rng.choice(c.FACTS)(rng)


def talk(rng):
    """Greetings and who-are-you; few in number and all trained, so this one is no generalisation."""
    exchange = c.small_talk(rng)
    conversation = c.Conversation()
    conversation.add("user", exchange.user)
    conversation.reply(exchange.answer, exchange.think)
    return conversation


def tool_test(thinking, messages, only=None):
    """The first `messages` messages of a session with tools: 3 end with a call, 5 with the answer from its result."""
    def build(rng):
        while True:
            conversation = c.start(rng, thinking)
            conversation.effort = ""
            declared = tools.declare(rng, rng.choice([1, 2, 3]))
            tool = rng.choice(declared)
            if only == "invented" and not tool.description.startswith("Used to"):
                continue
            conversation.add("system", "", tools=[t.schema(rng) for t in declared])
            tools.use_tool(rng, conversation, tool, held_out=True, plain=True)
            del conversation.messages[messages:]
            return conversation
    return build


def no_tool(rng):
    conversation = c.Conversation()
    conversation.add("system", "", tools=[t.schema(rng) for t in tools.declare(rng, 2)])
    exchange = c.draw(rng, rng.choice([c.capital, c.colour, c.opposite]), held_out=True)
    conversation.add("user", exchange.user)
    conversation.reply(exchange.answer)
    return conversation


def recall(low, high, total, thinking=False):
    """A code planted so that `low` to `high` filler tokens follow it, in a text of about `total` tokens with other codes."""
    def build(rng):
        facts = retrieval.plants(rng, 1 + total // 200, True, [retrieval.plant_code])
        after = rng.randint(low, high)
        asked, others = facts[0], facts[1:]
        late = [o for o in others if rng.random() < after / total]
        early = [o for o in others if o not in late]
        text = retrieval.compose(rng, early, max(total - after, 26)) + " " + asked.sentence + " " + retrieval.compose(rng, late, after)
        conversation = c.Conversation(thinking=thinking)
        conversation.add("user", f"{text}\n\n{asked.question}")
        conversation.reply(asked.answer, f"I look for the words in the text. {asked.answer}")
        return conversation
    return build


SKILLS = {
    "simple facts": one_question(any_fact, False),
    "simple facts, thinking": one_question(any_fact, True),
    "greetings, identity": talk,
    "a + b to 99": one_question(c.addition, False),
    "a + b to 99, thinking": one_question(c.addition, True),
    "a - b to 100": one_question(c.subtraction, False),
    "a - b to 100, thinking": one_question(c.subtraction, True),
    "a * b to 12": one_question(c.multiplication, False),
    "3-digit sums, thinking": one_question(c.big_addition, True),
    "sums of 3-4 numbers, thinking": one_question(c.chain_sum, True),
    "word problems": one_question(c.word_problem, False),
    "tool call": tool_test(False, 3),
    "tool call, thinking": tool_test(True, 3),
    "call of an invented tool": tool_test(False, 3, "invented"),
    "answer from tool result": tool_test(False, 5),
    "answer from tool result, thinking": tool_test(True, 5),
    "no call where none is needed": no_tool,
    "recall 100-200 tokens back": recall(100, 200, 250),
    "recall 500-900 tokens back": recall(500, 900, 1000),
    "recall 1000-1700 tokens back": recall(1000, 1700, 1750),
    "recall 1000-1700, thinking": recall(1000, 1700, 1750, True),
}
LONG = {"recall 2000-3000 tokens back": recall(2000, 3000, 3300)}


def make_tests(count, skills=SKILLS, seed=99):
    return [Test(skill, build(random.Random(f"{seed}/{skill}/{i}")).segments()) for skill, build in skills.items() for i in range(count)]


def pack_tests(tests, tokenizer, length):
    """Rows of aligned tests: ids, documents, and for each test where its reply lies."""
    rows, places = [], []
    for number, test in sorted(enumerate(tests), key=lambda pair: -sum(len(s[0]) for s in pair[1].segments)):
        prompt, reply = test.prompt_and_reply()
        prompt_ids, reply_ids = tokenizer.encode(prompt)[0], tokenizer.encode(reply)[0]
        ids = prompt_ids + reply_ids
        padded = len(ids) + -len(ids) % ALIGN
        if padded > length:
            raise ValueError(f"a test of {test.skill!r} has {len(ids)} tokens, rows have {length}")
        for row, (row_ids, row_doc) in enumerate(rows):
            if len(row_ids) + padded <= length:
                break
        else:
            row, row_ids, row_doc = len(rows), [], []
            rows.append((row_ids, row_doc))
        begin = len(row_ids) + len(prompt_ids)
        places.append((number, row, begin, begin + len(reply_ids)))
        row_doc += [number] * len(ids) + [-1] * (padded - len(ids))
        row_ids += ids + [PAD_ID] * (padded - len(ids))
    for row_ids, row_doc in rows:
        row_doc += [-1] * (length - len(row_doc))
        row_ids += [PAD_ID] * (length - len(row_ids))
    return torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows]), places


@torch.no_grad()
def run_tests(model, tests, tokenizer, length, rounded=False, pick_override=None, rows_at_once=4):
    """For each skill the share of right replies, and how often the MTP block foresaw the token after next in replies."""
    device = model.token_embd.device
    ids, doc, places = pack_tests(tests, tokenizer, length)
    right, drafted, draft_total = {}, 0, 0
    for at in range(0, len(ids), rows_at_once):
        tokens, docs = ids[at : at + rows_at_once].to(device), doc[at : at + rows_at_once].to(device)
        flags = torch.full((len(tokens),), rounded, device=device)
        streams, _, _ = model(tokens, docs, rounded=flags, pick_override=pick_override)
        best = model.logits(streams).argmax(-1).cpu()
        draft = model.draft(streams, tokens, docs, rounded=flags)[0].argmax(-1).cpu()
        for number, row, begin, end in places:
            if at <= row < at + len(tokens):
                want, got = ids[row, begin:end], best[row - at, begin - 1 : end - 1]
                right[number] = bool((want == got).all())
                drafted += int((ids[row, begin + 1 : end] == draft[row - at, begin - 1 : end - 2]).sum())
                draft_total += end - begin - 1
    shares = {}
    for number, test in enumerate(tests):
        shares.setdefault(test.skill, []).append(right[number])
    return {skill: sum(v) / len(v) for skill, v in shares.items()}, drafted / draft_total


def run_tests_with_engine(binary, extra, model, tests, tokenizer):
    """For each skill the share of replies that the engine writes token by token."""
    shares = {}
    with tempfile.TemporaryDirectory() as folder:
        prompt_file, rows_file = f"{folder}/prompt.json", f"{folder}/rows.f32"
        for test in tests:
            prompt, reply = (tokenizer.encode(part)[0] for part in test.prompt_and_reply())
            pathlib.Path(prompt_file).write_text(json.dumps(prompt))
            command = [binary, "logits", "-m", model, "--tokens", prompt_file, "--out", rows_file, "--greedy", str(len(reply)), *extra]
            written = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            shares.setdefault(test.skill, []).append(written == reply)
    return {skill: sum(v) / len(v) for skill, v in shares.items()}


def main():
    from gguf_io import read_model

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=100, help="tests for each skill")
    parser.add_argument("--skills", help="only these, with semicolons between")
    parser.add_argument("--rounded", action="store_true", help="with the FP8/FP4 KV cache")
    parser.add_argument("--recent", action="store_true", help="indexer replaced by the newest rows: the control")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row; with 4096 recall from farther is tested too")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch")
    parser.add_argument("--json", help="where to write the shares")
    parser.add_argument("--ds4", help="let this `ds4` binary decode; options after -- go to it")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, extra = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    skills = {**SKILLS, **(LONG if options.length >= 4096 else {})}
    if options.skills:
        skills = {name: skills[name] for name in options.skills.split(";")}
    tests, tokenizer = make_tests(options.count, skills), Tokenizer(TOKENIZER)
    if options.ds4:
        shares = run_tests_with_engine(options.ds4, extra, options.model, tests, tokenizer)
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = read_model(options.model)[0].to(device)
        override = "recent" if options.recent else None
        shares, drafted = run_tests(model, tests, tokenizer, options.length, options.rounded, override, options.rows)
        shares["MTP: the token after next, inside replies"] = drafted
    for skill, share in shares.items():
        print(f"{share:6.1%}  {skill}")
    if options.json:
        json.dump(shares, open(options.json, "w"), indent=1)


if __name__ == "__main__":
    main()
