"""The page store in a bucket: two machines share what was read, through an S3-compatible server (moto)."""

import json
import os
import re
import subprocess
import urllib.request

import boto3
import pytest
from moto.server import ThreadedMotoServer

DS4 = os.environ["DS4_PROGRAM"]  # built with the feature `s3`
BUCKET = "pages"
SYSTEM = "You are kind. " * 200


@pytest.fixture(scope="module")
def s3():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.stop()


class Machine:
    """A server that keeps its pages in the bucket."""

    def __init__(self, prefix, *more, env=None):
        args = [DS4, "serve", "--port", "0", "--temp", "0", "--store", f"s3://{BUCKET}/{prefix}", *more]
        self.process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {}))
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("listening on "):
                self.url = line.split()[-1]
            if line.startswith("ready:"):
                return
        raise RuntimeError("".join(self.said))

    def ask(self, question, system=SYSTEM):
        """The answer, tokens of the prompt, and how many of them were known."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"messages": messages, "thinking": {"type": "disabled"}, "max_tokens": 20}
        request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            reply = json.load(reply)
        usage = reply["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return reply["choices"][0]["message"]["content"], usage["prompt_tokens"], cached

    def stop(self):
        self.process.terminate()
        self.process.stderr.read()
        assert self.process.wait(60) == 0


def ds4(*args):
    done = subprocess.run([DS4, *args], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def objects(s3, prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {object["Key"]: object["Size"] for page in pages for object in page.get("Contents", [])}


def test_machines_share_what_was_read(s3):
    first = Machine("shared/pages")
    answer, prompt, cached = first.ask("What is 12 + 30?")
    assert cached == 0
    first.stop()  # what it had in memory goes into the bucket
    names = objects(s3, "shared/pages/")
    assert any(name.endswith(".page") for name in names) and any(name.endswith(".tail") for name in names)
    assert all(re.fullmatch(r"shared/pages/v1-[0-9a-f]{32}/([0-9a-f]{64}\.(page|tail)|catalog|about)", n) for n in names)

    second, third = Machine("shared/pages"), Machine("shared/pages")
    for machine in (second, third):  # at the same time
        again, _, cached = machine.ask("What is 12 + 30?")
        assert again == answer and prompt - 64 < cached < prompt
    second.stop()
    third.stop()
    assert ds4("store", "verify", f"s3://{BUCKET}/shared/pages")[0] == 0
    assert Machine_elsewhere_knows_nothing()


def Machine_elsewhere_knows_nothing():
    machine = Machine("elsewhere")
    _, _, cached = machine.ask("What is 12 + 30?")
    machine.stop()
    return cached == 0


def test_a_bucket_has_a_limit(s3):
    machine = Machine("small", "--store-limit", "1", "--kv-memory", "16")
    for nth in range(6):
        machine.ask("What is 12 + 30?", system=f"{nth} {SYSTEM}")
    machine.stop()
    sizes = {name: size for name, size in objects(s3, "small/").items() if name.endswith((".page", ".tail"))}
    assert 0 < sum(sizes.values()) <= 1 << 20, sizes
    assert ds4("store", "verify", f"s3://{BUCKET}/small")[0] == 0


def test_what_is_damaged_is_a_miss(s3):
    machine = Machine("damaged")
    answer, _, _ = machine.ask("What is 12 + 30?")
    machine.stop()
    name = next(name for name in objects(s3, "damaged/") if name.endswith(".page"))
    body = bytearray(s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())
    body[len(body) // 2] ^= 1
    s3.put_object(Bucket=BUCKET, Key=name, Body=bytes(body))
    status, out, _ = ds4("store", "verify", f"s3://{BUCKET}/damaged")
    assert status == 1 and "the checksum does not match" in out
    machine = Machine("damaged")
    again, _, cached = machine.ask("What is 12 + 30?")
    assert again == answer and cached < 1024, "its first page is lost, and what was before its end is not"
    machine.stop()


def test_a_store_in_a_bucket_is_looked_after(s3):
    machine = Machine("looked/after")
    machine.ask("What is 12 + 30?")
    machine.stop()
    place = f"s3://{BUCKET}/looked/after"
    stat = json.loads(ds4("store", "stat", "--json", place)[1])
    assert stat["models"][0]["pages"] >= 1 and stat["bytes"] == sum(objects(s3, "looked/after/").values())
    assert "just now" in ds4("store", "ls", place)[1]
    assert ds4("store", "prune", "--all", place)[0] == 0
    assert not [name for name in objects(s3, "looked/after/") if name.endswith((".page", ".tail", "catalog"))]


def test_a_session_goes_on_on_another_machine(s3, tmp_path):
    """Messages are where the user is, and what was read of them is in the bucket."""

    def say(text, *more):
        args = ["run", "--session", "work", "--store", f"s3://{BUCKET}/sessions", "--temp", "0", "-n", "5"]
        done = subprocess.run(
            [DS4, *args, "--stats", "json", text, *more],
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, env=os.environ | {"DS4_HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stderr.splitlines()[-1])

    first = say("Hello " * 100)
    second = say("And now?")
    assert second["cached_tokens"] >= first["prompt_tokens"]


def test_a_bucket_that_is_away_is_no_trouble_later(s3):
    """At the start it is an error; afterwards nobody waits for it."""
    status, _, said = ds4("serve", "--port", "0", "--store", f"s3://{BUCKET}-that-is-not-there/x")
    assert status == 1 and "opening the page store s3://" in said, said
