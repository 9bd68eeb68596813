"""Metrics of live nodes: they move by exact amounts, and have moved when an answer is whole."""

from __future__ import annotations

import asyncio

import pytest

from llama_gossip import Cancelled, InferenceNode, LlamaGossipError
from llama_gossip.gateway.metrics import Metrics
from tests.live.conftest import Spawn, eventually

from .scrape import Scrape

pytestmark = pytest.mark.live

SLOW = "scripted:delay_ms=5"


async def pair(spawn: Spawn, engine: str = SLOW) -> tuple[InferenceNode, InferenceNode]:
    """A worker and a client that sees it."""
    worker = await spawn("worker", engine=engine)
    client = await spawn("client")
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"], "the client sees the worker")
    await eventually(lambda: [p.state for p in worker.peers()] == ["client"], "the worker sees the client")
    return worker, client


async def test_both_sides_count_every_request_and_token_once(spawn: Spawn) -> None:
    worker, client = await pair(spawn)
    asking, serving = Metrics(client), Metrics(worker)
    answer = await client.complete("Hello", model="scripted", max_tokens=7, ignore_eos=True)
    seen = Scrape(asking)  # before the loop has turned once
    assert seen("requests_total", model="scripted", outcome="length") == 1
    assert seen("tokens_received_total") == seen("completion_tokens_total", model="scripted") == 7

    cut = client.generate("Hello", model="scripted", max_tokens=5_000, ignore_eos=True)
    await anext(cut)
    cut.cancel()
    with pytest.raises(Cancelled):
        await cut.complete()
    with pytest.raises(LlamaGossipError) as nobody:
        await client.complete("Hello", model="nobody-has-it", deadline_s=0.2)

    seen = Scrape(asking)
    tokens = seen("tokens_received_total")
    assert tokens > 7
    assert seen("requests_asked_total") == seen.sum("requests_total") == 3
    assert seen("requests_total", model="scripted", outcome="cancelled") == 1
    assert seen("requests_total", model="other", outcome=nobody.value.code) == 1
    assert seen("attempts_total") == 2
    assert seen("prompt_tokens_total", model="scripted") == answer.usage.prompt_tokens
    assert seen("completion_tokens_total", model="scripted") == tokens
    assert seen("first_token_seconds_count", model="scripted") == 2
    assert seen("request_duration_seconds_count", model="scripted") == 1
    assert seen("inter_token_seconds_count") == tokens - 2
    assert seen("peers", state="ready", role="worker") == 1
    assert seen("engine_up", model="scripted") == 0

    await eventually(lambda: Scrape(serving).sum("jobs_ended_total") == 2, "the worker has ended both")
    seen = Scrape(serving)
    assert seen("jobs_accepted_total") == seen("queue_wait_seconds_count") == 2
    assert seen("jobs_ended_total", ending="done") == seen("jobs_ended_total", ending="cancelled") == 1
    assert seen("tokens_made_total") >= tokens
    assert seen("worker_inter_token_seconds_count") == seen("tokens_made_total") - 2
    assert seen("engine_fed_tokens_total", model="scripted") == 2 * answer.usage.prompt_tokens
    assert seen("peers", state="client", role="client") == 1
    assert seen("requests_asked_total") == seen.sum("requests_total") == 0


async def test_gossip_is_counted_on_both_sides_and_signatures_are_timed(spawn: Spawn) -> None:
    worker, client = await pair(spawn)
    metrics = Metrics(client)

    def all_is_handled() -> bool:
        seen = Scrape(metrics)
        taken = seen("gossip_messages_accepted_total") + seen.sum("gossip_messages_dropped_total")
        return taken == seen("gossip_messages_received_total")

    await eventually(all_is_handled, "every message received is accepted or dropped")
    seen, theirs = Scrape(metrics), Scrape(Metrics(worker))
    received = seen("gossip_messages_received_total")
    assert received > 0
    assert seen("gossip_received_bytes_total") > 100 * received
    assert theirs("gossip_messages_sent_total") > 0
    assert theirs("gossip_sent_bytes_total") > 0
    assert seen("signature_verify_seconds_count") >= seen("gossip_messages_accepted_total")
    assert seen("gossip_neighbors") == seen("connections") == 1
    assert seen("node_info", node_id=client.node_id.hex(), name="client", version="0.1.0") == 1


async def test_a_failover_is_counted_by_how_exactly_it_went_on(spawn: Spawn) -> None:
    workers = [await spawn(f"worker-{number}", engine="scripted:delay_ms=20") for number in range(2)]
    client = await spawn("client")
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"] * 2, "both are ready")
    metrics = Metrics(client)
    generation = client.generate("Hello", max_tokens=30, ignore_eos=True, seed=3)
    await anext(generation)
    struck = next(worker for worker in workers if worker.node_id.hex() == generation.worker)
    struck.set_engine(None)
    await generation.complete()
    seen = Scrape(metrics)
    assert seen("failovers_total", resume="exact") == seen.sum("failovers_total") == 1
    assert seen("attempts_total") == 2
    assert seen("attempts_failed_total", how="error") == seen.sum("attempts_failed_total") == 1
    assert seen("requests_total", model="scripted", outcome="length") == seen.sum("requests_total") == 1


