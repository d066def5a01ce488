"""The transcripts that are recorded in `crates/server/tests/snapshots`, as a server that has only them."""

import json
import os
import pathlib

import httpx
import httpx2

FOLDER = pathlib.Path(os.environ["DS4_GOLDENS"])
# Courses of a reply that ends well, in every API, and those in which the model calls tools.
PLAIN = ["text", "reasoning", "stop_string", "context_full"]
CALLS = ["call", "calls", "call_in_reasoning"]
FAILURES = ["failure_at_once", "failure"]


def text_of(name):
    _, _, text = (FOLDER / f"transcripts__{name}.snap").read_text().split("---\n", 2)
    return text.rstrip("\n") + "\n\n"


def whole_of(name):
    return json.loads(text_of(name + "_whole"))


def client(name, library=httpx):
    """An HTTP client to which everything is answered with this transcript, or with its answer in one piece."""

    def answer(request):
        kind, part = ("text/event-stream; charset=utf-8", "") if json.loads(request.content).get("stream") else ("application/json", "_whole")
        return library.Response(200, content=text_of(name + part).encode(), headers={"content-type": kind, "x-request-id": "req_1", "request-id": "req_1"})

    return library.Client(transport=library.MockTransport(answer))


def plain(value):
    """A library's object as plain data, without what it leaves empty."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", warnings=False)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner not in (None, "", [], {})}
    return [plain(inner) for inner in value] if isinstance(value, list) else value
