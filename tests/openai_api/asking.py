"""Bodies for these tests: a valid one, and the same with some fields changed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from llama_gossip.openai_api import ApiError, Asked, chat_asked, completion_asked

HELLO = [{"role": "user", "content": "hello"}]
Read = Callable[[bytes], Asked]


def chat_body(**fields: object) -> bytes:
    return json.dumps({"model": "tiny", "messages": HELLO, **fields}).encode()


def completion_body(**fields: object) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "hello", **fields}).encode()


def chat(**fields: object) -> Asked:
    return chat_asked(chat_body(**fields))


def completion(**fields: object) -> Asked:
    return completion_asked(completion_body(**fields))


def refusal(ask: Callable[..., Asked], **fields: object) -> ApiError:
    """The 400 that a body with these fields gets."""
    with pytest.raises(ApiError) as caught:
        ask(**fields)
    assert caught.value.status == 400
    return caught.value


def refusal_of(read: Read, body: bytes) -> ApiError:
    return refusal(lambda: read(body))
