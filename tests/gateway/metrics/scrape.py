"""What a scrape of a node's metrics says, read by prometheus-client's own parser."""

from __future__ import annotations

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from llama_gossip.gateway.metrics import Metrics


class Scrape:
    def __init__(self, metrics: Metrics) -> None:
        body, self.content_type = metrics.exposition()
        self.text = body.decode()
        self.families: dict[str, Metric] = {}
        for family in text_string_to_metric_families(self.text):
            assert family.name not in self.families, f"{family.name} is told twice"
            self.families[family.name] = family
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, /, **labels: str) -> float:
        """The value of one sample, by its name without our prefix; 0 where there is none."""
        return self._samples.get((f"llama_gossip_{name}", frozenset(labels.items())), 0.0)

    def sum(self, name: str) -> float:
        """Over all labels."""
        return sum(value for (found, _), value in self._samples.items() if found == f"llama_gossip_{name}")

    def labels(self, name: str, label: str) -> set[str]:
        """The values of one label."""
        names = [dict(labels) for found, labels in self._samples if found == f"llama_gossip_{name}"]
        return {labels[label] for labels in names}
