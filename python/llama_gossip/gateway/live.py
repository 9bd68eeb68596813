"""Live: a node's state as a stream of server-sent events, to any number of readers.

The law: a reader costs a bounded amount of memory. What waits for one that is too slow is thrown away, and
the next that it gets is the whole state: it misses steps, never the present.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from llama_gossip.gateway.changes import Changes, Object

if TYPE_CHECKING:
    from llama_gossip.gateway.status import Status

BEAT_S = 1.0  # between two looks at what tells no news (rates, round trips)
LEAST_GAP_S = 0.1  # news that come together are told together
KEEP_ALIVE_S = 10.0  # proxies close what is still for longer
MAX_WAITING = 32  # events for one reader
MAX_READERS = 64  # each costs a connection; people look at dashboards, not programs
ALIVE = b": alive\n\n"


def event(name: str, data: Object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class Reader:
    """One open stream."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.behind = True  # what it gets next is the whole
        self.stirred = asyncio.Event()

    def put(self, chunk: bytes) -> None:
        if not self.behind:
            self.waiting.append(chunk)
            if len(self.waiting) > MAX_WAITING:
                self.waiting.clear()
                self.behind = True
        self.stirred.set()


class Live:
    """Runs on the node's loop from its making to `close`."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._readers: set[Reader] = set()
        self._changes: Changes | None = None  # None: nobody reads
        self._stirred = asyncio.Event()
        self._closed = False
        self._task = asyncio.create_task(self._run(), name="llama-gossip dashboard")

    def stir(self) -> None:
        """There are news: they are told without waiting for the beat."""
        self._stirred.set()

    def close(self) -> None:
        """Ends every stream, after what waits for it. Idempotent."""
        self._closed = True
        self._task.cancel()
        for reader in self._readers:
            reader.stirred.set()

    @property
    def readers(self) -> int:
        return len(self._readers)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def full(self) -> bool:
        return self.readers >= MAX_READERS

    async def stream(self) -> AsyncIterator[bytes]:
        """`status` (the whole) first, then `change` (see Changes); comments while nothing is to be told."""
        reader = Reader()
        self._readers.add(reader)
        try:
            while True:
                if reader.behind:
                    yield self._whole(reader)
                while reader.waiting:
                    yield reader.waiting.popleft()
                if reader.behind:
                    continue
                if self._closed:
                    return
                reader.stirred.clear()
                try:
                    await asyncio.wait_for(reader.stirred.wait(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield ALIVE
        finally:  # also when its reader has gone; nothing is awaited
            self._readers.discard(reader)
            if not self._readers:
                self._changes = None

    def _whole(self, reader: Reader) -> bytes:
        reader.behind = False
        state = self._status.live()
        if self._changes is None:
            self._changes = Changes(state, time.monotonic())
        return event("status", state)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), BEAT_S)
            self._stirred.clear()
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001  silence would look like a calm network
                message = "llama-gossip: the dashboard missed a beat"
                context = {"message": message, "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            await asyncio.sleep(LEAST_GAP_S)

    def _beat(self) -> None:
        self._status.sample()
        if self._changes is None:
            return
        changed = self._changes.since(self._status.live(), time.monotonic())
        if changed:
            chunk = event("change", changed)
            for reader in self._readers:
                reader.put(chunk)
