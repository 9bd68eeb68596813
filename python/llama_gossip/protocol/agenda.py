"""Agenda: which timer of which machine is due when. The law: a key has at most one due time.

A heap with lazy renewal: moving a timer to later (each token does that) costs one dict store; the stale
heap entry is put back at its new time when it surfaces. Entries that stand for no timer are swept out before
they are more than the others: a peer that comes and goes leaves no deadline of an hour behind.
"""

from __future__ import annotations

import heapq
from typing import TypeAlias

TimerKey: TypeAlias = tuple[str, object, str]  # (owner kind, owner id, timer name)

_SLACK = 64  # entries without a timer that are not worth a sweep


class Agenda:
    def __init__(self) -> None:
        self._due: dict[TimerKey, int] = {}
        self._queued_at: dict[TimerKey, int] = {}  # the earliest heap entry of a key
        self._heap: list[tuple[int, int, TimerKey]] = []
        self._serial = 0  # ties in the order they were set: one seed, one trace

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: TimerKey, at_mono_ms: int) -> None:
        self._due[key] = at_mono_ms
        queued = self._queued_at.get(key)
        if queued is None or at_mono_ms < queued:
            self._push(key, at_mono_ms)
            self._bound()

    def cancel(self, key: TimerKey) -> None:
        if self._due.pop(key, None) is not None:
            self._bound()

    def due_of(self, key: TimerKey) -> int | None:
        return self._due.get(key)

    def earliest(self) -> int | None:
        self._settle()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_mono_ms: int) -> TimerKey | None:
        """The next key that is due, taken off; None when none is."""
        self._settle()
        if not self._heap or self._heap[0][0] > now_mono_ms:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._queued_at[key]
        del self._due[key]
        return key

    def _push(self, key: TimerKey, at_mono_ms: int) -> None:
        self._serial += 1
        self._queued_at[key] = at_mono_ms
        heapq.heappush(self._heap, (at_mono_ms, self._serial, key))

    def _bound(self) -> None:
        """Drops entries that stand for no timer when they are too many; what stays keeps its order."""
        if len(self._heap) <= 2 * len(self._due) + _SLACK:
            return
        self._heap = [e for e in self._heap if e[2] in self._due and self._queued_at.get(e[2]) == e[0]]
        self._queued_at = {key: at for at, _, key in self._heap}
        heapq.heapify(self._heap)

    def _settle(self) -> None:
        """Afterwards the top of the heap is a live timer at its true time."""
        while self._heap:
            at, _, key = self._heap[0]
            due = self._due.get(key)
            if due == at and self._queued_at.get(key) == at:
                return
            heapq.heappop(self._heap)
            if self._queued_at.get(key) != at:
                continue  # an entry that an earlier one replaced
            del self._queued_at[key]
            if due is not None:
                self._push(key, due)
