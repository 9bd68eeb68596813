"""The requester against a worker played by hand: when nobody serves it, or nobody admits this node."""

from __future__ import annotations

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Error,
    GenerationConfig,
    IdsPrompt,
    NodeState,
    RawPrompt,
    Reject,
    RejectReason,
)
from tests.protocol.hand import (
    REQUEST_ID,
    HandWorker,
    started,
)


def fail_of(worker: HandWorker) -> ef.Failed:
    (end,) = worker.client.all(ef.Failed)
    assert isinstance(end, ef.Failed)
    return end


@pytest.mark.parametrize(
    ("announced", "options", "code", "reason"),
    [
        ({"state": NodeState.CLIENT}, {}, "no_workers", "is a client"),
        ({"state": NodeState.LOADING}, {}, "no_workers", "still loading"),
        ({"state": NodeState.DRAINING}, {}, "no_workers", "leaving"),
        ({}, {"worker": bytes(32)}, "no_workers", "not the worker"),
        ({}, {"model_digest": bytes(32)}, "model", "other weights"),
        ({}, {"prompt": IdsPrompt(tuple(range(600)))}, "too_long", "512 tokens"),
        ({}, {"max_tokens": 600}, "too_long", "512 tokens"),
        ({}, {"prompt": IdsPrompt(tuple(range(512))), "fit": True}, "too_long", "512 tokens"),
    ],
)
def test_what_nobody_can_serve_fails_within_five_seconds_with_a_reason_a_peer(
    announced: dict[str, object], options: dict[str, object], code: str, reason: str
) -> None:
    worker = HandWorker(joined_for_ms=0, **announced)
    worker.submit(**options)
    worker.client.wait(2_999)
    assert not worker.client.all(ef.Failed), "the roster may still be incomplete"
    worker.client.wait(2)
    end = fail_of(worker)
    assert end.code == code
    assert end.hint
    ((peer, attempt, told),) = end.trail
    assert (peer, attempt) == (worker.signer.node_id, 0)
    assert reason in told


def test_an_unknown_model_is_told_as_such() -> None:
    worker = HandWorker()
    submit = ev.Submit(REQUEST_ID, "other", RawPrompt("hi"), GenerationConfig(max_tokens=5), "2026-11-24")
    worker.client.feed(submit)
    worker.client.wait(3_001)
    assert fail_of(worker).code == "model"
    assert "'tiny'" in fail_of(worker).trail[0][2]


def test_a_worker_that_appears_within_the_grace_is_asked_at_once() -> None:
    worker = HandWorker(joined_for_ms=0, state=NodeState.LOADING)
    worker.submit()
    worker.client.wait(2_000)
    worker.say(state=NodeState.READY)
    assert worker.connect().assign.attempt == 1
    assert not worker.client.all(ef.Failed)


def test_a_deadline_does_not_hide_that_the_answer_is_too_long_for_everybody() -> None:
    worker = HandWorker()
    worker.submit(max_tokens=600, deadline_ms=500)  # over before the roster counts as complete
    worker.client.wait(600)
    end = fail_of(worker)
    assert (end.code, end.hint) == ("too_long", "shorten the prompt or lower max_tokens")
    assert "at least 601 tokens" in end.message


def test_a_deadline_does_not_hide_that_a_worker_has_counted_too_many_tokens() -> None:
    worker, hand = started(deadline_ms=500)
    hand.send(Error(0, "600 prompt tokens and 5 exceed 512", "too_long", retryable=False))
    worker.client.wait(600)
    assert fail_of(worker).code == "too_long"
    assert "600 prompt tokens and 5 exceed 512" in fail_of(worker).message


def test_a_deadline_that_passes_while_somebody_may_still_serve_it_is_a_deadline() -> None:
    worker, hand = started(deadline_ms=500)
    hand.send(Reject(0, RejectReason.FULL, retry_after_ms=60_000, boot=hand.assign.worker_boot))
    worker.client.wait(600)
    assert fail_of(worker).code == "timeout"


# --- who does not admit us -----------------------------------------------------------------------------


def test_a_worker_that_does_not_admit_this_node_is_asked_once_and_named() -> None:
    worker = HandWorker()
    worker.submit()
    hand = worker.connect()
    hand.client.feed(ev.StreamLost(hand.stream, "closed by peer", refused=True))
    hand.client.wait(5_000)
    [failed] = worker.client.all(ef.Failed)
    assert failed.code == "no_workers"
    assert failed.trail[-1][2] == "does not admit this node"
    assert len(worker.client.all(ef.OpenStream)) == 1


def test_a_dial_that_is_refused_is_not_tried_again() -> None:
    worker = HandWorker()
    worker.submit()
    [opened] = worker.client.all(ef.OpenStream)
    worker.client.feed(ev.DialFailed(opened.dial, "not_allowed", refused=True))
    worker.client.wait(5_000)
    [failed] = worker.client.all(ef.Failed)
    assert failed.code == "no_workers"
    assert len(worker.client.all(ef.OpenStream)) == 1
