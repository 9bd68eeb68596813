"""Clock: virtual time, and what happens next. The law: never backwards, ties in the order they were set."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, TypeAlias

WALL_ORIGIN_MS = 1_790_000_000_000  # the wall clock at virtual time 0

_Call: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]


class Clock:
    __slots__ = ("_calls", "_due", "events", "now_ms")

    def __init__(self) -> None:
        self.now_ms = 0
        self.events = 0  # that have happened
        self._due: list[int] = []  # a heap: the moments at which something happens, each once
        self._calls: dict[int, list[_Call]] = {}  # moment → what happens then, in order

    def at(self, at_ms: int, action: Callable[..., object], *args: Any) -> None:
        self._set(at_ms if at_ms > self.now_ms else self.now_ms, (action, args))

    def after(self, delay_ms: int, action: Callable[..., object], *args: Any) -> None:
        self._set(self.now_ms + delay_ms, (action, args))

    def _set(self, due_ms: int, call: _Call) -> None:
        calls = self._calls.get(due_ms)
        if calls is None:
            self._calls[due_ms] = [call]
            heapq.heappush(self._due, due_ms)
        else:
            calls.append(call)

    def run_until(self, end_ms: int) -> None:
        due = self._due
        while due and due[0] <= end_ms:
            self.now_ms = heapq.heappop(due)
            for action, args in self._calls[self.now_ms]:  # it grows by what is set for this moment
                self.events += 1
                action(*args)
            del self._calls[self.now_ms]
        self.now_ms = end_ms
