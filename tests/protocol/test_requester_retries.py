"""The requester against a worker played by hand: rejects, errors, cancels and misuse."""

from __future__ import annotations

import pytest

from llama_gossip.errors import UsageError
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Error,
    RawPrompt,
    Reject,
    RejectReason,
)
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.hand import (
    OWN_BOOT,
    REQUEST_ID,
    HandWorker,
    complete,
    kinds,
    only,
    progress,
    started,
    token,
)

# --- rejects and errors ------------------------------------------------------------


def test_a_full_worker_is_asked_again_after_its_retry_time() -> None:
    worker, hand = started()
    effects = hand.send(Reject(0, RejectReason.FULL, 700, OWN_BOOT))
    assert ef.ResetStream(hand.stream, StreamCode.DONE) in effects
    assert ef.OpenStream not in kinds(worker.client.wait(699))
    assert ef.OpenStream in kinds(worker.client.wait(1))
    assert worker.connect().assign.attempt == 2


def test_a_full_worker_that_gives_no_time_is_asked_again_after_a_second() -> None:
    worker, hand = started()
    hand.send(Reject(0, RejectReason.FULL, 0, OWN_BOOT))
    assert ef.OpenStream not in kinds(worker.client.wait(999))
    assert ef.OpenStream in kinds(worker.client.wait(1))


def test_a_worker_cannot_ask_for_more_than_five_minutes_of_patience() -> None:
    worker, hand = started(deadline_ms=10**7)
    hand.send(Reject(0, RejectReason.FULL, 10**9, OWN_BOOT))
    for _ in range(10):
        worker.say()
        worker.client.wait(30_000)
    assert worker.connect().assign.attempt == 2


def test_workers_that_stay_full_are_waited_for_until_the_deadline() -> None:
    worker, hand = started(deadline_ms=120_000)
    while not worker.client.all(ef.Failed):
        hand.send(Reject(0, RejectReason.FULL, 5_000, OWN_BOOT))
        worker.client.wait(5_000)
        worker.say()
        if not worker.client.all(ef.Failed):
            hand = worker.connect()
    (end,) = worker.client.all(ef.Failed)
    assert end.code == "timeout"
    assert len(end.trail) == 1, "one line for the same refusal, however often"
    assert worker.client.now_ms >= 120_000


def test_a_stale_boot_is_corrected_at_once_on_the_same_worker() -> None:
    worker, hand = started()
    effects = hand.send(Reject(0, RejectReason.STALE_BOOT, 0, OWN_BOOT + 7))
    assert ef.OpenStream in kinds(effects)
    assigned = worker.connect().assign
    assert (assigned.worker_boot, assigned.attempt) == (OWN_BOOT + 7, 2)


def test_a_stale_boot_that_names_no_newer_one_puts_the_worker_out() -> None:
    _, hand = started()
    effects = hand.send(Reject(0, RejectReason.STALE_BOOT, 0, OWN_BOOT))
    assert ef.OpenStream not in kinds(effects)


def test_a_worker_that_keeps_changing_its_boot_is_not_followed_for_ever() -> None:
    worker, hand = started()
    for change in range(1, 4):
        effects = hand.send(Reject(0, RejectReason.STALE_BOOT, 0, OWN_BOOT + change))
        if ef.OpenStream not in kinds(effects):
            break
        hand = worker.connect()
    assert change == 3


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (RejectReason.TOO_LONG, "too_long"),
        (RejectReason.MODEL, "model"),
        (RejectReason.DIGEST, "model"),
        (RejectReason.POLICY, "no_workers"),
    ],
)
def test_when_the_only_worker_refuses_for_good_the_user_hears_why(reason: RejectReason, code: str) -> None:
    worker, hand = started()
    hand.send(Reject(0, reason, 0, OWN_BOOT))
    worker.client.wait(5_000)
    (end,) = worker.client.all(ef.Failed)
    assert end.code == code
    assert end.trail == ((worker.signer.node_id, 1, reason.name.lower()),)


