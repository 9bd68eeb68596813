"""The oracle of the queue: each of its clauses falls for a history that breaks it, and for no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_gossip.protocol.messages import NodeId
from llama_gossip.simulation.faults import FaultKind
from llama_gossip.simulation.scenario import PROFILES
from llama_gossip.simulation.turns import Turns
from llama_gossip.simulation.world import World

OWN = NodeId(b"w" * 32)
WORKER = (OWN, 1)
A, B = NodeId(b"a" * 32), NodeId(b"b" * 32)


class History:
    def __init__(self, *, open_network: bool = False) -> None:
        self.blamed: list[tuple[str, str]] = []
        self.turns = Turns(self._blame, open_network=open_network, ageing_ms=10_000)
        self.gone: set[int] = set()

    def _blame(self, oracle: str, now_ms: int, what: str) -> None:
        self.blamed.append((oracle, what))

    def ask(self, requester: NodeId, *jobs: int, priority: int = 5, at_ms: int = 0) -> None:
        for job in jobs:
            self.turns.accepted(WORKER, requester, job, priority, at_ms)

    def start(self, requester: NodeId, job: int, *, at_ms: int = 0) -> None:
        self.turns.started(WORKER, requester, job, at_ms, is_there=lambda other: other not in self.gone)

    def end(self, job: int) -> None:
        self.turns.ended(WORKER, job)


def test_two_turns_of_a_key_while_another_waits_are_blamed() -> None:
    history = History()
    history.ask(A, 1, 2)
    history.ask(B, 10)
    history.start(A, 1)
    history.end(1)
    assert not history.blamed
    history.start(A, 2)
    assert [oracle for oracle, _ in history.blamed] == ["I11"]


@pytest.mark.parametrize("better", ["owner", "a higher class", "B came later", "B holds more", "B is gone"])
def test_two_turns_with_a_reason_are_not_blamed(better: str) -> None:
    history = History()
    first = OWN if better == "owner" else A
    history.ask(first, 1, 2, priority=6 if better == "a higher class" else 5)
    if better == "B holds more":
        history.ask(B, 11)
        history.start(B, 11)
    if better != "B came later":
        history.ask(B, 10)
    history.start(first, 1)
    history.end(1)
    if better == "B came later":
        history.ask(B, 10)
    if better == "B is gone":
        history.gone.add(10)
    history.start(first, 2)
    assert not history.blamed


def test_a_key_that_has_waited_ten_seconds_for_each_class_must_not_be_passed_over() -> None:
    history = History()
    history.ask(B, 10, priority=3)
    history.ask(A, 1, 2, priority=4, at_ms=19_999)
    history.start(A, 1, at_ms=19_999)
    assert not history.blamed
    history.start(A, 2, at_ms=20_000)
    assert "waits for 20000 ms" in history.blamed[0][1]


def test_a_class_counts_as_far_as_the_key_may_ask() -> None:
    for open_network, blamed in ((False, 0), (True, 1)):
        history = History(open_network=open_network)
        history.ask(A, 1, 2, priority=8)
        history.ask(B, 10, priority=5)
        history.start(A, 1)
        history.end(1)
        history.start(A, 2)
        assert len(history.blamed) == blamed


def test_in_an_open_network_three_slots_of_one_key_are_blamed() -> None:
    history = History(open_network=True)
    history.ask(A, 1, 2, 3)
    for job in (1, 2, 3):
        history.start(A, job)
    assert [oracle for oracle, _ in history.blamed] == ["I7"]


@pytest.mark.parametrize("open_share", [0.0, 1.0])
def test_a_greedy_key_meets_others_in_the_queue_and_keys_take_turns(open_share: float) -> None:
    scenario = replace(
        PROFILES["quiet"],
        faults=frozenset({FaultKind.GREEDY}),
        share=1.0,
        open_share=open_share,
        workers=(1, 1),
        slots=(1, 2),
        requesters=(3, 3),
    )
    world = World(3, scenario)
    outcome = world.run()
    assert outcome.violations == ()
    assert world.turns.compared > 50
