"""A server of its own for each test, and connections to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from llama_gossip.gateway.server import Server
from tests.gateway.server.asgi import Asgi, Connect, Streams, port_of


@pytest.fixture
async def asgi() -> Asgi:
    return Asgi()


@pytest.fixture
async def served(asgi: Asgi) -> AsyncIterator[Server]:
    one = Server(asgi, "127.0.0.1", 0)
    await one.start()
    yield one
    await one.stop(0.0)


@pytest.fixture
async def connect(served: Server) -> AsyncIterator[Connect]:
    """Opens connections and closes them at the end."""
    opened: list[asyncio.StreamWriter] = []

    async def open_one() -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(served))
        opened.append(writer)
        return reader, writer

    yield lambda: asyncio.ensure_future(open_one())
    for writer in opened:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
