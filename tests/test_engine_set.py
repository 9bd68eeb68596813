"""Engine sets: several engines behind one core. Routing, what is announced, and whose trouble is whose."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from llama_gossip.driver import Driver
from llama_gossip.engine import base, load_engine, process_engine
from llama_gossip.engine.scripted import Script, ScriptedEngine
from llama_gossip.engine_set import together
from llama_gossip.engine_slot import EngineSlot
from llama_gossip.engine_watch import HUNG_LOOKS, EngineWatch
from llama_gossip.errors import UsageError
from llama_gossip.protocol import effects, events
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import KeySigner
from llama_gossip.protocol.messages import (
    Capacity,
    ChatPrompt,
    GenerationConfig,
    ModelOffer,
    NodeId,
    NumericsClass,
    RequestId,
)
from llama_gossip.telemetry import Telemetry


def start(job: int, model: str) -> effects.StartJob:
    return effects.StartJob(
        job=job,
        requester=NodeId(b"r" * 32),
        request_id=RequestId(b"i" * 16),
        attempt=1,
        model=model,
        prompt=ChatPrompt((("user", "Hello"),)),
        config=GenerationConfig(max_tokens=5, temperature=0.0),
        date="2026-01-01",
        resume=None,
        deadline_ms=60_000,
    )


class Node:
    """A driver whose core only notes what it is told, and its slot."""

    def __init__(self) -> None:
        signer = KeySigner(bytes(32))
        core = Core(signer=signer, net_id=bytes(32), boot=1, node_name="node", rng=random.Random(1))
        self.driver = Driver(core, signer.node_id)
        self.slot = EngineSlot(self.driver, trusted=True)
        self.seen: list[events.Event] = []
        self._news = asyncio.Event()
        self.driver.feed = self._note  # type: ignore[method-assign]

    def _note(self, event: events.Event) -> None:
        self.seen.append(event)
        self._news.set()

    async def of_job(self, kind: type[Any], job: int) -> Any:
        async with asyncio.timeout(60):
            while True:
                for event in self.seen:
                    if isinstance(event, kind) and event.job == job:
                        return event
                self._news.clear()
                await self._news.wait()

    def announced(self) -> Capacity | None:
        return [event.capacity for event in self.seen if isinstance(event, events.EngineChanged)][-1]


def offered(node: Node) -> list[str]:
    capacity = node.announced()
    return [offer.name for offer in capacity.models] if capacity is not None else []


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    it = Node()
    yield it
    await it.slot.close()
    it.driver.stop()


class Weighty(ScriptedEngine):
    """One with a digest of its own."""

    @property
    def info(self) -> base.EngineInfo:
        plain = super().info
        return replace(plain, model_digest=hashlib.sha256(plain.model.encode()).digest())


def engine(name: str, **script: Any) -> ScriptedEngine:
    return Weighty(Script(**script), name=name)


# --- routing ---------------------------------------------------------------------------------------


async def test_each_job_is_done_by_the_engine_of_its_model_and_its_facts_are_that_engines(node: Node) -> None:
    node.slot.put([engine("one"), engine("two")])
    for job, model in ((1, "one"), (2, "two"), (3, "one")):
        node.driver.perform(start(job, model))
    one, two = (hashlib.sha256(name).digest() for name in (b"one", b"two"))
    for job, digest in ((1, one), (2, two), (3, one)):
        started = await node.of_job(events.EngineStarted, job)
        assert started.facts.model_digest == digest
        assert (await node.of_job(events.EngineDone, job)).model_digest == digest


async def test_a_job_for_a_model_that_is_served_no_more_fails_as_lost_and_may_go_elsewhere(
    node: Node,
) -> None:
    node.slot.put([engine("one"), engine("two")])
    node.driver.perform(start(1, "three"))
    assert node.seen[-1] == events.EngineFailed(1, "engine_lost", "the model is not loaded", retryable=True)


async def test_a_cancel_finds_its_engine(node: Node) -> None:
    node.slot.put([engine("one", hang_after=1), engine("two", delay_ms=5, hang_after=1_000)])
    node.driver.perform(replace(start(7, "two"), config=GenerationConfig(max_tokens=4_000, temperature=0.0)))
    await node.of_job(events.EngineTokens, 7)
    node.driver.perform(effects.CancelJob(7, "enough"))
    assert (await node.of_job(events.EngineFailed, 7)).code == "cancelled"


# --- what is served ----------------------------------------------------------------------------------


async def test_two_engines_with_one_name_are_refused_and_what_was_served_stays(node: Node) -> None:
    first, twin, other = engine("one"), engine("one"), engine("two")
    node.slot.put([first])
    with pytest.raises(UsageError, match="two of the engines serve a model named 'one'") as caught:
        node.slot.put([first, other, twin])
    assert caught.value.hint
    assert node.driver.engines is not None
    assert [bridge.engine for bridge in node.driver.engines] == [first]
    node.slot.put([first, other])  # none of them was begun
    twin.close()


async def test_a_model_is_added_and_taken_away_while_another_works_on(node: Node) -> None:
    busy, second = engine("busy", delay_ms=2), engine("second")
    node.slot.put([busy])
    node.driver.perform(replace(start(1, "busy"), config=GenerationConfig(max_tokens=200, temperature=0.0)))
    await node.of_job(events.EngineTokens, 1)
    node.slot.put([busy, second])
    assert offered(node) == ["busy", "second"]
    node.driver.perform(start(2, "second"))
    await node.of_job(events.EngineDone, 2)
    node.slot.put([busy])
    assert (await node.of_job(events.EngineDone, 1)).total_tokens == 200
    node.slot.put([])
    assert node.announced() is None


async def test_the_jobs_of_an_engine_that_is_taken_away_are_lost_and_no_others(node: Node) -> None:
    stays, goes = engine("stays", delay_ms=2), engine("goes", hang_after=2)
    node.slot.put([stays, goes])
    long = GenerationConfig(max_tokens=200, temperature=0.0)
    node.driver.perform(replace(start(1, "stays"), config=long))
    node.driver.perform(replace(start(2, "goes"), config=long))
    await node.of_job(events.EngineTokens, 2)
    node.slot.put([stays])
    failed = await node.of_job(events.EngineFailed, 2)
    assert (failed.code, failed.retryable) == ("engine_lost", True)
    assert offered(node) == ["stays"]  # one that was taken out does not speak for those that are there
    assert (await node.of_job(events.EngineDone, 1)).total_tokens == 200


async def test_of_several_engines_that_cannot_all_begin_none_serves(node: Node) -> None:
    fresh, spent = engine("fresh"), engine("spent")
    spent.close()
    with pytest.raises(UsageError, match="closed"):
        node.slot.put([fresh, spent])
    assert node.driver.engines is None
    await node.slot.close()
    with pytest.raises(UsageError, match="closed"):  # it had begun
        fresh.start(lambda events: None)


# --- an engine's process that dies --------------------------------------------------------------------------


async def test_a_model_whose_process_dies_is_not_offered_until_it_serves_again_and_the_other_is(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_engine, "FIRST_WAIT_S", 0.0)
    mortal = load_engine("scripted:delay_ms=5", process=True)
    assert isinstance(mortal, process_engine.ProcessEngine)
    node.slot.put([mortal, engine("sound")])
    long = GenerationConfig(max_tokens=100_000, temperature=0.0)
    node.driver.perform(replace(start(1, "scripted"), config=long))
    await node.of_job(events.EngineTokens, 1)
    os.kill(mortal.pid, signal.SIGKILL)
    assert (await node.of_job(events.EngineFailed, 1)).code == "engine_lost"
    assert offered(node) == ["sound"]
    node.driver.perform(start(2, "sound"))
    await node.of_job(events.EngineDone, 2)
    async with asyncio.timeout(60):
        while mortal.load().state is not base.EngineState.READY:  # noqa: ASYNC110  another process tells
            await asyncio.sleep(0.01)
    assert node.driver.engines is not None
    node.driver.engines.look()
    assert offered(node) == ["scripted", "sound"]


async def test_while_no_engine_takes_jobs_and_one_may_again_the_node_loads(node: Node) -> None:
    one, two = engine("one"), engine("two")
    node.slot.put([one, two])
    assert node.driver.engines is not None
    states = {one: base.EngineState.LOADING, two: base.EngineState.DOWN}
    for it in (one, two):
        it.load = lambda real=it.load, state=states[it]: replace(real(), state=state)  # type: ignore[method-assign,misc]
    node.driver.engines.look()
    assert node.seen[-1] == events.EngineChanged(None, loading=True)
    one.load = two.load  # type: ignore[method-assign]
    node.driver.engines.look()
    assert node.seen[-1] == events.EngineChanged(None)
    node.driver.engines.look()
    assert [type(event) for event in node.seen].count(events.EngineChanged) == 3  # told once


async def test_parking_finds_its_engine(node: Node) -> None:
    first, second = engine("first"), engine("second", delay_ms=1)
    node.slot.put([first, second])
    told: list[tuple[str, int]] = []
    second.park = lambda job: told.append(("park", job))  # type: ignore[method-assign]
    second.unpark = lambda job: told.append(("unpark", job))  # type: ignore[method-assign]
    node.driver.perform(effects.ParkJob(3))
    node.driver.perform(effects.UnparkJob(3))
    assert told == [("park", 3), ("unpark", 3)]


# --- what is announced ---------------------------------------------------------------------------------


def capacity_of(name: str, **values: Any) -> Capacity:
    offer = ModelOffer(name, b"d" * 32, 64, "none", None, NumericsClass.FAST)
    plain = Capacity("torch", "cpu X", (offer,), 8, 1, 2, 0, 10.0, 1_000)
    return replace(plain, **values)


def test_one_engine_alone_is_announced_as_it_is() -> None:
    alone = capacity_of("one")
    assert together([alone]) == alone


def test_several_are_announced_by_what_holds_for_each_of_them() -> None:
    fast = capacity_of("fast", tokens_per_s=200.0, max_concurrent=4, memory_free=500, device="cuda:0 Y")
    slow = capacity_of("slow", tokens_per_s=5.0, max_concurrent=16)
    unknown = capacity_of("unknown", tokens_per_s=0.0, memory_free=0, backend="scripted")
    both = together([fast, slow, unknown])
    assert [offer.name for offer in both.models] == ["fast", "slow", "unknown"]
    assert (both.max_concurrent, both.tokens_per_s, both.memory_free) == (4, 5.0, 500)
    assert (both.current_load, both.queue_depth) == (3, 6)
    assert (both.backend, both.device) == ("torch + scripted", "cuda:0 Y + cpu X")
    assert together([unknown]).tokens_per_s == 0.0


# --- one that hangs --------------------------------------------------------------------------------------


def load_of(running: int, age_ms: float) -> base.EngineLoad:
    return base.EngineLoad(running, 0, 0.0, 0.0, 0, age_ms)


def test_an_engine_hangs_when_it_was_seen_silent_with_work_for_half_a_minute() -> None:
    watch = EngineWatch()
    told = [
        watch.look({"hangs": load_of(1, look * 500.0), "steps": load_of(1, 10.0), "idle": load_of(0, 0.0)})
        for look in range(HUNG_LOOKS + 2)
    ]
    assert told == [*[[]] * HUNG_LOOKS, ["hangs"], ["hangs"]]


def test_a_process_that_stood_still_gives_up_no_engine_for_it() -> None:
    watch = EngineWatch()
    for _ in range(2 * HUNG_LOOKS):
        assert watch.look({"one": load_of(1, 90_000.0)}) == []  # after a stop of a minute and a half
        assert watch.look({"one": load_of(1, 10.0)}) == []  # it steps again


async def test_of_two_engines_the_one_that_hangs_is_closed_and_the_other_serves_on(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    sound, hung = engine("sound"), engine("hung", hang_after=1)
    node.slot.put([sound, hung])
    telemetry = Telemetry(node.driver, node.slot)
    telemetry.cancel()  # beaten by hand
    node.driver.perform(start(1, "hung"))
    await node.of_job(events.EngineTokens, 1)
    real = hung.load
    hung.load = lambda: replace(real(), last_step_age_ms=30_000.0)  # type: ignore[method-assign]  # its clock
    with caplog.at_level(logging.WARNING, logger="llama_gossip"):
        for _ in range(HUNG_LOOKS):
            telemetry._beat()
    assert (await node.of_job(events.EngineFailed, 1)).code == "engine_lost"
    assert offered(node) == ["sound"]
    assert "hung has stopped stepping" in caplog.text
    node.driver.perform(start(2, "sound"))
    assert (await node.of_job(events.EngineDone, 2)).total_tokens == 5


async def test_a_nodes_only_engine_is_left_to_the_core(node: Node) -> None:
    only = engine("only", hang_after=1)
    node.slot.put([only])
    telemetry = Telemetry(node.driver, node.slot)
    telemetry.cancel()
    node.driver.perform(start(1, "only"))
    await node.of_job(events.EngineTokens, 1)
    real = only.load
    only.load = lambda: replace(real(), last_step_age_ms=30_000.0)  # type: ignore[method-assign]
    for _ in range(2 * HUNG_LOOKS):
        telemetry._beat()
    assert node.driver.engines is not None
    assert not any(isinstance(event, events.EngineFailed) for event in node.seen)
