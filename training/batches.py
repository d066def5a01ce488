"""Packs conversations into training batches.

Each conversation starts at a multiple of 128 and has a document number, so that the model sees it alone.
"""

import random

import torch

from mixture import sample
from model import ALIGN
from tokenizer import PAD_ID, Tokenizer

PROMPT_WEIGHT = 0.03  # what the model does not have to write still teaches it how texts go


def pack_row(rng, tokenizer, length):
    """One row: ids, document numbers (-1 for filling) and the weight of each token as a target."""
    ids, doc, weight = [], [], []
    number = 0
    while length - len(ids) >= ALIGN:
        room = length - len(ids)
        for _ in range(4):
            conversation_ids, reply = tokenizer.encode(sample(rng, room).segments())
            if len(conversation_ids) <= room:
                break
        else:
            break
        pad = -len(conversation_ids) % ALIGN
        ids += conversation_ids + [PAD_ID] * pad
        doc += [number] * len(conversation_ids) + [-1] * pad
        weight += [1.0 if r else PROMPT_WEIGHT for r in reply] + [0.0] * pad
        number += 1
    rest = length - len(ids)
    return ids + [PAD_ID] * rest, doc + [-1] * rest, weight + [0.0] * rest


class Batches(torch.utils.data.IterableDataset):
    """An endless stream of batches (tokens, documents, weights), each `[rows, length]`."""

    def __init__(self, tokenizer_path, rows, length, seed):
        self.path, self.rows, self.length, self.seed = tokenizer_path, rows, length, seed

    def __iter__(self):
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        rng = random.Random(f"{self.seed}/{info.id if info else 0}")
        tokenizer = Tokenizer(self.path)
        while True:
            rows = [pack_row(rng, tokenizer, self.length) for _ in range(self.rows)]
            ids, doc, weight = zip(*rows)
            yield torch.tensor(ids, dtype=torch.int16), torch.tensor(doc, dtype=torch.int16), torch.tensor(weight)
