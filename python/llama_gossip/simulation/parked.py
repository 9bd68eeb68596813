"""Parked: what a worker does with a job whose requester does not read (I7, I9, I11).

The law: nothing is computed for it from the event on in which its stream is full, it goes on in the event in
which that is over, and its slot waits for no longer than unread_ms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llama_gossip.protocol.messages import NodeId
from llama_gossip.simulation.history import Work

SLACK_MS = 500  # timers are exact here: room for two events in one moment, no more
JobKey = tuple[NodeId, int, int]  # (worker, life, job)


class Parked:
    def __init__(
        self, works: Mapping[JobKey, Work], blame: Callable[[str, int, str], None], *, unread_ms: int
    ) -> None:
        """works: what engines hold now."""
        self._works = works
        self._blame = blame
        self._unread_ms = unread_ms
        self._since: dict[JobKey, tuple[int, int]] = {}  # when, and how long its worker was stopped by then
        self.ended = 0  # jobs that have waited in vain
        self.continued = 0

    def parked(self, key: JobKey, now_ms: int, stopped_ms: int) -> None:
        self._since[key] = (now_ms, stopped_ms)

    def unparked(self, key: JobKey, now_ms: int, stopped_ms: int) -> None:
        self.continued += self._over(key, now_ms, stopped_ms)

    def cancelled(self, key: JobKey, now_ms: int, stopped_ms: int) -> None:
        self.ended += self._over(key, now_ms, stopped_ms)

    def _over(self, key: JobKey, now_ms: int, stopped_ms: int) -> bool:
        since = self._since.pop(key, None)
        if since is None:
            return False
        held_ms = now_ms - since[0] - (stopped_ms - since[1])
        if held_ms > self._unread_ms + SLACK_MS:
            self._blame("I7", now_ms, f"a slot waits for {held_ms} ms for a requester that does not read")
        return True

    def full(self, key: JobKey, now_ms: int) -> None:
        """The job's stream takes no more; its core has heard so."""
        if self._is_computed(key) and key not in self._since:
            self._blame("I9", now_ms, "tokens are made for a requester that does not read")

    def writable(self, key: JobKey, now_ms: int) -> None:
        if self._is_computed(key) and key in self._since:
            self._blame("I11", now_ms, "a parked job does not go on though its requester reads")

    def _is_computed(self, key: JobKey) -> bool:
        work = self._works.get(key)
        return work is not None and work.cancelled_ms is None
