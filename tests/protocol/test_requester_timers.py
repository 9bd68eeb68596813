"""The requester against a worker played by hand: what it waits for, and for how long."""

from __future__ import annotations

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Frame,
    Phase,
    RawPrompt,
)
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.hand import (
    Hand,
    HandWorker,
    kinds,
    progress,
    started,
    token,
)


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
