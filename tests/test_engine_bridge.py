"""Engine bridge: an engine's batches become core events on the loop, in order, and every job ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

from llama_gossip import load_engine
from llama_gossip.engine import base, process_engine
from llama_gossip.engine_bridge import EngineBridge
from llama_gossip.engine_set import EngineSet
from llama_gossip.histogram import Histogram
from llama_gossip.protocol import effects, events
from llama_gossip.protocol.messages import ChatPrompt, GenerationConfig, NodeId, Phase, RequestId


def start(job: int, *, max_tokens: int = 5) -> effects.StartJob:
    return effects.StartJob(
        job=job,
        requester=NodeId(b"r" * 32),
        request_id=RequestId(b"i" * 16),
        attempt=1,
        model="scripted",
        prompt=ChatPrompt((("user", "Hello"),)),
        config=GenerationConfig(max_tokens=max_tokens, temperature=0.0, top_p=1.0, top_k=None, seed=1),
        date="2026-01-01",
        resume=None,
        deadline_ms=60_000,
    )


class Listening:
    """A started bridge over a real scripted engine, and the core events that came out of it."""

    def __init__(self, engine: base.Engine | str = "scripted", made: Histogram | None = None) -> None:
        self.seen: list[events.Event] = []
        self.threads: set[int] = set()
        self.refuses: type[object] | None = None
        self._changed = asyncio.Event()
        engine = load_engine(engine) if isinstance(engine, str) else engine
        self.bridge = EngineBridge(
            engine, self._feed, trusted=True, look=lambda: self.engines.look(), made=made
        )
        self.engines = EngineSet([self.bridge], self._feed)
        self.bridge.start()

    def _feed(self, event: events.Event) -> None:
        self.threads.add(threading.get_ident())
        self.seen.append(event)
        self._changed.set()
        if self.refuses is not None and isinstance(event, self.refuses):
            raise LookupError("the core does not like it")

    async def first(self, *kinds: type[Any]) -> Any:
        async with asyncio.timeout(60):
            while True:
                found = [event for event in self.seen if isinstance(event, kinds)]
                if found:
                    return found[0]
                await self.next()

    async def next(self) -> None:
        """Until something new is seen."""
        self._changed.clear()
        await self._changed.wait()


async def test_a_job_comes_out_as_started_tokens_and_done_on_the_loops_thread() -> None:
    it = Listening()
    it.bridge.submit(start(1))
    done: events.EngineDone = await it.first(events.EngineDone)
    kinds = [type(event) for event in it.seen if not isinstance(event, events.EngineStepped)]
    assert kinds == [events.EngineStarted, *[events.EngineTokens] * (len(kinds) - 2), events.EngineDone]
    assert isinstance(it.seen[0], events.EngineStepped)
    tokens = [event for event in it.seen if isinstance(event, events.EngineTokens)]
    assert [token.index for token in tokens] == list(range(5))
    assert (done.job, done.total_tokens) == (1, 5)
    info = it.bridge.engine.info
    facts = (await it.first(events.EngineStarted)).facts
    assert done.model_digest == info.model_digest
    assert (facts.model_digest, facts.numerics_id) == (info.model_digest, info.numerics_id)
    assert it.threads == {threading.get_ident()}
    it.bridge.close()


async def test_prefill_is_told_as_progress() -> None:
    it = Listening("scripted:prefill_chunk=4")
    it.bridge.submit(start(1))
    progress: events.EngineProgress = await it.first(events.EngineProgress)
    assert progress.phase is Phase.PREFILL
    assert 0 < progress.value < 100
    it.bridge.close()


async def test_a_cancel_ends_the_job_and_an_unknown_one_is_ignored() -> None:
    it = Listening("scripted:delay_ms=5")
    it.bridge.cancel(99)
    it.bridge.submit(start(1, max_tokens=100_000))
    await it.first(events.EngineTokens)
    it.bridge.cancel(1)
    failed: events.EngineFailed = await it.first(events.EngineFailed, events.EngineDone)
    assert (failed.job, failed.code) == (1, "cancelled")
    it.bridge.close()


async def test_a_closed_engine_ends_its_jobs_as_lost_and_retryable_and_takes_no_new_one() -> None:
    it = Listening("scripted:delay_ms=5")
    it.bridge.submit(start(1, max_tokens=100_000))
    await it.first(events.EngineTokens)
    it.bridge.close()
    it.bridge.submit(start(2))
    await it.first(events.EngineFailed)
    await asyncio.sleep(0)
    failed = [event for event in it.seen if isinstance(event, events.EngineFailed)]
    assert {(event.job, event.code, event.retryable) for event in failed} == {
        (1, "engine_lost", True),
        (2, "engine_lost", True),
    }


async def test_an_engine_whose_process_dies_is_announced_as_loading_before_its_jobs_end_and_then_as_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_engine, "FIRST_WAIT_S", 0.0)
    engine = load_engine("scripted:delay_ms=5", process=True)
    assert isinstance(engine, process_engine.ProcessEngine)
    it = Listening(engine)
    it.engines.offer()
    it.engines.look()
    assert [type(event) for event in it.seen] == [events.EngineChanged]
    it.bridge.submit(start(1, max_tokens=100_000))
    await it.first(events.EngineTokens)
    os.kill(engine.pid, signal.SIGKILL)
    await it.first(events.EngineFailed)
    changes = [event for event in it.seen if isinstance(event, events.EngineChanged | events.EngineFailed)]
    assert changes[1:] == [
        events.EngineChanged(None, loading=True),
        events.EngineFailed(1, "engine_lost", changes[2].message, retryable=True),  # type: ignore[union-attr]
    ]
    async with asyncio.timeout(60):
        while engine.load().state is not base.EngineState.READY:  # noqa: ASYNC110  another process tells
            await asyncio.sleep(0.01)
    it.engines.look()
    last = it.seen[-1]
    assert isinstance(last, events.EngineChanged)
    assert last.capacity is not None
    assert last.capacity.models[0].name == "scripted"
    it.bridge.close()


async def test_an_engine_that_stays_down_is_offered_no_more() -> None:
    engine = load_engine("scripted", process=True)
    it = Listening(engine)
    engine.close()
    it.engines.offer()
    assert it.seen == [events.EngineChanged(None)]


async def test_an_event_that_the_core_refuses_costs_the_others_nothing() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    it = Listening()
    it.refuses = events.EngineStarted
    it.bridge._on_loop((base.JobStarted(1, 3, None), base.JobFailed(1, base.FailureCode.LOST, "gone", True)))
    assert isinstance(it.seen[-1], events.EngineFailed)
    assert [type(context["exception"]) for context in reported] == [LookupError]
    it.bridge.close()


async def test_what_is_announced_is_what_the_engine_says() -> None:
    it = Listening("scripted:delay_ms=20,context=4096")
    capacity, info = it.bridge.capacity(), it.bridge.engine.info
    (offer,) = capacity.models
    assert (offer.name, offer.digest, offer.context) == (info.model, info.model_digest, 4096)
    assert (capacity.backend, capacity.max_concurrent) == ("scripted", info.max_concurrent)
    assert capacity.tokens_per_s == pytest.approx(50.0)
    it.bridge.close()


def test_an_engine_that_outlives_the_loop_has_nobody_to_tell_and_does_not_fail() -> None:
    async def make() -> Listening:
        return Listening()

    loop = asyncio.new_event_loop()
    it = loop.run_until_complete(make())
    loop.close()
    it.bridge._from_engine_thread([base.JobPrefill(1, 50)])
    it.bridge.close()
    assert it.seen == []


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_job_belongs_to_its_requester_where_members_are_not_trusted(trusted: bool) -> None:
    engine = load_engine("scripted")
    seen: list[base.EngineJob] = []
    engine.submit = seen.append  # type: ignore[method-assign]
    bridge = EngineBridge(engine, lambda event: None, trusted=trusted, look=lambda: None)
    bridge.submit(start(1))
    bridge.close()
    assert [job.owner for job in seen] == [None if trusted else b"r" * 32]


async def test_the_gaps_between_the_tokens_of_each_job_are_observed() -> None:
    made = Histogram((0.001, 60.0))
    it = Listening("scripted:delay_ms=5", made=made)
    for job in (1, 2):
        it.bridge.submit(start(job, max_tokens=4))
    async with asyncio.timeout(60):
        while len([event for event in it.seen if isinstance(event, events.EngineDone)]) < 2:
            await it.next()
    assert made.count == 2 * 3
    assert made.sum > 2 * 3 * 0.001
    it.bridge.close()
