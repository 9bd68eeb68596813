"""Turns: the oracle of the worker's queue, a part of I11: what each key waits for, holds and was given.

The law, from PROTOCOL section 5 and from nothing of the queue's own code: a start is blamed when another key

    fair share  waits since before the starting key's last turn, with a class as high, and holds no more
    ageing      has waited 10 s longer for each class that it is behind

    class       counts only as far as the key may ask for

I7: in an open network a key holds two slots at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from llama_gossip.protocol.messages import NodeId

TOP, STRANGERS_TOP, OPEN_TOP = 9, 8, 5
OPEN_RUNNING = 2  # of one key in an open network

WorkerLife = tuple[NodeId, int]
Blame = Callable[[str, int, str], None]


@dataclass(frozen=True, slots=True)
class _Wait:
    priority: int
    since_ms: int
    number: int  # in the order of all that happened


@dataclass(slots=True)
class _Key:
    owner: bool
    waiting: dict[int, _Wait] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    started_ms: int = -1
    started: int = -1  # number of its last start
    turn: int = -1  # of its last start or end

    def urgency(self, now_ms: int, ageing_ms: int) -> int:
        """Of its most urgent job."""
        ages_ms = [now_ms - max(wait.since_ms, self.started_ms) for wait in self.waiting.values()]
        classes = [wait.priority for wait in self.waiting.values()]
        return max(asked + age_ms // ageing_ms for asked, age_ms in zip(classes, ages_ms, strict=True))

    def class_before(self, number: int) -> int:
        """The highest among its jobs that wait since before that; -1 without any."""
        return max((wait.priority for wait in self.waiting.values() if wait.number < number), default=-1)


class Turns:
    def __init__(self, blame: Blame, *, open_network: bool, ageing_ms: int) -> None:
        self._blame = blame
        self._ageing_ms = ageing_ms
        self._open = open_network
        self._keys: dict[WorkerLife, dict[NodeId, _Key]] = {}
        self._number = 0
        self.compared = 0  # starts while another key waited

    def accepted(self, worker: WorkerLife, requester: NodeId, job: int, asked: int, now_ms: int) -> None:
        """asked: the class in its Assign."""
        owner = requester == worker[0]
        top = TOP if owner else OPEN_TOP if self._open else STRANGERS_TOP
        key = self._of(worker).setdefault(requester, _Key(owner))
        key.waiting[job] = _Wait(min(asked, top), now_ms, self._next())

    def started(
        self, worker: WorkerLife, requester: NodeId, job: int, now_ms: int, *, is_there: Callable[[int], bool]
    ) -> None:
        """is_there: whether the worker still has this job waiting or running."""
        keys = self._of(worker)
        for key in keys.values():
            key.waiting = {other: wait for other, wait in key.waiting.items() if is_there(other)}
        key = keys[requester]
        if job not in key.waiting:
            return
        for other in self._others(keys, requester):
            self._check(key, other, now_ms)
        del key.waiting[job]
        key.running.add(job)
        if self._open and not key.owner and len(key.running) > OPEN_RUNNING:
            self._blame("I7", now_ms, f"a key of an open network holds {len(key.running)} slots")
        key.started_ms, key.started = now_ms, self._next()
        key.turn = key.started

    def ended(self, worker: WorkerLife, job: int) -> None:
        for key in self._of(worker).values():
            if job in key.running:
                key.running.remove(job)
                key.turn = self._next()

    def _others(self, keys: dict[NodeId, _Key], requester: NodeId) -> Iterator[_Key]:
        """Those that wait and may run."""
        for node_id, key in keys.items():
            capped = self._open and not key.owner and len(key.running) >= OPEN_RUNNING
            if node_id != requester and key.waiting and not capped:
                yield key

    def _check(self, key: _Key, other: _Key, now_ms: int) -> None:
        self.compared += 1
        if other.urgency(now_ms, self._ageing_ms) > key.urgency(now_ms, self._ageing_ms):
            waits_ms = now_ms - min(wait.since_ms for wait in other.waiting.values())
            what = f"a key that waits for {waits_ms} ms is passed over by a less urgent one"
            self._blame("I11", now_ms, what)
        elif (
            not key.owner
            and other.turn < key.started
            and other.class_before(key.started) >= max(wait.priority for wait in key.waiting.values())
            and len(other.running) <= len(key.running)
        ):
            self._blame("I11", now_ms, "a key has two turns while another, no less urgent, has none")

    def _of(self, worker: WorkerLife) -> dict[NodeId, _Key]:
        return self._keys.setdefault(worker, {})

    def _next(self) -> int:
        self._number += 1
        return self._number
