"""Jobqueue: who waits, who runs, and who may not even wait.

The law: 0 <= running <= slots, a slot is freed exactly once, and nobody waits for ever. Slots go to keys, not
to jobs, in the order of `_Key.rank`; nothing else knows the order:

    urgency         the priority class, one more for each 10 s in which its key got nothing
    owner           this node's own key
    fewest running  of the keys that wait, who holds least: a long answer counts as long as it runs
    longest without the key that last held a slot, or came to wait, the longest ago: round-robin between keys

A key's turn goes to its most urgent job, a job's own wait counted in full, then to its oldest one. A key ages
only while it gets nothing: the backlog of a flood never outranks the one question of another key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import accumulate
from typing import TypeAlias

from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.record import record
from llama_gossip.protocol.timers import Timers

MAX_QUEUED = 256  # jobs that wait, in all
MAX_QUEUED_PER_KEY = 64
TOP_PRIORITY = 9
STRANGER_PRIORITY = 8  # the top is for the owner's own key and allow-listed ones
OPEN_NETWORK_PRIORITY = 5  # the ordinary class: keys cost nothing there, so urgency must not either

AGEING_MS = Timers().ageing_ms
Rank: TypeAlias = tuple[int, bool, int, int]  # the lowest goes first


@record(frozen=True, slots=True)
class Caps:
    """How much one requester key may take. None: as many as there are slots."""

    max_queued: int = MAX_QUEUED
    max_queued_per_key: int = MAX_QUEUED_PER_KEY
    max_running_per_key: int | None = None


OPEN_NETWORK_CAPS = Caps(  # for keys nobody vouches for: a quarter of the places is not for them
    max_queued=MAX_QUEUED * 3 // 4, max_queued_per_key=8, max_running_per_key=2
)


@record(frozen=True, slots=True)
class Entry:
    job: int
    requester: NodeId
    priority: int  # after the cap of its key
    arrival: int
    arrived_mono_ms: int
    caps: Caps


@dataclass(slots=True)
class _Key:
    """One requester key, as long as it waits for something or runs something."""

    owner: bool
    served: int  # when it last got a slot or gave one back, in the queue's own count; at first, when it came
    started_mono_ms: int  # when it last got one
    waiting: dict[int, Entry] = field(default_factory=dict)
    running: int = 0

    def in_order(self, now_ms: int, ageing_ms: int) -> list[Entry]:
        """Its own jobs, as its turns will take them."""

        def place(entry: Entry) -> tuple[int, int]:
            return -(entry.priority + (now_ms - entry.arrived_mono_ms) // ageing_ms), entry.arrival

        return sorted(self.waiting.values(), key=place)

    def ages_ms(self, now_ms: int) -> Iterable[tuple[int, int]]:
        """(class, how long it has been passed over) of each of its jobs."""
        for entry in self.waiting.values():
            yield entry.priority, now_ms - max(entry.arrived_mono_ms, self.started_mono_ms)

    def rank(self, now_ms: int, ageing_ms: int) -> Rank:
        urgency = max(priority + age_ms // ageing_ms for priority, age_ms in self.ages_ms(now_ms))
        first = min(entry.arrival for entry in self.waiting.values())
        return -urgency, not self.owner, self.running, max(self.served, first)


@record(frozen=True, slots=True)
class _Order:
    """Who goes when, if nobody else comes. It holds until something changes or somebody's class rises."""

    entries: tuple[Entry, ...]
    places: dict[int, int]
    since_mono_ms: int
    until_mono_ms: int


