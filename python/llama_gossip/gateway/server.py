"""Server: uvicorn inside the loop that is running. The law: signals, logging and the process stay ours; it
listens where it is told to or says why not; at its end nobody new is let in, answers get their grace, and
then every connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, TypeAlias

import uvicorn

from llama_gossip.gateway.binding import bind, url_of
from llama_gossip.gateway.connection import MAX_HEAD_BYTES, Connection, max_connections

Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

BACKLOG = 1024  # connections that come in one burst
IDLE_S = 75  # between two requests: longer than the pools of the usual clients keep one
CUT_S = 1.0  # for what is cut to notice


class Server:
    """Serves one ASGI app on one address. `start` and `stop` once each."""

    def __init__(self, app: App, host: str, port: int) -> None:
        """host: an IP address or localhost. port: 0 takes any that is free."""
        self._app = app
        self._host = host
        self._port = port
        self._url = ""
        self._uvicorn: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it is reached from this host, with the real port; "" before `start`."""
        return self._url

    async def start(self) -> None:
        """Returns when it accepts connections. Raises ConfigError (see `bind`)."""
        bound = bind(self._host, self._port)
        self._url = url_of(bound)
        self._uvicorn = server = _Uvicorn(_config(self._app))
        self._serving = asyncio.create_task(server.serve(sockets=[bound]), name="llama-gossip http")
        up = asyncio.create_task(server.up.wait())
        try:
            await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._serving.done():
            self._serving.result()

    async def idle(self, timeout_s: float) -> bool:
        """Waits until no request is under way; new ones are still taken. False: time ran out first."""
        assert self._uvicorn is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while tasks := set(self._uvicorn.server_state.tasks):
                    await asyncio.wait(tasks)
        return not self._uvicorn.server_state.tasks

    async def stop(self, grace_s: float) -> None:
        """Lets nobody in any more and closes idle connections at once; what still runs after `grace_s` is
        cut. Harmless when repeated, or without a start."""
        if self._uvicorn is None or self._serving is None:
            return
        self._uvicorn.stopping.set()
        await asyncio.wait({self._serving}, timeout=grace_s)
        if not self._serving.done():
            await self._cut(self._uvicorn, self._serving)
        await self._serving

    async def _cut(self, server: _Uvicorn, serving: asyncio.Task[None]) -> None:
        """The answers hear that their client has gone, and end; those that do not listen are cancelled."""
        for connection in list(server.server_state.connections):
            if isinstance(connection, Connection):
                connection.abort()
        await asyncio.wait({serving}, timeout=CUT_S)
        for task in list(server.server_state.tasks):
            task.cancel()


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they belong to the command

    async def main_loop(self) -> None:
        """Instead of looking ten times a second whether it is time to end."""
        self.up.set()
        await self.stopping.wait()


def _config(app: App) -> uvicorn.Config:
    class Limited(Connection):
        limit = max_connections()

    return uvicorn.Config(
        app,
        http=Limited,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        workers=1,  # or the environment would say
        proxy_headers=False,  # nobody stands between
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
