"""What the server adds to the engine: time until the head of an answer, and time for each token of one stream.

The engine's own time is in the answer (`timings`); the rest of what the client waited is ours and the network's.
`python overhead.py URL`
"""

import http.client
import json
import statistics
import sys
import time
from urllib.parse import urlsplit

URL = urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(URL.hostname, URL.port)
QUESTION = {"messages": [{"role": "user", "content": "Tell me about the sea."}], "thinking": {"type": "disabled"}, "stream": True, "temperature": 0}


def ask(**more):
    """Milliseconds to the head, to the end, and what the engine says of the reply."""
    body = json.dumps({**QUESTION, **more})
    begun = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    head = time.perf_counter() - begun
    text = answer.read().decode()
    whole = time.perf_counter() - begun
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return head * 1e3, whole * 1e3, next(event["timings"] for event in events if "timings" in event)


def endless():
    content = "<｜end▁of▁sentence｜><｜User｜><｜Assistant｜><｜begin▁of▁sentence｜>"
    connection.request("POST", "/tokenize", json.dumps({"content": content}), {"content-type": "application/json"})
    return {str(token): -100 for token in json.load(connection.getresponse())["tokens"]}


bias = endless()
ask()
heads = [ask(max_tokens=1)[0] for _ in range(30)]
shares, tokens, ours = [], 0, []
for _ in range(5):
    _, whole, timings = ask(max_tokens=600, logit_bias=bias)
    engine = timings["prompt_ms"] + timings["predicted_ms"] + timings["queue_ms"]
    tokens = timings["predicted_n"]
    ours.append((whole - engine) / tokens * 1e3)
    shares.append((whole - engine) / engine * 100)
head, share = statistics.median(heads), statistics.median(shares)
print(f"head of an answer: {head:.2f} ms (median of {len(heads)}), worst {max(heads):.2f} ms")
print(f"beside the engine: {statistics.median(ours):.1f} us a token, {share:.2f} % (median of {len(shares)} replies of {tokens} tokens)")
# Other work on the machine shows in both; the limits leave room for it, the goals are 5 ms and 3 %.
assert head < 20 and share < 10
