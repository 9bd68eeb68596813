"""Replies tally: how many HTTP replies there were of which status."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llama_gossip.gateway import families

USUAL = ("200", "400", "401", "403", "404", "429", "500", "502", "503", "504")


class RepliesTally(Collector):
    def __init__(self) -> None:
        self._replies = families.named(USUAL)

    def count(self, status: int) -> None:
        """A reply with this status is sent."""
        label = (str(status),)
        self._replies[label] = self._replies.get(label, 0.0) + 1

    def collect(self) -> Iterator[Metric]:
        about = "Replies of the HTTP server, refusals included."
        yield families.counters("http_replies", about, ("status",), self._replies)
