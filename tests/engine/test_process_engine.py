"""The process engine beyond the contract: deaths of either side, loads that fail, what a child may say."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_gossip.engine import child_process, load_engine, process_engine
from llama_gossip.engine.base import EngineState, FailureCode
from llama_gossip.engine.process_engine import MAX_DEATHS, ProcessEngine
from llama_gossip.errors import EngineError, LlamaGossipError, UsageError
from tests.engine.driving import WAIT_S, Collector, job, started
from tests.support.gguf_files import byte_level, random_weights, write_gguf

SLOW = "scripted:delay_ms=2"
LONG: dict[str, Any] = {"max_tokens": 20_000, "ignore_eos": True}
NEVER_S = 3600.0
Make = Callable[..., ProcessEngine]


@pytest.fixture
def make() -> Iterator[Make]:
    """make(spec) loads an engine in a process; each is closed, and has gone, after the test."""
    engines: list[ProcessEngine] = []

    def loaded(spec: str = SLOW, **options: Any) -> ProcessEngine:
        engine = load_engine(spec, process=True, **options)
        assert isinstance(engine, ProcessEngine)
        engines.append(engine)
        return engine

    yield loaded
    for engine in engines:
        engine.close()
        assert has_gone(engine.pid)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """waits(seconds): how long an engine stays away after each death."""

    def of(seconds: float) -> None:
        monkeypatch.setattr(process_engine, "FIRST_WAIT_S", seconds)
        monkeypatch.setattr(process_engine, "LONGEST_WAIT_S", seconds)

    return of


def has_gone(pid: int) -> bool:
    """A zombie has gone: only its parent's look is missing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(condition: Callable[[], object], what: str) -> None:
    pause = threading.Event()
    for _ in range(round(WAIT_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail(f"waited in vain: {what}")


def is_in(engine: ProcessEngine, state: EngineState) -> Callable[[], bool]:
    return lambda: engine.load().state is state


# --- its death -----------------------------------------------------------------------------------


def test_a_child_killed_in_mid_answer_loses_its_jobs_and_another_serves_the_same(
    make: Make, waits: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    waits(0.0)
    engine = make()
    with started(engine) as seen:
        engine.submit(job(1))
        before = seen.answer(1)
        for number in (2, 3):
            engine.submit(job(number, **LONG))
        seen.wait_for(lambda: seen.tokens(2) and seen.tokens(3), "two answers under way")
        first = engine.pid
        os.kill(first, signal.SIGKILL)
        for number in (2, 3):
            failed = seen.answer(number).failed
            assert (failed.code, failed.retryable) == (FailureCode.LOST, True)
        eventually(is_in(engine, EngineState.READY), "another child")
        assert engine.pid != first
        assert has_gone(first)
        engine.submit(job(4))
        assert seen.answer(4).text == before.text
    assert "scripted: engine lost (killed by signal 9); starting it again" in caplog.text
    assert "scripted: the engine serves again" in caplog.text


def test_what_is_submitted_while_there_is_no_child_is_lost_at_once(
    make: Make, waits: Callable[[float], None]
) -> None:
    waits(NEVER_S)
    engine = make()
    lost_at: list[EngineState] = []
    with started(engine, Collector(lambda events: lost_at.append(engine.load().state))) as seen:
        engine.submit(job(1, **LONG))
        seen.wait_for(lambda: seen.tokens(1), "the first token")
        os.kill(engine.pid, signal.SIGKILL)
        seen.answer(1)
        assert lost_at[-1] is EngineState.LOADING  # by the time a job is lost it is no longer offered
        engine.submit(job(2))
        assert seen.ends(2)
        assert seen.answer(2).failed.code is FailureCode.LOST
        engine.close()  # does not wait for its time
        assert engine.load().state is EngineState.DOWN


def test_jobs_lost_before_anybody_listens_have_their_ends_told(
    make: Make, waits: Callable[[float], None]
) -> None:
    waits(NEVER_S)
    engine = make()
    engine.submit(job(1))
    os.kill(engine.pid, signal.SIGKILL)
    eventually(is_in(engine, EngineState.LOADING), "the death is noticed")
    with started(engine) as seen:
        assert seen.answer(1).failed.code is FailureCode.LOST


def test_after_some_deaths_without_a_finished_job_it_stays_down(
    make: Make, waits: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    waits(0.0)
    engine = make()
    with started(engine) as seen:

        def die() -> None:
            dead = engine.pid
            os.kill(dead, signal.SIGKILL)
            eventually(lambda: engine.pid != dead or engine.load().state is EngineState.DOWN, "its end")
            eventually(lambda: engine.load().state is not EngineState.LOADING, "what comes after")

        die()
        engine.submit(job(1))
        assert seen.answer(1).done
        for _ in range(MAX_DEATHS - 1):  # with the one before they would be too many
            die()
        assert engine.load().state is EngineState.READY
        assert "it stays down" not in caplog.text
        die()
        assert engine.load().state is EngineState.DOWN
        assert "engine lost (killed by signal 9), 5 times in a row: it stays down" in caplog.text
        engine.submit(job(2))
        assert seen.answer(2).failed.retryable


def test_a_hung_child_grows_old_and_a_close_does_not_wait_for_it(make: Make) -> None:
    engine = make()
    with started(engine) as seen:
        engine.submit(job(1, **LONG))
        seen.wait_for(lambda: seen.tokens(1), "the first token")
        assert engine.load().running == 1
        os.kill(engine.pid, signal.SIGSTOP)
        eventually(lambda: engine.load().last_step_age_ms > 1000, "an age without a step")
        engine.close(timeout_s=0.01)
        assert seen.answer(1).failed.code is FailureCode.LOST


def test_a_child_whose_model_hangs_says_so_and_ends_when_asked(make: Make) -> None:
    engine = make("scripted:hang_after=3")
    with started(engine) as seen:
        engine.submit(job(1))
        eventually(lambda: engine.load().last_step_age_ms > 1000, "an age without a step")
        assert len(seen.tokens(1)) == 3
        engine.close(timeout_s=WAIT_S)
        assert seen.answer(1).failed.code is FailureCode.LOST


def test_a_parked_job_rests_and_goes_on_with_the_same_answer(make: Make) -> None:
    engine = make()
    options = {"max_tokens": 300, "ignore_eos": True}
    with started(engine) as seen:
        engine.submit(job(1, **options))
        seen.wait_for(lambda: seen.tokens(1), "the first token")
        engine.park(1)
        engine.submit(job(2, **options))
        seen.wait_for(lambda: seen.started(2), "the one behind the parking")
        made = len(seen.tokens(1))
        text = seen.answer(2).text
        assert len(seen.tokens(1)) == made < 300
        load = engine.load()
        assert (load.running, load.queued, load.last_step_age_ms) == (1, 0, 0.0)
        engine.unpark(1)
        engine.unpark(1)
        assert seen.answer(1).text == text


# --- the death of its parent -----------------------------------------------------------------------

PARENT = """
import sys
from llama_gossip.engine import load_engine
from tests.engine.driving import Collector, job
engine = load_engine("scripted:hang_after=3", process=True)
seen = Collector()
engine.start(seen)
engine.submit(job(1))
seen.wait_for(lambda: len(seen.tokens(1)) == 3, "a step that hangs")
print(engine.pid, flush=True)
sys.stdin.read()
"""


def test_a_child_in_a_step_that_hangs_does_not_outlive_its_killed_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not has_gone(child)
        parent.kill()
    eventually(lambda: has_gone(child), "the child's end")


def test_signals_to_the_terminals_group_are_not_the_childs(make: Make) -> None:
    engine = make()
    assert os.getsid(engine.pid) == engine.pid
    with started(engine) as seen:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(engine.pid, number)
        engine.submit(job(1))
        assert seen.answer(1).done


def test_the_childs_stdout_is_the_parents_stderr(make: Make) -> None:
    engine = make()
    told = [os.stat(f"/proc/{engine.pid}/fd/{fd}") for fd in (1, 2)]
    assert os.path.samestat(*told)
    assert os.path.samestat(told[0], os.fstat(2))


# --- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["scripted:nonsense=1", "no-such-model", "/nowhere/model.gguf"])
def test_a_load_that_fails_raises_what_it_raises_here(spec: str) -> None:
    raised = []
    for process in (False, True):
        with pytest.raises(LlamaGossipError) as caught:
            load_engine(spec, process=process)
        raised.append(caught.value)
    here, there = raised
    assert type(here) is type(there)
    assert (here.message, here.hint, here.code, here.exit_code) == (
        there.message,
        there.hint,
        there.code,
        there.exit_code,
    )


SERVING = """
import json, sys
from llama_gossip.engine import check_specs, load_engines
from tests.engine.driving import job, started
check_specs(sys.argv[1:], device="cpu")
engine, = load_engines(sys.argv[1:], device="cpu", threads=1, process=True)
with started(engine) as seen:
    for number in (1, 2):
        engine.submit(job(number, ignore_eos=True, logprobs=2))
    text = seen.answer(1).text
    assert seen.answer(2).text == text
heavy = [name for name in ("torch", "transformers", "llama_gossip._native") if name in sys.modules]
print(json.dumps([engine.info.numerics_id, text, heavy]))
"""


@pytest.mark.slow
def test_a_real_model_answers_from_there_as_from_here_and_its_parent_stays_light(tmp_path: Path) -> None:
    vocabulary = byte_level("llama-bpe")
    weights = random_weights(len(vocabulary.tokens), seed=1)
    spec = str(write_gguf(tmp_path / "small.gguf", weights, vocabulary))
    done = subprocess.run([sys.executable, "-c", SERVING, spec], capture_output=True, text=True, check=True)
    numerics_id, text, heavy = json.loads(done.stdout)
    engine = load_engine(spec, device="cpu", threads=1)
    with started(engine) as seen:
        engine.submit(job(1, ignore_eos=True, logprobs=2))
        assert seen.answer(1).text == text
    assert engine.info.numerics_id == numerics_id
    assert heavy == []


# --- children that are none of ours ------------------------------------------------------------------

CHILD = """
import socket, sys, time
from llama_gossip.engine import scripted, wire
end = socket.socket(fileno=int(sys.argv[1]))
engine = scripted.ScriptedEngine()
def say(message):
    end.sendall(wire.framed(wire.TO_PARENT, message))
opened = wire.Opened(engine.info, engine.load())
%s
while end.recv(4096):
    pass
"""


@pytest.fixture
def strange(make: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """strange(lines): an engine whose child runs these."""

    def loaded(lines: str, **options: Any) -> ProcessEngine:
        monkeypatch.setattr(child_process, "COMMAND", (sys.executable, "-P", "-c", CHILD % lines))
        return make(**options)

    return loaded


@pytest.mark.parametrize(
    "said", ['b"\\xff\\xff\\xff\\xff"', 'b"\\0\\0\\0\\x02\\x92\\x09"', "wire.framed(wire.TO_PARENT, opened)"]
)
def test_a_child_that_says_what_nobody_can_read_is_ended_as_if_it_had_died(
    strange: Make, waits: Callable[[float], None], caplog: pytest.LogCaptureFixture, said: str
) -> None:
    waits(NEVER_S)
    engine = strange(f"say(opened); end.recv(99); end.recv(99); end.sendall({said})")
    with started(engine) as seen:
        engine.submit(job(1))
        assert seen.answer(1).failed.code is FailureCode.LOST
        assert has_gone(engine.pid)
        eventually(lambda: "engine lost (it said what nobody can read" in caplog.text, "the news")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("sys.exit(7)", "exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("end.close(); time.sleep(3600)", "no longer answered"),
        ('end.sendall(b"\\xff\\xff\\xff\\xff")', "nobody can read"),
        ("say(wire.Report(engine.load()))", "nobody can read"),
    ],
)
def test_a_child_that_does_not_come_to_load_is_an_engine_error(
    strange: Make, monkeypatch: pytest.MonkeyPatch, lines: str, why: str
) -> None:
    stays = "sleep" in lines
    monkeypatch.setattr(child_process, "EXIT_S", 0.1 if stays else WAIT_S)
    with pytest.raises(EngineError, match=why):
        strange(lines)


def test_what_a_load_tells_on_its_way_is_told_here(strange: Make, caplog: pytest.LogCaptureFixture) -> None:
    drawn: list[tuple[str, int, int]] = []
    caplog.set_level(logging.DEBUG)
    lines = 'say(wire.Progressed("load", 1, 2)); say(wire.Logged("a.b", 30, "100%s", "a trace")); say(opened)'
    strange(lines, progress=lambda *call: drawn.append(call))
    assert drawn == [("load", 1, 2)]
    assert [(one.name, one.levelno, one.getMessage()) for one in caplog.records if one.name == "a.b"] == [
        ("a.b", logging.WARNING, "100%s"),
        ("a.b", logging.DEBUG, "a trace"),
    ]


def test_a_job_that_cannot_be_told_ends_as_a_bad_request(make: Make) -> None:
    engine = make()
    with started(engine) as seen:
        engine.submit(job(1, "\ud800"))
        failed = seen.answer(1).failed
        assert (failed.code, failed.retryable) == (FailureCode.BAD_REQUEST, False)


def test_a_second_node_is_refused(make: Make) -> None:
    engine = make()
    with started(engine), pytest.raises(UsageError):
        engine.start(Collector())
    with pytest.raises(UsageError):
        engine.start(Collector())
