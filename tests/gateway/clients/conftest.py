"""One network for all clients: two workers, a gateway for everybody and one that asks for a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.cli_process import Running
from tests.gateway.network_process import Network, network

MODEL = "scripted"
KEY = "sk-outside"


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("clients"), ["scripted:delay_ms=1", "scripted:delay_ms=1"]) as one:
        yield one


@pytest.fixture(scope="session")
def keyed_url(net: Network) -> Iterator[str]:
    """Base URL of a second gateway, which takes only KEY."""
    options = ("gateway", "--json", "--name", "keyed", "--port", "0")
    with Running(net.home, *options, LLAMA_GOSSIP_API_KEY=KEY) as keyed:
        yield f"{keyed.event('ready')['url']}/v1"
