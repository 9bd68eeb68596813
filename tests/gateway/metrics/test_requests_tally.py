"""The tally of requests: each counted once, and no name that a peer may choose becomes many labels."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llama_gossip.gateway.requests_tally import MAX_MODELS, OTHER, RequestsTally
from llama_gossip.news import PeerDown, RequestAnswered, RequestAsked

REQUEST = "ab" * 16


def answered(model: str, outcome: str = "stop", **changes: object) -> RequestAnswered:
    values: dict[str, object] = {
        "tokens": 5,
        "prompt_tokens": 7,
        "first_token_ms": 20.0,
        "total_ms": 400.0,
        "attempts": 1,
        "failovers": 0,
        "delivery": "direct",
        **changes,
    }
    return RequestAnswered(REQUEST, model, "cd" * 32, outcome, **values)  # type: ignore[arg-type]


def told(*news: RequestAnswered | RequestAsked | PeerDown) -> dict[tuple[str, ...], float]:
    """(sample without our prefix, label values by label name...) of a tally that heard these."""
    tally = RequestsTally()
    for event in news:
        tally.listen(event)
    registry = CollectorRegistry()
    registry.register(tally)
    text = generate_latest(registry).decode()
    return {
        (sample.name.removeprefix("llama_gossip_"), *(value for _, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def models_in(samples: Iterable[tuple[str, ...]]) -> set[str]:
    return {sample[1] for sample in samples if sample[0] == "requests_total"}


def test_requests_are_counted_by_model_and_outcome_with_their_tokens_and_times() -> None:
    seen = told(
        answered("tiny"),
        answered("tiny", first_token_ms=6.0, total_ms=70_000.0, tokens=1),
        answered("tiny", "length"),
        answered("big"),
    )
    assert seen["requests_total", "tiny", "stop"] == 2
    assert seen["requests_total", "tiny", "length"] == 1
    assert seen["prompt_tokens_total", "tiny"] == 21
    assert seen["completion_tokens_total", "tiny"] == 11
    assert seen["first_token_seconds_count", "tiny"] == 3
    assert seen["first_token_seconds_sum", "tiny"] == pytest.approx(0.046)
    assert seen["first_token_seconds_bucket", "0.01", "tiny"] == 1
    assert seen["request_duration_seconds_sum", "tiny"] == pytest.approx(70.8)
    assert seen["request_duration_seconds_bucket", "60.0", "tiny"] == 2
    assert seen["requests_total", "big", "stop"] == 1


def test_a_request_without_an_answer_counts_under_a_model_only_if_that_has_answered_before() -> None:
    late = answered("tiny", "peer_failed", tokens=3, prompt_tokens=0)
    none = answered("nobody-has-it", "model", tokens=0, prompt_tokens=0, first_token_ms=None)
    seen = told(late, answered("tiny"), late, none)
    assert seen["requests_total", OTHER, "peer_failed"] == 1
    assert seen["requests_total", "tiny", "peer_failed"] == 1
    assert seen["requests_total", OTHER, "model"] == 1
    assert seen["completion_tokens_total", OTHER] == 3
    assert seen["first_token_seconds_count", OTHER] == 1
    assert ("request_duration_seconds_count", OTHER) not in seen
    assert models_in(seen) == {"tiny", OTHER}


def test_after_so_many_models_the_next_ones_are_counted_together() -> None:
    names = [f"model-{number}" for number in range(MAX_MODELS + 6)]
    seen = told(*(answered(name) for name in names), *(answered(name) for name in names))
    assert models_in(seen) == {*names[:MAX_MODELS], OTHER}
    assert seen["requests_total", "model-0", "stop"] == 2
    assert seen["requests_total", OTHER, "stop"] == 12


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ('a"b', 'a"b'),
        ("a\\n", "a\\n"),
        ('x"} 1\nllama_gossip_requests_total{model="y', 'x"} 1llama_gossip_requests_total{model="y'),
        ("\u202etiny\x1b[31m\r\x00", "tiny[31m"),
        ("llama/3.2 東京", "llama/3.2 東京"),
        ("m" * 500, "m" * 80),
        ("", OTHER),
        ("\n", OTHER),
    ],
)
def test_a_models_name_cannot_break_out_of_its_label(name: str, label: str) -> None:
    seen = told(answered(name))
    assert {sample for sample in seen if sample[0] == "requests_total"} == {("requests_total", label, "stop")}


def test_other_news_count_nothing() -> None:
    assert told(RequestAsked(REQUEST, "tiny"), PeerDown("cd" * 32, "gone")) == {}
