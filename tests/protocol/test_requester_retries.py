"""The requester against a worker played by hand: timers, refusals, and when nobody comes."""

from __future__ import annotations

import pytest

from llama_gossip.errors import UsageError
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Error,
    Frame,
    GenerationConfig,
    IdsPrompt,
    NodeState,
    Phase,
    RawPrompt,
    Reject,
    RejectReason,
)
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.hand import (
    OWN_BOOT,
    REQUEST_ID,
    Hand,
    HandWorker,
    complete,
    kinds,
    only,
    progress,
    started,
    token,
)

# --- timers ------------------------------------------------------------


def test_an_assign_that_nobody_answers_is_given_up_after_the_accept_timeout() -> None:
    worker, hand = started()
    hand.client.wait(2_999)
    assert not worker.client.all(ef.Retried)
    effects = hand.client.wait(10)
    assert kinds(effects)[:3] == [ef.WriteStream, ef.ResetStream, ef.Retried]


def test_a_long_prompt_has_longer_to_be_accepted() -> None:
    worker = HandWorker()
    worker.submit(prompt=RawPrompt("x" * 65_536 * 4))
    worker.connect()
    worker.client.wait(6_999)
    assert not worker.client.all(ef.Retried)
    worker.client.wait(100)
    assert worker.client.all(ef.Retried)


def test_two_seconds_of_silence_are_a_stall_and_the_worker_is_cancelled() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    hand.client.wait(1_999)
    assert not worker.client.all(ef.Retried)
    effects = hand.client.wait(1)
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Retried]
    assert ef.ResetStream(hand.stream, StreamCode.CANCELLED) in effects


def test_heartbeats_hold_off_the_stall() -> None:
    worker, hand = started()
    for _ in range(4):
        hand.send(progress())
        hand.client.wait(1_900)
    assert not worker.client.all(ef.Retried)


def test_each_stall_doubles_the_stall_timer_up_to_eight_seconds() -> None:
    worker, hand = started()
    spans = []
    for _ in range(4):
        hand.send(progress(Phase.QUEUED, 1))
        start_ms = worker.client.now_ms
        while len(worker.client.all(ef.Retried)) == len(spans):
            worker.client.wait(100)
        spans.append(worker.client.now_ms - start_ms)
        worker.say()
        hand = worker.connect()
    assert spans == [2_000, 4_000, 8_000, 8_000]


def beat(hand: Hand, span_ms: int, *frames: Frame) -> int:
    """Heartbeats until the attempt ends; how long it took."""
    start_ms = hand.client.now_ms
    while hand.client.now_ms - start_ms < span_ms and not hand.client.all(ef.ResetStream):
        hand.send(*frames)
        hand.client.wait(500)
    return hand.client.now_ms - start_ms


def test_a_prefill_without_headway_is_given_up_after_ten_seconds() -> None:
    _, hand = started()
    assert beat(hand, 60_000, progress(Phase.PREFILL, 10)) == 10_000


def test_the_workers_own_estimate_lengthens_the_wait_for_the_first_token() -> None:
    _, hand = started()
    assert beat(hand, 60_000, progress(Phase.PREFILL, 10, est_ms=5_000)) == 15_000


def test_a_prefill_that_advances_is_waited_for() -> None:
    worker, hand = started()
    for percent in range(0, 100, 10):
        beat(hand, 8_000, progress(Phase.PREFILL, percent))
    assert not worker.client.all(ef.Retried)


def test_a_place_in_a_queue_that_does_not_improve_is_given_up_after_thirty_seconds() -> None:
    _, hand = started()
    assert beat(hand, 90_000, progress(Phase.QUEUED, 3)) == 30_000


def test_a_place_in_a_queue_that_improves_is_waited_for() -> None:
    worker, hand = started()
    for place in range(5, 0, -1):
        beat(hand, 25_000, progress(Phase.QUEUED, place))
    assert not worker.client.all(ef.Retried)


def test_thirty_seconds_without_a_token_in_decode_end_the_attempt_whatever_the_heartbeat_says() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    assert beat(hand, 90_000, progress(Phase.DECODE, 1)) == 30_000
    assert worker.client.all(ef.Retried)[0].reason == "made no token for too long"


def test_the_deadline_ends_a_stream_and_cancels_the_worker() -> None:
    worker, hand = started(deadline_ms=1_500)
    assert hand.assign.deadline_ms == 1_500
    hand.send(token(0, "a"))
    effects = hand.client.wait(1_500)
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Failed]
    assert worker.client.all(ef.Failed)[0].code == "timeout"


def test_a_deadline_that_passes_while_only_a_broken_worker_is_there_names_the_worker() -> None:
    worker, hand = started(deadline_ms=8_000)
    hand.client.feed(ev.StreamLost(hand.stream, "not allowed"))
    worker.client.wait(8_000)
    (end,) = worker.client.all(ef.Failed)
    assert end.code == "peer_failed"
    assert "not allowed" in end.trail[0][2]


def test_the_default_deadline_leaves_room_for_a_slow_worker() -> None:
    _, hand = started(max_tokens=200)  # the hand announces 200 tokens a second
    assert hand.assign.deadline_ms == 300_000 + 2_000 * 200 // 200


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
    hand.send(Error(0, "prompt of 600 tokens", "too_long", retryable=False))
    worker.client.wait(5_000)
    (end,) = worker.client.all(ef.Failed)
    assert end.code == "too_long"


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


# --- nobody serves it ------------------------------------------------------------


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
    ],
)
def test_what_nobody_can_serve_fails_within_five_seconds_with_a_reason_a_peer(
    announced: dict[str, object], options: dict[str, object], code: str, reason: str
) -> None:
    worker = HandWorker(**announced)
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
    worker = HandWorker(state=NodeState.LOADING)
    worker.submit()
    worker.client.wait(2_000)
    worker.say(state=NodeState.READY)
    assert worker.connect().assign.attempt == 1
    assert not worker.client.all(ef.Failed)


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
