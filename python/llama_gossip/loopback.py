"""Loopback: streams of a node to its own worker, without the network.

The frames are the same, signed and all: the core sees two ordinary streams. Ids are negative, so that they
never meet the transport's. Events are handed to `emit`, never performed in place.
"""

from __future__ import annotations

from collections.abc import Callable

from llama_gossip.protocol import events
from llama_gossip.protocol.messages import NodeId


class Loopback:
    """Pairs of in-process streams."""

    def __init__(self, own_id: NodeId, emit: Callable[[events.Event], None]) -> None:
        self._own_id = own_id
        self._emit = emit
        self._next = -1
        self._twin: dict[int, int] = {}
        self._closed_sides: set[int] = set()

    def owns(self, stream: int) -> bool:
        return stream < 0

    def open(self, dial: int) -> None:
        near, far = self._next, self._next - 1
        self._next -= 2
        self._twin[near], self._twin[far] = far, near
        self._emit(events.StreamAccepted(far, self._own_id))
        self._emit(events.StreamOpened(dial, near))

    def write(self, stream: int, data: bytes) -> None:
        if stream in self._twin and stream not in self._closed_sides:
            self._emit(events.StreamData(self._twin[stream], data))

    def finish(self, stream: int) -> None:
        if stream in self._twin and stream not in self._closed_sides:
            self._emit(events.StreamFinished(self._twin[stream]))
            self._close_side(stream)

    def reset(self, stream: int, code: int) -> None:
        """Both directions end for both sides; a side that was finished before stays finished."""
        twin = self._twin.get(stream)
        if twin is None:
            return
        if stream not in self._closed_sides:
            self._emit(events.StreamReset(twin, code))
        if twin not in self._closed_sides:
            self._emit(events.StreamStopped(twin, code))
        self._forget(stream, twin)

    def _close_side(self, stream: int) -> None:
        self._closed_sides.add(stream)
        twin = self._twin[stream]
        if twin in self._closed_sides:
            self._forget(stream, twin)

    def _forget(self, stream: int, twin: int) -> None:
        for side in (stream, twin):
            self._twin.pop(side, None)
            self._closed_sides.discard(side)
