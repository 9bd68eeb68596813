"""What the documents say of the metrics: a table of all, and a dashboard that asks for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from llama_gossip.gateway.metrics import Metrics
from tests.live.conftest import Spawn

from .scrape import Scrape

pytestmark = pytest.mark.live

DOCS = Path(__file__).resolve().parents[3] / "docs"
OURS = re.compile(r"\b((?:llama_gossip|process)_\w+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
OF_A_TARGET = {"instance"}  # what Prometheus adds
WIDTH = 24


@pytest.fixture
async def scrape(spawn: Spawn) -> Scrape:
    node = await spawn("hybrid", engine="scripted")
    metrics = Metrics(node)
    await node.complete("Hello", max_tokens=3)
    return Scrape(metrics)


def rows(scrape: Scrape) -> Iterator[str]:
    for name, family in sorted(scrape.families.items()):
        if name.startswith("process_"):
            continue
        shown = f"{name}_total" if family.type == "counter" else name
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        yield f"| `{shown}` | {family.type} | {' '.join(labels)} | {family.documentation} |"


async def test_the_table_of_the_metrics_is_true_and_whole(scrape: Scrape) -> None:
    text = (DOCS / "metrics.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `llama_gossip_")] == [*rows(scrape)]
    told = {sample.name for family in scrape.families.values() for sample in family.samples}
    assert {name for name, _ in OURS.findall(text)} - {*told, *scrape.families} == set()


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text())
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


async def test_the_dashboard_asks_only_for_what_is_told_by_labels_that_it_has(
    scrape: Scrape, dashboard: dict[str, Any]
) -> None:
    told: dict[str, set[str]] = {}
    for family in scrape.families.values():
        for sample in family.samples:
            told.setdefault(sample.name, set()).update(sample.labels)
    asked = queries(dashboard)
    assert len(asked) > 50
    for query in asked:
        wanted = {label for group in GROUPED.findall(query) for label in re.split(r", ?", group)}
        for name, matchers in OURS.findall(query):
            assert name in told, query
            assert "instance" in matchers, query
            named = set(re.findall(r"(\w+)=", matchers))
            assert wanted | named <= told[name] | OF_A_TARGET, query
    assert "label_values(llama_gossip_node_info, instance)" in json.dumps(dashboard["templating"])
    assert "llama_gossip_node_info" in told


def test_the_dashboard_looks_at_counters_by_their_rise_and_at_gauges_as_they_are(
    dashboard: dict[str, Any],
) -> None:
    for query in queries(dashboard):
        for name, _ in OURS.findall(query):
            rises = re.search(rf"(rate|increase)\({name}\b", query) is not None
            assert rises == name.endswith(("_total", "_bucket")), query
        if "_bucket" in query:
            assert query.startswith("histogram_quantile(")
            assert "sum by (le)" in query


def test_the_dashboards_panels_lie_side_by_side_under_their_rows(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [
        "Requests",
        "Latency",
        "Tokens",
        "Workers",
        "Gossip and peers",
    ]
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= WIDTH
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or above, (one, other)


def test_the_dashboard_takes_its_data_source_from_its_reader(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 39  # Grafana 11
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    sources = [target["datasource"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    sources += [panel["datasource"] for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    assert "__inputs" not in dashboard
