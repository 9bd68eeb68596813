"""Replies that are no answer of a model: errors in the API's one shape, also to who is still sending."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from llama_gossip.openai_api import ApiError

UNWANTED_BYTES = 64 << 20  # of a body that was refused, read so that its sender gets to read the refusal
UNWANTED_S = 10.0


def error_reply(error: ApiError) -> JSONResponse:
    """To a request whose body was read."""
    return JSONResponse(error.body(), error.status, headers=error.headers())


class UnwantedBody(JSONResponse):
    """An error that is sent while its client still sends. A connection closed under it would be reset, and
    the reply lost: it ends once the rest of the body has been read and dropped, within limits."""

    def __init__(self, error: ApiError) -> None:
        headers = error.headers() | ({"www-authenticate": "Bearer"} if error.status == 401 else {})
        super().__init__(error.body(), error.status, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hold(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await super().__call__(scope, receive, hold)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNWANTED_S):
                await _drop(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop(receive: Receive) -> None:
    dropped = 0
    while dropped < UNWANTED_BYTES:
        message = await receive()
        dropped += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
