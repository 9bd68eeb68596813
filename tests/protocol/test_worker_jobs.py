"""The worker against a requester played by hand: how a job runs, what it tells, how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Cancel,
    Complete,
    Error,
    Phase,
    Progress,
    RejectReason,
    Resume,
    Token,
    TokenLogprob,
)
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.hand import (
    FACTS,
    Asked,
    HandClient,
    done,
    ended,
    kinds,
    rejected,
    running,
    tokens,
)
from tests.protocol.scripted_model import ScriptedModel

# --- ends: nobody is computed for who is gone ------------------------------------------------------------


def cancel_frame(asked: Asked) -> ev.Event:
    return ev.StreamData(asked.stream, asked.writer.encode(Cancel(0, "enough")))


ENDS: dict[str, Callable[[Asked], ev.Event]] = {
    "Cancel": cancel_frame,
    "finish": lambda asked: ev.StreamFinished(asked.stream),
    "reset": lambda asked: ev.StreamReset(asked.stream, 1),
    "stop": lambda asked: ev.StreamStopped(asked.stream, 1),
    "loss": lambda asked: ev.StreamLost(asked.stream, "gone"),
    "a frame of another signer": lambda asked: ev.StreamData(asked.stream, b"\x00\x00\x00\x01\x93"),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_the_requester_cancels_the_engines_job_at_once(name: str) -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(tokens(asked.job, 0, "a"))
    effects = client.worker.feed(ENDS[name](asked))
    assert [e.job for e in effects if isinstance(e, ef.CancelJob)] == [asked.job]
    our_end = {"loss": [], "a frame of another signer": [StreamCode.PROTOCOL]}
    assert asked.resets() == our_end.get(name, [StreamCode.CANCELLED])
    assert running(client) == 1
    assert not client.worker.all(ef.JobEnded)
    client.worker.feed(tokens(asked.job, 1, "b"))
    assert ef.JobEnded in kinds(client.worker.feed(ended(asked.job)))
    assert running(client) == 0
    assert kinds(client.worker.feed(ended(asked.job))) == [], "a slot is freed once"
    assert not client.worker.core._worker._inbound


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_waiting_job_takes_it_off_the_queue(name: str) -> None:
    client = HandClient(ScriptedModel(slots=1))
    first = client.ask(request_id=client.other(1))
    second = client.ask(request_id=client.other(2))
    effects = client.worker.feed(ENDS[name](second))
    assert ef.CancelJob not in kinds(effects)
    assert ef.JobEnded in kinds(effects)
    assert ef.StartJob not in kinds(client.worker.feed(done(first.job, "", 0)))


def test_cancel_after_the_answer_changes_nothing() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(done(asked.job, "", 0))
    assert kinds(client.worker.feed(cancel_frame(asked))) == []


# --- queue and progress ------------------------------------------------------------


def test_a_waiting_job_is_told_its_place_at_once_and_again_every_half_second() -> None:
    client = HandClient(ScriptedModel(slots=1))
    client.ask(request_id=client.other(1))
    waiting = client.ask(request_id=client.other(2))
    assert [(f.phase, f.value) for f in waiting.frames() if isinstance(f, Progress)] == [(Phase.QUEUED, 0)]
    client.worker.wait(2_000)
    assert len(waiting.frames()) == 4


def test_the_more_urgent_job_starts_first_and_equal_ones_in_order() -> None:
    client = HandClient(ScriptedModel(slots=1))
    first = client.ask(request_id=client.other(0))
    for number, priority in [(1, 3), (2, 8), (3, 3), (4, 9)]:
        client.ask(request_id=client.other(number), priority=priority)
    started, job = [], first.job
    for _ in range(4):
        (start,) = [e for e in client.worker.feed(done(job, "", 0)) if isinstance(e, ef.StartJob)]
        started.append(int.from_bytes(start.request_id, "big"))
        job = start.job
    assert started == [2, 4, 1, 3], "a stranger's 9 counts as 8"


def test_heartbeats_flow_while_the_engine_steps_and_stop_when_it_hangs() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.wait(20_000)
    client.worker.feed(ev.EngineStepped())
    effects = client.worker.wait(29_999)
    assert ef.CancelJob not in kinds(effects)
    effects = client.worker.wait(1)
    assert ef.CancelJob(asked.job, "engine_stalled") in effects
    frames = asked.frames()
    assert {type(f) for f in frames[:-1]} == {Progress}
    assert len(frames) - 1 >= 98
    assert isinstance(frames[-1], Error)
    assert (frames[-1].code, frames[-1].retryable) == ("engine_stalled", True)


def test_the_phase_and_percent_of_a_job_are_told_with_the_heartbeat() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(ev.EngineStarted(asked.job, FACTS))
    client.worker.feed(ev.EngineProgress(asked.job, Phase.PREFILL, 40))
    client.worker.wait(500)
    client.worker.feed(tokens(asked.job, 0, "a"))
    client.worker.wait(500)
    told = [(f.phase, f.value, f.facts is not None) for f in asked.frames() if isinstance(f, Progress)]
    assert told == [(Phase.PREFILL, 0, True), (Phase.PREFILL, 40, False), (Phase.DECODE, 1, False)]


def test_no_heartbeat_is_sent_while_tokens_flow() -> None:
    client = HandClient()
    asked = client.ask()
    for index in range(10):
        client.worker.feed(tokens(asked.job, index, "a"))
        client.worker.wait(400)
    assert {type(frame) for frame in asked.frames()} == {Token}


# --- coalescing ------------------------------------------------------------


def test_the_first_token_goes_at_once_and_the_next_ones_together_after_25_ms() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(tokens(asked.job, 0, "a"))
    assert len(asked.frames()) == 1
    for index in range(1, 5):
        client.worker.feed(tokens(asked.job, index, "b"))
    assert asked.frames() == []
    client.worker.wait(24)
    assert asked.frames() == []
    client.worker.wait(1)
    (frame,) = asked.frames()
    assert isinstance(frame, Token)
    assert (frame.index, frame.texts) == (1, ("b",) * 4)


def test_a_slow_model_sends_each_token_as_it_comes() -> None:
    client = HandClient()
    asked = client.ask()
    for index in range(3):
        client.worker.feed(tokens(asked.job, index, "a"))
        assert len(asked.frames()) == 1
        client.worker.wait(25)


def test_sixteen_tokens_or_1_KiB_do_not_wait() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(tokens(asked.job, 0, "a"))
    client.worker.feed(tokens(asked.job, 1, *["b"] * 17))
    client.worker.feed(tokens(asked.job, 18, "x" * 600))
    client.worker.feed(tokens(asked.job, 19, "y" * 600))
    frames = [f for f in asked.frames() if isinstance(f, Token)]
    assert [(f.index, len(f.texts)) for f in frames] == [(0, 1), (1, 16), (17, 2)]


def test_what_waits_is_sent_before_complete() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(tokens(asked.job, 0, "a"))
    client.worker.feed(tokens(asked.job, 1, "b"))
    client.worker.feed(done(asked.job, "ab", 2))
    assert [type(frame) for frame in asked.frames()] == [Token, Token, Complete]


# --- a resumed answer: whoever asks for one gets it, whatever this node asks for itself -----------------


def test_the_answer_to_a_resume_begins_behind_it_and_counts_the_whole() -> None:
    client = HandClient()
    asked = client.ask(resume=Resume(2, (7, 8), "ab", None, None))
    client.worker.feed(ev.EngineStarted(asked.job, FACTS))
    client.worker.feed(tokens(asked.job, 2, "c"))
    client.worker.feed(done(asked.job, "abc", 3))
    _, token, complete = asked.frames()
    assert isinstance(token, Token)
    assert (token.index, token.texts) == (2, ("c",))
    assert isinstance(complete, Complete)
    assert (complete.total_tokens, complete.text_digest) == (3, done(0, "abc", 3).text_digest)
    (told,) = [e for e in client.worker.feed(ev.StreamFinished(asked.stream)) if isinstance(e, ef.JobEnded)]
    assert (told.tokens, told.reason) == (1, "done")


def test_a_resume_that_is_already_the_whole_answer_is_completed_without_a_token() -> None:
    client = HandClient()
    asked = client.ask(resume=Resume(8, (), "abcdefgh", None, None))
    client.worker.feed(done(asked.job, "abcdefgh", 8))
    (complete,) = asked.frames()
    assert isinstance(complete, Complete)
    assert complete.total_tokens == 8


# --- facts ------------------------------------------------------------


def test_the_facts_of_a_prompt_are_told_exactly_once_by_the_first_progress_that_knows_them() -> None:
    client = HandClient(ScriptedModel(slots=1))
    first, second = client.ask(request_id=client.other(1)), client.ask(request_id=client.other(2))
    client.worker.wait(600)
    (started,) = [e for e in client.worker.feed(done(first.job, "", 0)) if isinstance(e, ef.StartJob)]
    client.worker.wait(600)
    client.worker.feed(ev.EngineStarted(started.job, FACTS))
    client.worker.wait(1_200)
    told = [f for f in second.frames() if isinstance(f, Progress)]
    phases = [f.phase for f in told]
    assert phases == sorted(phases)
    assert Phase.QUEUED in phases
    assert [f.facts for f in told if f.facts is not None] == [FACTS]


# --- the engine at fault ------------------------------------------------------------


def with_logprobs(job: int, index: int, logprobs: tuple[TokenLogprob, ...]) -> ev.Event:
    return ev.EngineTokens(job, index, (), ("a",) * len(logprobs), logprobs)


WRONG: dict[str, list[Callable[[int], ev.Event]]] = {
    "skips": [lambda job: tokens(job, 1, "a")],
    "repeats": [lambda job: tokens(job, 0, "a"), lambda job: tokens(job, 0, "a")],
    "too long a text": [lambda job: tokens(job, 0, "x" * 1_025)],
    "ids and texts differ": [lambda job: ev.EngineTokens(job, 0, (1, 2), ("a",))],
    "half a character": [lambda job: tokens(job, 0, "\ud800")],
    "no token id": [lambda job: ev.EngineTokens(job, 0, (-1,), ("a",))],
    "no number": [lambda job: with_logprobs(job, 0, (TokenLogprob(math.nan, ()),))],
    "another count": [lambda job: tokens(job, 0, "a"), lambda job: done(job, "a", 2)],
    "another text": [lambda job: tokens(job, 0, "a"), lambda job: done(job, "b", 1)],
}


@pytest.mark.parametrize("name", WRONG)
def test_an_engine_that_contradicts_itself_ends_as_an_error_never_as_complete(name: str) -> None:
    client = HandClient()
    asked = client.ask()
    for event in WRONG[name]:
        client.worker.feed(event(asked.job))
    last = asked.frames()[-1]
    assert isinstance(last, Error)
    assert (last.code, last.retryable) == ("engine_failed", True)
    client.worker.feed(ended(asked.job))
    assert running(client) == 0


UNSENDABLE: dict[str, Callable[[int], ev.Event]] = {
    "no number": lambda job: with_logprobs(job, 1, (TokenLogprob(-math.inf, ()),)),
    "an alternative that is no number": lambda job: with_logprobs(
        job, 1, (TokenLogprob(-1.0, (("b", math.nan),)),)
    ),
    "an alternative too long": lambda job: with_logprobs(
        job, 1, (TokenLogprob(-1.0, (("b" * 1_025, -1.0),)),)
    ),
    "fewer logprobs than texts": lambda job: ev.EngineTokens(
        job, 1, (), ("a", "b"), (TokenLogprob(-1.0, ()),)
    ),
    "no token id": lambda job: ev.EngineTokens(job, 1, (2**32,), ("a",)),
}


@pytest.mark.parametrize("name", UNSENDABLE)
def test_a_token_that_no_frame_carries_fails_its_job_when_it_comes_not_when_its_batch_goes(name: str) -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(tokens(asked.job, 0, "a"))
    client.worker.feed(UNSENDABLE[name](asked.job))
    client.worker.wait(1_000)
    first, last = asked.frames()
    assert isinstance(first, Token)
    assert isinstance(last, Error)
    assert last.code == "engine_failed"


def test_twenty_alternatives_of_the_longest_texts_fit_their_frames() -> None:
    client = HandClient()
    asked = client.ask()
    entry = TokenLogprob(-1.0, (("b" * 1_024, -1.0),) * 20)
    for index in range(0, 8, 4):
        client.worker.feed(with_logprobs(asked.job, index, (entry,) * 4))
    client.worker.wait(25)
    frames = [frame for frame in asked.frames() if isinstance(frame, Token)]
    assert [frame.index for frame in frames] == list(range(8))
    assert {frame.logprobs for frame in frames} == {(entry,)}


def test_the_engines_own_failure_is_passed_on() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(ev.EngineFailed(asked.job, "too_long", "é" * 300, retryable=False))
    (error,) = asked.frames()
    assert isinstance(error, Error)
    assert (error.code, error.retryable, len(error.error.encode())) == ("too_long", False, 256)


def test_the_deadline_of_a_job_stops_the_engine() -> None:
    client = HandClient()
    asked = client.ask(deadline_ms=700)
    effects = client.worker.wait(700)
    assert ef.CancelJob(asked.job, "deadline") in effects
    last = asked.frames()[-1]
    assert isinstance(last, Error)
    assert (last.code, last.retryable) == ("deadline", False)


def test_no_job_runs_for_more_than_an_hour_whatever_its_deadline_says() -> None:
    client = HandClient()
    asked = client.ask(deadline_ms=2**40)
    assert next(e.deadline_ms for e in asked.effects if isinstance(e, ef.StartJob)) == 3_600_000
    for _ in range(360):
        client.worker.feed(ev.EngineStepped())
        client.worker.wait(10_000)
    assert client.worker.all(ef.CancelJob) == [ef.CancelJob(asked.job, "deadline")]


# --- drain ------------------------------------------------------------


def test_drain_finishes_what_runs_sends_the_rest_elsewhere_and_says_when_it_is_done() -> None:
    client = HandClient(ScriptedModel(slots=1))
    runs, waits = client.ask(request_id=client.other(1)), client.ask(request_id=client.other(2))
    waits.frames()
    effects = client.worker.feed(ev.Drain("update"))
    assert ef.CancelJob not in kinds(effects)
    (error,) = waits.frames()
    assert isinstance(error, Error)
    assert (error.code, error.retryable) == ("draining", True)
    client.worker.feed(ev.StreamFinished(waits.stream))
    assert rejected(client.ask(request_id=client.other(3))).reason is RejectReason.DRAINING
    assert not client.worker.all(ef.Drained)
    client.worker.feed(tokens(runs.job, 0, "a"))
    client.worker.feed(done(runs.job, "a", 1))
    assert ef.Drained in kinds(client.worker.feed(ev.StreamFinished(runs.stream)))
    assert len(client.worker.all(ef.Drained)) == 1


def test_an_idle_node_is_drained_at_once() -> None:
    assert ef.Drained in kinds(HandClient().worker.feed(ev.Drain("update")))


def test_goodbye_tells_what_still_runs_to_go_elsewhere_and_leaves() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(ev.StreamAccepted(50, client.signer.node_id))
    effects = client.worker.feed(ev.Goodbye("off"))
    assert ef.CancelJob(asked.job, "draining") in effects
    assert ef.ResetStream(50, StreamCode.SHUTDOWN) in effects
    last = asked.frames()[-1]
    assert isinstance(last, Error)
    assert (last.code, last.retryable) == ("draining", True)
    assert client.worker.feed(ev.StreamAccepted(51, client.signer.node_id))[0] == ef.ResetStream(51, 5)
