"""Loopback: streams of a node to its own worker, without the network.

The frames are the same, signed and all: the core sees two ordinary streams. Ids are negative, so that they
never meet the transport's. Events are handed to `emit`, never performed in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llama_gossip.protocol import events
from llama_gossip.protocol.limits import MAX_UNWRITTEN_BYTES
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.streams import StreamCode

MAX_HELD_BYTES = 4 * 1024 * 1024  # what the network's streams buffer for a reader that is too slow


@dataclass(slots=True)
class _Held:
    """What waits for a side that does not read, or has not read up yet."""

    paused: bool = True
    reading: bool = False  # `_read_up` is on its way
    events: deque[events.Event] = field(default_factory=deque)
    bytes: int = 0
    full: bool = False  # its writer was told


class Loopback:
    """Pairs of in-process streams."""

    def __init__(
        self,
        own_id: NodeId,
        emit: Callable[[events.Event], None],
        soon: Callable[[Callable[[int], None], int], object],
    ) -> None:
        """soon: calls a function with its argument once the present event is done with."""
        self._own_id = own_id
        self._emit = emit
        self._soon = soon
        self._next = -1
        self._twin: dict[int, int] = {}
        self._closed_sides: set[int] = set()
        self._held: dict[int, _Held] = {}

    def owns(self, stream: int) -> bool:
        return stream < 0

    def open(self, dial: int) -> None:
        near, far = self._next, self._next - 1
        self._next -= 2
        self._twin[near], self._twin[far] = far, near
        self._emit(events.StreamAccepted(far, self._own_id))
        self._emit(events.StreamOpened(dial, near))

    def write(self, stream: int, data: bytes) -> None:
        """One whose other side does not read while megabytes wait is given up: it ends as StreamLost."""
        if stream not in self._twin or stream in self._closed_sides:
            return
        twin = self._twin[stream]
        held = self._held.get(twin)
        if held is not None and held.bytes + len(data) > MAX_HELD_BYTES:
            self.reset(stream, StreamCode.BUSY)
            self._emit(events.StreamLost(stream, "its reader is too slow"))
        else:
            self._tell(twin, events.StreamData(twin, data))
            if held is not None and not held.full and held.bytes > MAX_UNWRITTEN_BYTES:
                held.full = True
                self._emit(events.StreamFull(stream))

    def finish(self, stream: int) -> None:
        if stream in self._twin and stream not in self._closed_sides:
            twin = self._twin[stream]
            self._tell(twin, events.StreamFinished(twin))
            self._close_side(stream)

    def reset(self, stream: int, code: int) -> None:
        """Both directions end for both sides; a side that was finished before stays finished."""
        self._held.pop(stream, None)
        twin = self._twin.get(stream)
        if twin is None:
            return
        if stream not in self._closed_sides:
            self._tell(twin, events.StreamReset(twin, code))
        if twin not in self._closed_sides:
            self._tell(twin, events.StreamStopped(twin, code))
        self._forget(stream, twin)

    # --- a side that does not read ---

    def pause(self, stream: int) -> None:
        if stream in self._held:
            self._held[stream].paused = True
        elif stream in self._twin:
            self._held[stream] = _Held()

    def resume(self, stream: int) -> None:
        held = self._held.get(stream)
        if held is not None:
            held.paused = False
            self._read_soon(stream, held)

    def _tell(self, stream: int, event: events.Event) -> None:
        held = self._held.get(stream)
        if held is None:
            self._emit(event)
        else:
            held.events.append(event)
            held.bytes += _size(event)

    def _read_soon(self, stream: int, held: _Held) -> None:
        if not held.reading:
            held.reading = True
            self._soon(self._read_up, stream)

    def _read_up(self, stream: int) -> None:
        """One event at a time: the reader may have enough of it again."""
        held = self._held.get(stream)
        if held is None:
            return
        held.reading = False
        if held.paused:
            return
        if not held.events:
            del self._held[stream]
            return
        event = held.events.popleft()
        held.bytes -= _size(event)
        self._emit(event)
        if held.full and held.bytes <= MAX_UNWRITTEN_BYTES // 2:
            held.full = False
            if (twin := self._twin.get(stream)) is not None:
                self._emit(events.StreamWritable(twin))
        self._read_soon(stream, held)

    def _close_side(self, stream: int) -> None:
        self._closed_sides.add(stream)
        twin = self._twin[stream]
        if twin in self._closed_sides:
            self._forget(stream, twin)

    def _forget(self, stream: int, twin: int) -> None:
        for side in (stream, twin):
            self._twin.pop(side, None)
            self._closed_sides.discard(side)


def _size(event: events.Event) -> int:
    return len(event.data) if isinstance(event, events.StreamData) else 0