async def test_what_a_full_worker_rejects_is_counted_by_reason_and_by_its_requester(spawn: Spawn) -> None:
    worker, client = await pair(spawn, "scripted:delay_ms=50")
    asking, serving = Metrics(client), Metrics(worker)
    asked = [client.generate(f"Hello {number}", max_tokens=5_000) for number in range(150)]
    await eventually(lambda: Scrape(asking)("attempts_failed_total", how="rejected") > 0, "one is rejected")
    seen = Scrape(serving)
    assert seen("engine_batch_rows", model="scripted") == seen("engine_batch_slots", model="scripted") == 8
    assert seen("queued_jobs") > 0
    for generation in asked:
        await generation.aclose()
    rejected = Scrape(asking)("attempts_failed_total", how="rejected")
    assert Scrape(serving)("rejects_total", reason="full") >= rejected
    assert Scrape(serving).sum("rejects_total") == Scrape(serving)("rejects_total", reason="full")
    assert Scrape(asking)("requests_total", model="other", outcome="cancelled") == 150


async def test_the_pool_of_keys_and_values_is_told(spawn: Spawn) -> None:
    node = await spawn("worker", engine="tiny-random")
    metrics = Metrics(node)
    running = node.generate("Tell me a story. " * 8, max_tokens=2_000, ignore_eos=True)
    await anext(running)

    def bytes_of(part: str) -> float:
        return Scrape(metrics)(f"engine_{part}_bytes", model="tiny-random")

    assert bytes_of("kv_pool") > bytes_of("kv_pool_used") > 0
    running.cancel()
    await eventually(lambda: bytes_of("kv_pool_used") == 0, "the row has left")
    assert bytes_of("kv_pool") > bytes_of("kv_pool_kept") > 0
    assert bytes_of("weights") > 0


async def test_a_role_that_a_peer_made_up_is_no_label(spawn: Spawn) -> None:
    client = await spawn("client")
    await spawn("stranger", role='x"} 1')
    await eventually(lambda: len(client.peers()) == 1, "the stranger is seen")
    seen = Scrape(Metrics(client))
    assert seen.labels("peers", "role") == {"worker", "hybrid", "client", "other"}
    assert seen.sum("peers") == seen("peers", state="client", role="other") == 1


async def test_each_metrics_counts_for_itself_from_its_beginning_to_its_end(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine="scripted")
    first = Metrics(node)
    await node.complete("Hello", max_tokens=2)
    second = Metrics(node)
    await node.complete("Hello", max_tokens=2)
    first.close()
    first.close()
    await node.complete("Hello", max_tokens=2)
    assert (Scrape(first).sum("requests_total"), Scrape(second).sum("requests_total")) == (2, 2)
    first.in_flight.inc()
    assert (Scrape(first)("requests_in_flight"), Scrape(second)("requests_in_flight")) == (1, 0)


async def test_metrics_can_be_read_while_the_node_ends_and_after(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine=SLOW)
    metrics = Metrics(node)
    generation = node.generate("Hello", max_tokens=5_000, ignore_eos=True)
    await anext(generation)
    ending = asyncio.create_task(node.shutdown())
    while not ending.done():
        Scrape(metrics)
        await asyncio.sleep(0)
    await ending
    assert Scrape(metrics).sum("requests_total") == 1


async def test_figures_that_share_a_beginning_are_told_apart_and_times_are_in_seconds(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await spawn("client")
    stats = {
        "jobs": 5,
        "jobs_parked": 2,
        "jobs_done": 3,
        "jobs_superseded": 1,
        "attempts": 4,
        "attempts_idle": 1,
    }
    times = {"queue_ms": 1_500, "clock_skew_ms": -250}
    drops = {"dropped_seen": 4, "gossip_lagged": 6, "lag": 6}
    monkeypatch.setattr(node, "stats", lambda: {**stats, **times, **drops})
    seen = Scrape(Metrics(node))
    assert (seen("jobs_accepted_total"), seen("job_parkings_total"), seen("attempts_total")) == (5, 2, 4)
    assert seen.labels("jobs_ended_total", "ending") == {"done", "cancelled", "superseded"}
    assert seen.sum("jobs_ended_total") == 4
    assert seen("attempts_failed_total", how="idle") == seen.sum("attempts_failed_total") == 1
    assert (seen("queue_estimate_seconds"), seen("clock_skew_seconds")) == (1.5, -0.25)
    assert seen("gossip_messages_dropped_total", reason="seen") == 4
    assert seen("gossip_messages_dropped_total", reason="lag") == 6
    assert seen.sum("gossip_messages_dropped_total") == 10
