"""The model thread: jobs that come while it works, and what becomes of them if it fails."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest

from llama_gossip.engine.base import EngineEvent, EngineJob, EngineState, FailureCode, JobDone, JobFailed
from llama_gossip.engine.scripted import ScriptedEngine, parse_spec
from llama_gossip.protocol.messages import GenerationConfig, RawPrompt

ENDS_S = 60.0
CALLERS, JOBS = 3, 700


@pytest.fixture
def threads_that_change_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def job(number: int, deadline_ms: int | None = None) -> EngineJob:
    config = GenerationConfig(max_tokens=2)
    return EngineJob(number, RawPrompt("hello"), config, "2026-11-28", deadline_ms=deadline_ms)


def started() -> tuple[ScriptedEngine, queue.SimpleQueue[Sequence[EngineEvent]]]:
    script = parse_spec("scripted")
    assert script is not None
    engine = ScriptedEngine(script, name="scripted", max_concurrent=8)
    events: queue.SimpleQueue[Sequence[EngineEvent]] = queue.SimpleQueue()
    engine.start(events.put)
    return engine, events


def ends(events: queue.SimpleQueue[Sequence[EngineEvent]], count: int) -> list[JobDone | JobFailed]:
    found: list[JobDone | JobFailed] = []
    while len(found) < count:
        batch = events.get(timeout=ENDS_S)
        found += [event for event in batch if isinstance(event, JobDone | JobFailed)]
    return found


@pytest.mark.usefixtures("threads_that_change_often")
def test_jobs_that_come_from_all_sides_while_it_steps_all_end_once() -> None:
    engine, events = started()

    def call(first: int) -> None:
        for number in range(first, first + JOBS):
            engine.submit(job(number, deadline_ms=10**6))

    callers = [threading.Thread(target=call, args=(JOBS * caller,)) for caller in range(CALLERS)]
    for caller in callers:
        caller.start()
    found = ends(events, CALLERS * JOBS)
    for caller in callers:
        caller.join()
    engine.close()
    assert sorted(end.job_id for end in found) == list(range(CALLERS * JOBS))


def test_a_model_thread_that_fails_loses_its_jobs_and_takes_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, events = started()

    def admit(row: object) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine._model, "admit", admit)
    engine.submit(job(1))
    (end,) = ends(events, 1)
    assert isinstance(end, JobFailed)
    assert (end.code, end.retryable) == (FailureCode.LOST, True)
    assert engine.load().state is EngineState.DOWN
    engine.submit(job(2))
    (late,) = ends(events, 1)
    assert isinstance(late, JobFailed)
    assert (late.job_id, late.code) == (2, FailureCode.LOST)
    engine.close()
