"""Threads: how many of the CPU's suit a step, measured at load.

The law: what the user asked for is kept. Otherwise fewer than all are taken where they step as fast: beside
other programs, on hyperthreads and where memory is the limit, more threads wait for each other (two cores
that share one: 42 ms a token with two sleeping threads, 18 ms with one). Steps of few rows and wide ones are
measured apart. How many compute changes no bit of an exact forward.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from llama_gossip.engine.forward import Draw, Forward, Segment, Span

NARROW_ROWS: Final = 8  # up to here reading the weights takes a step's time, beyond it computing does
NARROW_STEPS: Final = 3  # that are timed for each number of threads
WIDE_STEPS: Final = 1
WIDE_BLOCKS: Final = 1
SAVED: Final = 1.05  # half the threads are better even where a step takes so much longer

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timed:
    """Steps with a number of threads. Seconds."""

    threads: int
    least_s: float
    mean_s: float


@dataclass(slots=True)
class Threads:
    """Sets torch's threads, which count for the thread that calls."""

    narrow: int
    wide: int
    _now: int = 0

    def use(self, rows: int) -> None:
        count = self.narrow if rows <= NARROW_ROWS else self.wide
        if count != self._now:
            import torch

            torch.set_num_threads(count)
            self._now = count


def chosen(forward: Forward, blocks: int, most: int, *, free: bool) -> tuple[Threads, float]:
    """The threads for this forward, and tokens/s of one request, warm.

    `free`: fewer than `most` may be taken. The pool of `blocks` must be there; its beginning is overwritten.
    """
    span = Span(0, min(blocks, WIDE_BLOCKS))
    ids = [(7 + 31 * i) % forward.vocabulary for i in range(span.tokens)]
    places = itertools.cycle(range(span.tokens))

    def narrow() -> object:
        at = next(places)
        return forward.run([Segment(span, at, ids[at : at + 1], Draw(0.0, 0, at + 1))]).argmax().item()

    def wide() -> object:
        return forward.run([Segment(span, 0, ids, Draw(0.0, 0, len(ids)))]).argmax().item()

    if not free:
        return Threads(most, most), 1 / timed(narrow, most, NARROW_STEPS).mean_s
    one = fastest(narrow, most, NARROW_STEPS)
    return Threads(one.threads, fastest(wide, most, WIDE_STEPS).threads), 1 / one.mean_s


def fastest(step: Step, most: int, steps: int) -> Timed:
    """The number of threads, halved from `most`, with which a step takes least."""
    best = timed(step, most, steps)
    count = most
    while count > 1:
        count //= 2
        found = timed(step, count, steps)
        if found.least_s > SAVED * best.least_s:
            break
        best = found
    return best


def timed(step: Step, threads: int, steps: int) -> Timed:
    import torch

    torch.set_num_threads(threads)
    step()  # makes the threads, and warms
    durations = []
    for _ in range(steps):
        begun_s = time.perf_counter()
        step()
        durations.append(time.perf_counter() - begun_s)
    return Timed(threads, min(durations), sum(durations) / steps)
