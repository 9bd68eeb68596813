"""Metrics of a gateway, asked over HTTP right after an answer: its counters have moved by then, once each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.staging import Stage, events_of

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

OF_REQUESTS = (
    "requests_total",
    "prompt_tokens_total",
    "completion_tokens_total",
    "requests_asked_total",
    "attempts_total",
    "first_token_seconds_count",
    "request_duration_seconds_count",
    "tokens_received_total",
)
Moved = Counter[tuple[str, ...]]


async def counted(stage: Stage) -> Moved:
    """By name and labels' values."""
    text = (await stage.http.get("/metrics")).text
    return Counter(
        {
            (name, *sample.labels.values()): int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if (name := sample.name.removeprefix("llama_gossip_")) in OF_REQUESTS
        }
    )


def moved_by(requests: int, prompt_tokens: int, tokens: int) -> Moved:
    return Counter(
        {
            ("requests_total", "scripted", "length"): requests,
            ("prompt_tokens_total", "scripted"): prompt_tokens,
            ("completion_tokens_total", "scripted"): tokens,
            ("requests_asked_total",): requests,
            ("attempts_total",): requests,
            ("first_token_seconds_count", "scripted"): requests,
            ("request_duration_seconds_count", "scripted"): requests,
            ("tokens_received_total",): tokens,
        }
    )


async def test_a_whole_answer_has_been_counted_when_it_is_there(stage: Stage) -> None:
    for _ in range(5):
        before = await counted(stage)
        usage = (await stage.chat()).json()["usage"]
        expected = moved_by(1, usage["prompt_tokens"], usage["completion_tokens"])
        assert await counted(stage) - before == expected


async def test_a_streamed_answer_has_been_counted_when_its_last_chunk_is_there(stage: Stage) -> None:
    for _ in range(5):
        before = await counted(stage)
        reply = await stage.chat(stream=True, stream_options={"include_usage": True})
        usage: dict[str, Any] = events_of(reply.text)[-2]["usage"]
        expected = moved_by(1, usage["prompt_tokens"], usage["completion_tokens"])
        assert await counted(stage) - before == expected


async def test_each_prompt_of_a_completion_is_a_request(stage: Stage) -> None:
    before = await counted(stage)
    usage = (await stage.completion(prompt=["One", "Two", "Three"])).json()["usage"]
    assert usage["completion_tokens"] == 15
    assert await counted(stage) - before == moved_by(3, usage["prompt_tokens"], 15)


async def test_what_is_refused_before_it_is_asked_counts_no_request(stage: Stage) -> None:
    before = await counted(stage)
    assert (await stage.chat(temperature=9)).status_code == 400
    assert await counted(stage) == before


async def test_a_model_that_nobody_serves_counts_under_no_name_of_its_own(stage: Stage) -> None:
    before = await counted(stage)
    assert (await stage.chat(model="unheard/of")).status_code == 404
    moved = await counted(stage) - before
    assert moved == Counter({("requests_total", "other", "model"): 1, ("requests_asked_total",): 1})
