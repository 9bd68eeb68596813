"""Served: which models the network serves just now, this node's own among them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from llama_gossip.engine.base import EngineState
from llama_gossip.node import InferenceNode


class Served:
    """The law: one entry a name, however many serve it; `created` is since when this gateway lists it."""

    def __init__(self, node: InferenceNode, clock: Callable[[], float] = time.time) -> None:
        self._node = node
        self._clock = clock
        self._created: dict[str, int] = {}

    def models(self) -> dict[str, int]:
        """Name: Unix seconds, sorted by name."""
        served = set(self._names())
        now = int(self._clock())
        self._created = {name: self._created.get(name, now) for name in sorted(served)}
        return dict(self._created)

    def is_ready(self) -> bool:
        return any(True for _ in self._names())

    def _names(self) -> Iterable[str]:
        for info, load in self._node.engines():
            if load.state is EngineState.READY:
                yield info.model
        for peer in self._node.peers():
            if peer.state == "ready":
                yield from peer.models
