"""The batch: rows share steps and nothing else, and work that has been done is not done again."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from llama_gossip.engine.base import EngineJob, FailureCode
from llama_gossip.engine.batching import PREFILL_TOKENS
from llama_gossip.engine.checkpoint import Checkpoint, load_checkpoint
from llama_gossip.engine.forward import Segment
from llama_gossip.engine.packed import PackedForward
from llama_gossip.engine.torch_engine import TorchEngine
from llama_gossip.protocol.messages import IdsPrompt, NumericsClass
from tests.engine.driving import job, started

PROMPT = tuple(random.Random(1).randrange(256) for _ in range(1000))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint("tiny-random", device="cpu", dtype="fp32")


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[TorchEngine]:
    made = TorchEngine(checkpoint, max_concurrent=16, threads=1)
    yield made
    made.close()


def mixed(number: int) -> EngineJob:
    """Job `number` of many: another prompt, length and sampling than its neighbours."""
    rng = random.Random(number)
    prompt = IdsPrompt(tuple(rng.randrange(256) for _ in range(rng.choice((1, 3, 15, 16, 17, 60, 300)))))
    options: dict[str, Any] = {
        "temperature": rng.choice((0.0, 0.7, 1.0, 1.5)),
        "top_p": rng.choice((1.0, 0.9)),
        "top_k": rng.choice((None, 1, 40)),
        "min_p": rng.choice((0.0, 0.05)),
        "repetition": rng.choice((1.0, 1.2)),
        "presence": rng.choice((0.0, 0.5)),
        "seed": number,
        "max_tokens": rng.randrange(1, 30),
        "ignore_eos": rng.choice((True, False)),
        "logprobs": rng.choice((None, None, 2)),
    }
    return job(number, prompt, **options)


def test_64_requests_on_16_slots_equal_their_lone_runs(checkpoint: Checkpoint, engine: TorchEngine) -> None:
    jobs = [mixed(number) for number in range(64)]
    with started(engine) as seen:
        for each in jobs:
            engine.submit(each)
        together = [seen.answer(each.job_id) for each in jobs]
        logprobs = [[event.logprobs for event in seen.tokens(each.job_id)] for each in jobs]
    lone = TorchEngine(checkpoint, max_concurrent=1, threads=1)
    with started(lone) as seen:
        for number, each in enumerate(jobs):
            lone.submit(replace(each, job_id=1000 + number, owner=b"%d" % number))
            alone = seen.answer(1000 + number)
            assert (together[number].ids, together[number].texts) == (alone.ids, alone.texts)
            if engine.info.numerics_class is NumericsClass.EXACT:
                assert logprobs[number] == [event.logprobs for event in seen.tokens(1000 + number)]
    assert engine.steps < lone.steps / 4


def test_poisonous_requests_among_15_spoil_nothing(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PackedForward.run

    def poisoned(self: PackedForward, segments: list[Segment]) -> Any:
        logits = plain(self, segments).clone()
        for row, segment in enumerate(segment for segment in segments if segment.draw is not None):
            if segment.ids[0] == 250 and segment.start == 0:
                logits[row] = math.nan
        return logits

    monkeypatch.setattr(PackedForward, "run", poisoned)
    good = [job(number, f"{number} bottles", max_tokens=20, ignore_eos=True) for number in range(15)]
    bad = {
        job(100, IdsPrompt((1,) * 5000)): FailureCode.TOO_LONG,
        job(101, IdsPrompt((250, 1))): FailureCode.NOT_FINITE,
        job(102, IdsPrompt((1, 259))): FailureCode.BAD_REQUEST,
        job(103, temperature=math.inf): FailureCode.BAD_REQUEST,
        job(104, repetition=0.0): FailureCode.BAD_REQUEST,
        job(105, logit_bias=((5, math.nan),)): FailureCode.BAD_REQUEST,
    }
    with started(engine) as seen:
        for each in good:
            engine.submit(each)
        expected = [seen.answer(each.job_id).ids for each in good]
        for number, (each, code) in enumerate(bad.items(), 1):
            again = [replace(other, job_id=1000 * number + other.job_id) for other in good]
            for other in again[:7]:
                engine.submit(other)
            engine.submit(each)
            for other in again[7:]:
                engine.submit(other)
            failed = seen.answer(each.job_id).failed
            assert (failed.code, failed.retryable) == (code, False)
            assert [seen.answer(other.job_id).ids for other in again] == expected


def test_the_second_turn_of_a_chat_feeds_only_what_is_new(engine: TorchEngine) -> None:
    with started(engine) as seen:
        engine.submit(job(1, IdsPrompt(PROMPT), max_tokens=50, ignore_eos=True))
        answer = seen.answer(1)
        assert (engine.load().fed_tokens, engine.load().cached_tokens) == (1000, 0)
        history = (*PROMPT, *answer.ids, 7, 8, 9, 10)
        engine.submit(job(2, IdsPrompt(history), max_tokens=20, ignore_eos=True))
        second = seen.answer(2)
        assert engine.load().fed_tokens - 1000 == 5  # the new ones, and the last of the answer
        assert engine.load().cached_tokens == 1049
        assert [event.cached_tokens for event in seen.started(2)] == [1049]
        assert not seen.prefills(2)
        engine.submit(replace(job(3, IdsPrompt(history), max_tokens=20, ignore_eos=True), owner=b"another"))
        assert seen.answer(3).ids == second.ids
        assert len(seen.prefills(3)) == len(history) // PREFILL_TOKENS


def test_a_resume_on_the_same_worker_costs_one_token(engine: TorchEngine) -> None:
    options: dict[str, Any] = {"max_tokens": 100, "ignore_eos": True}
    with started(engine) as seen:
        engine.submit(job(1, IdsPrompt(PROMPT), **options))
        whole = seen.answer(1)
        engine.submit(replace(job(2, IdsPrompt(PROMPT), **options), owner=b"other"))
        seen.wait_for(lambda: len(seen.tokens(2)) >= 30, "30 tokens")
        engine.cancel(2)
        cut = seen.answer(2)
        before = engine.load().fed_tokens
        resume = cut.resume_at(len(cut.ids))
        engine.submit(replace(job(3, IdsPrompt(PROMPT), resume=resume, **options), owner=b"other"))
        assert cut.ids + seen.answer(3).ids == whole.ids
        assert engine.load().fed_tokens - before == 1


def test_a_slot_is_free_within_a_step_of_a_cancel(checkpoint: Checkpoint) -> None:
    """One slot: the step in which the second begins follows the one in which the first was cancelled."""
    engine = TorchEngine(checkpoint, max_concurrent=1, threads=1)
    steps: list[int] = []
    with started(engine) as seen:

        def react(events: Any) -> None:
            if not steps and any(event.job_id == 1 for event in events) and len(seen.tokens(1)) >= 3:
                engine.cancel(1)
                steps.append(engine.steps)
            if len(steps) == 1 and seen.started(2):
                steps.append(engine.steps)

        seen.react = react
        engine.submit(job(1, max_tokens=1000, ignore_eos=True))
        engine.submit(job(2))
        assert seen.answer(1).failed.code is FailureCode.CANCELLED
        assert seen.answer(2).done.total_tokens == 24
    assert steps[1] - steps[0] <= 1


def test_old_prefixes_make_room_for_rows(checkpoint: Checkpoint) -> None:
    engine = TorchEngine(checkpoint, max_concurrent=1, threads=1)  # a pool of one context
    with started(engine) as seen:
        for number in range(12):
            engine.submit(job(number, IdsPrompt((number, *PROMPT)), max_tokens=5))
            seen.answer(number)
        engine.submit(job(20, IdsPrompt((20, *PROMPT)), max_tokens=3000, ignore_eos=True))
        seen.wait_for(lambda: seen.tokens(20), "the first token beside no old prefix")
        engine.cancel(20)
        assert engine.load().cached_tokens == 0
