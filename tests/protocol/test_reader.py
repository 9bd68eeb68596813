"""A reader without room, seen by the core: what pauses, what does not, and how it goes on."""

from __future__ import annotations

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import Phase, Reject, RejectReason
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.hand import (
    OWN_BOOT,
    REQUEST_ID,
    complete,
    kinds,
    only,
    progress,
    started,
    token,
)

FULL, READY = ev.ReaderFull(REQUEST_ID), ev.ReaderReady(REQUEST_ID)
LONG_MS = 250_000  # many times every timer but the deadline


def test_nothing_fails_over_while_the_reader_has_no_room() -> None:
    worker, hand = started()
    worker.another("second worker")
    hand.send(token(0, "a"))
    assert kinds(hand.client.feed(FULL)) == [ef.PauseStream]
    dials = len(worker.client.all(ef.OpenStream))
    hand.client.wait(LONG_MS)
    assert not worker.client.all(ef.Retried)
    assert len(worker.client.all(ef.OpenStream)) == dials  # nobody is prepared either


def test_with_room_again_it_is_read_on_and_a_stall_counts_from_there() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    hand.client.wait(1_500)
    hand.client.feed(FULL)
    hand.client.wait(LONG_MS)
    assert kinds(hand.client.feed(READY)) == [ef.ResumeStream]
    hand.client.wait(1_999)
    assert not worker.client.all(ef.Retried)
    hand.client.wait(1)
    assert [e.reason for e in worker.client.all(ef.Retried)] == ["was silent for 2000 ms"]


def test_the_wait_for_a_token_begins_anew_too() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    hand.client.wait(1_000)
    hand.client.feed(FULL)
    hand.client.wait(LONG_MS)
    hand.client.feed(READY)
    for _ in range(15):
        hand.send(progress(Phase.DECODE, 1))
        assert not worker.client.all(ef.Retried)
        hand.client.wait(1_999)
    hand.send(progress(Phase.DECODE, 1))
    hand.client.wait(100)
    assert [e.reason for e in worker.client.all(ef.Retried)] == ["made no token for too long"]


def test_an_unanswered_assign_waits_for_its_answer_anew() -> None:
    worker, hand = started()
    hand.client.wait(2_900)
    hand.client.feed(FULL)
    hand.client.wait(LONG_MS)
    hand.client.feed(READY)
    hand.client.wait(2_999)
    assert not worker.client.all(ef.Retried)
    hand.client.wait(10)
    assert len(worker.client.all(ef.Retried)) == 1


def test_what_was_on_its_way_is_given_out_and_sets_no_timer() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    hand.client.feed(FULL)
    assert kinds(hand.send(token(1, "b"), progress(Phase.DECODE, 2))) == [ef.DeliverTokens]
    hand.client.wait(LONG_MS)
    assert not worker.client.all(ef.Retried)


def test_an_end_that_was_on_its_way_ends_the_pause() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    hand.client.feed(FULL)
    told = kinds(hand.send(complete("a", 1)))
    assert told == [ef.ResumeStream, ef.FinishStream, ef.Finished]
    hand.client.feed(READY)
    hand.client.feed(ev.StreamFinished(hand.stream))
    assert not worker.client.core._requester._requests


def test_a_cancel_reaches_the_worker_during_the_pause() -> None:
    _, hand = started()
    hand.send(token(0, "a"))
    hand.client.feed(FULL)
    effects = hand.client.feed(ev.CancelRequest(REQUEST_ID, "enough"))
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Failed]
    assert ef.ResetStream(hand.stream, StreamCode.CANCELLED) in effects


def test_the_deadline_holds_during_the_pause() -> None:
    worker, hand = started(deadline_ms=5_000)
    hand.send(token(0, "a"))
    hand.client.feed(FULL)
    hand.client.wait(4_999)
    assert not worker.client.all(ef.Failed)
    effects = hand.client.wait(1)
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Failed]
    assert [e.code for e in worker.client.all(ef.Failed)] == ["timeout"]


@pytest.mark.parametrize("paused", [True, False])
def test_who_is_lost_meanwhile_is_followed_when_there_is_room(paused: bool) -> None:
    worker, hand = started()
    worker.another("second worker")
    hand.send(token(0, "a"))
    dials = len(worker.client.all(ef.OpenStream))
    if paused:
        hand.client.feed(FULL)
    hand.client.feed(ev.StreamReset(hand.stream, StreamCode.BUSY))
    if not paused:  # the dial is on its way already
        assert kinds(hand.client.feed(FULL)) == [ef.AbandonDial]
        dials += 1
    hand.client.wait(60_000)
    worker.another("third worker")
    assert len(worker.client.all(ef.Retried)) == 1
    assert len(worker.client.all(ef.OpenStream)) == dials
    hand.client.feed(READY)
    assert len(worker.client.all(ef.OpenStream)) == dials + 1
    resume = worker.connect().assign.resume
    assert resume is not None
    assert (resume.from_index, resume.text) == (1, "a")


def test_a_stream_that_stands_ready_is_let_go() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    worker.another("second worker")
    hand.client.wait(1_100)  # half a stall: the second is dialled in advance
    worker.open()
    effects = hand.client.feed(FULL)
    assert kinds(effects) == [ef.ResetStream, ef.PauseStream]
    assert ef.ResetStream(worker.streams, StreamCode.DONE) in effects


def test_a_restarted_worker_that_says_so_is_asked_again_when_there_is_room() -> None:
    worker, hand = started()
    hand.client.feed(FULL)
    hand.send(Reject(0, RejectReason.STALE_BOOT, 0, OWN_BOOT + 1))
    hand.client.wait(1_000)
    assert len(worker.client.all(ef.OpenStream)) == 1
    hand.client.feed(READY)
    assert len(worker.client.all(ef.OpenStream)) == 2


def test_a_workers_speed_is_not_measured_by_a_slow_reader() -> None:
    speeds = []
    for pauses in (False, True):
        worker, hand = started()
        hand.send(token(0, "a"))
        if pauses:
            hand.client.feed(FULL)
            hand.client.wait(60_000)
            hand.client.feed(READY)
        hand.client.wait(100)
        hand.send(token(1, "b"), complete("ab", 2))
        only(worker.client.told, ef.Finished)
        speeds.append(worker.client.core._requester._ledger.peek(worker.signer.node_id).tokens_per_s)
    assert speeds == [10.0, None]


def test_the_same_word_twice_and_words_about_what_is_over_mean_nothing() -> None:
    _, hand = started()
    hand.send(token(0, "a"))
    assert kinds(hand.client.feed(READY)) == []
    hand.client.feed(FULL)
    assert kinds(hand.client.feed(FULL)) == []
    hand.client.feed(READY)
    assert kinds(hand.client.feed(READY)) == []
    hand.send(complete("a", 1))
    for event in (FULL, READY):
        assert kinds(hand.client.feed(event)) == []
