"""Answering: an order's tokens become an HTTP reply, whole or as they come.

The law: a failure before a worker has taken the order is a reply with its status, one after it an event of
the stream, and never is a cut answer told as a whole one. A client that goes ends its order at once. When
the last byte is sent the order has ended and is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from llama_gossip.answer import Answer, Token
from llama_gossip.errors import LlamaGossipError
from llama_gossip.gateway.bodies import ClientGone
from llama_gossip.gateway.orders import Order, together
from llama_gossip.generation import Generation
from llama_gossip.openai_api import (
    DONE,
    WAITING,
    ApiError,
    Choice,
    Ended,
    Shaper,
    api_error_of,
    internal_error,
)

KEEP_ALIVE_S = 10.0  # proxies and clients give up on silence after half a minute or so
WORKER_HEADER = "x-llama-gossip-worker"
UNSENT_PIECES = 64  # of all choices together, before their generations wait for the client

Out = Callable[[bytes], Awaitable[None]]
Piece = tuple[int, list[Token] | Answer]  # of a choice: its next tokens, or its end

log = logging.getLogger(__name__)


async def reply_to(order: Order, shaper: Shaper, receive: Receive) -> Response:
    """Its answer whole, or a stream once workers have taken it. Ends it where it raises: LlamaGossipError,
    ClientGone. receive: of a request whose body was read."""
    watch = asyncio.create_task(_watch(order, receive), name="llama-gossip client watch")
    try:
        if order.asked.stream:
            await order.accepted()
            return Stream(order, shaper, watch)
        choices = await _choices(order)
    except BaseException as error:
        watch.cancel()
        order.end()
        if order.client_has_gone:
            raise ClientGone from error
        raise
    watch.cancel()
    order.end()
    return JSONResponse(shaper.whole(choices), headers={WORKER_HEADER: choices[0].ended.worker})


async def _watch(order: Order, receive: Receive) -> None:
    """Ends the order when its client goes; whoever waits for its tokens is told that it was cancelled."""
    while (await receive())["type"] != "http.disconnect":
        pass
    order.client_has_gone = True
    order.end("the HTTP client has gone")


# --- whole -------------------------------------------------------------------------------------


async def _choices(order: Order) -> list[Choice]:
    return [*await together(_choice(generation) for generation in order.generations)]


async def _choice(generation: Generation) -> Choice:
    tokens = [token async for token in generation]
    assert generation.answer is not None  # the iteration has ended without raising
    return Choice(generation.answer.text, tokens, ended_of(generation.answer))


def ended_of(answer: Answer) -> Ended:
    return Ended(
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
        worker=answer.worker,
        attempts=answer.attempts,
        request_id=answer.request_id,
        delivery=answer.delivery,
        resume=answer.resume,
        verified=answer.verified,
    )


# --- as it comes -------------------------------------------------------------------------------


class Stream(Response):
    """Server-sent events of an order that a worker has taken."""

    media_type = "text/event-stream"

    def __init__(self, order: Order, shaper: Shaper, watch: asyncio.Task[None]) -> None:
        """watch: ends the order when the client goes."""
        super().__init__(headers={WORKER_HEADER: order.worker})
        del self.headers["content-length"]
        self._order = order
        self._shaper = shaper
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await self._write(send)
        finally:  # nothing here waits: this may be the cancellation of the connection
            self._watch.cancel()
            self._order.end()

    async def _write(self, send: Send) -> None:
        async def out(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        try:
            last = await self._tell(out)
        except Exception as error:  # noqa: BLE001  the client is told of every one, the log of ours
            last = self._shaper.failure(_failure_of(error))
        self._order.end()  # before the last byte: whoever has it finds the order ended and counted
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _tell(self, out: Out) -> bytes:
        """Sends all but the last bytes, and returns those."""
        shaper = self._shaper
        data, begun = WAITING, set[int]()
        ends: dict[int, Ended] = {}
        if not any(generation.has_token for generation in self._order.generations):
            await out(data)
            data = b""
        waiting = asyncio.create_task(_keep_alive(out), name="llama-gossip keep-alive")
        try:
            async with contextlib.aclosing(_pieces(self._order.generations)) as pieces:
                async for choice, piece in pieces:
                    if choice not in begun:
                        begun.add(choice)
                        data += shaper.begin(choice)
                    if isinstance(piece, Answer):
                        ends[choice] = ended_of(piece)
                        data += shaper.finish(choice, ends[choice])
                    else:
                        data += b"".join([shaper.piece(choice, token) for token in piece])
                    if len(ends) == len(self._order.generations):
                        return data + self._usage(list(ends.values())) + DONE
                    waiting.cancel()
                    await out(data)
                    data = b""
        finally:
            waiting.cancel()
        raise AssertionError("a generation ended without an answer and without an error")

    def _usage(self, ends: list[Ended]) -> bytes:
        if not self._order.asked.include_usage:
            return b""
        return self._shaper.usage(
            sum(end.prompt_tokens for end in ends), sum(end.completion_tokens for end in ends)
        )


async def _keep_alive(out: Out) -> None:
    while True:
        await asyncio.sleep(KEEP_ALIVE_S)
        await out(WAITING)


def _failure_of(error: Exception) -> ApiError:
    if isinstance(error, LlamaGossipError):
        return api_error_of(error)
    log.error("a stream of the gateway failed", exc_info=error)
    return internal_error()


def _pieces(generations: Sequence[Generation]) -> AsyncGenerator[Piece, None]:
    return _pieces_of_one(0, generations[0]) if len(generations) == 1 else _pieces_of_many(generations)


async def _pieces_of_one(choice: int, generation: Generation) -> AsyncGenerator[Piece, None]:
    async for token in generation:
        yield choice, [token, *generation.arrived()]
    assert generation.answer is not None  # the iteration has ended without raising
    yield choice, generation.answer


async def _pieces_of_many(generations: Sequence[Generation]) -> AsyncGenerator[Piece, None]:
    """Of all of them as they come. The first that fails fails them all."""
    queue: asyncio.Queue[Piece | Exception] = asyncio.Queue(UNSENT_PIECES)

    async def pump(choice: int, generation: Generation) -> None:
        try:
            async for piece in _pieces_of_one(choice, generation):
                await queue.put(piece)
        except Exception as error:  # noqa: BLE001  raised by the reader
            await queue.put(error)

    pumps = [asyncio.create_task(pump(choice, generation)) for choice, generation in enumerate(generations)]
    try:
        while True:
            piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        for task in pumps:
            task.cancel()
