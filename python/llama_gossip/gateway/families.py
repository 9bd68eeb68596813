"""Families: what is exposed, in the forms of prometheus-client. The law: every name of ours begins with the
package's, and what a peer may have said is one short line before it is a label's value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from llama_gossip.histogram import Histogram
from llama_gossip.plain_text import one_line

PREFIX: Final = "llama_gossip_"
MAX_LABEL_CHARS: Final = 80  # twice the longest name that a node may announce

Labels: TypeAlias = tuple[str, ...]


def label_of(text: str) -> str:
    return one_line(text)[:MAX_LABEL_CHARS]


def counter(name: str, about: str, value: float) -> Metric:
    """name: without prefix and `_total`."""
    return CounterMetricFamily(PREFIX + name, about, value=value)


def counters(name: str, about: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, about, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, about, value=value)


def gauges(name: str, about: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, about, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def histogram(name: str, about: str, seen: Histogram) -> Metric:
    return histograms(name, about, (), {(): seen})


def histograms(name: str, about: str, labels: Sequence[str], seen: Mapping[Labels, Histogram]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, about, labels=labels)
    for of, each in seen.items():
        bounds = (*map(floatToGoString, each.bounds), "+Inf")
        family.add_metric(of, list(zip(bounds, map(float, each.cumulated()), strict=True)), each.sum)
    return family


def named(of: Iterable[str]) -> dict[Labels, float]:
    """Values of one label that exist from the start, so that their first increase is seen."""
    return {(name,): 0.0 for name in of}
