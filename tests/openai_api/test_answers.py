"""Answers: the shapes that clients depend on, chunk by chunk and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_gossip.answer import Token
from llama_gossip.openai_api import DONE, WAITING, ApiError, Asked, Choice, Ended, Shaper
from llama_gossip.protocol.messages import TokenLogprob
from tests.openai_api.asking import chat, completion

CREATED = 1_764_000_000
HEAD = {"id", "object", "created", "model", "system_fingerprint"}
STREAM_WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def ended(**changes: Any) -> Ended:
    facts: dict[str, Any] = {
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "worker": "ab" * 32,
        "attempts": 2,
        "request_id": "cd" * 16,
        "delivery": "direct",
        "resume": "exact",
        "verified": True,
    }
    return Ended(**{**facts, **changes})


def shaper(asked: Asked) -> Shaper:
    return Shaper(asked, answer_id="id-1", created=CREATED)


def events(data: bytes) -> list[dict[str, Any]]:
    """Whole events only, each one line of JSON."""
    assert data.endswith(b"\n\n")
    made = []
    for event in data.decode("utf-8").removesuffix("\n\n").split("\n\n"):
        assert event.startswith("data: ")
        assert "\n" not in event
        made.append(json.loads(event.removeprefix("data: ")))
    return made


def event(data: bytes) -> dict[str, Any]:
    (made,) = events(data)
    return made


def test_a_chat_streams_its_role_its_pieces_and_an_empty_delta_that_says_why() -> None:
    shape = shaper(chat(stream=True))
    chunks = [
        event(data) for data in (shape.begin(0), shape.piece(0, Token(0, 5, "Hé")), shape.finish(0, ended()))
    ]
    assert [chunk["choices"] for chunk in chunks] == [
        [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
        [{"index": 0, "delta": {"content": "Hé"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
    ]
    for chunk in chunks:
        assert {name: chunk[name] for name in ("id", "created", "model", "object")} == {
            "id": "id-1",
            "created": CREATED,
            "model": "tiny",
            "object": "chat.completion.chunk",
        }
        assert isinstance(chunk["system_fingerprint"], str)
    assert [set(chunk) - HEAD for chunk in chunks] == [{"choices"}, {"choices"}, {"choices", "llama_gossip"}]


def test_a_completion_streams_the_object_that_it_is_whole() -> None:
    shape = shaper(completion(prompt=["a", "b"], stream=True))
    assert shape.begin(1) == b""
    piece, last = event(shape.piece(1, Token(0, 5, "x"))), event(shape.finish(1, ended()))
    assert piece["choices"] == [{"index": 1, "text": "x", "logprobs": None, "finish_reason": None}]
    assert last["choices"] == [{"index": 1, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert piece["object"] == last["object"] == "text_completion"
    assert set(piece) == HEAD | {"choices"}


@pytest.mark.parametrize("ask", [chat, completion])
def test_usage_comes_in_a_chunk_of_its_own_and_is_null_in_the_others(ask: Any) -> None:
    shape = shaper(ask(**STREAM_WITH_USAGE))
    data = shape.begin(0) + shape.piece(0, Token(0, 5, "x")) + shape.finish(0, ended())
    for chunk in events(data):
        assert "usage" in chunk
        assert chunk["usage"] is None
        assert len(chunk["choices"]) == 1
    chunk = event(shape.usage(7, 2))
    assert chunk["choices"] == []
    assert chunk["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert set(chunk) == HEAD | {"choices", "usage"}


def test_the_finish_chunk_tells_how_the_network_did_it() -> None:
    assert event(shaper(chat(stream=True)).finish(0, ended()))["llama_gossip"] == {
        "worker": "ab" * 32,
        "attempts": 2,
        "request_id": "cd" * 16,
        "delivery": "direct",
        "resume": "exact",
        "verified": True,
    }


def test_a_failure_in_mid_stream_is_an_event_in_the_shape_of_an_error() -> None:
    error = ApiError(502, "gone", code="peer_failed")
    assert event(shaper(chat(stream=True)).failure(error)) == error.body()


def test_what_is_no_chunk_is_what_clients_know() -> None:
    assert DONE == b"data: [DONE]\n\n"
    assert WAITING.startswith(b": ")  # a comment
    assert WAITING.endswith(b"\n\n")


@given(st.text(), st.text(min_size=1, max_size=10), st.booleans())
@example("a", "\x00text", False)
@example("\x00logprobs", "\x00logprobs", True)
def test_any_text_comes_through_an_event_as_it_was(text: str, model: str, usage: bool) -> None:
    extra = STREAM_WITH_USAGE if usage else {"stream": True}
    spoken = event(shaper(chat(model=model, **extra)).piece(0, Token(0, 5, text)))
    written = event(shaper(completion(model=model, **extra)).piece(0, Token(0, 5, text)))
    assert spoken["choices"][0]["delta"] == {"content": text}
    assert written["choices"][0]["text"] == text
    assert spoken["model"] == written["model"] == model


# --- whole -------------------------------------------------------------------------------------


def test_an_event_is_one_line_whatever_a_client_takes_for_the_end_of_one() -> None:
    shape = shaper(chat(model="a\u2028b", stream=True))
    text = "é\x85\u2028\u2029\x0b\x0c\x1c\r\n."
    for data in (shape.piece(0, Token(0, 1, text)), shape.begin(0), shape.finish(0, ended())):
        assert len(data.decode().splitlines()) == 2, "the event's line and the empty one behind it"
    assert event(shape.piece(0, Token(0, 1, text)))["choices"][0]["delta"]["content"] == text


def test_a_whole_chat() -> None:
    whole = shaper(chat()).whole([Choice("hello", (), ended(finish_reason="length"))])
    assert whole.pop("system_fingerprint")
    assert whole == {
        "id": "id-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
        "llama_gossip": ended().told(),
    }


def test_a_whole_completion_has_a_choice_a_prompt_and_sums_that_add_up() -> None:
    first = ended(prompt_tokens=3, completion_tokens=4)
    second = ended(prompt_tokens=5, completion_tokens=6, worker="ef" * 32, finish_reason="length")
    whole = shaper(completion(prompt=["a", "b"])).whole([Choice("x", (), first), Choice("y", (), second)])
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [
        {"index": 0, "text": "x", "logprobs": None, "finish_reason": "stop"},
        {"index": 1, "text": "y", "logprobs": None, "finish_reason": "length"},
    ]
    assert whole["usage"] == {"prompt_tokens": 8, "completion_tokens": 10, "total_tokens": 18}
    assert whole["llama_gossip"] == {**first.told(), "choices": [first.told(), second.told()]}


# --- log probabilities ---------------------------------------------------------------------------

TOKENS = (
    Token(0, 5, "hé", TokenLogprob(-0.5, (("hé", -0.5), ("a", -1.5)))),
    Token(1, 6, "", TokenLogprob(-0.25, (("", -0.25), ("", -3.0)))),
    Token(2, 7, "!", TokenLogprob(0.0, ())),
)


def test_a_chat_has_an_item_for_each_token() -> None:
    asked = chat(logprobs=True, top_logprobs=2)
    logprobs = shaper(asked).whole([Choice("hé!", TOKENS, ended())])["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    assert logprobs["content"][0] == {
        "token": "hé",
        "logprob": -0.5,
        "bytes": [104, 195, 169],
        "top_logprobs": [
            {"token": "hé", "logprob": -0.5, "bytes": [104, 195, 169]},
            {"token": "a", "logprob": -1.5, "bytes": [97]},
        ],
    }
    assert [item["token"] for item in logprobs["content"]] == ["hé", "", "!"]
    assert logprobs["content"][2]["top_logprobs"] == []


def test_a_completion_has_columns_and_the_likelier_of_two_with_one_text() -> None:
    asked = completion(logprobs=2)
    logprobs = shaper(asked).whole([Choice("hé!", TOKENS, ended())])["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["hé", "", "!"],
        "token_logprobs": [-0.5, -0.25, 0.0],
        "top_logprobs": [{"hé": -0.5, "a": -1.5}, {"": -0.25}, {}],
        "text_offset": [0, 2, 2],
    }


@pytest.mark.parametrize("ask", [chat, completion])
def test_the_log_probabilities_of_a_stream_are_those_of_the_whole(ask: Any) -> None:
    asked = ask(logprobs=True, top_logprobs=2) if ask is chat else ask(logprobs=2)
    shape = shaper(asked)
    pieces = [event(shape.piece(0, token))["choices"][0]["logprobs"] for token in TOKENS]
    whole = shape.whole([Choice("hé!", TOKENS, ended())])["choices"][0]["logprobs"]
    columns = ["content"] if ask is chat else list(whole)
    for column in columns:
        assert [item for piece in pieces for item in piece[column]] == whole[column]


def test_offsets_count_each_choice_for_itself() -> None:
    shape = shaper(completion(prompt=["a", "b"], logprobs=0))
    offsets = [
        event(shape.piece(index, TOKENS[0]))["choices"][0]["logprobs"]["text_offset"] for index in (0, 1, 0)
    ]
    assert offsets == [[0], [0], [2]]


def test_nobody_gets_log_probabilities_without_asking_and_none_are_made_up() -> None:
    assert shaper(chat()).whole([Choice("a", TOKENS, ended())])["choices"][0]["logprobs"] is None
    bare = (Token(0, 5, "a"),)
    assert shaper(chat(logprobs=True)).whole([Choice("a", bare, ended())])["choices"][0]["logprobs"] is None
    assert event(shaper(chat(logprobs=True)).piece(0, bare[0]))["choices"][0]["logprobs"] is None
