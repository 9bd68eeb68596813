"""Transcripts whose every signature is good and which are false all the same: the check sees through them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_gossip.protocol.frames import FrameWriter, encode_assign
from llama_gossip.protocol.messages import Assign, Cancel, FinishReason, Frame, RequestId, Resume
from llama_gossip.protocol.transcript import TranscriptBook, verify_transcript
from tests.protocol.fakewire import NET_ID
from tests.protocol.hand import REQUEST_ID, HandClient, complete, key, token

REQUESTER, WORKER = key("requester"), key("lying worker")


class Forged:
    """A record as its parties could sign it together."""

    def __init__(self) -> None:
        self.book = TranscriptBook(NET_ID)
        self.book.open(REQUEST_ID)

    def attempt(self, assign: Assign, *frames: Frame, requester: object = None) -> Forged:
        signer = REQUESTER if requester is None else key(str(requester))
        data, context = encode_assign(assign, signer, NET_ID)
        self.book.add_assign(REQUEST_ID, data)
        from_worker, from_requester = FrameWriter(context, WORKER), FrameWriter(context, signer)
        for frame in frames:
            writer = from_requester if isinstance(frame, Cancel) else from_worker
            self.book.add(REQUEST_ID, writer.encode(frame))
        return self

    def reason(self) -> str:
        verdict = verify_transcript(self.book.read(REQUEST_ID))
        assert not verdict.verified
        return verdict.reason


def assign(number: int = 1, *, resume: tuple[int, str] | None = None, **changes: object) -> Assign:
    begun = None if resume is None else Resume(resume[0], (), resume[1], None, None)
    base = replace(HandClient().assign(), worker=WORKER.node_id, attempt=number, resume=begun)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_the_same_record_without_a_lie_verifies() -> None:
    forged = Forged().attempt(assign(), token(0, "a", "b"), Cancel(0, "slow"))
    forged.attempt(assign(2, resume=(2, "ab")), token(2, "c"), complete("abc", 3))
    verdict = verify_transcript(forged.book.read(REQUEST_ID))
    assert verdict.verified, verdict.reason
    assert (verdict.text, verdict.tokens, verdict.attempts) == ("abc", 3, 2)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (assign(1), "do not rise"),
        (assign(2, request_id=RequestId(bytes(16))), "another request"),
        (assign(2, resume=(3, "abc")), "was not there"),
        (assign(2, resume=(2, "ax")), "another text"),
    ],
)
def test_an_attempt_that_does_not_follow_the_one_before_is_found(second: Assign, reason: str) -> None:
    assert reason in Forged().attempt(assign(), token(0, "a", "b")).attempt(second).reason()


def test_an_attempt_by_another_requester_is_found() -> None:
    forged = Forged().attempt(assign(), token(0, "a"))
    assert "another request" in forged.attempt(assign(2), requester="somebody else").reason()


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([token(1, "b")], "token 1 stands where 0 was next"),
        ([token(0, *"abcdefghi")], "more tokens than were asked for"),
        ([token(0, "a"), complete("ab", 2)], "2 tokens are announced, 1 are there"),
        ([token(0, "a"), complete("b", 1)], "digest"),
        ([token(0, "a"), complete("a", 1, finish_reason=FinishReason.CANCELLED)], "cancelled"),
    ],
)
def test_an_answer_that_is_not_what_it_says_is_found(frames: list[Frame], reason: str) -> None:
    assert reason in Forged().attempt(assign(), *frames).reason()


def test_nothing_follows_the_end_but_a_late_cancel() -> None:
    whole = Forged().attempt(assign(), token(0, "a"), complete("a", 1), Cancel(0, "too late"))
    assert verify_transcript(whole.book.read(REQUEST_ID)).verified
    assert "follows the end" in whole.attempt(assign(2)).reason()