def test_a_draining_worker_is_out_until_it_signs_something_newer() -> None:
    worker, hand = started()
    hand.send(Reject(0, RejectReason.DRAINING, 0, OWN_BOOT))
    assert ef.OpenStream not in kinds(worker.client.wait(10_000))
    worker.say()
    assert worker.connect().assign.attempt == 2


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("bad_request", "bad_request"),
        ("unsupported", "bad_request"),
        ("deadline", "timeout"),
        ("not_finite", "peer_failed"),
    ],
)
def test_an_error_that_cannot_be_retried_ends_the_request_with_its_sentence(code: str, told: str) -> None:
    _, hand = started()
    end = only(hand.send(Error(0, "the reason", code, retryable=False)), ef.Failed)
    assert isinstance(end, ef.Failed)
    assert (end.code, end.message) == (told, "the reason")


def test_too_long_for_every_context_is_told_as_too_long() -> None:
    worker, hand = started()
    hand.send(Error(0, "600 prompt tokens and 5 exceed 512", "too_long", retryable=False))
    worker.client.wait(5_000)
    (end,) = worker.client.all(ef.Failed)
    assert end.code == "too_long"
    assert "600 prompt tokens and 5 exceed 512" in end.message, "how long it is, and what the limit"


def test_a_retryable_error_is_tried_anew_and_three_strikes_end_it() -> None:
    worker, hand = started()
    for _ in range(2):
        effects = hand.send(progress(), Error(0, "step failed", "engine_failed", retryable=True))
        assert ef.Retried in kinds(effects)
        hand = worker.connect()
    effects = hand.send(progress(), Error(0, "step failed", "engine_failed", retryable=True))
    end = only(effects, ef.Failed)
    assert isinstance(end, ef.Failed)
    assert end.code == "peer_failed"
    assert hand.assign.attempt == 3


# --- cancel and misuse ------------------------------------------------------------


def test_cancel_reaches_the_worker_in_the_same_event() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    effects = worker.client.feed(ev.CancelRequest(REQUEST_ID, "enough"))
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Failed]
    assert ef.ResetStream(hand.stream, StreamCode.CANCELLED) in effects
    assert worker.client.all(ef.Failed)[0].code == "cancelled"
    assert kinds(hand.send(token(1, "b"), complete("ab", 2))) == []
    assert kinds(worker.client.feed(ev.CancelRequest(REQUEST_ID, "again"))) == []


def test_cancel_while_dialling_abandons_the_dial() -> None:
    worker = HandWorker()
    worker.submit()
    effects = worker.client.feed(ev.CancelRequest(REQUEST_ID, "enough"))
    assert kinds(effects) == [ef.AbandonDial, ef.Failed]
    late = worker.client.feed(ev.StreamOpened(1, 50))
    assert kinds(late) == [ef.ResetStream]


def test_cancel_after_the_answer_changes_nothing() -> None:
    worker, hand = started()
    hand.send(complete("", 0))
    assert kinds(worker.client.feed(ev.CancelRequest(REQUEST_ID, "late"))) == []


def test_a_request_id_that_is_in_use_is_refused() -> None:
    worker, _ = started()
    with pytest.raises(UsageError):
        worker.submit()


def test_a_prompt_that_no_assign_can_carry_fails_as_too_long() -> None:
    worker = HandWorker()
    worker.submit(prompt=RawPrompt("x" * (1024 * 1024 + 5_000)))
    dial = worker.client.all(ef.OpenStream)[-1]
    end = only(worker.client.feed(ev.StreamOpened(dial.dial, 9)), ef.Failed)
    assert isinstance(end, ef.Failed)
    assert end.code == "too_long"


def test_goodbye_ends_every_request() -> None:
    worker, _ = started()
    effects = worker.client.feed(ev.Goodbye("done"))
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Failed]
    assert any(isinstance(effect, ef.Broadcast) for effect in effects), "the Leave"
    assert len(worker.client.core._requester) == 0
