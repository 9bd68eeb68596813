"""News of this node's own requests: each that is asked is answered once, whatever becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from llama_gossip import Cancelled, InferenceNode, LlamaGossipError, TransportError
from llama_gossip.news import NodeEvent, RequestAnswered, RequestAsked, RequestFailedOver, RequestTaken

from .conftest import Spawn, eventually

pytestmark = pytest.mark.live

SLOW = "scripted:delay_ms=20"


class Told:
    """What a node tells of its own requests, in order."""

    def __init__(self, node: InferenceNode) -> None:
        self.all: list[RequestAsked | RequestAnswered] = []
        self.under_way: list[RequestTaken | RequestFailedOver] = []
        node.add_listener(self._listen)

    def _listen(self, event: NodeEvent) -> None:
        if isinstance(event, RequestAsked | RequestAnswered):
            self.all.append(event)
        elif isinstance(event, RequestTaken | RequestFailedOver):
            self.under_way.append(event)

    def the_end(self, request_id: str) -> RequestAnswered:
        """Of the one request that this node was asked."""
        asked, answered = self.all
        assert isinstance(asked, RequestAsked)
        assert isinstance(answered, RequestAnswered)
        assert asked.request_id == answered.request_id == request_id
        return answered


async def test_an_answer_is_told_with_its_figures_before_its_reader_hears_of_its_end(
    spawn: Spawn,
) -> None:
    node = await spawn("hybrid", engine="scripted")
    told = Told(node)
    generation = node.generate("Hello", model="scripted", max_tokens=7, seed=1, ignore_eos=True)
    assert told.all == [RequestAsked(generation.request_id, "scripted")]
    answer = await generation.complete()
    end = told.the_end(generation.request_id)
    assert (end.model, end.worker, end.outcome) == ("scripted", node.node_id.hex(), "length")
    assert (end.tokens, end.prompt_tokens) == (7, answer.usage.prompt_tokens)
    assert (end.first_token_ms, end.total_ms) == (answer.timings.first_token_ms, answer.timings.total_ms)
    assert (end.attempts, end.failovers, end.delivery) == (1, 0, "direct")
    assert told.under_way == [RequestTaken(generation.request_id, node.node_id.hex(), 1)]


async def test_a_long_answer_that_a_thread_checks_is_told_before_its_reader_hears_of_it(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_gossip.generation.CHECKED_AT_ONCE_BYTES", 0)
    node = await spawn("hybrid", engine="scripted")
    told = Told(node)
    generation = node.generate("Hello", max_tokens=5, ignore_eos=True)
    await generation.complete()
    assert told.the_end(generation.request_id).outcome == "length"


async def test_a_cancelled_request_is_told_with_the_tokens_that_came(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine=SLOW)
    told = Told(node)
    generation = node.generate("Hello", max_tokens=500, ignore_eos=True)
    token = await anext(generation)
    generation.cancel()
    end = told.the_end(generation.request_id)
    assert (end.outcome, end.prompt_tokens, end.attempts) == ("cancelled", 0, 1)
    assert end.tokens > token.index
    assert end.first_token_ms is not None
    assert end.first_token_ms <= end.total_ms
    with pytest.raises(Cancelled):
        await generation.complete()
    assert len(told.all) == 2


async def test_a_request_that_nobody_serves_is_told_with_its_errors_code(spawn: Spawn) -> None:
    node = await spawn("client")
    told = Told(node)
    generation = node.generate("Hello", model="nobody-has-it", deadline_s=0.2)
    with pytest.raises(LlamaGossipError) as caught:
        await generation.complete()
    end = told.the_end(generation.request_id)
    assert (end.outcome, end.model, end.worker) == (caught.value.code, "nobody-has-it", "")
    assert (end.tokens, end.first_token_ms, end.attempts, end.delivery) == (0, None, 0, "")


async def test_a_request_of_a_node_that_is_shut_down_is_told_once(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine=SLOW)
    told = Told(node)
    generation = node.generate("Hello", max_tokens=500, ignore_eos=True)
    await anext(generation)
    await node.shutdown()
    with pytest.raises((Cancelled, TransportError)) as caught:
        await generation.complete()
    assert told.the_end(generation.request_id).outcome == caught.value.code


async def test_a_request_that_a_stopped_driver_ends_is_told_once(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine=SLOW)
    told = Told(node)
    generation = node.generate("Hello", max_tokens=500, ignore_eos=True)
    await anext(generation)
    node._driver.stop()  # as of a node that was dropped without a shutdown
    assert told.the_end(generation.request_id).outcome == "closed"


async def test_an_answer_that_another_worker_continues_tells_its_failover(spawn: Spawn) -> None:
    workers = [await spawn(f"worker-{number}", engine=SLOW) for number in range(2)]
    client = await spawn("client")
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"] * 2, "both are ready")
    told = Told(client)
    generation = client.generate("Hello", max_tokens=40, ignore_eos=True, seed=3)
    await anext(generation)
    struck = next(worker for worker in workers if worker.node_id.hex() == generation.worker)
    struck.set_engine(None)
    answer = await generation.complete()
    end = told.the_end(generation.request_id)
    assert (end.outcome, end.tokens, end.failovers) == ("length", 40, 1)
    assert (end.attempts, end.worker) == (answer.attempts, answer.worker)
    assert end.worker != struck.node_id.hex()
    (seam,) = answer_seams(told)
    assert (seam.request_id, seam.attempt) == (generation.request_id, answer.attempts)
    assert (seam.from_worker, seam.to_worker) == (struck.node_id.hex(), answer.worker)
    assert 0 < seam.index < 40
    assert seam.reason
    taken = [event.worker for event in told.under_way if isinstance(event, RequestTaken)]
    assert (taken[0], taken[-1]) == (struck.node_id.hex(), answer.worker)


def answer_seams(told: Told) -> list[RequestFailedOver]:
    return [event for event in told.under_way if isinstance(event, RequestFailedOver)]


async def test_requests_that_run_at_once_are_each_told_once(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine="scripted")
    told = Told(node)
    asked = [node.generate(f"Hello {number}", max_tokens=5) for number in range(20)]
    await asyncio.gather(*(generation.complete() for generation in asked))
    ids = sorted(generation.request_id for generation in asked)
    for kind in (RequestAsked, RequestAnswered):
        assert sorted(event.request_id for event in told.all if isinstance(event, kind)) == ids
