"""What the client tests share: where the server is, and what it says of itself."""

import json
import os
import time
import urllib.request

BASE = os.environ["DS4_URL"]


def get(path):
    with urllib.request.urlopen(BASE + path, timeout=30) as answer:
        return json.load(answer)


def active():
    """Conversations that the engine works on."""
    return [slot for slot in get("/slots") if slot["state"] != "idle"]


def wait_until_idle(seconds=10):
    """What nobody waits for any more must not be worked on."""
    end = time.time() + seconds
    while active():
        assert time.time() < end, "the engine still works for nobody"
        time.sleep(0.05)


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "The city"}},
    "required": ["city"],
}
QUESTION = "What is the weather in Paris?"


def endless():
    """A logit bias with which the model cannot end its turn."""
    body = json.dumps({"content": "<｜end▁of▁sentence｜><｜User｜><｜Assistant｜><｜begin▁of▁sentence｜>"}).encode()
    request = urllib.request.Request(BASE + "/tokenize", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return {str(token): -100 for token in json.load(answer)["tokens"]}
