"""The names, types and texts of all metrics, as Prometheus' conventions want them."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from prometheus_client.metrics_core import Metric

from llama_gossip.gateway.metrics import Metrics
from tests.live.conftest import Spawn

from .scrape import Scrape

pytestmark = pytest.mark.live

NAME = re.compile(r"llama_gossip_[a-z]+(_[a-z]+)*")
BASE_UNITS = ("seconds", "bytes")
OTHER_UNITS = re.compile(
    r"_(ms|s|millis\w*|micros\w*|nanos\w*|minutes|hours|kb|kib|mb|mib|gb|gib|percent)(_|$)"
)
BUSY_WORDS = ("active", "running", "in_flight", "inflight")


@pytest.fixture
async def scrape(spawn: Spawn) -> Scrape:
    """Of a node that has asked itself and got an answer, so that no family is empty."""
    node = await spawn("hybrid", engine="scripted")
    metrics = Metrics(node)
    await node.complete("Hello", max_tokens=3)
    return Scrape(metrics)


def ours(scrape: Scrape) -> list[Metric]:
    found = [family for family in scrape.families.values() if not family.name.startswith("process_")]
    assert len(found) > 40
    return found


async def test_all_metrics_keep_the_conventions(scrape: Scrape) -> None:
    """One scrape, looked at from all sides."""
    the_text_is_whole(scrape)
    for family in ours(scrape):
        a_name_is_plain_and_in_base_units(family)
        a_help_is_a_sentence(family)
        labels_are_few_and_their_own(family)
        if family.type == "histogram":
            buckets_are_cumulative_and_whole(family)
    only_one_gauge_counts_what_is_under_way(scrape)


def the_text_is_whole(scrape: Scrape) -> None:
    assert scrape.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert scrape.text.endswith("\n")
    lines = scrape.text.splitlines()
    for word in ("HELP", "TYPE"):
        told = Counter(line.split(" ")[2] for line in lines if line.startswith(f"# {word} "))
        assert set(told.values()) == {1}
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines), "a sample is told twice"
    for line in lines:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert (kind == "counter") == name.endswith("_total"), line
            assert kind in ("counter", "gauge", "histogram")
        assert "_created" not in line


def a_name_is_plain_and_in_base_units(family: Metric) -> None:
    name = family.name
    assert NAME.fullmatch(name), name
    assert not OTHER_UNITS.search(name), name
    assert not any(word in name for word in ("counter", "gauge", "histogram", "summary")), name
    for unit in BASE_UNITS:
        assert unit not in name or name.endswith((unit, "_per_second")), name
    assert family.samples, f"{name} is empty: its samples cannot be judged"


def a_help_is_a_sentence(family: Metric) -> None:
    about = family.documentation
    assert re.match(r"[A-Z0-9].*\.$", about), (family.name, about)
    assert "\n" not in about


def labels_are_few_and_their_own(family: Metric) -> None:
    for sample in family.samples:
        own = {name for name in sample.labels if not (name == "le" and sample.name.endswith("_bucket"))}
        assert len(own) <= 3, sample
        assert not own & {"le", "quantile", "job", "instance"}, sample
        assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in own), sample
    assert len(family.samples) < 100, f"{family.name} of one small node has too many series"


def buckets_are_cumulative_and_whole(family: Metric) -> None:
    assert family.name.endswith("_seconds")
    counts = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
    bounds = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
    assert counts == sorted(counts)
    assert [float(bound) for bound in bounds] == sorted(float(bound) for bound in bounds)
    assert bounds[-1] == "+Inf"
    (count,) = [sample.value for sample in family.samples if sample.name.endswith("_count")]
    assert counts[-1] == count


def only_one_gauge_counts_what_is_under_way(scrape: Scrape) -> None:
    busy = [name for name in scrape.families if any(word in name for word in BUSY_WORDS)]
    assert busy == ["llama_gossip_requests_in_flight"]
    assert scrape("requests_in_flight") == 0
