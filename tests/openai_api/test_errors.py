"""Errors: one shape, a status that says whose turn it is, and nothing of the inside."""

from __future__ import annotations

from typing import Any

import pytest

from llama_gossip import errors
from llama_gossip.generation import error_of
from llama_gossip.openai_api import ApiError, api_error_of
from llama_gossip.protocol.effects import Failed
from llama_gossip.protocol.messages import NodeId, RequestId

WORKER = NodeId(b"\xab" * 32)


def failed(code: str, message: str = "it failed", trail: bool = True) -> ApiError:
    """What a client is told of a request that ended so in the network."""
    steps = ((WORKER, 1, "engine_failed: no memory at /home/ann"),) if trail else ()
    return api_error_of(error_of(Failed(RequestId(bytes(16)), code, message, "a hint", steps)))


def test_the_body_has_four_keys_whatever_is_known() -> None:
    assert ApiError(400, "no", param="n", code="c").body() == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "c"}
    }
    assert ApiError(500, "no").body() == {
        "error": {"message": "no", "type": "server_error", "param": None, "code": None}
    }


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (ApiError(429, "busy", retry_after_s=2), {"retry-after": "2"}),
        (ApiError(503, "nobody", retry_after_s=5), {"retry-after": "5"}),
        (ApiError(502, "gone"), {}),
        (ApiError(400, "no"), {"x-should-retry": "false"}),
        (ApiError(500, "bug", retryable=False), {"x-should-retry": "false"}),
    ],
)
def test_headers_advise_a_retry_only_where_it_can_help(error: ApiError, headers: dict[str, str]) -> None:
    assert error.headers() == headers


@pytest.mark.parametrize(
    ("code", "status", "told", "again"),
    [
        ("too_long", 400, "context_length_exceeded", False),
        ("bad_request", 400, "invalid_value", False),
        ("model", 404, "model_not_found", False),
        ("no_workers", 503, "no_workers", True),
        ("peer_failed", 502, "peer_failed", True),
        ("digest", 502, "digest", True),
        ("timeout", 504, "timeout", True),
        ("cancelled", 503, "cancelled", True),
    ],
)
def test_each_end_of_a_request_has_its_status(code: str, status: int, told: str, again: bool) -> None:
    error = failed(code)
    assert (error.status, error.code, error.retryable) == (status, told, again)
    assert ("retry-after" in error.headers()) == (status == 503)


@pytest.mark.parametrize("code", ["too_long", "bad_request", "model", "no_workers", "peer_failed", "digest"])
def test_no_client_reads_which_node_said_what(code: str) -> None:
    for trail in (True, False):
        message = failed(code, "no worker serves 'tiny' [really] (2 peers seen)", trail).message
        assert "abab" not in message
        assert "/home" not in message
        if code not in ("peer_failed", "digest"):
            assert message == "no worker serves 'tiny' [really] (2 peers seen)"


def test_a_workers_words_are_one_line_of_plain_text() -> None:
    assert failed("bad_request", "no\x1b[31m\n\u202eroles").message == "no[31mroles"


def test_a_message_is_short_even_where_the_client_gave_a_long_name() -> None:
    assert len(failed("model", "no worker serves " + "x" * 100_000).message) == 512


def subclasses(kind: type[errors.LlamaGossipError]) -> list[type[errors.LlamaGossipError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in subclasses(child))]


@pytest.mark.parametrize("kind", subclasses(errors.LlamaGossipError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_package_has_a_reply(kind: Any) -> None:
    error = api_error_of(kind("secret of /home/ann"))
    assert error.status in (400, 404, 500, 502, 503, 504)
    assert error.message
    if error.status in (500, 502, 504):
        assert "secret" not in error.message


def test_the_field_that_held_the_prompt_is_named_where_it_is_known() -> None:
    error = api_error_of(errors.UsageError("too long", code="too_long"), param="messages")
    assert error.param == "messages"
    assert (
        api_error_of(errors.UsageError("a bias of token 300", code="bad_request"), param="prompt").param
        is None
    )
