"""SyncNode: an InferenceNode on an event loop of its own thread, for code without `await`.

    with InferenceNode.sync(join=ticket) as node:
        for token in node.generate("Once upon a time"):
            print(token.text, end="")

An interrupt (Ctrl-C, a kernel's stop button) ends the answer, not the node. Outside of its `with` every
call raises TransportError at once; none waits for a loop that does not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from llama_gossip.answer import Answer, Token
from llama_gossip.errors import TransportError, UsageError
from llama_gossip.generation import Generation
from llama_gossip.node import InferenceNode
from llama_gossip.peers import Peer
from llama_gossip.submission import PromptLike

T = TypeVar("T")

SHUTDOWN_S = 6.0  # the node's own bound and a little


def _live_on(loop: asyncio.AbstractEventLoop) -> None:
    """A node's thread. What still runs when the loop is stopped is cancelled and ends in order."""
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        loop.close()


class SyncGeneration:
    """An answer on its way: `for token in generation`. Leaving the loop cancels the request."""

    def __init__(self, node: SyncNode, generation: Generation) -> None:
        self._node = node
        self._generation = generation

    @property
    def request_id(self) -> str:
        return self._generation.request_id

    @property
    def answer(self) -> Answer | None:
        return self._generation.answer

    def __iter__(self) -> Iterator[Token]:
        try:
            while (token := self._node._run(self._next())) is not None:
                yield token
        finally:
            self.cancel()

    async def _next(self) -> Token | None:
        return await anext(self._generation, None)

    def complete(self) -> Answer:
        """Reads to the end and returns the answer."""
        try:
            return self._node._run(self._generation.complete())
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ends the request. Never waits: the garbage collector calls it too, in whatever thread it runs."""
        self._node._post(self._generation.cancel)


class SyncNode:
    """A joined node for one `with`. Methods as on InferenceNode."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._node: InferenceNode | None = None

    def __enter__(self) -> SyncNode:
        if self._loop is not None:
            raise UsageError("this node is open already", hint="one `with` at a time")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_live_on, args=(self._loop,), name="llama-gossip loop", daemon=True
        )
        self._thread.start()
        try:
            self._run(self._open())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        """An interrupt of the wait stops nothing: the thread ends the node, then its loop, by itself."""
        loop, thread, node = self._loop, self._thread, self._node
        self._loop = self._thread = self._node = None
        failures: list[Exception] = []

        async def leave() -> None:
            try:
                if node is not None:
                    await node.shutdown()
            except Exception as error:  # noqa: BLE001  raised below
                failures.append(error)
            finally:
                asyncio.get_running_loop().stop()

        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(leave(), loop)
            thread.join(SHUTDOWN_S)
        if failures:
            raise failures[0]

    async def _open(self) -> None:
        """Kept in `_node` from here on: an interrupt of the waiting thread must not lose it."""
        node = await InferenceNode.spawn(**self._options)
        try:
            await node.join()
        except BaseException:
            await node.shutdown()
            raise
        self._node = node

    def generate(self, prompt: PromptLike, **options: Any) -> SyncGeneration:
        async def submit() -> Generation:
            return self._live().generate(prompt, **options)

        return SyncGeneration(self, self._run(submit()))

    def complete(self, prompt: PromptLike, **options: Any) -> Answer:
        """The whole answer at once."""
        return self.generate(prompt, **options).complete()

    def peers(self) -> list[Peer]:
        return self._call(lambda: self._live().peers())

    def stats(self) -> dict[str, int]:
        return self._call(lambda: self._live().stats())

    def ticket(self) -> str:
        return self._call(lambda: self._live().ticket())

    def _live(self) -> InferenceNode:
        if self._node is None:
            raise _not_open()
        return self._node

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Runs `work` on the node's loop. An interrupt while waiting cancels `work`, then goes on its way."""
        if self._loop is None:
            work.close()
            raise _not_open()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def _call(self, function: Callable[[], T]) -> T:
        async def called() -> T:
            return function()

        return self._run(called())

    def _post(self, function: Callable[[], None]) -> None:
        """Runs `function` on the node's loop some time, or never when that has ended."""
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(function)


def _not_open() -> TransportError:
    return TransportError("this node is not open", hint="use it inside its `with` block", code="closed")
