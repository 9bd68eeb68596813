"""Failover: whatever ends an attempt after tokens were shown, another worker continues, and the text is the
fault-free one. Who may continue, and what the user is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Error,
    Frame,
)
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.protocol.transcript import verify_transcript
from tests.protocol.fakewire import FakeNet, FakeNode, check_quiet, network
from tests.protocol.hand import (
    FACTS,
    Hand,
    complete,
    kinds,
    progress,
    progress_with,
    started,
    token,
)
from tests.protocol.scripted_model import ScriptedModel, answer_of

TOKENS = 12


def serving(net: FakeNet, client: FakeNode, request_id: Any, tokens: int) -> FakeNode:
    """The worker that has just made the token with this number."""

    def there() -> bool:
        return len(client.text_of(request_id).split()) >= tokens

    net.run_until(there)
    worker = net.node_of(client.told(request_id, ef.DeliverTokens)[-1].worker)
    assert worker is not None
    return worker


def stream_of(net: FakeNet, client: FakeNode, worker: FakeNode) -> int:
    live = [e for e in net.ends.values() if e.owner is client and net.ends[e.twin].owner is worker]
    return max(end.number for end in live)


# --- every trigger, every place ----------------------------------------------------------------------

TRIGGERS: dict[str, Callable[[FakeNet, FakeNode, FakeNode], object]] = {
    "the worker dies": lambda net, client, worker: net.kill(worker),
    "the worker is stopped": lambda net, client, worker: net.freeze(worker),
    "the connection breaks": lambda net, client, worker: net.cut(stream_of(net, client, worker)),
    "the worker leaves": lambda net, client, worker: worker.feed(ev.Goodbye("stopped")),
    "its model is taken away": lambda net, client, worker: [
        worker.feed(ev.EngineFailed(job, "engine_lost", "gone", retryable=True))
        for job in list(worker.model.running if worker.model else ())
    ],
    "its engine cancels what nobody cancelled": lambda net, client, worker: [
        worker.feed(ev.EngineFailed(job, "cancelled", "cancelled", retryable=False))
        for job in list(worker.model.running if worker.model else ())
    ],
    "it sends junk": lambda net, client, worker: client.feed(
        ev.StreamData(stream_of(net, client, worker), b"\xff\xff\xff\xff")
    ),
}


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("tokens", [1, 5, TOKENS - 1])
def test_whatever_ends_an_attempt_the_answer_is_the_fault_free_one(trigger: str, tokens: int) -> None:
    net, client, _ = network(tokens, ScriptedModel(token_ms=40), ScriptedModel(token_ms=40))
    request_id = client.ask(max_tokens=TOKENS, seed=3)
    worker = serving(net, client, request_id, tokens)
    TRIGGERS[trigger](net, client, worker)
    end = net.finish(client, request_id, 5_000)
    assert isinstance(end, ef.Finished), end
    assert client.text_of(request_id) == answer_of(3, TOKENS)
    (seam,) = client.told(request_id, ef.FailedOver)
    assert (seam.from_worker, seam.index >= tokens, seam.resume) == (worker.node_id, True, ResumeClass.EXACT)
    assert (seam.attempt, seam.to_worker) == (2, end.worker)
    verdict = verify_transcript(client.core.take_transcript(request_id))
    assert (verdict.verified, verdict.text) == (True, answer_of(3, TOKENS)), verdict.reason
    for node in net.nodes:
        net.thaw(node)
    net.run_for(30_000)
    check_quiet(net)


@pytest.mark.parametrize("tokens", range(1, TOKENS + 1))
def test_at_every_index_the_continuation_equals_what_the_first_worker_would_have_made(tokens: int) -> None:
    net, client, workers = network(70 + tokens, *(ScriptedModel(fail_after=tokens) for _ in range(2)))
    request_id = client.ask(max_tokens=TOKENS, seed=tokens)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished), end
    assert client.text_of(request_id) == answer_of(tokens, TOKENS)
    starts = sorted((s for w in workers if w.model for s in w.model.starts), key=lambda s: s.attempt)
    for number, start in enumerate(starts[1:], 1):
        assert start.resume is not None
        assert start.resume.from_index == number * tokens
        assert start.resume.token_ids == tuple(range(number * tokens))
    assert verify_transcript(client.core.take_transcript(request_id)).verified


def test_a_lone_worker_continues_its_own_answer() -> None:
    net, client, _ = network(5, ScriptedModel(fail_after=3))
    request_id = client.ask(max_tokens=TOKENS, seed=4)
    assert isinstance(net.finish(client, request_id), ef.Finished)
    assert client.text_of(request_id) == answer_of(4, TOKENS)
    assert [seam.index for seam in client.told(request_id, ef.FailedOver)] == [3, 6, 9]


def test_when_only_the_end_was_lost_the_seam_is_still_told() -> None:
    worker, hand = started()
    hand.send(progress_with(FACTS), token(0, "a", "b"))
    hand.send(Error(0, "step failed", "engine_failed", retryable=True))
    hand = worker.connect()
    effects = hand.send(progress_with(FACTS), complete("ab", 2))
    assert [type(e) for e in effects if isinstance(e, ef.FailedOver | ef.Finished)] == [
        ef.FailedOver,
        ef.Finished,
    ]


# --- order and indices -------------------------------------------------------------------------------


def test_the_old_attempt_is_cancelled_before_the_new_one_is_assigned() -> None:
    worker, hand = started()
    worker.another("second")
    hand.send(token(0, "a"))
    hand.client.wait(1_000)
    worker.open()
    effects = hand.client.wait(1_000)
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Retried, ef.WriteStream]
    written = [effect.stream for effect in effects if isinstance(effect, ef.WriteStream)]
    assert written == [hand.stream, worker.streams], "Cancel, then the next Assign"
    assert worker.assigned(effects).assign.attempt == 2


def test_a_late_token_of_the_old_attempt_is_not_taken() -> None:
    worker, hand = started()
    worker.another("second")
    hand.send(token(0, "a"))
    hand.client.wait(2_000)
    assert kinds(hand.send(token(1, "b"))) == []
    worker.connect().send(token(1, "b"))
    assert kinds(hand.send(token(2, "c"))) == []
    assert [batch.index for batch in worker.client.all(ef.DeliverTokens)] == [0, 1]


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_continuation_that_begins_elsewhere_is_a_fault(index: int) -> None:
    worker, hand = started()
    hand.send(token(0, "a", "b"), Error(0, "step failed", "engine_failed", retryable=True))
    effects = worker.connect().send(token(index, "x"))
    assert ef.DeliverTokens not in kinds(effects)
    assert worker.client.core.counters()["attempts_fault"] == 1


def test_total_and_digest_of_a_continued_answer_count_the_whole() -> None:
    for total, text, code in ((3, "abc", None), (1, "c", "fault"), (3, "c", "digest")):
        worker, hand = started()
        hand.send(token(0, "a", "b"), Error(0, "step failed", "engine_failed", retryable=True))
        worker.connect().send(token(2, "c"), complete(text, total))
        counters = worker.client.core.counters()
        assert bool(worker.client.all(ef.Finished)) is (code is None)
        assert code is None or counters[f"attempts_{code}"] == 1


def test_max_tokens_counts_the_resumed_part() -> None:
    worker, hand = started(max_tokens=3)
    hand.send(token(0, "a", "b"), Error(0, "step failed", "engine_failed", retryable=True))
    hand = worker.connect()
    assert hand.assign.config.max_tokens == 3
    hand.send(token(2, "c", "d"))
    assert worker.client.core.counters()["attempts_fault"] == 1


def test_the_gap_is_between_the_tokens_at_the_seam() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    hand.client.wait(300)
    hand.send(Error(0, "step failed", "engine_failed", retryable=True))
    hand.client.wait(50)
    worker.connect().send(token(1, "b"))
    (seam,) = worker.client.all(ef.FailedOver)
    assert (seam.gap_ms, seam.index, seam.attempt) == (350, 1, 2)
    assert seam.reason == "engine_failed: step failed"


def test_attempts_between_that_gave_nothing_are_one_seam() -> None:
    worker, hand = started()
    hand.send(token(0, "a"), Error(0, "first", "engine_failed", retryable=True))
    worker.connect().send(progress(), Error(0, "second", "engine_failed", retryable=True))
    worker.connect().send(token(1, "b"))
    (seam,) = worker.client.all(ef.FailedOver)
    assert (seam.reason, seam.attempt) == ("engine_failed: first", 3)


# --- ends --------------------------------------------------------------------------------------------


def fail(hand: Hand, *frames: Frame) -> list[ef.Effect]:
    return hand.send(progress(), *frames, Error(0, "step failed", "engine_failed", retryable=True))


def test_three_accepted_attempts_in_a_row_without_a_new_token_end_it_with_the_trail() -> None:
    worker, hand = started()
    fail(hand, token(0, "a"))
    for _ in range(3):
        assert not worker.client.all(ef.Failed)
        fail(worker.connect())
    (end,) = worker.client.all(ef.Failed)
    assert (end.code, "stands at 1 token" in end.message) == ("peer_failed", True)
    assert [attempt for _, attempt, _ in end.trail][-1] == 4


def test_a_new_token_takes_the_strikes_back() -> None:
    worker, hand = started(max_tokens=50)
    for index in range(4):
        fail(hand, token(index, "a"))
        fail(worker.connect())
        hand = worker.connect()
    assert not worker.client.all(ef.Failed)


def test_sixteen_accepted_attempts_are_enough() -> None:
    worker, hand = started(max_tokens=50)
    for index in range(16):
        assert not worker.client.all(ef.Failed)
        fail(hand, token(index, "a"))
        hand = worker.connect() if index < 15 else hand
    (end,) = worker.client.all(ef.Failed)
    assert end.code == "peer_failed"


@pytest.mark.parametrize("code", ["bad_request", "not_finite", "deadline"])
def test_an_error_that_no_other_worker_can_mend_ends_the_request_in_mid_answer_too(code: str) -> None:
    worker, hand = started()
    hand.send(token(0, "a"), Error(0, "so it is", code, retryable=False))
    (end,) = worker.client.all(ef.Failed)
    assert end.message == "so it is"


def test_a_stalled_engine_and_a_leaving_worker_hand_over_at_once() -> None:
    for code in ("engine_stalled", "draining"):
        worker, hand = started()
        other = worker.another("second")
        effects = hand.send(token(0, "a"), Error(0, "sorry", code, retryable=True))
        assert ef.OpenStream in kinds(effects)
        assert worker.client.all(ef.OpenStream)[-1].worker == other.node_id
