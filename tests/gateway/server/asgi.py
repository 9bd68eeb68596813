"""A small ASGI app, and the other end of its connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from llama_gossip.gateway.server import Server

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], "asyncio.Future[Streams]"]

PATIENCE_S = 20.0  # only a failure waits so long


class Asgi:
    """`/` answers, `/echo` tells how long the body was, `/stream` sends until `enough` is set or the client
    has gone, `/flood` sends more than any socket holds."""

    def __init__(self) -> None:
        self.enough = asyncio.Event()
        self.running = asyncio.Event()
        self.gone = asyncio.Event()
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        path = scope["path"]
        if path == "/stream":
            await self._stream(receive, send)
            return
        if path == "/flood":
            await self._flood(receive, send)
            return
        body = b"hello"
        if path == "/echo":
            size = 0
            while (message := await receive()).get("more_body"):
                size += len(message["body"])
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            body = str(size + len(message["body"])).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _flood(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        if (await receive())["type"] == "http.disconnect":
            self.gone.set()

    async def _stream(self, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one;", "more_body": True})
            self.running.set()
            left = asyncio.ensure_future(receive())
            enough = asyncio.ensure_future(self.enough.wait())
            await asyncio.wait({left, enough}, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                enough.cancel()
                self.gone.set()
                return
            left.cancel()
            await send({"type": "http.response.body", "body": b"two;"})
            return


def port_of(served: Server) -> int:
    return int(served.url.rpartition(":")[2])


def head(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: here", *lines, "", ""]).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one response that has a content-length."""
    text = (await within(reader.readuntil(b"\r\n\r\n"))).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in text[1:] if line)
    body = await within(reader.readexactly(int(headers["content-length"])))
    return int(text[0].split()[1]), headers, body


async def within(work: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await work


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes, or cuts, the connection."""
    with contextlib.suppress(ConnectionResetError):
        return bytes(await within(reader.read()))
    return b""
