"""Scope: a joined node for one `async with`, shut down at its end whatever happens in it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from llama_gossip.errors import UsageError

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode


class NodeScope(contextlib.AbstractAsyncContextManager["InferenceNode"]):
    """Good for one `async with`: the node closes the engine that it was given."""

    def __init__(self, spawn: Callable[[], Awaitable[InferenceNode]]) -> None:
        self._spawn = spawn
        self._node: InferenceNode | None = None
        self._used = False

    async def __aenter__(self) -> InferenceNode:
        if self._used:
            raise UsageError(
                "this node was opened before", hint="call InferenceNode.open again for each `async with`"
            )
        self._used = True
        self._node = await (await self._spawn()).__aenter__()
        return self._node

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        node, self._node = self._node, None
        if node is not None:
            await node.shutdown()
