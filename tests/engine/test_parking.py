"""A parked job: left out of the steps, kept where it is, and as good as before when it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llama_gossip.engine.base import EngineEvent, FailureCode, JobTokens
from llama_gossip.engine.packed import PackedForward
from llama_gossip.engine.stepped import SteppedEngine
from tests.engine.driving import Collector, Subject, job, started, stepped

GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
LONG: dict[str, Any] = {"max_tokens": 60, **GREEDY}
PARKED_AT = 5  # tokens


class Parking(Collector):
    """The sink of an engine that parks job 1 in mid-answer: it is called between two steps."""

    def __init__(self, engine: SteppedEngine[Any]) -> None:
        super().__init__(self._park)
        self._engine = engine
        self._made = 0

    def _park(self, events: Sequence[EngineEvent]) -> None:
        made = [event for event in events if isinstance(event, JobTokens) and event.job_id == 1]
        self._made += sum(len(event.texts) for event in made)
        if made and self._made >= PARKED_AT:
            self._engine.park(1)
            self._engine.park(1)

    def made(self, job_id: int) -> int:
        return sum(len(event.texts) for event in self.tokens(job_id))


def test_a_parked_job_takes_no_part_in_steps_and_goes_on_with_the_same_answer(near_subject: Subject) -> None:
    lone = near_subject.make(1)
    with started(lone) as seen:
        lone.submit(job(1, **LONG))
        alone = seen.answer(1)
    engine = stepped(near_subject.make(4))
    parking = Parking(engine)
    with started(engine, parking) as seen:
        engine.submit(job(1, **LONG))
        parking.wait_for(lambda: parking.made(1) >= PARKED_AT, "enough of job 1")
        made = parking.made(1)
        for number in (2, 3):
            engine.submit(job(number, **LONG))
            assert seen.answer(number).done.total_tokens == 60
        assert parking.made(1) == made, "job 1 has moved while it was parked"
        parking.react = lambda events: None
        for _ in range(2):
            engine.unpark(1)
        assert seen.answer(1).text == alone.text
        assert seen.answer(2).text == alone.text, "the others never know"


def test_a_parked_job_keeps_its_place_and_an_engine_of_parked_jobs_rests(near_subject: Subject) -> None:
    engine = stepped(near_subject.make(1))
    parking = Parking(engine)
    rounds = 0
    whole = engine._round

    def counted() -> list[EngineEvent]:
        nonlocal rounds
        rounds += 1
        return whole()

    engine._round = counted  # type: ignore[method-assign]
    with started(engine, parking) as seen:
        engine.submit(job(1, **LONG))
        parking.wait_for(lambda: parking.made(1) >= PARKED_AT, "enough of job 1")
        made, before = parking.made(1), rounds
        engine.submit(job(2, deadline_ms=200, **LONG))
        assert seen.answer(2).failed.code is FailureCode.DEADLINE
        assert not seen.started(2)
        assert rounds - before < 10, "it goes round and round with nothing to step"
        load = engine.load()
        assert (load.running, load.last_step_age_ms) == (1, 0.0)
        assert parking.made(1) == made
        engine.cancel(1)
        engine.submit(job(3, max_tokens=3, **GREEDY))
        assert seen.answer(1).failed.code is FailureCode.CANCELLED
        assert seen.answer(3).done.total_tokens == 3


def test_a_deadline_ends_a_parked_job(subject: Subject) -> None:
    engine = subject.make(2)
    with started(engine) as seen:
        engine.submit(job(1, deadline_ms=150, **LONG))
        engine.park(1)
        assert seen.answer(1).failed.code is FailureCode.DEADLINE


def test_a_job_that_is_parked_before_it_runs_waits_in_its_slot(subject: Subject) -> None:
    engine = subject.make(2)
    engine.submit(job(1, **LONG))
    engine.park(1)
    with started(engine) as seen:
        seen.wait_for(lambda: seen.started(1), "job 1 has its slot")
        engine.submit(job(2, **LONG))
        seen.answer(2)
        assert not seen.tokens(1)
        engine.unpark(1)
        assert seen.answer(1).text == seen.answer(2).text


def test_parking_what_is_unknown_or_has_ended_means_nothing(subject: Subject) -> None:
    engine = subject.make(2)
    with started(engine) as seen:
        engine.park(99)
        engine.unpark(99)
        engine.submit(job(1, max_tokens=3, **GREEDY))
        engine.unpark(1)
        end = seen.answer(1).end
        engine.park(1)
        engine.submit(job(2, max_tokens=3, **GREEDY))
        seen.answer(2)
        assert seen.ends(1) == [end]


def test_the_speed_of_a_model_is_not_measured_by_a_parked_job(near_subject: Subject) -> None:
    engine = stepped(near_subject.make(2))
    parking = Parking(engine)
    with started(engine, parking) as seen:
        before = engine.load().tokens_per_s
        engine.submit(job(1, **LONG))
        parking.wait_for(lambda: parking.made(1) >= PARKED_AT, "enough of job 1")
        parking.react = lambda events: None
        engine.unpark(1)
        seen.answer(1)
        assert engine.load().tokens_per_s == before


def test_a_parked_row_is_fed_again_when_the_step_of_the_others_has_cost_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from llama_gossip.engine.checkpoint import load_checkpoint
    from llama_gossip.engine.torch_engine import TorchEngine

    checkpoint = load_checkpoint("tiny-random", device="cpu", dtype="fp32")
    engine = TorchEngine(checkpoint, max_concurrent=2, threads=1)
    parking = Parking(engine)
    run, reserve, broken = PackedForward.run, PackedForward.reserve, False

    def sometimes(self: PackedForward, segments: Any) -> Any:
        if broken:
            raise RuntimeError("an operator that fails")
        return run(self, segments)

    def emptied(self: PackedForward, blocks: int) -> None:
        reserve(self, blocks)
        with torch.inference_mode():
            for pool in self._pools:
                pool.keys.fill_(7.0)

    monkeypatch.setattr(PackedForward, "run", sometimes)
    monkeypatch.setattr(PackedForward, "reserve", emptied)
    with started(engine, parking) as seen:
        engine.submit(job(1, **LONG))
        parking.wait_for(lambda: parking.made(1) >= PARKED_AT, "enough of job 1")
        broken = True
        engine.submit(job(2, "Another prompt", **LONG))
        assert seen.answer(2).failed.retryable
        broken = False
        parking.react = lambda events: None
        engine.unpark(1)
        interrupted = seen.answer(1)
        engine.submit(job(3, **LONG))
        assert interrupted.text == seen.answer(3).text
