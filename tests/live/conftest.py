"""Nodes of one test: real iroh endpoints on loopback, each with its own folders, one network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from llama_gossip import InferenceNode, load_engine
from llama_gossip.directories import Directories

SEEN_S = 60.0  # far above what it takes; a loaded machine is slow

Spawn = Callable[..., Awaitable[InferenceNode]]


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits until the condition holds; fails by name when it does not."""
    try:
        async with asyncio.timeout(SEEN_S):
            while not condition():  # noqa: ASYNC110  any condition, not one event
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within {SEEN_S} s: {what}")


@pytest.fixture
def dirs(tmp_path: Path) -> Directories:
    return Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path / "home")})


@pytest.fixture
async def spawn(dirs: Directories) -> AsyncIterator[Spawn]:
    """spawn(name, engine="scripted", **options) joins a node; all are shut down after the test."""
    nodes: list[InferenceNode] = []

    async def joined(name: str, *, engine: str | None = None, **options: object) -> InferenceNode:
        loaded = load_engine(engine) if engine else None
        node = await InferenceNode.spawn(name, engine=loaded, **{"dirs": dirs, **options})  # type: ignore[arg-type]
        nodes.append(node)
        await node.join()
        return node

    yield joined
    await asyncio.gather(*(node.shutdown() for node in nodes))
