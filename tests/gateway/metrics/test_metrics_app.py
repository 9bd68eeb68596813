"""The app of a node that serves nothing but its metrics, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http.client import HTTPConnection

import pytest

from llama_gossip.gateway.metrics import Metrics, metrics_app
from llama_gossip.gateway.server import Server
from tests.live.conftest import Spawn

pytestmark = pytest.mark.live


@pytest.fixture
async def served(spawn: Spawn) -> AsyncIterator[Server]:
    node = await spawn("worker", engine="scripted")
    server = Server(metrics_app(Metrics(node)), "127.0.0.1", 0)
    await server.start()
    yield server
    await server.stop(0.0)


async def asked(server: Server, method: str, path: str, host: str = "") -> tuple[int, str, bytes]:
    """(status, content type, body). host: what the client takes the server for."""

    def ask() -> tuple[int, str, bytes]:
        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        connection.request(method, path, headers={"host": host} if host else {})
        answer = connection.getresponse()
        found = answer.status, answer.getheader("content-type") or "", answer.read()
        connection.close()
        return found

    return await asyncio.to_thread(ask)


async def test_the_metrics_are_served_as_prometheus_reads_them(served: Server) -> None:
    status, content_type, body = await asked(served, "GET", "/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'llama_gossip_engine_up{model="scripted"} 1.0\n' in body
    assert await asked(served, "HEAD", "/metrics") == (200, content_type, b"")


async def test_it_is_healthy_and_knows_nothing_else(served: Server) -> None:
    status, _, body = await asked(served, "GET", "/healthz")
    assert (status, body) == (200, b'{"status":"ok"}')
    assert (await asked(served, "GET", "/v1/models"))[0] == 404
    assert (await asked(served, "GET", "/metrics/"))[0] == 404
    assert (await asked(served, "POST", "/metrics"))[0] == 405


async def test_another_sites_name_for_this_port_is_refused(served: Server) -> None:
    status, content_type, body = await asked(served, "GET", "/metrics", host="evil.example")
    assert (status, content_type) == (403, "application/json")
    assert b"llama_gossip_" not in body
