"""A gateway over real nodes in one process: its node, workers, the HTTP server, and a client of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from llama_gossip import InferenceNode, load_engine
from llama_gossip.directories import Directories
from llama_gossip.gateway.app import Gateway
from llama_gossip.gateway.keys import Keys
from llama_gossip.gateway.server import Server
from llama_gossip.news import NodeEvent, RequestEnded
from tests.live.conftest import eventually

PATIENCE_S = 60.0  # only a failure waits so long
MODEL = "scripted"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "seed": 1}
COMPLETION = {"model": MODEL, "prompt": "Hello", "max_tokens": 5, "seed": 1}


@dataclass
class Stage:
    gateway: Gateway
    server: Server
    http: httpx2.AsyncClient
    node: InferenceNode
    workers: list[InferenceNode]
    ended: list[RequestEnded] = field(default_factory=list)  # the workers' jobs

    async def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return await self.http.post(path, json=body, headers=headers)

    async def chat(self, **changes: Any) -> httpx2.Response:
        return await self.post("/v1/chat/completions", CHAT | changes)

    async def completion(self, **changes: Any) -> httpx2.Response:
        return await self.post("/v1/completions", COMPLETION | changes)

    async def metric(self, name: str) -> float:
        text = (await self.http.get("/metrics")).text
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(line.rpartition(" ")[2])


@asynccontextmanager
async def staged(home: Path, engines: Sequence[str], keys: Keys | None = None) -> AsyncIterator[Stage]:
    """One worker for each engine, all seen by the gateway's node."""
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(home)})
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(InferenceNode.open(name="gateway", dirs=dirs))
        workers = [
            await stack.enter_async_context(
                InferenceNode.open(name=f"worker-{number}", dirs=dirs, engine=load_engine(engine))
            )
            for number, engine in enumerate(engines)
        ]
        gateway = Gateway(node, keys=keys or Keys(), host="127.0.0.1")
        stack.callback(gateway.close)
        server = Server(gateway.app, "127.0.0.1", 0)
        await server.start()
        stack.push_async_callback(server.stop, 1.0)
        http = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_S, trust_env=False)
        )
        stage = Stage(gateway, server, http, node, workers)
        for worker in workers:
            worker.add_listener(_keeper(stage.ended))
        await eventually(
            lambda: [peer.state for peer in node.peers()].count("ready") == len(workers), "workers are seen"
        )
        yield stage


def _keeper(ended: list[RequestEnded]) -> Any:
    def keep(event: NodeEvent) -> None:
        if isinstance(event, RequestEnded):
            ended.append(event)

    return keep


# --- what came -----------------------------------------------------------------------------------


def error_of(reply: httpx2.Response) -> dict[str, Any]:
    """The error object; its shape is the contract's."""
    body = reply.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


def events_of(text: str) -> list[Any]:
    """The data of each event of a stream, "[DONE]" as it is. Comments are left out."""
    assert text.endswith("\n\n")
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") for block in blocks), text
    datas = [block.removeprefix("data: ") for block in blocks]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def text_of(events: Sequence[Any], choice: int = 0) -> str:
    """What a chat's or completion's events say together."""
    choices = [one for event in events if isinstance(event, dict) for one in event.get("choices", [])]
    mine = [one for one in choices if one["index"] == choice]
    return "".join(one["text"] if "text" in one else one["delta"].get("content", "") for one in mine)


async def raw(stage: Stage, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of our own, for what a well-kept client does not do."""
    port = int(stage.server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    return reader, writer
