"""HTTP beside a node: the servers that one command opens. The law: what it needs is checked before anything
begins, its ports listen before anything is loaded, and they are closed with the block that opened them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_gossip.config import API_KEY, Config, environment_name
from llama_gossip.errors import ConfigError
from llama_gossip.gateway import require_extra

if TYPE_CHECKING:
    from llama_gossip.cli.output import Output
    from llama_gossip.gateway.app import Gateway
    from llama_gossip.gateway.keys import Keys
    from llama_gossip.gateway.metrics import Metrics
    from llama_gossip.gateway.server import Server
    from llama_gossip.node import InferenceNode


LAST_WORDS_S = 1.0  # for the errors that end what still runs


@dataclass(frozen=True, slots=True)
class HttpPlan:
    """What the options ask for. port: of OpenAI's API and the dashboard; None: not served, both of them."""

    host: str
    port: int | None
    metrics_port: int | None
    keys: Keys | None


def http_plan(config: Config, *, port: int | None = None, metrics_port: int | None = None) -> HttpPlan:
    """Raises ConfigError: the extra is missing, the keys or the address are wrong, or too open."""
    if port is None and metrics_port is None:
        return HttpPlan(config.host, None, None, None)
    require_extra()
    keys = None if port is None else _keys(config)
    return HttpPlan(config.host, port, metrics_port, keys)


def _keys(config: Config) -> Keys:
    from llama_gossip.gateway.binding import address_of
    from llama_gossip.gateway.keys import Keys

    variable = environment_name(API_KEY)
    keys = Keys.read(config.api_key_file, os.environ.get(variable))
    if not keys and not address_of(config.host).is_loopback:
        raise ConfigError(
            f"{config.host} can be reached from other machines, and no key is asked for",
            hint=f"name a file of keys (--api-key-file FILE), or put one key into {variable}",
        )
    return keys


class Http:
    """The servers of a command."""

    def __init__(self, plan: HttpPlan) -> None:
        self.plan = plan
        self._gateway: Gateway | None = None
        self._server: Server | None = None
        self._metrics: Metrics | None = None
        self._metrics_server: Server | None = None

    @property
    def url(self) -> str:
        """Of the gateway; "" without one."""
        return self._server.url if self._server is not None else ""

    @property
    def is_open(self) -> bool:
        """To other machines."""
        from llama_gossip.gateway.binding import address_of

        return self._server is not None and not address_of(self.plan.host).is_loopback

    @property
    def metrics_url(self) -> str:
        return f"{self._metrics_server.url}/metrics" if self._metrics_server is not None else ""

    async def open(self, node: InferenceNode) -> None:
        """Raises ConfigError for a port that cannot be had."""
        if self.plan.port is not None:
            await self._open_gateway(node, self.plan.port)
        if self.plan.metrics_port is not None:
            await self._open_metrics(node, self.plan.metrics_port)

    async def _open_gateway(self, node: InferenceNode, port: int) -> None:
        from llama_gossip.gateway.app import Gateway
        from llama_gossip.gateway.server import Server

        assert self.plan.keys is not None
        self._gateway = Gateway(node, keys=self.plan.keys, host=self.plan.host)
        self._server = Server(self._gateway.app, self.plan.host, port)
        await self._server.start()

    async def _open_metrics(self, node: InferenceNode, port: int) -> None:
        from llama_gossip.gateway.binding import LOCALHOST
        from llama_gossip.gateway.metrics import Metrics, metrics_app
        from llama_gossip.gateway.server import Server

        self._metrics = Metrics(node)
        self._metrics_server = Server(metrics_app(self._metrics), LOCALHOST, port)
        await self._metrics_server.start()

    async def drain(self, timeout_s: float) -> bool:
        """Takes no new generation and lets running ones end. False: time ran out."""
        if self._gateway is None or self._server is None:
            return True
        self._gateway.begin_drain()
        return await self._server.idle(timeout_s)

    async def close(self) -> None:
        """Ends what still runs, and says so to who waits for it. Harmless when repeated."""
        if self._gateway is not None:
            self._gateway.cut()
        for server in (self._server, self._metrics_server):
            if server is not None:
                await server.stop(LAST_WORDS_S)
        for listening in (self._gateway, self._metrics):
            if listening is not None:
                listening.close()


@contextlib.asynccontextmanager
async def serving_http(plan: HttpPlan, node: InferenceNode) -> AsyncIterator[Http]:
    """Raises ConfigError for a port that cannot be had."""
    http = Http(plan)
    try:
        await http.open(node)
        yield http
    finally:
        await http.close()


def tell_http(output: Output, http: Http) -> None:
    """Lines for people: where what is served. Open ports are warned of in every mode."""
    if http.is_open:
        output.warn(
            f"other machines reach this port ({http.plan.host}), and HTTP is not encrypted: "
            "who sees the packets reads keys, prompts and answers"
        )
    if http.url:
        output.say(f"  api     {http.url}/v1  (what OpenAI's clients take as base URL)")
        output.say(f"  watch   {http.url}/  (dashboard)")
    if http.metrics_url:
        output.say(f"  metrics {http.metrics_url}")
