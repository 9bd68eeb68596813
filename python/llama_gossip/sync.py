"""SyncNode: an InferenceNode on an event loop of its own thread, for code without `await`.

    with InferenceNode.sync(join=ticket) as node:
        for token in node.generate("Once upon a time"):
            print(token.text, end="")

An interrupt (Ctrl-C, a kernel's stop button) ends the answer, not the node.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from llama_gossip.answer import Answer, Token
from llama_gossip.errors import TransportError
from llama_gossip.generation import Generation
from llama_gossip.node import InferenceNode
from llama_gossip.peers import Peer
from llama_gossip.submission import PromptLike

T = TypeVar("T")

SHUTDOWN_S = 6.0  # the node's own bound and a little


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
            self._node._call(self._generation.cancel)

    async def _next(self) -> Token | None:
        return await anext(self._generation, None)

    def complete(self) -> Answer:
        """Reads to the end and returns the answer."""
        try:
            return self._node._run(self._generation.complete())
        finally:
            self._node._call(self._generation.cancel)

    def cancel(self) -> None:
        self._node._call(self._generation.cancel)


class SyncNode:
    """A joined node for one `with`. Methods as on InferenceNode."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llama-gossip loop", daemon=True)
        self._node: InferenceNode | None = None

    def __enter__(self) -> SyncNode:
        self._thread.start()
        try:
            self._node = self._run(self._open())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._live().shutdown(), timeout_s=SHUTDOWN_S)
        finally:
            self._node = None
            self._stop_loop()

    async def _open(self) -> InferenceNode:
        node = await InferenceNode.spawn(**self._options)
        try:
            await node.join()
        except BaseException:
            await node.shutdown()
            raise
        return node

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
            raise TransportError(
                "this node is not open", hint="use it inside its `with` block", code="closed"
            )
        return self._node

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Runs `work` on the node's loop. An interrupt while waiting cancels `work`, then goes on its way."""
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

    def _stop_loop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SHUTDOWN_S)
        if not self._thread.is_alive():
            self._loop.close()
