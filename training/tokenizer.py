"""The pocket model's own byte-level BPE, with the control tokens of DeepSeek V4.

usage: tokenizer.py OUT.json    trains on the generated conversations, about a minute

The pre-tokenizer is the published model's (`joyai-llm` in GGUF). Digits never merge, so sums are done digit by
digit. BOS, EOS and padding have ids 0, 1 and 2; the other markers take the last ids.
"""

import json
import sys

import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

import chat

PAD_ID = 2  # what fills rows; no text is ever written with it

NUMBERS = r"\p{N}{1,3}"
KANA = r"[一-龥぀-ゟ゠-ヿ]+"
WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def splitter(numbers=NUMBERS):
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (numbers, KANA, WORDS)]
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(texts, vocab):
    """Learns merges; returns (tokens, merges, token types) as GGUF keeps them."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = splitter(numbers=r"\p{N}")
    size = vocab - len(chat.CONTROL) - len(chat.MARKERS)
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    learned = json.loads(bpe.to_str())["model"]
    ordinary = sorted(learned["vocab"], key=learned["vocab"].get)
    assert len(ordinary) == size, f"the corpus gave {len(ordinary)} tokens, {size} wanted"
    tokens = [*chat.CONTROL, *ordinary, *chat.MARKERS]
    types = [3] * len(chat.CONTROL) + [1] * size + [4] * len(chat.MARKERS)
    merges = [" ".join(m) if isinstance(m, list) else m for m in learned["merges"]]
    return {"tokens": tokens, "merges": merges, "types": types}


class Tokenizer:
    """Encodes prompt segments: control tokens by name, ordinary text with no control token recognised."""

    def __init__(self, path):
        self.spec = json.load(open(path))
        self.ids = {token: i for i, token in enumerate(self.spec["tokens"])}
        merges = [tuple(m.split(" ")) for m in self.spec["merges"]]
        self.bpe = tokenizers.Tokenizer(models.BPE(vocab=self.ids, merges=merges))
        self.bpe.pre_tokenizer = splitter()
        self.bpe.decoder = tokenizers.decoders.ByteLevel()
        self.cache = {}

    def encode_text(self, text):
        ids = self.cache.get(text)
        if ids is None:
            ids = self.bpe.encode(text, add_special_tokens=False).ids
            if len(self.cache) < 20000 and len(text) < 400:
                self.cache[text] = ids
        return ids

    def encode(self, segments):
        """Segments to (ids, is_reply flags)."""
        ids, reply = [], []
        for text, is_control, is_reply in segments:
            piece = [self.ids[text]] if is_control else self.encode_text(text)
            ids += piece
            reply += [is_reply] * len(piece)
        return ids, reply

    def decode(self, ids):
        """Text of ids, markers spelled out."""
        out, plain = [], []
        for i in ids:
            if self.spec["types"][i] == 1:
                plain.append(i)
            else:
                out += [self.bpe.decode(plain), self.spec["tokens"][i]]
                plain = []
        return "".join(out) + self.bpe.decode(plain)


def main():
    import random

    from config import POCKET
    from mixture import sample

    rng = random.Random(7)
    texts = []
    for _ in range(30000):
        segments = sample(rng, 600).segments()
        texts += [text for text, is_control, _ in segments if not is_control]
    spec = train(texts, POCKET.vocab)
    json.dump(spec, open(sys.argv[1], "w"), ensure_ascii=False)


if __name__ == "__main__":
    main()
