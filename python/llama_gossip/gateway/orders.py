"""Orders: what the HTTP clients have asked for and the network is answering, one generation a choice.

The law: an order that was begun is ended exactly once, whoever ends it and however; ending it cancels what
still runs, in no time and without waiting, so that it may be done wherever a client is found to have gone.
A gateway that drains takes no new ones.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from llama_gossip.errors import LlamaGossipError
from llama_gossip.gateway.keys import Key
from llama_gossip.generation import Generation
from llama_gossip.openai_api import ApiError, Asked
from llama_gossip.protocol.admission import MAX_REQUEST_TOKENS
from llama_gossip.protocol.events import Submit
from llama_gossip.protocol.messages import Prompt
from llama_gossip.submission import Sampling, submission

MAX_WAITING = 256  # that no worker has taken yet: beyond it a client had better come back
BUSY_S = 2  # when: a queue moves by then
DRAINING_S = 10  # by then this gateway has gone, and perhaps another listens here
DEFAULT_CHAT_TOKENS = 1_024


T = TypeVar("T")


class Gauge(Protocol):
    def inc(self) -> None: ...
    def dec(self) -> None: ...


class Order:
    """One HTTP request that models answer. `generations` are in the order of its prompts."""

    def __init__(
        self, asked: Asked, generations: Sequence[Generation], ended: Callable[[Order], None]
    ) -> None:
        self.asked = asked
        self.generations = generations
        self.client_has_gone = False
        self._ended: Callable[[Order], None] | None = ended

    @property
    def worker(self) -> str:
        """Node id of the worker that has the first choice; "" before one has."""
        return self.generations[0].worker or ""

    async def accepted(self) -> None:
        """Returns when workers have taken all of it. Raises LlamaGossipError."""
        await together(generation.accepted() for generation in self.generations)

    def end(self, reason: str = "its HTTP request has ended") -> None:
        """Harmless when repeated."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        for generation in self.generations:
            generation.cancel(reason)
        ended(self)


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> Sequence[T]:
    """The results, or the first failure. One alone costs no task."""
    first, *more = works
    return await asyncio.gather(first, *more) if more else [await first]


class Orders:
    def __init__(self, submit: Callable[[Submit], Generation], in_flight: Gauge) -> None:
        self._submit = submit
        self._in_flight = in_flight
        self._open: set[Order] = set()
        self.draining = False

    def drain(self) -> None:
        self.draining = True

    def cut(self) -> None:
        """Ends what still runs: its clients are told so."""
        for order in list(self._open):
            order.end("the gateway is leaving")

    def begin(self, asked: Asked, key: Key, priority: int, now_s: float) -> Order:
        """now_s: monotonic. Raises ApiError (429, 503), LlamaGossipError."""
        if self.draining:
            raise leaving()
        self._make_room(key, now_s)
        generations: list[Generation] = []
        try:
            for prompt in asked.prompts:  # each is there to be cancelled when a later one is refused
                submit = _submission(asked, prompt, min(priority, key.priority))
                generations += [self._submit(submit)]
        except LlamaGossipError:
            for generation in generations:
                generation.cancel("another part of the request was refused")
            raise
        order = Order(asked, generations, self._end)
        self._open.add(order)
        self._in_flight.inc()
        return order

    def _make_room(self, key: Key, now_s: float) -> None:
        if sum(1 for order in self._open if not order.worker) >= MAX_WAITING:
            raise _too_many("too many requests wait here for a worker", BUSY_S)
        if key.allowance is not None and (wait_s := key.allowance.take(now_s)) > 0:
            raise _too_many(f"the key {key.name!r} has used up its rate", math.ceil(wait_s))

    def _end(self, order: Order) -> None:
        self._open.discard(order)
        self._in_flight.dec()


def leaving() -> ApiError:
    return ApiError(503, "this gateway is leaving", "server_error", None, "draining", DRAINING_S)


def _too_many(message: str, again_s: int) -> ApiError:
    return ApiError(429, message, "rate_limit_error", None, "rate_limit_exceeded", again_s)


def _submission(asked: Asked, prompt: Prompt, priority: int) -> Submit:
    most = DEFAULT_CHAT_TOKENS if asked.max_tokens is None else asked.max_tokens
    sampling = Sampling(
        max_tokens=min(most, MAX_REQUEST_TOKENS),
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        seed=asked.seed,
        stop=asked.stop,
        ignore_eos=asked.ignore_eos,
        min_p=asked.min_p,
        repetition=asked.repetition,
        presence=asked.presence,
        frequency=asked.frequency,
        logprobs=asked.logprobs,
        logit_bias=dict(asked.logit_bias),
        fit=True,
    )
    return submission(prompt, sampling, model=asked.model, priority=priority, deadline_s=None, worker=None)