class JobQueue:
    def __init__(self, *, slots: int = 0, ageing_ms: int = AGEING_MS) -> None:
        self._slots = slots
        self._ageing_ms = ageing_ms
        self._keys: dict[NodeId, _Key] = {}
        self._waiting: dict[int, NodeId] = {}
        self._running: dict[int, NodeId] = {}
        self._count = 0  # of arrivals, starts and ends
        self._order: _Order | None = None

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
        key = self._keys.get(requester)
        if not self._waiting and self._may_run(0 if key is None else key.running, caps):
            return True
        waiting = 0 if key is None else len(key.waiting)
        return len(self._waiting) < caps.max_queued and waiting < caps.max_queued_per_key

    def add(
        self, job: int, requester: NodeId, priority: int, caps: Caps, now_ms: int, *, owner: bool = False
    ) -> None:
        self._count += 1
        key = self._keys.setdefault(requester, _Key(owner, self._count, now_ms))
        key.waiting[job] = Entry(job, requester, priority, self._count, now_ms, caps)
        self._waiting[job] = requester
        self._order = None

    def start_next(self, now_ms: int) -> int | None:
        """Moves the first job that may run into a slot."""
        if len(self._running) >= self._slots or not self._waiting:
            return None
        for entry in self._ordered(now_ms).entries:
            if self._may_run(self._keys[entry.requester].running, entry.caps):
                self._start(entry, now_ms)
                return entry.job
        return None

    def _start(self, entry: Entry, now_ms: int) -> None:
        self._count += 1
        key = self._keys[entry.requester]
        del key.waiting[entry.job], self._waiting[entry.job]
        key.running += 1
        key.served, key.started_mono_ms = self._count, now_ms
        self._running[entry.job] = entry.requester
        self._order = None

    def withdraw(self, job: int) -> bool:
        """A waiting job goes. False: it does not wait."""
        requester = self._waiting.pop(job, None)
        if requester is None:
            return False
        del self._keys[requester].waiting[job]
        self._forget(requester)
        return True

    def free(self, job: int) -> bool:
        """The engine has ended it. False: its slot was freed before."""
        requester = self._running.pop(job, None)
        if requester is None:
            return False
        self._count += 1
        key = self._keys[requester]
        key.running -= 1
        key.served = self._count  # as before its end, it comes behind those that held nothing meanwhile
        self._forget(requester)
        return True

    def _forget(self, requester: NodeId) -> None:
        """A key with nothing here needs no memory: what it asks next comes after its last turn."""
        self._order = None
        key = self._keys[requester]
        if not key.waiting and not key.running:
            del self._keys[requester]

    def runs(self, job: int) -> bool:
        """It holds a slot."""
        return job in self._running

    def position(self, job: int, now_ms: int) -> int:
        """How many go before it; 0 for one that does not wait."""
        return self._ordered(now_ms).places.get(job, 0)

    def waiting(self) -> tuple[int, ...]:
        """The jobs that wait, oldest first."""
        return tuple(self._waiting)

    def in_order(self, now_ms: int) -> tuple[int, ...]:
        """The jobs that wait, as slots will take them."""
        return tuple(entry.job for entry in self._ordered(now_ms).entries)

    def _may_run(self, running: int, caps: Caps) -> bool:
        if len(self._running) >= self._slots:
            return False
        return caps.max_running_per_key is None or running < caps.max_running_per_key

    def _ordered(self, now_ms: int) -> _Order:
        order = self._order
        if order is None or not order.since_mono_ms <= now_ms < order.until_mono_ms:
            order = self._order = self._find_order(now_ms)
        return order

    def _find_order(self, now_ms: int) -> _Order:
        """Gives out slots one after another, as if all were free now: each turn puts its key behind."""
        turns = [_Turns(key, now_ms, self._ageing_ms) for key in self._keys.values() if key.waiting]
        heap = [(turn.rank, place) for place, turn in enumerate(turns)]
        heapify(heap)
        entries: list[Entry] = []
        count = self._count
        while heap:
            _, place = heappop(heap)
            count += 1
            entries.append(turns[place].take(count))
            if turns[place].left:
                heappush(heap, (turns[place].rank, place))
        places = {entry.job: place for place, entry in enumerate(entries)}
        return _Order(tuple(entries), places, now_ms, now_ms + self._next_rise_ms(now_ms))

    def _next_rise_ms(self, now_ms: int) -> int:
        """Until the next class rises, of a job within its key or of a key."""
        ages = [age_ms for key in self._keys.values() for _, age_ms in key.ages_ms(now_ms)]
        ages.extend(now_ms - e.arrived_mono_ms for key in self._keys.values() for e in key.waiting.values())
        return min((self._ageing_ms - age_ms % self._ageing_ms for age_ms in ages), default=self._ageing_ms)


class _Turns:
    """The turns that one key will have, taken one by one."""

    def __init__(self, key: _Key, now_ms: int, ageing_ms: int) -> None:
        self.rank = key.rank(now_ms, ageing_ms)
        self._left = key.in_order(now_ms, ageing_ms)[::-1]  # the last is the next
        self._urgencies = list(accumulate((entry.priority for entry in self._left), max))

    @property
    def left(self) -> int:
        return len(self._left)

    def take(self, count: int) -> Entry:
        """The next one; its key has just been served then, and holds one more."""
        entry = self._left.pop()
        if self._left:
            _, stranger, running, _ = self.rank
            self.rank = -self._urgencies[len(self._left) - 1], stranger, running + 1, count
        return entry
