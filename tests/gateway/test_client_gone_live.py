"""A client that goes takes its request along: the worker hears of it at once, whatever was asked for."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.cli.cli_process import READY_S
from tests.gateway.network_process import Network, network

pytestmark = pytest.mark.live

ENDLESS = {"model": "paced", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100_000}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("gone"), ["paced:20"]) as one:
        yield one


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_worker_stops_when_the_client_has_gone(net: Network, stream: bool, path: str) -> None:
    (serving,) = net.workers.values()
    at = urlsplit(net.url)
    assert at.hostname is not None
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=READY_S)
    connection.request(
        "POST",
        path,
        json.dumps({**ENDLESS, "prompt": "Hello", "stream": stream}),
        {"content-type": "application/json"},
    )
    request = serving.event("request")["request_id"]
    if stream:
        assert connection.getresponse().readline()
    left_ms = time.time() * 1000
    connection.close()
    end = serving.event("request_end", request_id=request)
    print(f"stopped {end['ts_ms'] - left_ms:.0f} ms after its client had gone, {end['tokens']} tokens made")
    assert end["reason"] == "cancelled"
    assert end["tokens"] < ENDLESS["max_tokens"]
