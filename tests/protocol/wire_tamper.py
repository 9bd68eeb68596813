"""Payloads that no sender of ours would make: one element of a good message replaced, added or taken away."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.codec import decode_payload, encode_payload, kind_of
from llama_gossip.protocol.messages import Kind, Message
from tests.protocol.wire_samples import ENVELOPES, FRAMES

SAMPLES: dict[str, Message] = {**ENVELOPES, **FRAMES}


def elements(name: str) -> list[Any]:
    """The payload of a sample as nested lists."""
    payload: list[Any] = msgpack.unpackb(encode_payload(SAMPLES[name]), use_list=True)
    return payload


def replaced(name: str, path: tuple[int, ...], value: object) -> bytes:
    payload = elements(name)
    inner = payload
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return msgpack.packb(payload, use_bin_type=True)  # type: ignore[no-any-return]


def decode(name: str, payload: bytes) -> Message:
    return decode_payload(kind(name), payload)


def kind(name: str) -> Kind:
    return kind_of(SAMPLES[name])


def refused(name: str, payload: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        decode(name, payload)
    assert caught.value.code == "malformed"
    return caught.value
