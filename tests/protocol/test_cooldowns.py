"""Cooldowns: a worker pays for its own faults, and for a while others are preferred to it."""

from __future__ import annotations

from itertools import count

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import ChatPrompt, Error, GenerationConfig, NodeId, Phase, RequestId
from tests.protocol.hand import Hand, HandWorker, complete, progress, token

_numbers = count(1)


class Two:
    """The hand worker and a second one that is equal; whom the next requests go to."""

    def __init__(self) -> None:
        self.worker = HandWorker()
        self.client = self.worker.client
        self.first = self.worker.signer.node_id

    def ask(self) -> Hand:
        request_id = RequestId(next(_numbers).to_bytes(16, "big"))
        self.submitted = request_id
        base = ev.Submit(request_id, "tiny", _PROMPT, _CONFIG, "2026-11-24")
        self.client.feed(base)
        return self.worker.connect()

    def add_second(self) -> NodeId:
        self.worker.say()
        return self.worker.another("second").node_id

    def asked_of(self, requests: int = 30) -> set[NodeId]:
        """The workers of so many requests, one after the other, all answered."""
        asked = set()
        for _ in range(requests):
            hand = self.ask()
            asked.add(hand.assign.worker)
            hand.send(token(0, "a"), complete("a", 1))
            self.client.feed(ev.StreamFinished(hand.stream))
        return asked

    def cancel(self) -> None:
        self.client.feed(ev.CancelRequest(self.submitted, "enough"))


_PROMPT = ChatPrompt((("user", "hi"),))
_CONFIG = GenerationConfig(max_tokens=8, seed=1)


def beat_until_given_up(two: Two, hand: Hand, phase: Phase) -> None:
    """It is alive, for ever, and makes nothing."""
    while not two.client.all(ef.Retried):
        two.client.wait(500)
        hand.send(progress(phase, 0))
        assert two.client.now_ms < 120_000


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_a_worker_that_beats_for_ever_and_makes_nothing_is_on_cooldown(phase: Phase) -> None:
    two = Two()
    hand = two.ask()
    hand.send(progress(phase, 0))
    beat_until_given_up(two, hand, phase)
    two.cancel()
    second = two.add_second()
    assert two.asked_of() == {second}, "although its Announce is new"
    two.client.wait(15_000)
    two.add_second()
    assert two.asked_of() == {two.first, second}


def test_a_place_in_a_queue_that_does_not_move_is_no_fault() -> None:
    two = Two()
    hand = two.ask()
    hand.send(progress(Phase.QUEUED, 3))
    beat_until_given_up(two, hand, Phase.QUEUED)
    two.cancel()
    second = two.add_second()
    assert two.asked_of() == {two.first, second}


@pytest.mark.parametrize("code", ["engine_stalled", "engine_failed"])
def test_a_worker_whose_engine_breaks_is_on_cooldown_and_twice_as_long_the_next_time(code: str) -> None:
    two = Two()
    for cooldown_ms in (15_000, 30_000):
        hand = two.ask()
        hand.send(progress(), Error(0, "the model has not stepped", code, retryable=True))
        two.cancel()
        two.client.wait(cooldown_ms - 1)
        record = two.client.core._requester._ledger.peek(two.first)
        assert record.cooldown_until_ms == two.client.now_ms + 1
        two.client.wait(1)
        two.worker.say()


@pytest.mark.parametrize("code", ["engine_lost", "draining"])
def test_a_worker_that_lets_its_model_go_is_not_on_cooldown(code: str) -> None:
    two = Two()
    hand = two.ask()
    hand.send(progress(), Error(0, "gone", code, retryable=True))
    assert two.client.core._requester._ledger.peek(two.first).cooldown_until_ms == 0


def test_when_everybody_is_on_cooldown_cooldowns_are_ignored() -> None:
    two = Two()
    hand = two.ask()
    hand.send(progress(), Error(0, "the model has not stepped", "engine_stalled", retryable=True))
    again = two.worker.connect()
    assert again.assign.worker == two.first
    assert again.assign.attempt == 2


def test_idle_workers_that_never_completed_for_me_are_no_strikes() -> None:
    two = Two()
    hand = two.ask()
    for _ in range(4):
        two.client.told.clear()
        beat_until_given_up(two, hand, Phase.DECODE)
        hand = two.worker.connect()
    assert not [end for end in two.client.told if isinstance(end, ef.Failed)]
    assert hand.assign.attempt == 5
