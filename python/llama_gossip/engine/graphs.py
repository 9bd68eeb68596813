"""Graphs: steps of a CUDA device that were recorded once and are replayed without their launches' cost.

The law: what cannot be recorded is remembered as such and never tried again, so that a step is at worst
slower. A recording is in the thread's own mode: other engines of the process go on meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

_one_at_a_time = threading.Lock()  # a recording begins by emptying the process's cache of device memory

log = logging.getLogger(__name__)


class Graphs:
    """One a key. All share one pool of memory: no two run at once, and none keeps what it computed in it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}
        self._memory: Any = None
        self._aside: torch.cuda.Stream | None = None  # one: libraries keep a workspace for each stream

    def replay(self, key: Hashable, work: Callable[[], None]) -> bool:
        """Does the work; False: it cannot be recorded, and nothing can be said of what it did."""
        if key not in self._graphs:
            self._graphs[key] = self._recorded(key, work)
        graph = self._graphs[key]
        if graph is None:
            return False
        graph.replay()
        return True

    @property
    def any(self) -> bool:
        """Whether something could be recorded."""
        return any(graph is not None for graph in self._graphs.values())

    def forget(self) -> None:
        self._graphs.clear()
        self._memory = None

    def _recorded(self, key: Hashable, work: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        try:
            with _one_at_a_time:
                return self._record(work)
        except Exception:  # a model may do what no recording takes; a device may lack the memory
            log.warning("decode steps of shape %s are not recorded", key, exc_info=True)
            return None

    def _record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        aside, here = self._aside or torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        self._aside = aside
        aside.wait_stream(here)
        try:
            with torch.cuda.stream(aside):
                work()  # libraries make their workspaces now, not in the recording
        finally:
            here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, stream=aside, capture_error_mode="thread_local"):
            work()
        self._memory = graph.pool()
        return graph
