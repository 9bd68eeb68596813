"""Throughput: how many tokens a second went through a node lately, from counters that only grow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

KEPT = 60  # samples, one a second: what the dashboard's plot shows
SAMPLE_S = 1.0  # apart; a shorter time makes a plot of batches, not of speed


@dataclass(slots=True)
class Throughput:
    """Tokens a second of one counter, newest last."""

    history: deque[float] = field(default_factory=lambda: deque([0.0] * KEPT, maxlen=KEPT))
    _at_s: float | None = None
    _count: int = 0

    @property
    def now(self) -> float:
        return self.history[-1]

    def look(self, now_s: float, count: int) -> None:
        """A look sooner than SAMPLE_S after the one before counts with the next."""
        if self._at_s is None:
            self._at_s, self._count = now_s, count
        elif (elapsed_s := now_s - self._at_s) >= SAMPLE_S:
            self.history.append(round((count - self._count) / elapsed_s, 1))
            self._at_s, self._count = now_s, count
