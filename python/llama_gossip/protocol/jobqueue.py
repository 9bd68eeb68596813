"""Jobqueue: who waits, who runs, and who may not even wait.

The law: 0 <= running <= slots, a slot is freed exactly once, priority goes before arrival. The place of
fairness between keys and of ageing is `_rank`: nothing else knows the order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from llama_gossip.protocol.messages import NodeId

MAX_QUEUED = 256  # jobs that wait, in all
MAX_QUEUED_PER_KEY = 64
TOP_PRIORITY = 9
STRANGER_PRIORITY = 8  # the top is for the owner's own key and allow-listed ones


@dataclass(frozen=True, slots=True)
class Caps:
    """How much one requester key may take. None: as many as there are slots."""

    max_queued: int = MAX_QUEUED
    max_queued_per_key: int = MAX_QUEUED_PER_KEY
    max_running_per_key: int | None = None


OPEN_NETWORK_CAPS = Caps(max_queued_per_key=8, max_running_per_key=2)  # for keys nobody vouches for


@dataclass(frozen=True, slots=True)
class Entry:
    job: int
    requester: NodeId
    priority: int  # after the cap of its key
    arrival: int
    caps: Caps


class JobQueue:
    def __init__(self, *, slots: int = 0) -> None:
        self._slots = slots
        self._waiting: dict[int, Entry] = {}
        self._running: dict[int, NodeId] = {}
        self._arrivals = 0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def slots(self) -> int:
        return self._slots

    def resize(self, slots: int) -> None:
        """Jobs that run beyond a smaller number keep their slot until they end."""
        self._slots = slots

    def admits(self, requester: NodeId, caps: Caps) -> bool:
        """Whether a new job of this key may run or wait now."""
        if self._may_run(requester, caps) and not self._waiting:
            return True
        waiting = sum(1 for entry in self._waiting.values() if entry.requester == requester)
        return len(self._waiting) < caps.max_queued and waiting < caps.max_queued_per_key

    def add(self, job: int, requester: NodeId, priority: int, caps: Caps) -> None:
        self._arrivals += 1
        self._waiting[job] = Entry(job, requester, priority, self._arrivals, caps)

    def start_next(self) -> int | None:
        """Moves the first job that may run into a slot."""
        for entry in self._in_order():
            if self._may_run(entry.requester, entry.caps):
                del self._waiting[entry.job]
                self._running[entry.job] = entry.requester
                return entry.job
        return None

    def withdraw(self, job: int) -> bool:
        """A waiting job goes. False: it does not wait."""
        return self._waiting.pop(job, None) is not None

    def free(self, job: int) -> bool:
        """The engine has ended it. False: its slot was freed before."""
        return self._running.pop(job, None) is not None

    def runs(self, job: int) -> bool:
        """It holds a slot."""
        return job in self._running

    def position(self, job: int) -> int:
        """How many go before it."""
        for place, entry in enumerate(self._in_order()):
            if entry.job == job:
                return place
        return 0

    def waiting(self) -> tuple[int, ...]:
        return tuple(entry.job for entry in self._in_order())

    def _may_run(self, requester: NodeId, caps: Caps) -> bool:
        if len(self._running) >= self._slots:
            return False
        if caps.max_running_per_key is None:
            return True
        return Counter(self._running.values())[requester] < caps.max_running_per_key

    def _in_order(self) -> Iterator[Entry]:
        return iter(sorted(self._waiting.values(), key=_rank))


def _rank(entry: Entry) -> tuple[int, int]:
    return (-entry.priority, entry.arrival)
