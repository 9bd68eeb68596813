"""Guard: what each HTTP port of ours has around its routes: who may speak to it, and one shape for all
that is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from llama_gossip.errors import LlamaGossipError
from llama_gossip.gateway.access import Access
from llama_gossip.gateway.bodies import BodyRefused, ClientGone
from llama_gossip.gateway.keys import Keys
from llama_gossip.gateway.replies import UnwantedBody, error_reply
from llama_gossip.openai_api import ApiError, api_error_of

CLIENT_GONE = 499  # nobody reads it


def guarded(
    routes: Sequence[Route], *, keys: Keys, loopback: bool, replied: Callable[[int], None]
) -> ASGIApp:
    """An ASGI application. keys, loopback, replied: see Access."""
    # Not a Starlette(): that would answer a failure of ours itself, in a shape of its own.
    router = Router(routes, redirect_slashes=False)
    return Access(
        ExceptionMiddleware(router, handlers=_HANDLERS), keys=keys, loopback=loopback, replied=replied
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return UnwantedBody(error) if isinstance(error, BodyRefused) else error_reply(error)


async def _node_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LlamaGossipError)
    return error_reply(api_error_of(error))


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    unknown = error.status_code == 404
    reply = UnwantedBody(
        ApiError(
            error.status_code,
            "there is no such path: GET /openapi.json lists them"
            if unknown
            else "the path has other methods",
            "invalid_request_error",
            None,
            "not_found" if unknown else "method_not_allowed",
            retryable=False,
        )
    )
    reply.headers.update(error.headers or {})
    return reply


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


_HANDLERS = {
    ApiError: _api_error,
    LlamaGossipError: _node_error,
    HTTPException: _http_error,
    ClientGone: _client_gone,
}
