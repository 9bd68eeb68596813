"""Clock: virtual time, and what happens next. The law: never backwards, ties in the order they were set."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

WALL_ORIGIN_MS = 1_790_000_000_000  # the wall clock at virtual time 0


class Clock:
    __slots__ = ("_queue", "_serial", "events", "now_ms")

    def __init__(self) -> None:
        self.now_ms = 0
        self.events = 0  # that have happened
        self._queue: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, at_ms: int, action: Callable[..., object], *args: Any) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (max(at_ms, self.now_ms), self._serial, action, args))

    def after(self, delay_ms: int, action: Callable[..., object], *args: Any) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._serial, action, args))

    def run_until(self, end_ms: int) -> None:
        queue = self._queue
        while queue and queue[0][0] <= end_ms:
            self.now_ms, _, action, args = heapq.heappop(queue)
            self.events += 1
            action(*args)
        self.now_ms = end_ms
