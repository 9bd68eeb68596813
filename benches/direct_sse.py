"""A plain HTTP server around an engine, streamed chats and no network in between: what the gateway is held
against. `python benches/direct_sse.py SPEC` prints its address as one JSON line and serves until SIGTERM."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from llama_gossip import load_engine
from llama_gossip.answer import Token
from llama_gossip.engine.base import EngineEvent, EngineJob, JobDone, JobFailed, JobTokens
from llama_gossip.gateway.server import Server
from llama_gossip.openai_api import DONE, Shaper, chat_asked
from llama_gossip.protocol.messages import GenerationConfig


class Direct:
    def __init__(self, spec: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Queue[EngineEvent]] = {}
        self._numbers = itertools.count()
        self._engine = load_engine(spec, max_concurrent=256)
        self._engine.start(self._sink)
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    def _sink(self, batch: Sequence[EngineEvent]) -> None:
        self._loop.call_soon_threadsafe(self._put, tuple(batch))

    def _put(self, batch: tuple[EngineEvent, ...]) -> None:
        for event in batch:
            if (queue := self._waiting.get(event.job_id)) is not None:  # None: its client has gone
                queue.put_nowait(event)

    async def _chat(self, request: Request) -> StreamingResponse:
        body = await request.body()
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: bytes) -> AsyncIterator[bytes]:
        asked, number = chat_asked(body), next(self._numbers)
        shaper = Shaper(asked, answer_id=f"chatcmpl-{number}", created=0)
        queue: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._waiting[number] = queue
        config = GenerationConfig(
            max_tokens=asked.max_tokens or 16, temperature=asked.temperature, ignore_eos=asked.ignore_eos
        )
        self._engine.submit(EngineJob(number, asked.prompts[0], config, date="2026-01-01"))
        try:
            yield shaper.begin(0)
            while not isinstance(event := await queue.get(), JobDone | JobFailed):
                if isinstance(event, JobTokens):
                    tokens = zip(event.token_ids, event.texts, strict=True)
                    pieces = (Token(event.index + at, *token) for at, token in enumerate(tokens))
                    yield b"".join(shaper.piece(0, piece) for piece in pieces)
            yield DONE
        finally:
            self._engine.cancel(number)
            del self._waiting[number]


async def serve(spec: str) -> None:
    server = Server(Direct(spec).app, "127.0.0.1", 0)
    await server.start()
    print(json.dumps({"event": "ready", "url": server.url}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
