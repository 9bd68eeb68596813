"""The dashboard's own routes over a real node and a real server; nothing else is mounted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette

from llama_gossip import InferenceNode, load_engine
from llama_gossip.directories import Directories
from llama_gossip.gateway.dashboard import Dashboard
from llama_gossip.gateway.server import Server
from tests.live.conftest import eventually

PATIENCE_S = 60.0  # only a failure waits so long


@dataclass
class Stage:
    node: InferenceNode
    worker: InferenceNode
    dashboard: Dashboard
    http: httpx2.AsyncClient

    async def status(self) -> dict[str, Any]:
        reply = await self.http.get("/api/status")
        assert reply.status_code == 200
        told: dict[str, Any] = reply.json()
        return told


@asynccontextmanager
async def staged(home: Path, *, keyed: bool = False) -> AsyncIterator[Stage]:
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(home)})
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(InferenceNode.open(name="gateway", dirs=dirs))
        engine = load_engine("scripted:delay_ms=5")
        worker = await stack.enter_async_context(
            InferenceNode.open(name="worker-1", dirs=dirs, engine=engine)
        )
        await eventually(lambda: [p.state for p in node.peers()] == ["ready"], "the worker is seen")
        dashboard = Dashboard(node, keyed=keyed)
        stack.callback(dashboard.close)
        server = Server(Starlette(routes=dashboard.routes()), "127.0.0.1", 0)
        await server.start()
        stack.push_async_callback(server.stop, 1.0)
        http = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_S, trust_env=False)
        )
        yield Stage(node, worker, dashboard, http)


async def events(reply: httpx2.Response) -> AsyncIterator[tuple[str, Any]]:
    """(event, data) of a stream, as they come; ("", "") for a comment."""
    name = ""
    async for line in reply.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
        elif line.startswith(":"):
            yield "", ""
