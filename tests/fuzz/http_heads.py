"""Whole HTTP/1.1 requests as bytes, changed where the head is: lines, sizes, paths, names, single bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

BODY = b'{"model": "scripted", "prompt": "a", "max_tokens": 2}'
JSON = b"content-type: application/json"
WHOLE: list[list[bytes]] = [  # lines of a head, then the body
    [b"GET /v1/models HTTP/1.1", b"host: localhost", b""],
    [b"HEAD /v1/models/a%2Fb HTTP/1.1", b"host: localhost", b"accept: */*", b""],
    [b"GET /api/status?x=%00 HTTP/1.1", b"host: 127.0.0.1:80", b"origin: http://127.0.0.1:80", b""],
    [b"POST /v1/completions HTTP/1.1", b"host: localhost", JSON, b"content-length: %d" % len(BODY), BODY],
    [
        b"POST /v1/completions HTTP/1.1",
        b"host: localhost",
        JSON,
        b"transfer-encoding: chunked",
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    ],
]
LINES = [
    *(b"host: evil.example", b"host:", b"host: [::1", b"host: localhost:99999999", b"host: localhost@evil"),
    *(b"origin: null", b"origin: http://[", b"origin: \xff", b"authorization: Bearer \xe9"),
    *(
        b"content-length: -1",
        b"content-length: 1e3",
        b"content-length: " + b"9" * 5_000,
        b"content-length: +5",
    ),
    *(b"content-length: \xb2", b"content-length: 7, 7", b"transfer-encoding: gzip, chunked"),
    *(b"content-type: \xff", b"content-type: application/json; charset=\xff", b"content-type: text/plain"),
    *(b"expect: 100-continue", b"expect: something", b"upgrade: websocket", b"connection: upgrade, close"),
    *(b"x-llama-gossip-priority: \xb2", b"x-llama-gossip-priority: 99", b"x-a: " + b"a" * 70_000),
    *(b" folded", b"no colon", b"\0: 1", b": empty"),
]
TARGETS = [
    *(b"/", b"*", b"//", b"/..%2f..%2fetc", b"/%", b"/%zz", b"/%ff", b"/v1/models/%ff%fe"),
    *(b"/v1/models/" + b"a" * 9_000, b"http://localhost/v1/models", b"localhost:443", b"/v1/models/?"),
    *(b"/metrics#a", b"/\xe9", b"/a b", b""),
]
METHODS = [b"PUT", b"OPTIONS", b"TRACE", b"CONNECT", b"get", b"PRI", b"G\0T", b"A" * 300, b""]
VERSIONS = [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.1.1", b"http/1.1", b""]


def http_heads(seed: int, runs: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for _ in range(runs):
        *lines, body = rng.choice(WHOLE)
        for _ in range(rng.choice((1, 1, 2, 3))):
            lines = rng.choice(CHANGES)(rng, lines)
        data = rng.choice((b"\r\n", b"\r\n", b"\r\n", b"\n")).join([*lines, b"", b""]) + body
        yield _bytes_changed(rng, data) if rng.random() < 0.3 else data


def _another_line(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    at = rng.randrange(1, len(lines) + 1) if lines else 0
    return [*lines[:at], rng.choice(LINES), *lines[at:]]


def _line_exchanged(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    at = rng.randrange(len(lines) or 1)
    return [*lines[:at], rng.choice(LINES), *lines[at + 1 :]]


def _line_gone_or_twice(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    at = rng.randrange(len(lines) or 1)
    return [*lines[:at], *lines[at : at + 1] * rng.choice((0, 2)), *lines[at + 1 :]]


def _another_first_line(rng: random.Random, lines: list[bytes]) -> list[bytes]:
    words = (lines or [b""])[0].split(b" ")
    for at, others in enumerate((METHODS, TARGETS, VERSIONS)):
        if at < len(words) and rng.random() < 0.4:
            words[at] = rng.choice(others)
    return [b" ".join(words), *lines[1:]]


def _bytes_changed(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 4))):
        changed[rng.randrange(min(len(changed), 200))] = rng.choice(b"\0\r\n :\x80\xff%/a1")
    return bytes(changed) if rng.random() < 0.7 else bytes(changed[: rng.randrange(len(changed))])


Change = Callable[[random.Random, list[bytes]], list[bytes]]
CHANGES: list[Change] = [_another_line, _line_exchanged, _line_gone_or_twice, _another_first_line]
