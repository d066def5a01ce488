"""What a server must stand: many streams, slow readers, clients that go away, and requests that are none.

Every request is answered or refused by an error that is documented, the server stays up, and its memory comes
back to where it was. `python load.py URL PID`
"""

import asyncio
import json
import os
import random
import sys
import time
from urllib.parse import urlsplit

URL, PID = urlsplit(sys.argv[1]), int(sys.argv[2])
random.seed(7)


def memory():
    """MiB that the server occupies."""
    with open(f"/proc/{PID}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def head(path, length, *headers):
    lines = [f"POST {path} HTTP/1.1", f"host: {URL.netloc}", "content-type: application/json", f"content-length: {length}"]
    return ("\r\n".join([*lines, *headers]) + "\r\n\r\n").encode()


async def connect():
    return await asyncio.open_connection(URL.hostname, URL.port)


async def send(raw, seconds=60):
    """Sends bytes, returns the status of the answer; None if the connection was closed without one."""
    reader, writer = await connect()
    try:
        try:
            writer.write(raw)
            await writer.drain()
        except ConnectionError:
            pass  # the server may answer and close before it has read all
        line = await asyncio.wait_for(reader.readline(), seconds)
        return int(line.split()[1]) if line else None
    except ConnectionError:
        return None
    finally:
        writer.close()


def chat(text="Hello!", **more):
    body = json.dumps({"messages": [{"role": "user", "content": text}], "thinking": {"type": "disabled"}, **more}).encode()
    return head("/v1/chat/completions", len(body), "connection: close") + body


async def stream(nth, pause=0.0):
    """Reads a whole stream, and that it came to its end."""
    reader, writer = await connect()
    writer.write(chat(f"What is {nth} + 30?", stream=True, max_tokens=40, seed=nth))
    answer = b""
    while part := await asyncio.wait_for(reader.read(200 if pause else 65536), 120):
        answer += part
        await asyncio.sleep(pause)
    writer.close()
    status = int(answer.split()[1])
    assert status in (200, 429), answer[:200]
    if status == 200:
        assert b"data: [DONE]" in answer and b'"finish_reason":"' in answer, answer[-300:]
    return status


async def leave(nth):
    """Goes away somewhere in the middle."""
    reader, writer = await connect()
    writer.write(chat("Hello!", stream=True, max_tokens=2000, logit_bias={"1": -100}))
    await asyncio.sleep(random.random() * 0.3)
    if nth % 2:
        await reader.read(random.randrange(2000))
    writer.transport.abort()


FRAGMENTS = [b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"1e999", b"-", b"\\u", b"\xff\xfe", b"messages", b"NaN", b"\x00",
             b'"messages":[{"role":"user","content":', b'{"role":', b'"tools":[{}]', b"9" * 400, b'"stream":true']


async def nonsense():
    path = random.choice(["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions", "/tokenize", "/v1/x"])
    body = b"".join(random.choices(FRAGMENTS, k=random.randrange(1, 12)))
    raw = head(path, len(body), "connection: close") + body
    status = await send(raw)
    assert status in (400, 404), (status, raw)


async def many(count, at_once, work):
    places = asyncio.Semaphore(at_once)

    async def one(nth):
        async with places:
            return await work(nth)

    return await asyncio.gather(*(one(nth) for nth in range(count)))


async def healthy():
    reader, writer = await connect()
    writer.write(f"GET /health HTTP/1.1\r\nhost: {URL.netloc}\r\nconnection: close\r\n\r\n".encode())
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")
    writer.close()


async def idle():
    for _ in range(400):
        reader, writer = await connect()
        writer.write(f"GET /slots HTTP/1.1\r\nhost: {URL.netloc}\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        slots = json.loads(answer.split(b"\r\n\r\n", 1)[1])
        if all(slot["state"] == "idle" for slot in slots):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the engine still works for nobody")


def told(what, begun):
    print(f"{what}: {time.time() - begun:.1f} s, {memory():.0f} MiB", flush=True)


async def main():
    begun = time.time()
    statuses = await many(64, 64, stream)
    assert statuses.count(200) >= 64, statuses
    told("64 streams at once", begun)
    base = memory()

    begun = time.time()
    await many(16, 16, lambda nth: stream(nth, pause=0.01))
    told("16 slow readers", begun)

    begun = time.time()
    await many(200, 20, leave)
    await idle()
    told("200 clients that go away", begun)

    begun = time.time()
    await many(10_000, 32, lambda _: nonsense())
    told("10,000 requests that are none", begun)

    begun = time.time()
    await healthy()
    assert await send(head("/v1/chat/completions", 65 << 20) + b" " * (1 << 20)) == 413
    chunked = b"POST /v1/messages HTTP/1.1\r\nhost: %s\r\ntransfer-encoding: chunked\r\n\r\n" % URL.netloc.encode()
    chunk = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20))
    assert await send(chunked + chunk * 66) in (413, None)
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}"):
        assert await send(head("/v1/chat/completions", len(deep)) + deep) == 400
    flat = b"[" + b"0," * 8_000_000 + b"0]"
    assert await send(head("/v1/chat/completions", len(flat)) + flat) == 413
    for key in ("a", "x"):
        flood = [f"x-{key}-{i}: {i}" for i in range(5000)]
        assert await send(head("/v1/chat/completions", 2, *flood) + b"{}") in (431, None)
    assert await send(head("/v1/chat/completions", 2, "x: " + "y" * 1_000_000) + b"{}") in (431, 400, None)
    for raw in (b"\x16\x03\x01\x02\x00" * 50, b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/messages HTTP/1.1\r\ncontent-length: -1\r\n\r\n"):
        assert await send(raw + b"\r\n\r\n", 20) in (400, 431, 505, None)
    await healthy()
    told("large, deep and strange ones", begun)

    await idle()
    assert await stream(12) == 200
    await asyncio.sleep(1)
    after = memory()
    assert after < base * 1.25 + 96, f"{base:.0f} MiB before, {after:.0f} MiB after"
    os.kill(PID, 0)
    print(f"memory: {base:.0f} MiB before, {after:.0f} MiB after")


asyncio.run(main())
