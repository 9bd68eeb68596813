"""The oracle of parked jobs falls where it must, and simulated workers really park."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.simulation.history import Work
from llama_gossip.simulation.parked import SLACK_MS, JobKey, Parked
from llama_gossip.simulation.scenario import PROFILES
from llama_gossip.simulation.world import World

WORKER = NodeId(b"w" * 32)
KEY: JobKey = (WORKER, 1, 1)
UNREAD_MS = 6_000


class Told:
    """What befalls one running job, step by step."""

    def __init__(self) -> None:
        self.fallen: list[str] = []
        work = Work(WORKER, 0, 1, 1, (NodeId(b"a" * 32), RequestId(b"r" * 16)), 1, start_ms=0)
        self.works = {KEY: work}
        self.parked = Parked(
            self.works, lambda oracle, now_ms, what: self.fallen.append(oracle), unread_ms=UNREAD_MS
        )
        self.now_ms = 1_000
        self.stopped_ms = 0

    def later(self, ms: int, *, stopped_ms: int = 0) -> Told:
        self.now_ms += ms
        self.stopped_ms += stopped_ms
        return self

    def park(self) -> Told:
        self.parked.parked(KEY, self.now_ms, self.stopped_ms)
        return self

    def unpark(self) -> Told:
        self.parked.unparked(KEY, self.now_ms, self.stopped_ms)
        return self

    def cancel(self) -> Told:
        self.works[KEY].cancelled_ms = self.now_ms
        self.parked.cancelled(KEY, self.now_ms, self.stopped_ms)
        return self

    def full(self) -> Told:
        self.parked.full(KEY, self.now_ms)
        return self

    def writable(self) -> Told:
        self.parked.writable(KEY, self.now_ms)
        return self

    def over(self) -> Told:
        del self.works[KEY]
        return self


GOOD: dict[str, Callable[[], Told]] = {
    "parked and taken up": lambda: Told().park().full().later(5_000).unpark().writable(),
    "parked and let go": lambda: Told().park().full().later(UNREAD_MS).cancel().writable(),
    "its worker was stopped meanwhile": lambda: Told().park().later(60_000, stopped_ms=54_000).cancel(),
    "a job that has ended": lambda: Told().over().full().writable(),
    "a job that is told to stop": lambda: Told().cancel().full().writable(),
}
BROKEN: dict[str, tuple[str, Callable[[], Told]]] = {
    "computed for who does not read": ("I9", lambda: Told().full()),
    "not taken up": ("I11", lambda: Told().park().full().later(100).writable()),
    "let go too late": ("I7", lambda: Told().park().later(UNREAD_MS + SLACK_MS + 1).cancel()),
    "never let go": ("I7", lambda: Told().park().later(UNREAD_MS + SLACK_MS + 1).unpark()),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_is_not_blamed(name: str) -> None:
    assert GOOD[name]().fallen == []


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_blamed_once(name: str) -> None:
    oracle, history = BROKEN[name]
    assert history().fallen == [oracle]


def test_simulated_workers_park_take_up_and_let_go() -> None:
    scenario = replace(PROFILES["quiet"], slow_reader_share=0.5, requests=100)
    world = World(2, scenario)
    assert world.run().violations == ()
    assert world.parked.continued > 3
    assert world.parked.ended > 0
