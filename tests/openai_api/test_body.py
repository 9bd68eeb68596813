"""Bodies: strict JSON, one object, and whatever the bytes nothing but a 400."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_gossip.openai_api import ApiError, chat_asked, completion_asked
from llama_gossip.openai_api.body import json_object
from llama_gossip.openai_api.request_schemas import chat_request, completion_request
from tests.openai_api.asking import Read, chat_body, completion_body, refusal_of

BOTH = pytest.mark.parametrize("read", [chat_asked, completion_asked])


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"model": "tiny"',
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"true",
        b"{} {}",
        b"{}\x00",
        b"{'model': 1}",
        b'{"model": tiny}',
        b'{"a": 01}',
        b'{"a": .5}',
        b'{"a": +1}',
        b'{"a": 1,}',
        b'{"a": "\n"}',
        b"// comment\n{}",
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',  # a surrogate as UTF-8 may not write one
        b'{"a": "\xc0\x80"}',
    ],
    ids=repr,
)
def test_what_is_no_json_object_in_utf8_is_refused_before_anything_else(read: Read, body: bytes) -> None:
    error = refusal_of(read, body)
    assert error.param is None
    assert error.code in ("invalid_json", "invalid_body")


@BOTH
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400", "9" * 5_000])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(read: Read, number: str) -> None:
    for body in (f'{{"unknown": [{{"deep": {number}}}]}}', f'{{"temperature": {number}}}'):
        assert refusal_of(read, body.encode()).code == "invalid_json"


@BOTH
@pytest.mark.parametrize("text", [r"\ud800", r"a\udfffb", r"\udc00\ud800", r"\uD83D", r"\ud83dA"])
def test_half_a_surrogate_pair_is_refused_in_texts_and_in_keys(read: Read, text: str) -> None:
    for body in (f'{{"unknown": "{text}"}}', f'{{"unknown": {{"{text}": 1}}}}'):
        assert refusal_of(read, body.encode()).code == "invalid_json"


def test_a_whole_surrogate_pair_is_the_character_it_means() -> None:
    assert json_object(rb'{"a": "\ud83d\ude00", "b": "\\ud800"}') == {"a": "\U0001f600", "b": r"\ud800"}


@BOTH
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("closed", [True, False])
def test_any_depth_is_a_refusal_and_no_crash(read: Read, opening: bytes, closed: bool) -> None:
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"a":': b"}]"}[opening]
    deep = opening * 100_000 + b"1" + closing * 100_000 * closed
    for body in (deep, b'{"unknown": ' + deep + b"}"):
        assert refusal_of(read, body).code == "invalid_json"


def test_depth_that_is_not_absurd_is_read() -> None:
    assert json_object(b'{"unknown": ' + b"[" * 100 + b"]" * 100 + b"}")


@BOTH
def test_a_key_that_stands_twice_is_refused_as_nobody_knows_which_was_meant(read: Read) -> None:
    for body in (b'{"model": "a", "model": "b"}', b'{"unknown": [{"x": 1, "y": 2, "x": 1}]}'):
        error = refusal_of(read, body)
        assert error.code == "invalid_json"
        assert "twice" in error.message


def test_a_message_is_short_plain_text_whatever_the_body_holds() -> None:
    name = "é\u202e" * 10_000
    for body in (
        f'{{"{name}": 1, "{name}": 2}}'.encode(),
        chat_body(model="x", messages=[{"role": "\x1b[31m" * 9_999, "content": ""}]),
        chat_body(seed=10**4_000),
        chat_body(logit_bias={"\n" * 9_999: 1}),
    ):
        message = refusal_of(chat_asked, body).message
        assert len(message) < 400
        assert message.isprintable()


# --- whatever the bytes ------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.sampled_from(
    [name for schema in (chat_request(), completion_request()) for name in schema["properties"]]
)


def only_refusals(body: bytes) -> None:
    for read in (chat_asked, completion_asked):
        try:
            read(body)
        except ApiError as error:
            refused = error
        else:
            continue
        assert refused.status == 400
        assert json.dumps(refused.body())


@given(st.binary(max_size=200))
def test_any_bytes_give_a_request_or_a_400(body: bytes) -> None:
    only_refusals(body)


@given(_JSON)
def test_any_json_gives_a_request_or_a_400(value: object) -> None:
    only_refusals(json.dumps(value).encode())


@given(st.dictionaries(_FIELDS, _JSON, max_size=6))
@example({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]})
def test_any_value_of_any_field_gives_a_request_or_a_400(fields: dict[str, object]) -> None:
    only_refusals(chat_body(**fields))
    only_refusals(completion_body(**fields))
