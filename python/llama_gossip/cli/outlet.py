"""Outlet: writes text to a file descriptor from a thread of its own, so that nobody waits for its reader.

The law: the order is kept; while the reader is too far behind whole lines are left out, and in their place
stands how many they were. What must not be left out waits for `room` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable

MAX_WAITING_BYTES = 64 * 1024  # as much as a pipe holds: some hundred lines
CLOSE_S = 1.0  # for what still waits at the end; a reader that does not read by then never will


class Outlet:
    def __init__(self, fd: int, *, dropped: Callable[[int], str], broken: Callable[[], object]) -> None:
        """dropped: the line that stands for so many. broken: called from the thread when nobody is there."""
        self._fd = fd
        self._notice = dropped
        self._tell_broken = broken
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of what waits and what is being written
        self._dropped = 0
        self._full = self._closing = self._broken = False
        self._asking: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._thread = threading.Thread(target=self._work, daemon=True, name="llama-gossip output")
        self._thread.start()

    def put(self, text: str) -> None:
        """Raises BrokenPipeError once the reader is known to be gone."""
        with self._changed:
            if self._broken:
                raise BrokenPipeError(errno.EPIPE, "nobody reads the output")
            self._full = self._full or self._bytes > MAX_WAITING_BYTES
            if self._full:
                self._dropped += 1
            else:
                self._append(text)

    async def room(self) -> None:
        """Until the reader has caught up: what is put before anything else is awaited is not left out."""
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                if self._broken or not self._is_behind():
                    return
                turn: asyncio.Future[None] = loop.create_future()
                self._asking.append((loop, turn))
            await turn

    def close(self) -> bool:
        """Writes what waits, for CLOSE_S at most. False: the reader still does not read."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)
        return not self._thread.is_alive()

    # --- under the lock ---

    def _append(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        self._waiting.append(data)
        self._bytes += len(data)
        self._changed.notify_all()

    def _is_behind(self) -> bool:
        return self._full or self._bytes > MAX_WAITING_BYTES // 2

    def _wake(self) -> None:
        asking, self._asking = self._asking, []
        for loop, turn in asking:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(_settle, turn)

    # --- the thread ---

    def _work(self) -> None:
        while (data := self._next()) is not None:
            try:
                self._write(data)
            except OSError:  # gone, or a disk that is full: nothing of it is ever read
                with self._changed:
                    self._broken = True
                    self._wake()
                self._tell_broken()
                return
            with self._changed:
                self._written(len(data))

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting.popleft() if self._waiting else None

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # whoever shares it has made it so
                select.select([], [self._fd], [])

    def _written(self, size: int) -> None:
        self._bytes -= size
        if self._bytes > MAX_WAITING_BYTES // 2:
            return
        if self._full:
            self._append(self._notice(self._dropped))
            self._full, self._dropped = False, 0
        self._wake()


def _settle(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
