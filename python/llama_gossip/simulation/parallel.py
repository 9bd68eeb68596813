"""Parallel: the same work in several processes, told as if one had done it.

The law: results come in the order of what they are made of, whatever ends first. Nothing depends on `jobs`
but the time it takes.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 8  # items under way or waiting for each process: none is idle while the oldest is awaited


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, jobs: int
) -> Generator[Result, None, None]:
    """As `map(work, items)`, by `jobs` processes; `items` may be endless. With one job, in this process.

    work and items must be picklable. Closing the iterator drops what has not begun and awaits the rest.
    """
    if jobs <= 1:
        yield from map(work, items)
        return
    # Fresh processes: nothing of this one's state (a mutant's modules) can leak into a seed.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    ahead = iter(items)
    try:
        waiting: deque[Future[Result]] = deque(
            pool.submit(work, item) for item in islice(ahead, AHEAD * jobs)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(ahead, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
