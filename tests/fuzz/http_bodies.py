"""Bodies of requests to the HTTP interface: valid ones, changed by grammar and by byte. Most are malformed.

A seed gives the same bodies in every run.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from llama_gossip.openai_api import Kind

MODEL = "scripted"

VALID: dict[Kind, list[dict[str, Any]]] = {
    Kind.CHAT: [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Hé 👩‍💻"}],
            "max_tokens": 3,
            "temperature": 0.5,
            "stop": ["a", "b"],
        },
        {
            "model": MODEL,
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "short"}]},
                {"role": "user", "content": "a", "name": "ann"},
                {"role": "assistant", "content": "b", "refusal": None, "tool_calls": []},
            ],
            "max_completion_tokens": 2,
            "logprobs": True,
            "top_logprobs": 3,
            "seed": 7,
            "logit_bias": {"7": -100, "9": 1.5},
            "response_format": {"type": "text"},
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ],
    Kind.COMPLETION: [
        {"model": MODEL, "prompt": "a", "max_tokens": 2, "top_p": 0.5, "min_p": 0.1, "n": 1, "best_of": 1},
        {"model": MODEL, "prompt": ["a", "b"], "logprobs": 2, "presence_penalty": -1, "echo": False},
        {"model": MODEL, "prompt": [1, 2, 3], "frequency_penalty": 1.5, "top_k": -1, "stream": True},
    ],
}

NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 2**31, 2**63, 2**64, 10**400, -(10**30), 1e308, 5e-324),
    *("", "a", "\0", "null", "\u202e", "\ud800", "ß" * 3_000, "</script>", "data: [DONE]\n\n", MODEL),
    *([], {}, [[]], [None], [{}], {"": None}, {"type": "text"}, {"type": "image_url", "image_url": "x"}),
    *([1] * 300, ["a"] * 17, [[1]] * 3, {"a": {"b": {"c": [1, {"d": None}]}}}, {"\udfff": 1}),
]
LITERALS = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5_000, b"01", b"+1", b".5", b"1.", b"0x1"]
BYTES = [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\0", b"\n", b"\\", b'"', b"\\ud800", b"\\u12", b"{", b"]"]
AROUND = [b"\xef\xbb\xbf", b"\xff\xfe", b" ", b"\n", b"{}", b"\0", b"//", b","]
OTHER = [b"", b"null", b"[]", b'"a"', b"1", b"true", b"{", b"}", b"[" * 50_000, b'{"a":' * 50_000]


def http_bodies(seed: int, runs: int) -> Iterator[tuple[Kind, bytes]]:
    """So many bodies and which path each is for."""
    rng = random.Random(seed)
    for _ in range(runs):
        kind = rng.choice(list(VALID))
        yield kind, _mutant(rng, rng.choice(VALID[kind]))


def _mutant(rng: random.Random, valid: dict[str, Any]) -> bytes:
    value = copy.deepcopy(valid)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        rng.choice(BY_GRAMMAR)(rng, value)
    body = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return rng.choice(BY_BYTE)(rng, body) if rng.random() < 0.5 else body


# --- by grammar: what is in the object changes -----------------------------------------------------


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    inner = [node for _, child in pairs if isinstance(child, dict | list) for node in _nodes(child)]
    return [(value, key) for key, _ in pairs] + inner


def _exchange(rng: random.Random, value: dict[str, Any]) -> None:
    container, key = rng.choice(_nodes(value) or [(value, "a")])
    container[key] = copy.deepcopy(rng.choice(NASTY))


def _remove(rng: random.Random, value: dict[str, Any]) -> None:
    if nodes := _nodes(value):
        container, key = rng.choice(nodes)
        del container[key]


def _add(rng: random.Random, value: dict[str, Any]) -> None:
    fields = ["tools", "tool_choice", "audio", "suffix", "stop", "n", "user", "ignore_eos", "prompt", "ß"]
    value[rng.choice(fields)] = copy.deepcopy(rng.choice(NASTY))


def _rename(rng: random.Random, value: dict[str, Any]) -> None:
    objects = [value, *(c[k] for c, k in _nodes(value) if isinstance(c[k], dict))]
    if one := rng.choice(objects):
        one[rng.choice(("Model", "content ", "", "🎈"))] = one.pop(rng.choice(list(one)))


def _wrap(rng: random.Random, value: dict[str, Any]) -> None:
    container, key = rng.choice(_nodes(value) or [(value, "a")])
    for _ in range(rng.choice((1, 2, 20))):
        container[key] = [container.get(key)] if isinstance(container, dict) else [container[key]]


ByGrammar = Callable[[random.Random, dict[str, Any]], None]
BY_GRAMMAR: list[ByGrammar] = [_exchange, _exchange, _remove, _add, _rename, _wrap]


# --- by byte: what writes it changes ---------------------------------------------------------------


def _cut(rng: random.Random, body: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _insert(rng: random.Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.choice(BYTES) + body[at:]


def _literal(rng: random.Random, body: bytes) -> bytes:
    """In the place of a value."""
    places = [at + 1 for at, byte in enumerate(body) if byte == ord(":")]
    at = rng.choice(places or [0])
    rest = b"," + body[at:] if rng.random() < 0.2 else b"}"
    return body[:at] + rng.choice(LITERALS) + rest


def _flip(rng: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 8))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _around(rng: random.Random, body: bytes) -> bytes:
    extra = rng.choice(AROUND)
    wide = body.decode("utf-8", "replace").encode("utf-16")
    return rng.choice((extra + body, body + extra, body + body, wide))


def _twice(rng: random.Random, body: bytes) -> bytes:
    return body[:-1] + b', "max_tokens": 1, "max_tokens": 2}'


def _other(rng: random.Random, body: bytes) -> bytes:
    return rng.choice(OTHER)


ByByte = Callable[[random.Random, bytes], bytes]
BY_BYTE: list[ByByte] = [_cut, _insert, _literal, _flip, _around, _twice, _other]
