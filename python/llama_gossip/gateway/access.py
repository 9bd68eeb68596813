"""Access: who may speak to the port, decided before a route is looked for.

The law: on loopback the name that a browser used must be a loopback name (else another site's name that
points here would be let in); a page of another origin gets nothing; with keys all but the open paths need
one. Each reply has an id of its own, and every failure the one shape.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_gossip.gateway.keys import Key, Keys
from llama_gossip.gateway.replies import UnwantedBody, error_reply
from llama_gossip.openai_api import ApiError, internal_error

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/"})  # the bare page holds no data
OWN_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}

log = logging.getLogger(__name__)


class Access:
    """ASGI: wraps the routes. What it has found out stands in scope["llama_gossip.key"]."""

    def __init__(self, app: ASGIApp, *, keys: Keys, loopback: bool, replied: Callable[[int], None]) -> None:
        """replied: called with the status of each reply, before it is sent."""
        self._app = app
        self._replied = replied
        self._keys = keys
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = {"x-request-id": f"req_{secrets.token_hex(16)}", **OWN_HEADERS}
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._replied(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in own.items():
                    headers.setdefault(name, value)
            await send(message)

        # With it the router raises what it refuses, instead of replying in its own words.
        scope["app"] = self._app
        try:
            scope["llama_gossip.key"] = self._admit(Headers(scope=scope), scope["path"])
            await self._app(scope, receive, send_with_headers)
        except ApiError as error:
            await UnwantedBody(error)(scope, receive, send_with_headers)
        except Exception:  # a bug of ours: told without internals, and the log has the rest
            log.exception("a request of the gateway failed")
            if started:
                raise
            await error_reply(internal_error())(scope, receive, send_with_headers)

    def _admit(self, headers: Headers, path: str) -> Key | None:
        """Raises ApiError (401, 403)."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._loopback and not is_loopback_name(host):
            raise _forbidden("this gateway answers to localhost and loopback addresses only")
        if origin is not None and (not host or _authority(origin) != host.lower()):
            raise _forbidden("pages of another origin may not use this gateway")
        key = self._keys.find(headers.get("authorization"))
        if key is None and path not in OPEN_PATHS:
            raise _unauthorized(given="authorization" in headers)
        return key


def _authority(origin: str) -> str:
    """Host and port of an origin; "" for what has none (`null`) or is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_loopback_name(host: str) -> bool:
    """Of a Host header, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _forbidden(message: str) -> ApiError:
    return ApiError(403, message, "permission_error", None, "forbidden", retryable=False)


def _unauthorized(*, given: bool) -> ApiError:
    told = "this gateway does not know the key that was sent" if given else "this gateway asks for a key"
    return ApiError(
        401,
        f"{told}: send Authorization: Bearer KEY",
        "authentication_error",
        None,
        "invalid_api_key",
        retryable=False,
    )
