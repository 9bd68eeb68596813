"""Decoding: what a contender of the engine bench is, and what a run of one costs.

A contender answers some prompts of equal length at once, greedily, a fixed number of tokens each. CPU time is
the process's, all threads together; a second pair of clocks starts when every row has its first token.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one run. The last three from the moment on when every row had a token."""

    cpu_s: float
    wall_s: float
    tokens: int
    decode_cpu_s: float
    decode_wall_s: float
    decode_tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.decode_tokens / self.decode_wall_s if self.decode_tokens else 0.0

    @property
    def tokens_per_cpu_s(self) -> float:
        return self.decode_tokens / self.decode_cpu_s if self.decode_tokens else 0.0


class Meter:
    """Clocks over one run of so many rows."""

    def __init__(self, rows: int) -> None:
        self._waiting = set(range(rows))
        self._tokens = 0
        self._at_decode = 0
        self._began = self._decode = (time.process_time(), time.perf_counter())

    def tokens(self, row: int, count: int) -> None:
        self._tokens += count
        if count and row in self._waiting:
            self._waiting.discard(row)
            if not self._waiting:
                self._decode, self._at_decode = (time.process_time(), time.perf_counter()), self._tokens

    def spent(self, expected: int) -> Spent:
        """Raises RuntimeError unless so many tokens came."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        if self._tokens != expected or self._waiting:
            raise RuntimeError(
                f"{self._tokens} of {expected} tokens came, {len(self._waiting)} rows got none"
            )
        return Spent(
            cpu_s - self._began[0],
            wall_s - self._began[1],
            self._tokens,
            cpu_s - self._decode[0],
            wall_s - self._decode[1],
            self._tokens - self._at_decode,
        )


class Contender(Protocol):
    def run(self, prompts: Prompts, new_tokens: int) -> Spent: ...

    def close(self) -> None: ...


def prompts(rows: int, length: int, vocabulary: int, chance: random.Random) -> list[list[int]]:
    """Ids that no earlier run has seen, so that nobody's prefix cache helps. Special ids are low, and out."""
    return [[chance.randrange(vocabulary // 8, vocabulary) for _ in range(length)] for _ in range(rows)]


def by_threads(
    answer: Callable[[int, list[int], int, Meter, threading.Lock], None], prompts: Prompts, new_tokens: int
) -> Spent:
    """One thread a request. answer: takes row, prompt, tokens wanted, the shared meter and its lock."""
    meter, lock = Meter(len(prompts)), threading.Lock()
    threads = [
        threading.Thread(target=answer, args=(row, prompt, new_tokens, meter, lock))
        for row, prompt in enumerate(prompts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return meter.spent(len(prompts) * new_tokens)
