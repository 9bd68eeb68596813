"""The scripted engine: slowed, paced and broken on purpose."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence

import pytest

from llama_gossip.engine.base import EngineEvent, FailureCode, JobTokens
from llama_gossip.engine.scripted import Script, ScriptedEngine, ScriptedModel, ScriptedRow, parse_spec
from llama_gossip.engine.stepped import SteppedEngine
from llama_gossip.errors import UsageError
from llama_gossip.protocol.messages import FinishReason
from tests.engine.driving import WAIT_S, Collector, job, started


def test_a_failure_before_the_first_token_is_retryable_and_empty() -> None:
    engine = ScriptedEngine(Script(fail_before_first=True))
    with started(engine) as seen:
        engine.submit(job(1))
        answer = seen.answer(1)
    assert answer.failed.code is FailureCode.ENGINE
    assert answer.failed.retryable
    assert answer.ids == ()


def test_a_failure_after_k_tokens_comes_after_exactly_k_and_another_engine_goes_on() -> None:
    failing, whole = ScriptedEngine(Script(fail_after=5)), ScriptedEngine()
    with started(failing) as seen, started(whole) as reference:
        failing.submit(job(1))
        whole.submit(job(1))
        broken, expected = seen.answer(1), reference.answer(1)
        assert broken.failed.retryable
        assert broken.ids == expected.ids[:5]
        whole.submit(job(2, resume=broken.resume_at(5)))
        assert broken.text + reference.answer(2).text == expected.text


def test_only_the_first_jobs_fail_where_the_script_says_so() -> None:
    engine = ScriptedEngine(Script(fail_after=2, faulty_jobs=1))
    with started(engine) as seen:
        for number in (1, 2):
            engine.submit(job(number))
        assert seen.answer(1).failed.code is FailureCode.ENGINE
        assert seen.answer(2).done.total_tokens == 24


def test_a_hanging_step_ages_and_a_close_ends_it() -> None:
    engine = ScriptedEngine(Script(hang_after=3))
    with started(engine) as seen:
        engine.submit(job(1))
        seen.wait_for(lambda: len(seen.tokens(1)) == 3, "three tokens")
        ages = [engine.load().last_step_age_ms for _ in range(2)]
        assert 0 < ages[0] < ages[1]
        engine.cancel(1)
        engine.close()
        assert seen.answer(1).failed.code in (FailureCode.LOST, FailureCode.CANCELLED)


class Deaf(ScriptedModel):
    """A step that nothing can end, as a forward on a stuck device."""

    def interrupt(self) -> None:
        return

    def let_go(self) -> None:
        super().interrupt()


def test_a_close_does_not_wait_for_a_step_that_never_ends() -> None:
    model = Deaf("deaf", Script(hang_after=1), max_concurrent=2)
    engine = SteppedEngine(model, "deaf")
    seen = Collector()
    engine.start(seen)
    engine.submit(job(1))
    engine.submit(job(2))
    seen.wait_for(lambda: seen.tokens(1) and seen.tokens(2), "one token each")
    engine.close(timeout_s=0.05)
    assert {seen.answer(number).failed.code for number in (1, 2)} == {FailureCode.LOST}
    model.let_go()  # the step comes back late: nothing of it is heard any more
    engine.close()
    for number in (1, 2):
        assert len(seen.answer(number).ids) == 1


class Slow(SteppedEngine[ScriptedRow]):
    """Its thread comes to a halt between a step and the sink, until `go`."""

    def __init__(self) -> None:
        self.arrived, self.go = threading.Event(), threading.Event()
        super().__init__(ScriptedModel("slow", Script(), max_concurrent=1), "slow")

    def _emit(self, events: Sequence[EngineEvent]) -> None:
        if any(isinstance(event, JobTokens) and event.index == 3 for event in events):
            self.arrived.set()
            assert self.go.wait(WAIT_S)
        super()._emit(events)


def test_what_a_late_thread_has_to_say_of_a_lost_job_is_not_heard() -> None:
    engine, seen = Slow(), Collector()
    engine.start(seen)
    engine.submit(job(1))
    assert engine.arrived.wait(WAIT_S)
    engine.close(timeout_s=0.0)
    engine.go.set()
    engine.close()
    answer = seen.answer(1)
    assert answer.failed.code is FailureCode.LOST
    assert len(answer.ids) == 3


def test_the_natural_end_is_a_stop_unless_it_is_ignored() -> None:
    engine = ScriptedEngine(Script(stop_after=4))
    with started(engine) as seen:
        engine.submit(job(1))
        engine.submit(job(2, ignore_eos=True))
        assert (seen.answer(1).done.finish_reason, seen.answer(1).done.total_tokens) == (FinishReason.STOP, 4)
        assert seen.answer(2).done.total_tokens == 24


def test_a_paced_worker_shares_one_cadence_among_its_requests_in_turn() -> None:
    engine = ScriptedEngine(Script(delay_ms=2.0, paced=True))
    with started(engine) as seen:
        begun_s = time.monotonic()
        for number in (1, 2, 3):
            engine.submit(job(number, max_tokens=60))
        for number in (1, 2, 3):
            seen.answer(number)
        took_ms = (time.monotonic() - begun_s) * 1000
    order = [event.job_id for call in seen.calls for event in call if hasattr(event, "texts")]
    assert len(order) == 180
    # From the first turn in which all three are there to the last of whoever ends first.
    begun = max(order.index(number) for number in (1, 2, 3))
    ended = min(len(order) - 1 - order[::-1].index(number) for number in (1, 2, 3))
    fair = [set(order[at : at + 3]) for at in range(begun, ended - 2)]
    assert len(fair) > 20
    assert all(len(turn) == 3 for turn in fair), "round robin"
    assert took_ms >= 2.0 * 178, "never faster than its pace"


def test_a_long_delay_holds_up_neither_cancel_nor_deadline() -> None:
    engine = ScriptedEngine(Script(delay_ms=3_600_000.0))
    with started(engine) as seen:
        engine.submit(job(1, deadline_ms=3_000))  # time enough for a first token on any machine
        seen.wait_for(lambda: seen.tokens(1), "the first token comes at once")
        engine.submit(job(2))
        engine.cancel(2)
        assert seen.answer(2).failed.code is FailureCode.CANCELLED
        assert seen.answer(1).failed.code is FailureCode.DEADLINE


def test_answers_differ_by_prompt_and_by_seed() -> None:
    engine = ScriptedEngine()
    with started(engine) as seen:
        for number, (prompt, seed) in enumerate(itertools.product(("a", "b"), (1, 2))):
            engine.submit(job(number, prompt, seed=seed))
        assert len({seen.answer(number).text for number in range(4)}) == 4


def test_an_option_that_it_does_not_have_is_refused() -> None:
    engine = ScriptedEngine()
    with started(engine) as seen:
        engine.submit(job(1, logit_bias=((3, 1.0),)))
        assert seen.answer(1).failed.code is FailureCode.UNSUPPORTED


def test_specs_carry_options() -> None:
    assert parse_spec("smollm2-135m") is None
    assert parse_spec("scripted") == Script()
    assert parse_spec("paced:20") == Script(delay_ms=20.0, paced=True)
    assert parse_spec("scripted:delay_ms=2.5,fail_after=3,fail_before_first") == Script(
        delay_ms=2.5, fail_after=3, fail_before_first=True
    )


@pytest.mark.parametrize(
    "spec", ["paced", "paced:x", "paced:-1", "paced:nan", "scripted:speed=3", "scripted:delay_ms"]
)
def test_specs_that_make_no_sense_are_usage_errors(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(spec)
    assert caught.value.hint
