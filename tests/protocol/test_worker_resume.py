"""The worker's side of a continuation: what it takes, what it refuses, and how it counts."""

from __future__ import annotations

from hashlib import blake2b

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Complete,
    Error,
    FinishReason,
    GenerationConfig,
    IdsPrompt,
    Progress,
    RejectReason,
    Resume,
    Token,
)
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.hand import DIGEST, FACTS, HandClient, done, only, rejected

RESUME = Resume(2, (7, 9), "ab", DIGEST, "scripted-1")


def test_the_engine_gets_the_resumed_part_and_the_assigns_date() -> None:
    asked = HandClient().ask(attempt=2, resume=RESUME, date="2026-01-02")
    start = only(asked.effects, ef.StartJob)
    assert isinstance(start, ef.StartJob)
    assert (start.resume, start.date, start.attempt) == (RESUME, "2026-01-02", 2)


def test_a_continuation_counts_from_its_resume_index_and_its_digest_is_of_the_whole() -> None:
    hand = HandClient()
    asked = hand.ask(attempt=2, resume=RESUME)
    hand.worker.feed(ev.EngineStarted(asked.job, FACTS))
    hand.worker.feed(ev.EngineTokens(asked.job, 2, (1,), ("c",)))
    hand.worker.feed(ev.EngineTokens(asked.job, 3, (2,), ("d",)))
    hand.worker.feed(done(asked.job, "abcd", 4))
    tokens = [frame for frame in asked.frames() if not isinstance(frame, Progress)]
    assert [(t.index, t.texts) for t in tokens if isinstance(t, Token)] == [(2, ("c",)), (3, ("d",))]
    end = tokens[-1]
    assert isinstance(end, Complete)
    assert (end.total_tokens, end.completion_tokens) == (4, 4)
    assert end.text_digest == blake2b(b"abcd", digest_size=32).digest()


def test_an_engine_that_begins_anew_instead_of_continuing_is_not_believed() -> None:
    hand = HandClient()
    asked = hand.ask(attempt=2, resume=RESUME)
    hand.worker.feed(ev.EngineTokens(asked.job, 0, (1,), ("a",)))
    (end,) = asked.frames()
    assert isinstance(end, Error)
    assert end.retryable


def test_an_engine_whose_digest_leaves_the_resumed_part_out_is_not_believed() -> None:
    hand = HandClient()
    asked = hand.ask(attempt=2, resume=RESUME)
    hand.worker.feed(ev.EngineTokens(asked.job, 2, (1,), ("c",)))
    hand.worker.feed(done(asked.job, "c", 3))
    assert isinstance(asked.frames()[-1], Error)


def test_what_is_already_whole_is_completed_without_a_token() -> None:
    hand = HandClient()
    asked = hand.ask(attempt=2, resume=RESUME, config=GenerationConfig(max_tokens=2))
    digest = blake2b(b"ab", digest_size=32).digest()
    hand.worker.feed(ev.EngineDone(asked.job, FinishReason.LENGTH, 2, 7, digest, DIGEST))
    (end,) = asked.frames()
    assert isinstance(end, Complete)


def test_ids_of_other_weights_are_refused() -> None:
    asked = HandClient().ask(attempt=2, resume=RESUME, model_digest=bytes(32))
    assert rejected(asked).reason is RejectReason.DIGEST


def test_a_resumed_part_longer_than_the_answer_may_be_is_refused() -> None:
    asked = HandClient().ask(attempt=2, resume=RESUME, config=GenerationConfig(max_tokens=1))
    assert rejected(asked).reason is RejectReason.TOO_LONG


def test_prompt_and_whole_answer_must_fit_the_context_whatever_was_made_already() -> None:
    hand = HandClient()
    config = GenerationConfig(max_tokens=100)
    fits = hand.ask(attempt=2, resume=RESUME, prompt=IdsPrompt((1,) * 412), config=config)
    assert only(fits.effects, ef.StartJob)
    too_long = hand.ask(
        attempt=2, resume=RESUME, prompt=IdsPrompt((1,) * 413), config=config, request_id=hand.other(5)
    )
    assert rejected(too_long).reason is RejectReason.TOO_LONG


def test_a_newer_attempt_on_the_same_worker_ends_the_older_one() -> None:
    hand = HandClient()
    first = hand.ask(attempt=1)
    second = hand.ask(attempt=2, resume=RESUME)
    assert first.resets() == [StreamCode.SUPERSEDED]
    assert ef.CancelJob(first.job, "superseded") in hand.worker.told
    assert only(second.effects, ef.StartJob)


def test_what_cannot_be_finished_before_the_end_is_handed_over() -> None:
    hand = HandClient()
    asked = hand.ask()
    hand.worker.feed(ev.EngineTokens(asked.job, 0, (1,), ("a",)))
    hand.worker.feed(ev.Drain("stopped"))
    hand.worker.feed(ev.Goodbye("stopped"))
    end = asked.frames()[-1]
    assert isinstance(end, Error)
    assert (end.code, end.retryable) == ("draining", True)


def test_a_job_says_how_many_tokens_it_made_itself() -> None:
    hand = HandClient()
    asked = hand.ask(attempt=2, resume=RESUME)
    hand.worker.feed(ev.EngineTokens(asked.job, 2, (1,), ("c",)))
    hand.worker.feed(done(asked.job, "abc", 3))
    hand.worker.feed(ev.StreamFinished(asked.stream))
    (ended,) = hand.worker.all(ef.JobEnded)
    assert (ended.tokens, ended.reason) == (1, "done")
