"""INT and TERM. The law: the first asks for an orderly end and starts a clock, the second ends the process at
once, and when the clock runs out so does the process: nobody waits for a command that was told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
UNREAD = "nobody reads the output"  # the reason when the reader of stdout has gone
CLIENT_GRACE_S = 1.8  # the promise is 2 s
SERVE_GRACE_S = 18.0  # 10 s of draining, then goodbye to the network, then the engine's end


def exit_code_of(signum: int) -> int:
    """130 for INT, 143 for TERM, as shells count."""
    return 128 + signum


class Signals:
    """A context manager inside a running loop. `received` is the first signal, `stopped` is set by it."""

    def __init__(self, *, grace_s: float, on_first: Callable[[], object] | None = None) -> None:
        self.received: signal.Signals | None = None
        self.reason = ""  # of the end, in a word or two
        self.stopped = asyncio.Event()
        self._grace_s = grace_s
        self._on_first = on_first
        self._clock: threading.Timer | None = None
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Signals:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._receive, number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        # The clock goes on: leaving the loop and the interpreter counts as well.

    def stop(self, reason: str) -> None:
        """Asks for an orderly end; the first reason stays."""
        self.reason = self.reason or reason
        self.stopped.set()

    def unread(self) -> None:
        """From any thread: the reader of stdout has gone."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: all is over
            self._loop.call_soon_threadsafe(self.stop, UNREAD)

    def _receive(self, number: signal.Signals) -> None:
        if self.received is not None:
            os._exit(exit_code_of(number))
        self.received = number
        self.stop(REASONS[number])
        self._clock = threading.Timer(self._grace_s, os._exit, (exit_code_of(number),))
        self._clock.daemon = True
        self._clock.start()
        if self._on_first is not None:
            self._on_first()

    async def until_stopped(self, work: Coroutine[None, None, T]) -> T | None:
        """The result of `work`, or None when a signal came first; the work is then cancelled."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.stopped.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for waiting in (task, stop):
                waiting.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)


async def interruptible(work: Coroutine[None, None, int]) -> int:
    """Runs a client's work: a signal cancels it, and the exit code tells which one it was."""
    task = asyncio.ensure_future(work)
    with Signals(grace_s=CLIENT_GRACE_S, on_first=task.cancel) as signals:
        try:
            return await task
        except BaseException:
            if signals.received is None:
                raise
        return exit_code_of(signals.received)


async def in_own_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a daemon thread: unlike an executor's, nobody waits for it at the end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T is None

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:  # noqa: BLE001  handed to whoever awaits
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody awaits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="llama-gossip load").start()
    return await future
