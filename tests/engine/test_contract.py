"""What every engine promises (engine/base.py), asked of the scripted and of the torch engine alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from llama_gossip.engine.base import Engine, FailureCode
from llama_gossip.protocol.messages import ChatPrompt, FinishReason, IdsPrompt, RawPrompt, Resume
from tests.engine.driving import LONG_PROMPT, Collector, Subject, digest_of, job, started

Shared = tuple[Engine, Collector]


def test_an_answer_is_contiguous_counted_and_digested(shared: Shared, ids: Iterator[int]) -> None:
    engine, seen = shared
    number = next(ids)
    engine.submit(job(number))
    answer = seen.answer(number)
    assert answer.first_index == 0
    assert answer.done.finish_reason is FinishReason.LENGTH
    assert answer.done.total_tokens == len(answer.ids) == 24
    assert answer.done.text_digest == digest_of(answer.text)
    (start,) = seen.started(number)
    assert start.prompt_tokens == answer.done.prompt_tokens > 0
    assert start.prompt_digest is not None
    assert len(start.prompt_digest) == 32
    timings = answer.done.timings
    assert 0 <= timings.queue_ms <= timings.first_token_ms <= timings.total_ms


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(
    shared: Shared, ids: Iterator[int]
) -> None:
    engine, seen = shared
    texts = []
    for seed in (5, 5, 6):
        number = next(ids)
        engine.submit(job(number, seed=seed, temperature=1.0))
        texts.append(seen.answer(number).text)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_resume_at_every_token_continues_as_if_nothing_had_happened(
    shared: Shared, ids: Iterator[int], temperature: float
) -> None:
    engine, seen = shared
    options: dict[str, Any] = {"temperature": temperature, "max_tokens": 20, "ignore_eos": True}
    first = next(ids)
    engine.submit(job(first, **options))
    whole = seen.answer(first)
    for count in range(len(whole.ids) + 1):
        number = next(ids)
        engine.submit(job(number, resume=whole.resume_at(count), **options))
        rest = seen.answer(number)
        assert rest.first_index == (count if count < len(whole.ids) else None)
        assert whole.ids[:count] + rest.ids == whole.ids
        assert "".join(whole.texts[:count]) + rest.text == whole.text
        assert rest.done.total_tokens == whole.done.total_tokens
        assert rest.done.text_digest == whole.done.text_digest


def test_a_resume_by_text_alone_counts_on_from_its_index(shared: Shared, ids: Iterator[int]) -> None:
    engine, seen = shared
    number = next(ids)
    resume = Resume(3, (), "once more", None, None)
    engine.submit(job(number, resume=resume, max_tokens=8, ignore_eos=True))
    answer = seen.answer(number)
    assert answer.first_index == 3
    assert answer.done.total_tokens == 8
    assert answer.done.text_digest == digest_of("once more" + answer.text)


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(shared: Shared, ids: Iterator[int]) -> None:
    engine, seen = shared
    first = next(ids)
    engine.submit(job(first, max_tokens=40, ignore_eos=True))
    whole = seen.answer(first).text
    stop = whole[len(whole) // 2 :][:3]
    expected = whole[: whole.index(stop)]
    number = next(ids)
    engine.submit(job(number, max_tokens=40, ignore_eos=True, stop=(stop, "never in it \x00")))
    answer = seen.answer(number)
    assert answer.text == expected
    assert answer.done.finish_reason is FinishReason.STOP
    assert answer.done.total_tokens == len(answer.ids) < 40
    again = next(ids)  # the last frames came, the end did not: the resumed worker finds the end by itself
    engine.submit(
        job(again, max_tokens=40, ignore_eos=True, stop=(stop,), resume=answer.resume_at(len(answer.ids)))
    )
    resumed = seen.answer(again)
    assert resumed.ids == ()
    assert resumed.done.finish_reason is FinishReason.STOP
    assert resumed.done.text_digest == digest_of(expected)


def test_several_requests_at_once_equal_their_solo_runs(subject: Subject) -> None:
    jobs = [
        job(1, "one"),
        job(2, LONG_PROMPT, temperature=0.0),
        job(3, "three", seed=3, temperature=1.3),
        job(4, "four", top_k=5, max_tokens=40),
        job(5, LONG_PROMPT + "five", max_tokens=3),
        job(6, "six", stop=(" ",)),
    ]
    engine = subject.make(4)  # four rows for six jobs: two of them wait their turn
    with started(engine) as seen:
        for each in jobs:
            engine.submit(each)
        together = {each.job_id: seen.answer(each.job_id) for each in jobs}
    solo = subject.make(1)
    with started(solo) as seen:
        for each in jobs:
            solo.submit(replace(each, job_id=100 + each.job_id))
            alone = seen.answer(100 + each.job_id)
            assert (together[each.job_id].ids, together[each.job_id].texts) == (alone.ids, alone.texts)


def test_one_bad_job_ends_alone(shared: Shared, ids: Iterator[int], subject: Subject) -> None:
    engine, seen = shared
    good = [next(ids) for _ in range(3)]
    bad = {
        job(next(ids), IdsPrompt((1, subject.vocabulary))): FailureCode.BAD_REQUEST,
        job(next(ids), IdsPrompt(())): FailureCode.BAD_REQUEST,
        job(next(ids), temperature=math.nan): FailureCode.BAD_REQUEST,
        job(next(ids), temperature=-1.0): FailureCode.BAD_REQUEST,
        job(next(ids), top_p=1.5): FailureCode.BAD_REQUEST,
        job(next(ids), seed=-1): FailureCode.BAD_REQUEST,
        job(next(ids), stop=("",)): FailureCode.BAD_REQUEST,
        job(next(ids), max_tokens=100_000): FailureCode.TOO_LONG,
        job(next(ids), "word " * 4000): FailureCode.TOO_LONG,
        job(next(ids), resume=Resume(2, (1,), "x", None, None)): FailureCode.BAD_REQUEST,
        job(next(ids), resume=Resume(1, (subject.vocabulary,), "x", None, None)): FailureCode.BAD_REQUEST,
    }
    engine.submit(job(good[0], temperature=0.0, ignore_eos=True))
    engine.submit(job(good[1], temperature=0.0, ignore_eos=True))
    for each in bad:
        engine.submit(each)
    engine.submit(job(good[2], temperature=0.0, ignore_eos=True))
    for each, code in bad.items():
        failed = seen.answer(each.job_id).failed
        assert failed.code is code, failed
        assert not failed.retryable
        assert failed.message
        assert not seen.started(each.job_id)
    answers = [seen.answer(number) for number in good]
    assert len({answer.ids for answer in answers}) == 1
    assert answers[0].done.total_tokens == 24


def test_a_chat_is_rendered_and_differs_from_its_raw_text(shared: Shared, ids: Iterator[int]) -> None:
    engine, seen = shared
    digests = []
    for prompt in (ChatPrompt((("user", "hello"),)), ChatPrompt((("user", "hello!"),)), RawPrompt("hello")):
        number = next(ids)
        engine.submit(job(number, prompt))
        seen.answer(number)
        digests.append(seen.started(number)[0].prompt_digest)
    assert len(set(digests)) == 3


def test_logprobs_come_with_as_many_alternatives_as_asked(shared: Shared, ids: Iterator[int]) -> None:
    engine, seen = shared
    for count in (0, 4):
        number = next(ids)
        engine.submit(job(number, logprobs=count, max_tokens=6))
        seen.answer(number)
        groups = [group for event in seen.tokens(number) for group in event.logprobs or ()]
        assert len(groups) == 6
        assert all(group.logprob <= 0 and len(group.top) == count for group in groups)


def test_load_tells_what_runs_and_rests_at_zero(shared: Shared, ids: Iterator[int]) -> None:
    engine, seen = shared
    number = next(ids)
    engine.submit(job(number))
    seen.answer(number)
    load = engine.load()
    assert (load.running, load.queued, load.last_step_age_ms) == (0, 0, 0.0)
    assert load.tokens_per_s > 0
    assert load.first_token_ms > 0
    assert load.memory_free > 0
    assert (load.pool_bytes, load.pool_used_bytes) == (engine.info.pool_bytes, 0)


def test_an_answer_that_may_fit_ends_where_the_context_does_and_so_does_its_continuation(
    shared: Shared, ids: Iterator[int]
) -> None:
    engine, seen = shared
    prompt = IdsPrompt(tuple(5 + n % 50 for n in range(engine.info.context - 6)))
    options: dict[str, Any] = {"max_tokens": 1_000_000, "ignore_eos": True, "fit": True}
    first = next(ids)
    engine.submit(job(first, prompt, **options))
    whole = seen.answer(first)
    assert (len(whole.ids), whole.done.finish_reason) == (6, FinishReason.LENGTH)
    again = next(ids)
    engine.submit(job(again, prompt, resume=whole.resume_at(2), **options))
    rest = seen.answer(again)
    assert (rest.ids, rest.done.total_tokens) == (whole.ids[2:], 6)
    full = next(ids)
    engine.submit(job(full, IdsPrompt((5,) * engine.info.context), **options))
    assert seen.answer(full).failed.code is FailureCode.TOO_LONG
