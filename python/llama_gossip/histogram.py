"""Histogram: how often which value was seen, in buckets. Pure, and cheap enough for every token.

The law: what was counted once stays counted: counts and sum only grow.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

WAIT_BOUNDS_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Histogram:
    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """bounds: the buckets' upper ends, ascending and included; values above the last have one besides."""
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise ValueError("bounds ascend, and there is one at least")
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """Of values, all buckets together."""
        return sum(self._counts)

    def cumulated(self) -> list[int]:
        """For each bound how many values are at most that, and at last the count of all."""
        return list(accumulate(self._counts))
