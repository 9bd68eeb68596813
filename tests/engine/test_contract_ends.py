"""Every job ends exactly once, however it ends: asked of the scripted and of the torch engine alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from llama_gossip.engine.base import EngineEvent, FailureCode, JobPrefill, JobTokens
from llama_gossip.engine.stepped import SteppedEngine
from llama_gossip.errors import UsageError
from tests.engine.driving import LONG_PROMPT, Collector, Subject, job, started, stepped

LONG: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True, "temperature": 0.0}
Cancelling = Callable[[Callable[[EngineEvent], bool]], tuple[SteppedEngine[Any], Collector, list[int]]]


@pytest.fixture
def cancelling(near_subject: Subject) -> Iterator[Cancelling]:
    """An engine whose own sink cancels job 1 at its first event that `when` accepts. The list gets the
    engine's step count then, and at the end of the job."""
    opened: list[SteppedEngine[Any]] = []

    def make(when: Callable[[EngineEvent], bool]) -> tuple[SteppedEngine[Any], Collector, list[int]]:
        engine = stepped(near_subject.make(4))
        opened.append(engine)
        at_step: list[int] = []

        def react(events: Sequence[EngineEvent]) -> None:
            if not at_step and any(event.job_id == 1 and when(event) for event in events):
                at_step.append(engine.steps)
                engine.cancel(1)
                engine.cancel(1)
            if len(at_step) == 1 and seen.ends(1):
                with seen.changed:
                    at_step.append(engine.steps)
                    seen.changed.notify_all()

        seen = Collector(react)
        engine.start(seen)
        return engine, seen, at_step

    yield make
    for engine in opened:
        engine.close()


def test_a_cancel_in_mid_answer_takes_at_most_one_step(cancelling: Cancelling) -> None:
    engine, seen, at_step = cancelling(lambda event: isinstance(event, JobTokens) and event.index >= 5)
    engine.submit(job(1, **LONG))
    engine.submit(job(2, max_tokens=30, temperature=0.0, ignore_eos=True))
    cancelled = seen.answer(1)
    assert cancelled.failed.code is FailureCode.CANCELLED
    seen.wait_for(lambda: len(at_step) == 2, "the step of its end")  # told after the end itself
    assert at_step[1] - at_step[0] <= 1
    assert seen.answer(2).done.total_tokens == 30


def test_a_cancel_between_chunks_of_prefill_takes_at_most_one_step(cancelling: Cancelling) -> None:
    engine, seen, at_step = cancelling(lambda event: isinstance(event, JobPrefill))
    engine.submit(job(1, LONG_PROMPT))
    cancelled = seen.answer(1)
    assert cancelled.failed.code is FailureCode.CANCELLED
    assert cancelled.ids == ()
    assert len(seen.prefills(1)) == 1
    assert 0 < seen.prefills(1)[0].percent < 100
    seen.wait_for(lambda: len(at_step) == 2, "the step of its end")  # told after the end itself
    assert at_step[1] - at_step[0] <= 1


def test_a_cancel_before_the_engine_starts_leaves_only_its_end(subject: Subject) -> None:
    engine = subject.make(1)
    engine.submit(job(1))
    engine.cancel(1)
    with started(engine) as seen:
        assert seen.answer(1).failed.code is FailureCode.CANCELLED
        assert len(seen.events(1)) == 1


def test_a_job_cancelled_in_the_queue_never_starts(subject: Subject) -> None:
    engine = subject.make(1)
    with started(engine) as seen:
        engine.submit(job(1, **LONG))
        seen.wait_for(lambda: seen.tokens(1), "the first token")
        engine.submit(job(2))
        assert engine.load().queued + engine.load().running == 2
        engine.cancel(2)
        assert seen.answer(2).failed.code is FailureCode.CANCELLED
        assert not seen.started(2)
        engine.cancel(1)
        assert seen.answer(1).failed.code is FailureCode.CANCELLED


def test_cancels_of_unknown_and_ended_jobs_are_silent(subject: Subject) -> None:
    engine = subject.make(2)
    with started(engine) as seen:
        engine.cancel(99)
        engine.submit(job(1))
        end = seen.answer(1).end
        engine.cancel(1)
        engine.submit(job(2))
        seen.answer(2)
        assert seen.ends(1) == [end]
        assert not seen.events(99)


def test_the_deadline_ends_a_job_and_no_other(subject: Subject) -> None:
    engine = subject.make(4)
    with started(engine) as seen:
        engine.submit(job(1, deadline_ms=0))
        engine.submit(job(2, deadline_ms=5, max_tokens=4000, ignore_eos=True))
        engine.submit(job(3, deadline_ms=60_000))
        for number in (1, 2):
            failed = seen.answer(number).failed
            assert failed.code is FailureCode.DEADLINE
            assert not failed.retryable
        assert seen.answer(3).done.total_tokens == 24
        assert not seen.started(1)


def test_a_close_ends_running_and_waiting_jobs_as_lost(subject: Subject) -> None:
    engine = subject.make(2)
    with started(engine) as seen:
        for number in range(1, 6):
            engine.submit(job(number, **LONG))
        seen.wait_for(lambda: seen.tokens(1) and seen.tokens(2), "two running jobs")
        engine.close()
        engine.close()
        for number in range(1, 6):
            failed = seen.answer(number).failed
            assert failed.code is FailureCode.LOST
            assert failed.retryable
        engine.submit(job(7))
        assert seen.answer(7).failed.code is FailureCode.LOST


def test_a_close_from_inside_the_sink_ends_everything_once(subject: Subject) -> None:
    engine = subject.make(2)

    def react(events: Sequence[EngineEvent]) -> None:
        if any(isinstance(event, JobTokens) for event in events):
            engine.close()

    with started(engine, Collector(react)) as seen:
        engine.submit(job(1, **LONG))
        engine.submit(job(2, **LONG))
        assert {seen.answer(number).failed.code for number in (1, 2)} == {FailureCode.LOST}


def test_a_job_id_that_lives_is_refused(subject: Subject) -> None:
    engine = subject.make(1)
    engine.submit(job(1))
    with pytest.raises(UsageError):
        engine.submit(job(1))
    with started(engine) as seen:
        assert seen.answer(1).done.total_tokens == 24


def test_a_sink_that_raises_silences_nobody(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    engine = subject.make(2)

    def react(events: Sequence[EngineEvent]) -> None:
        if events[0].job_id == 1:
            raise RuntimeError("a bug of the caller")

    with started(engine, Collector(react)) as seen:
        engine.submit(job(1))
        engine.submit(job(2))
        assert seen.answer(1).done.total_tokens == seen.answer(2).done.total_tokens == 24
    assert "the engine's sink failed" in caplog.text
