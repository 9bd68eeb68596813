"""App: the gateway's routes over one node.

The law: what a route cannot do it says in the API's one shape of an error; what it does for the network it
does through `orders`, and what it shows it reads from the node when it is asked.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llama_gossip.errors import LlamaGossipError
from llama_gossip.gateway.answering import reply_to
from llama_gossip.gateway.binding import address_of
from llama_gossip.gateway.bodies import read_json
from llama_gossip.gateway.dashboard import Dashboard
from llama_gossip.gateway.guard import guarded
from llama_gossip.gateway.keys import ORDINARY_PRIORITY, Key, Keys
from llama_gossip.gateway.metrics import Metrics
from llama_gossip.gateway.orders import Orders, leaving
from llama_gossip.gateway.served import Served
from llama_gossip.node import InferenceNode
from llama_gossip.openai_api import (
    ApiError,
    Asked,
    Kind,
    Shaper,
    api_error_of,
    chat_asked,
    completion_asked,
    model_object,
    models_list,
    openapi,
)
from llama_gossip.openai_api.errors import NO_WORKERS_AGAIN_S
from llama_gossip.submission import MAX_PRIORITY

PRIORITY_HEADER = "x-llama-gossip-priority"
ID_PREFIXES = {Kind.CHAT: "chatcmpl-", Kind.COMPLETION: "cmpl-"}

Endpoint = Callable[[Request], Awaitable[Response]]


class Gateway:
    """`app` is an ASGI application; it lives on the node's event loop."""

    def __init__(self, node: InferenceNode, *, keys: Keys, host: str) -> None:
        """host: the address that the port is bound to. Raises ConfigError (see `address_of`)."""
        self._metrics = Metrics(node)
        self._served = Served(node)
        self._orders = Orders(node.submit, self._metrics.in_flight)
        self._dashboard = Dashboard(node, keyed=bool(keys))
        self._document = openapi()
        loopback, replied = address_of(host).is_loopback, self._metrics.replies.count
        self.app = guarded(self._routes(), keys=keys, loopback=loopback, replied=replied)

    def begin_drain(self) -> None:
        """New generations are refused, what watches is ended; running answers go on."""
        self._orders.drain()
        self._dashboard.close()

    def cut(self) -> None:
        """Ends the answers that still run, with an error that tells their clients."""
        self._orders.cut()

    def close(self) -> None:
        """After the last reply: listens to the node no more."""
        self._dashboard.close()
        self._metrics.close()

    def _routes(self) -> list[Route]:
        return [
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/v1/chat/completions", self._generation(chat_asked), methods=["POST"]),
            Route("/v1/completions", self._generation(completion_asked), methods=["POST"]),
            Route("/healthz", _healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._exposition),
            Route("/openapi.json", self._openapi),
            *self._dashboard.routes(),
        ]

    # --- looking ---

    async def _models(self, request: Request) -> Response:
        return JSONResponse(models_list(self._served.models()))

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        created = self._served.models().get(name)
        if created is None:
            raise ApiError(
                404,
                "no worker of the network serves this model: GET /v1/models lists those that are served",
                "invalid_request_error",
                "model",
                "model_not_found",
                retryable=False,
            )
        return JSONResponse(model_object(name, created))

    async def _readyz(self, request: Request) -> Response:
        if self._orders.draining:
            raise leaving()
        if not self._served.is_ready():
            raise ApiError(503, "no worker is ready", "server_error", None, "no_workers", NO_WORKERS_AGAIN_S)
        return JSONResponse({"status": "ready"})

    async def _exposition(self, request: Request) -> Response:
        body, media_type = self._metrics.exposition()
        return Response(body, media_type=media_type)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._document)

    # --- asking ---

    def _generation(self, read: Callable[[bytes], Asked]) -> Endpoint:
        async def generate(request: Request) -> Response:
            asked = read(await read_json(request))
            key: Key = request.scope["llama_gossip.key"]
            shaper, priority = _shaper_of(asked), _priority_of(request)
            try:
                order = self._orders.begin(asked, key, priority, time.monotonic())
                return await reply_to(order, shaper, request.receive)
            except LlamaGossipError as error:
                raise api_error_of(error, param=asked.prompt_field) from error

        return generate


def _shaper_of(asked: Asked) -> Shaper:
    answer_id = ID_PREFIXES[asked.kind] + secrets.token_hex(16)
    return Shaper(asked, answer_id=answer_id, created=int(time.time()))


def _priority_of(request: Request) -> int:
    """Raises ApiError."""
    text = request.headers.get(PRIORITY_HEADER, "")
    if text and not (len(text) == 1 and text.isascii() and text.isdigit()):
        raise ApiError(
            400,
            f"{PRIORITY_HEADER} must be one digit, {MAX_PRIORITY} the most urgent",
            "invalid_request_error",
            PRIORITY_HEADER,
            "invalid_value",
            retryable=False,
        )
    return int(text) if text else ORDINARY_PRIORITY


async def _healthz(request: Request) -> Response:
    return JSONResponse({"status": "ok"})
