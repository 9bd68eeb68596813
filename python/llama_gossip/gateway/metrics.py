"""Metrics: what a node does, in Prometheus' text form.

The law: a counter has moved by the time that an answer's last byte is sent, and who does not look pays for
one count a request. The registry is this object's own: of several nodes in one process each tells what is its
own (and what the process uses as a whole).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from llama_gossip.gateway.engine_figures import EngineFigures
from llama_gossip.gateway.families import PREFIX
from llama_gossip.gateway.guard import guarded
from llama_gossip.gateway.keys import Keys
from llama_gossip.gateway.node_figures import NodeFigures
from llama_gossip.gateway.replies_tally import RepliesTally
from llama_gossip.gateway.requests_tally import RequestsTally

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """`close` ends its listening. To be used on the node's event loop."""

    def __init__(self, node: InferenceNode) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = Gauge(
            PREFIX + "requests_in_flight",
            "Generations asked by HTTP, from acceptance to end.",
            registry=self.registry,
        )
        self.replies = RepliesTally()
        tally = RequestsTally()
        for collector in (tally, self.replies, NodeFigures(node), EngineFigures(node)):
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)
        self._stop_listening = node.add_listener(tally.listen)

    def exposition(self) -> tuple[bytes, str]:
        """(body, content type)."""
        return generate_latest(self.registry), CONTENT_TYPE

    def close(self) -> None:
        """Idempotent."""
        self._stop_listening()


def metrics_app(metrics: Metrics) -> ASGIApp:
    """/metrics and /healthz, for a port of 127.0.0.1 that serves nothing else."""

    async def exposition(_: Request) -> Response:
        body, content_type = metrics.exposition()
        return Response(body, media_type=content_type)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    routes = [Route("/metrics", exposition), Route("/healthz", healthz)]
    return guarded(routes, keys=Keys(), loopback=True, replied=metrics.replies.count)
