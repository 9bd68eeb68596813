"""Payloads: decode(encode(m)) == m, any bytes raise only ProtocolError, exact types, tolerant widths."""

from __future__ import annotations

import struct
from dataclasses import fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.codec import clip_text, decode_payload, encode_payload, kind_of
from llama_gossip.protocol.messages import Announce, Assign, Kind, Leave, Message, Request, Token
from llama_gossip.protocol.structure import unpack_payload
from tests.protocol.wire_samples import ENVELOPES, FRAMES, head
from tests.protocol.wire_strategies import messages
from tests.protocol.wire_tamper import SAMPLES, decode, refused

# --- there and back ------------------------------------------------------------------------------


@given(messages)
@settings(max_examples=400, deadline=None)
def test_every_message_comes_back_as_it_went(message: Message) -> None:
    payload = encode_payload(message)
    decoded = decode_payload(kind_of(message), payload)
    assert decoded == message
    assert_same_types(decoded, message)
    assert encode_payload(decoded) == payload


def assert_same_types(a: object, b: object) -> None:
    """1 == 1.0 == True in Python, not on the wire."""
    assert type(a) is type(b)
    if is_dataclass(a):
        for field in fields(a):
            assert_same_types(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple) and isinstance(b, tuple):
        for x, y in zip(a, b, strict=True):
            assert_same_types(x, y)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_comes_back_as_it_went(name: str) -> None:
    assert decode(name, encode_payload(SAMPLES[name])) == SAMPLES[name]


# --- hostile bytes -------------------------------------------------------------------------------


@given(st.sampled_from(list(Kind)), st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_any_bytes_decode_to_a_message_or_raise_a_protocol_error(kind: Kind, data: bytes) -> None:
    try:
        message = decode_payload(kind, data)
    except ProtocolError:
        return
    assert kind_of(message) is kind
    assert decode_payload(kind, encode_payload(message)) == message


@given(messages, st.data())
@settings(max_examples=400, deadline=None)
def test_a_message_with_changed_bytes_still_raises_only_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    payload = bytearray(encode_payload(message))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    kind = kind_of(message)
    try:
        changed = decode_payload(kind, bytes(payload))
    except ProtocolError:
        return
    assert decode_payload(kind, encode_payload(changed)) == changed


@pytest.mark.parametrize("name", SAMPLES)
def test_every_truncation_is_refused(name: str) -> None:
    payload = encode_payload(SAMPLES[name])
    for size in range(len(payload)):
        refused(name, payload[:size])


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_may_follow_the_value(name: str) -> None:
    refused(name, encode_payload(SAMPLES[name]) + b"\xc0")


@pytest.mark.parametrize("payload", [b"", b"\xc0", b"\x00", b"\x80", b"\xc4\x00", b"\xa0"])
def test_a_payload_that_is_no_array_is_refused(payload: bytes) -> None:
    refused("leave", payload)


# --- widths --------------------------------------------------------------------------------------


def test_a_receiver_takes_any_width_of_integers_texts_bytes_arrays_and_float32() -> None:
    wide = b"".join(
        (
            b"\xdd" + struct.pack(">I", 14),  # array32
            b"\xcf" + struct.pack(">Q", 1),  # uint64
            b"\xd3" + struct.pack(">q", 2),  # int64
            b"\xce" + struct.pack(">I", 3),  # uint32
            b"\xc6" + struct.pack(">I", 32) + bytes(32),  # bin32
            b"\xc5" + struct.pack(">H", 16) + bytes(16),  # bin16
            b"\xc4\x20" + bytes(32),
            b"\xd1" + struct.pack(">h", 4),  # int16
            b"\xd0\x05",  # int8
            b"\xca" + struct.pack(">f", 0.5),  # float32
            b"\xc0",
            b"\xdb" + struct.pack(">I", 2) + b"s1",  # str32
            b"\xcc\x01",  # uint8
            b"\xc4\x20" + bytes(32),
            b"\xdc\x00\x02\xd9\x01a\xda\x00\x01b",  # array16 of str8 and str16
        )
    )
    claim = decode_payload(Kind.CLAIM, wide)
    assert claim.tokens_per_s == 0.5  # type: ignore[union-attr]
    assert claim.addresses == ("a", "b")  # type: ignore[union-attr]
    assert (claim.head.boot, claim.head.seq, claim.head.ts) == (1, 2, 3)  # type: ignore[union-attr]
    assert len(encode_payload(claim)) < len(wide)


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80"])
def test_texts_are_strict_utf_8(text: bytes) -> None:
    payload = encode_payload(Leave(head(1), "x" * len(text)))
    refused("leave", payload.replace(b"x" * len(text), text))


def test_unpacking_allocates_for_what_is_there_not_for_what_is_announced() -> None:
    import tracemalloc

    bomb = b"\xdd\x00\x04\x00\x00" * 200_000  # each header announces 262 144 elements
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        unpack_payload(bomb, 262_144)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


# --- what cannot be sent -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        replace(ENVELOPES["leave"], reason="\ud800"),
        replace(ENVELOPES["leave"], head=head(-1)),
        replace(ENVELOPES["leave"], head=head(2**64)),
        replace(ENVELOPES["request"], priority=10),
        replace(ENVELOPES["request"], requester=b"short"),
        replace(ENVELOPES["assign"], attempt=0),
        replace(ENVELOPES["assign"], date="tomorrow"),
        replace(FRAMES["complete"], duration_secs=float("nan")),
        replace(FRAMES["complete"], duration_secs=10**400),
        replace(FRAMES["complete"], completion_tokens=1),
        replace(FRAMES["token"], texts=()),
        replace(FRAMES["token"], token_ids=(1,)),
        replace(FRAMES["error"], retryable=1),
        replace(FRAMES["cancel"], reason=None),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_a_receiver_would_refuse_is_refused_before_it_is_signed(message: Message) -> None:
    with pytest.raises(ProtocolError) as caught:
        encode_payload(message)
    assert caught.value.code == "malformed"


def test_an_integer_given_for_a_float_travels_as_float64() -> None:
    assign = ENVELOPES["assign"]
    assert isinstance(assign, Assign)
    whole = replace(assign, config=replace(assign.config, temperature=1))
    decoded = decode_payload(Kind.ASSIGN, encode_payload(whole))
    assert isinstance(decoded, Assign)
    assert type(decoded.config.temperature) is float


def test_samples_cover_the_optional_parts_both_ways() -> None:
    announce, request = ENVELOPES["announce"], ENVELOPES["request_public"]
    assert isinstance(announce, Announce)
    assert isinstance(request, Request)
    assert {offer.digest is None for offer in announce.capacity.models} == {True, False}
    assert request.prompt is not None


@given(st.text(), st.integers(0, 40))
def test_a_clipped_text_is_the_longest_beginning_that_fits(text: str, most: int) -> None:
    clipped = clip_text(text, most)
    assert text.startswith(clipped)
    assert len(clipped.encode()) <= most
    assert clipped == text or len(text[: len(clipped) + 1].encode()) > most


def test_a_token_of_eight_costs_at_most_24_bytes_a_token() -> None:
    token = FRAMES["token"]
    assert isinstance(token, Token)
    eight = replace(token, texts=(" The", " capital", " of", " France", " is", " Paris", ".", "\n"),
                    token_ids=(378, 3575, 282, 4649, 314, 7042, 30, 198), index=5000, n=700)  # fmt: skip
    prefix_and_outer = 4 + 1 + 1 + 2 + 2 + 64
    assert len(encode_payload(eight)) + prefix_and_outer <= 24 * 8
