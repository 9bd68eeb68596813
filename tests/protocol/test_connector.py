"""Connector: while a worker is silent the next one is dialled in advance; what is not needed is dropped."""

from __future__ import annotations

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    FinishReason,
)
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.hand import complete, kinds, started, token


def test_at_half_a_stall_the_next_candidate_is_dialled_in_advance() -> None:
    worker, hand = started()
    other = worker.another("second")
    hand.send(token(0, "a"))
    assert ef.OpenStream not in kinds(hand.client.wait(999))
    assert ef.OpenStream in kinds(hand.client.wait(1))
    assert worker.client.all(ef.OpenStream)[-1].worker == other.node_id
    assert kinds(worker.open()) == [], "nothing is written to it"


def test_a_lone_worker_that_is_slow_is_not_dialled_a_second_time() -> None:
    _, hand = started()
    hand.send(token(0, "a"))
    assert ef.OpenStream not in kinds(hand.client.wait(1_999))


@pytest.mark.parametrize("opened", [True, False])
def test_what_was_dialled_in_advance_is_dropped_when_the_stall_ends(opened: bool) -> None:
    worker, hand = started()
    worker.another("second")
    hand.send(token(0, "a"))
    hand.client.wait(1_000)
    if opened:
        worker.open()
    effects = hand.send(token(1, "b"))
    assert kinds(effects) == [ef.ResetStream if opened else ef.AbandonDial, ef.DeliverTokens]
    if opened:
        assert ef.ResetStream(worker.streams, StreamCode.DONE) in effects
    assert not worker.client.all(ef.Retried)


def test_a_dial_that_was_begun_in_advance_is_used_when_it_comes_too_late_for_that() -> None:
    worker, hand = started()
    worker.another("second")
    hand.send(token(0, "a"))
    effects = hand.client.wait(2_000)
    assert kinds(effects) == [ef.OpenStream, ef.WriteStream, ef.ResetStream, ef.Retried]
    assert worker.connect().assign.attempt == 2


@pytest.mark.parametrize("end", [ev.StreamFinished(102), ev.StreamReset(102, 3), ev.StreamLost(102, "")])
def test_a_stream_that_stood_ready_and_broke_costs_the_request_nothing(end: ev.Event) -> None:
    worker, hand = started()
    worker.another("second")
    hand.send(token(0, "a"))
    hand.client.wait(1_000)
    worker.open()
    assert kinds(hand.client.feed(end)) == [ef.ResetStream]
    effects = hand.client.wait(1_000)
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Retried, ef.OpenStream]


@pytest.mark.parametrize("end", ["complete", "cancel"])
def test_the_end_of_a_request_takes_what_stands_ready_with_it(end: str) -> None:
    worker, hand = started()
    worker.another("second")
    hand.send(token(0, "a"))
    hand.client.wait(1_000)
    worker.open()
    if end == "complete":
        effects = hand.send(complete("a", 1, finish_reason=FinishReason.STOP))
    else:
        effects = worker.client.feed(ev.CancelRequest(hand.assign.request_id, "enough"))
    assert ef.ResetStream(worker.streams, StreamCode.DONE) in effects
    assert not worker.client.core._requester.connector._spares


def test_each_stall_of_a_request_doubles_its_patience_also_in_mid_answer() -> None:
    worker, hand = started()
    spans = []
    for index in range(4):
        hand.send(token(index, "a"))
        start_ms = worker.client.now_ms
        while len(worker.client.all(ef.Retried)) == len(spans):
            worker.client.wait(100)
        spans.append(worker.client.now_ms - start_ms)
        worker.say()
        hand = worker.connect()
    assert spans == [2_000, 4_000, 8_000, 8_000]
