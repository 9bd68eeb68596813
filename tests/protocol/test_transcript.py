"""The transcript: what was signed can be checked by anybody, and nothing else passes."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol.messages import FinishReason, Frame, RequestId
from llama_gossip.protocol.transcript import MAX_KEPT, TranscriptBook, verify_transcript
from tests.protocol.fakewire import FakeNet
from tests.protocol.hand import REQUEST_ID, HandWorker, complete, token
from tests.protocol.scripted_model import ScriptedModel, answer_of


@functools.cache
def recorded(*, retried: bool = False) -> bytes:
    """The transcript of a real exchange; retried: a first worker that failed is part of it."""
    net = FakeNet(31)
    first = ScriptedModel(token_ms=1, fail_after=0 if retried else None)
    client, other = net.add("client"), net.add("other", ScriptedModel(token_ms=30))
    net.join(client, net.add("first", first), other)
    net.run_for(1_500)
    request_id = client.ask(max_tokens=6, seed=5)
    assert isinstance(net.finish(client, request_id), ef.Finished)
    return client.core.take_transcript(request_id)


def items(data: bytes) -> list[bytes]:
    """Each item with its prefix (and an Assign's tag)."""
    found, position = [], 0
    while position < len(data):
        end = position + 4 + int.from_bytes(data[position : position + 4], "big")
        end += 32 if data[position + 4] == 0x95 else 0
        found.append(data[position:end])
        position = end
    return found


def test_a_real_answer_verifies_without_the_networks_secret() -> None:
    verdict = verify_transcript(recorded())
    assert verdict.verified, verdict.reason
    assert (verdict.text, verdict.tokens, verdict.attempts) == (answer_of(5, 6), 6, 1)


def test_a_retried_answer_verifies_with_both_attempts() -> None:
    verdict = verify_transcript(recorded(retried=True))
    assert verdict.verified, verdict.reason
    assert (verdict.text, verdict.attempts) == (answer_of(5, 6), 2)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_flipped_bit_anywhere_is_found(data: st.DataObject) -> None:
    good = recorded(retried=True)
    place = data.draw(st.integers(0, len(good) * 8 - 1))
    bad = bytearray(good)
    bad[place // 8] ^= 1 << (place % 8)
    assert not verify_transcript(bytes(bad)).verified


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_transcript_is_never_a_success(data: st.DataObject) -> None:
    good = recorded()
    assert not verify_transcript(good[: data.draw(st.integers(0, len(good) - 1))]).verified


@pytest.mark.parametrize("retried", [False, True])
def test_no_frame_can_be_dropped_repeated_or_moved(retried: bool) -> None:
    parts = items(recorded(retried=retried))
    for place in range(len(parts)):
        rest = parts[:place] + parts[place + 1 :]
        last_of_a_failed_attempt = retried and place + 1 < len(parts) and parts[place + 1][4] == 0x95
        if not last_of_a_failed_attempt:  # that a side's last frame is missing cannot be seen
            assert not verify_transcript(b"".join(rest)).verified, f"without item {place}"
        assert not verify_transcript(b"".join([*parts[:place], parts[place], *parts[place:]])).verified
        if place:
            rest.insert(place - 1, parts[place])
            assert not verify_transcript(b"".join(rest)).verified, f"item {place} moved"


def test_without_complete_the_verdict_is_open() -> None:
    verdict = verify_transcript(b"".join(items(recorded())[:-1]))
    assert not verdict.verified
    assert verdict.reason.startswith("open")
    assert verdict.text == answer_of(5, 6)


LIES: dict[str, tuple[list[Frame], str]] = {
    "cancelled": ([token(0, "a"), complete("a", 1, finish_reason=FinishReason.CANCELLED)], "cancelled"),
    "another text": ([token(0, "a"), complete("b", 1)], "digest"),
    "more tokens": ([token(0, "a"), complete("a", 2)], "2 tokens"),
    "a gap": ([token(1, "a")], "token 1"),
    "too many": ([token(0, *["a"] * 9)], "more tokens"),
}


@pytest.mark.parametrize("name", LIES)
def test_what_a_worker_signed_wrongly_is_no_success(name: str) -> None:
    frames, reason = LIES[name]
    worker = HandWorker()
    worker.submit()
    hand = worker.connect()
    assign = worker.client.core.take_transcript(REQUEST_ID)
    verdict = verify_transcript(assign + b"".join(hand.writer.encode(frame) for frame in frames))
    assert not verdict.verified
    assert reason in verdict.reason


@pytest.mark.parametrize("name", ["cancelled", "more tokens", "a gap", "too many"])
def test_what_an_attempt_failed_by_is_no_part_of_the_answers_record(name: str) -> None:
    frames, _ = LIES[name]
    worker = HandWorker()
    worker.submit()
    worker.connect().send(*frames)
    verdict = verify_transcript(worker.client.core.take_transcript(REQUEST_ID))
    assert verdict.reason.startswith("open"), verdict.reason


def test_attempts_of_two_requests_do_not_mix() -> None:
    other = FakeNet(32)
    client = other.add("client")
    other.join(client, other.add("first", ScriptedModel()))
    other.run_for(1_500)
    request_id = client.ask(max_tokens=6, seed=5)
    other.finish(client, request_id)
    mixed = b"".join(items(recorded())[:-1]) + client.core.take_transcript(request_id)
    assert "another request" in verify_transcript(mixed).reason


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x01\x93", b"\x00\x00\x00\x00", b"\xff" * 40])
def test_junk_is_no_success_and_raises_nothing(data: bytes) -> None:
    assert not verify_transcript(data).verified


def test_a_transcript_is_kept_until_it_is_taken_and_then_forgotten() -> None:
    book, request_id = TranscriptBook(bytes(32)), RequestId(bytes(16))
    (first, *frames) = items(recorded())
    book.open(request_id)
    book.add_assign(request_id, first[:-32])
    for frame in frames:
        book.add(request_id, frame)
    book.end(request_id)
    kept = book.read(request_id)
    assert kept[: len(first) - 32] == first[:-32]
    assert kept[len(first) :] == b"".join(frames)
    assert book.take(request_id) == kept
    assert book.take(request_id) == b""


def test_transcripts_that_nobody_takes_are_bounded() -> None:
    book = TranscriptBook(bytes(32))
    for number in range(MAX_KEPT + 10):
        request_id = RequestId(number.to_bytes(16, "big"))
        book.open(request_id)
        book.end(request_id)
    assert len(book._pages) == MAX_KEPT
