"""The end of a server: streams that run come to their end, and the process ends well."""

import http.client
import json
import os
import signal
import subprocess
from urllib.parse import urlsplit

import pytest

QUESTION = {"messages": [{"role": "user", "content": "Tell me about the sea."}], "stream": True, "thinking": {"type": "disabled"}}


@pytest.fixture
def server():
    program = [os.environ["DS4_PROGRAM"], "serve", "--port", "0", "-m", os.environ["DS4_POCKET"]]
    environment = {name: value for name, value in os.environ.items() if name != "DS4_API_KEY"}
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment)
    for line in process.stderr:
        if line.startswith("listening on "):
            process.url = urlsplit(line.split()[-1])
        if line.startswith("ready:"):
            break
    yield process
    process.kill()
    process.wait()


def ask(server, **more):
    connection = http.client.HTTPConnection(server.url.hostname, server.url.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps({**QUESTION, **more}), {"content-type": "application/json"})
    return connection.getresponse()


def endless(server):
    connection = http.client.HTTPConnection(server.url.hostname, server.url.port, timeout=60)
    content = "<｜end▁of▁sentence｜><｜User｜><｜Assistant｜><｜begin▁of▁sentence｜>"
    connection.request("POST", "/tokenize", json.dumps({"content": content}), {"content-type": "application/json"})
    return {str(token): -100 for token in json.load(connection.getresponse())["tokens"]}


def test_a_stream_comes_to_its_end(server):
    answers = [ask(server, max_tokens=1500, logit_bias=endless(server)) for _ in range(2)]
    beginnings = [answer.read(2000) for answer in answers]
    assert all(b"[DONE]" not in beginning for beginning in beginnings), "it must still run"
    server.send_signal(signal.SIGTERM)
    for answer in answers:
        rest = answer.read().decode()
        assert '"finish_reason":"length"' in rest and rest.endswith("data: [DONE]\n\n")
    assert server.wait(30) == 0


def test_a_server_without_work_ends_at_once(server):
    assert ask(server, max_tokens=5).read().endswith(b"data: [DONE]\n\n")
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
