"""SSE: a client of streamed chats, as cheap as can be: one kept connection, lines counted, nothing parsed."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

LIMIT_BYTES = 1 << 20  # of one line


@dataclass
class Streamed:
    """Seconds on this process's clock; a token is a chunk with content."""

    asked_s: float
    token_s: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def first_token_ms(self) -> float:
        return (self.token_s[0] - self.asked_s) * 1000


def chat_body(model: str, prompt: str, tokens: int, *, stream: bool = True) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}
    return json.dumps(body | {"stream": stream, "ignore_eos": True, "temperature": 0}).encode()


class Connection:
    """To one server, kept from answer to answer."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(
            self._parts.hostname, self._parts.port, limit=LIMIT_BYTES
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()

    def ask(self, body: bytes) -> float:
        """Sends a chat; when it was sent."""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._parts.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        asked_s = time.perf_counter()
        self._writer.write(head.encode() + body)
        return asked_s

    async def stream(self, body: bytes) -> Streamed:
        """One answer to its end, or to its error."""
        told = Streamed(self.ask(body))
        if not (status := await self._reader.readline()).startswith(b"HTTP/1.1 200"):
            told.error = status.decode().strip()
            return told
        while not (line := await self._reader.readline()).startswith(b"data: [DONE]"):
            if b'"delta":{"content"' in line:
                told.token_s.append(time.perf_counter())
            elif line.startswith(b'data: {"error"') or not line:
                told.error = line.decode().strip() or "the connection was closed"
                return told
        await self._reader.readuntil(b"0\r\n\r\n")
        return told

    async def first_line(self) -> bytes:
        """The status line of what was asked."""
        return await self._reader.readline()
