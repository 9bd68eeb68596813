"""Requests tally: what became of the requests of this node's user, by model and outcome.

The law: a request is counted once, when its news come, which is before its reader hears of its end. The names
of models are of the network's making: only those that have answered become labels, and so many at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llama_gossip.gateway import families
from llama_gossip.gateway.families import Labels, label_of
from llama_gossip.histogram import Histogram
from llama_gossip.news import NodeEvent, RequestAnswered

MAX_MODELS: Final = 64  # some hundred time series of each
OTHER: Final = "other"
FIRST_TOKEN_BOUNDS_S: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),  # a prefix that is cached, a small model
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),  # a queue, a model that is still loading
)
DURATION_BOUNDS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ANSWERED: Final = ("stop", "length")
MODEL: Final = ("model",)


class RequestsTally(Collector):
    """A listener of a node's news."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        self._requests: Counter[Labels] = Counter()
        self._prompt_tokens: Counter[Labels] = Counter()
        self._tokens: Counter[Labels] = Counter()
        self._first_token_s: dict[Labels, Histogram] = {}
        self._duration_s: dict[Labels, Histogram] = {}

    def listen(self, event: NodeEvent) -> None:
        if isinstance(event, RequestAnswered):
            self._count(event)

    def _count(self, end: RequestAnswered) -> None:
        whole = end.outcome in ANSWERED
        model = (self._model(end.model, answered=whole),)
        self._requests[(*model, end.outcome)] += 1
        self._prompt_tokens[model] += end.prompt_tokens
        self._tokens[model] += end.tokens
        if end.first_token_ms is not None:
            _of(model, self._first_token_s, FIRST_TOKEN_BOUNDS_S).observe(end.first_token_ms / 1000)
        if whole:
            _of(model, self._duration_s, DURATION_BOUNDS_S).observe(end.total_ms / 1000)

    def _model(self, name: str, *, answered: bool) -> str:
        """The label of a model."""
        label = label_of(name)
        if answered and label and len(self._models) < MAX_MODELS:
            self._models.add(label)
        return label if label in self._models else OTHER

    def collect(self) -> Iterator[Metric]:
        yield families.counters(
            "requests",
            "Requests of this node's user that have ended. outcome: stop, length or the error's code; "
            "model: other where none has answered, or one beyond the first 64.",
            ("model", "outcome"),
            self._requests,
        )
        yield families.counters(
            "prompt_tokens", "Tokens of the prompts of answered requests.", MODEL, self._prompt_tokens
        )
        yield families.counters(
            "completion_tokens",
            "Tokens of requests that have ended, whatever came of them.",
            MODEL,
            self._tokens,
        )
        yield families.histograms(
            "first_token_seconds", "From a request's submit to its first token.", MODEL, self._first_token_s
        )
        yield families.histograms(
            "request_duration_seconds",
            "From the submit to the end of whole answers.",
            MODEL,
            self._duration_s,
        )


def _of(model: Labels, seen: dict[Labels, Histogram], bounds: tuple[float, ...]) -> Histogram:
    if model not in seen:
        seen[model] = Histogram(bounds)
    return seen[model]
