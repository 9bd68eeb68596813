"""Dashboard: what a person sees of the network in a browser, and the same as JSON and as a stream.

The law: reading changes nothing. Where keys are set the page holds no data until one is given, and nobody is
told the ticket: a key has a rate and a priority, a ticket would let its holder past both, for good.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from llama_gossip.gateway.live import Live
from llama_gossip.gateway.page import Page
from llama_gossip.gateway.replies import error_reply
from llama_gossip.gateway.status import Status
from llama_gossip.news import NodeEvent
from llama_gossip.openai_api import ApiError

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode

FRESH = {
    "cache-control": "no-cache, no-store",  # it changes every second, and may hold the ticket
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
STREAM = {**FRESH, "cache-control": "no-cache", "x-accel-buffering": "no"}


AGAIN_S = 10


class Dashboard:
    """Made on the node's event loop; looks at the node until `close`."""

    def __init__(self, node: InferenceNode, *, keyed: bool) -> None:
        """keyed: the routes under /api need a key (whoever mounts them sees to that)."""
        self._keyed = keyed
        self._page = Page()
        self._status = Status(node, tells_ticket=not keyed)
        self._live = Live(self._status)
        self._unlisten = node.add_listener(self._hear)

    def close(self) -> None:
        """Ends the event streams and the watching of the node. Idempotent."""
        self._unlisten()
        self._status.close()
        self._live.close()

    def routes(self) -> list[Route]:
        return [
            Route("/", self._show),
            Route("/api/status", self._tell),
            Route("/api/events", self._stream),
        ]

    @property
    def readers(self) -> int:
        """Event streams that are open."""
        return self._live.readers

    def _hear(self, news: NodeEvent) -> None:
        self._live.stir()

    async def _show(self, request: Request) -> Response:
        state = None if self._keyed else self._status.live()
        headers = {**FRESH, **self._page.headers}
        return Response(self._page.text(state), headers=headers, media_type="text/html")

    async def _tell(self, request: Request) -> Response:
        body = json.dumps(self._status.whole(), ensure_ascii=False, separators=(",", ":"))
        return Response(body, headers=FRESH, media_type="application/json")

    async def _stream(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(headers=STREAM, media_type="text/event-stream")
        if self._live.closed:
            return _refusal("this gateway ends its work", "draining")
        if self._live.full:
            return _refusal("too many dashboards are open: close one", "too_many_readers")
        return StreamingResponse(self._live.stream(), headers=STREAM, media_type="text/event-stream")


def _refusal(message: str, code: str) -> Response:
    return error_reply(ApiError(503, message, code=code, retry_after_s=AGAIN_S))
