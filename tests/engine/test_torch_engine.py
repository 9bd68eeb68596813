"""The torch engine: faults of single rows, honest loading, and the same text as transformers' own loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from llama_gossip.engine import device as devices
from llama_gossip.engine import memory
from llama_gossip.engine.base import EngineEvent, FailureCode, JobDone, JobTokens
from llama_gossip.engine.batching import PREFILL_TOKENS
from llama_gossip.engine.checkpoint import Checkpoint, load_checkpoint
from llama_gossip.engine.forward import Segment
from llama_gossip.engine.packed import PackedForward, Unservable
from llama_gossip.engine.serial import SerialForward
from llama_gossip.engine.torch_engine import TorchEngine
from llama_gossip.errors import EngineError
from llama_gossip.protocol.messages import FinishReason, IdsPrompt, NumericsClass
from tests.engine import sampler_reference as reference
from tests.engine.driving import LONG_PROMPT, job, started


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint("tiny-random", device="cpu", dtype="fp32")


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[TorchEngine]:
    made = TorchEngine(checkpoint, max_concurrent=4, threads=1)
    yield made
    made.close()


def _unservable(self: PackedForward, segments: list[Segment]) -> Any:
    raise Unservable("sinks")


def greedy_by_transformers(checkpoint: Checkpoint, ids: list[int], count: int) -> tuple[int, ...]:
    import torch

    torch.set_num_threads(1)  # of this thread: two that spin are slower on a busy machine
    with torch.inference_mode():
        out = checkpoint.module.generate(
            torch.tensor([ids]),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        )
    return tuple(out[0, len(ids) :].tolist())


def test_greedy_tokens_are_those_of_generate(checkpoint: Checkpoint, engine: TorchEngine) -> None:
    """min_new_tokens forbids the end token there, a bias forbids it here."""
    no_end = tuple((token_id, -1e9) for token_id in checkpoint.eos_ids)
    with started(engine) as seen:
        for number, size in enumerate((3, PREFILL_TOKENS, PREFILL_TOKENS + 1, 700)):
            ids = [(11 * i + number) % 256 for i in range(size)]
            engine.submit(job(number, IdsPrompt(tuple(ids)), temperature=0.0, logit_bias=no_end))
            assert seen.answer(number).ids == greedy_by_transformers(checkpoint, ids, 24)


def test_a_long_prompt_goes_in_by_chunks_and_others_step_in_between(engine: TorchEngine) -> None:
    order: list[tuple[int, str]] = []

    def react(events: Sequence[EngineEvent]) -> None:
        """The second job comes between two steps of the first, however slow this test's thread is."""
        if (1, "JobTokens") not in order and any(isinstance(event, JobTokens) for event in events):
            engine.submit(job(2, LONG_PROMPT, max_tokens=1))
        order.extend((event.job_id, type(event).__name__) for event in events)

    with started(engine) as seen:
        seen.react = react
        engine.submit(job(1, max_tokens=1000, ignore_eos=True))
        seen.answer(2)
        engine.cancel(1)
        seen.answer(1)
    percents = [event.percent for event in seen.prefills(2)]
    assert percents == sorted(percents)
    assert len(percents) == len(LONG_PROMPT) // PREFILL_TOKENS
    chunks = [at for at, event in enumerate(order) if event == (2, "JobPrefill")]
    between = [order[a:b] for a, b in pairwise(chunks)]
    assert sum((1, "JobTokens") in part for part in between) >= len(between) - 1


def test_logits_that_are_not_finite_fail_their_row_alone(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PackedForward.run

    def poisoned(self: PackedForward, segments: list[Segment]) -> Any:
        logits = plain(self, segments).clone()
        drawn = [segment for segment in segments if segment.draw is not None]
        for row, segment in enumerate(drawn):
            if segment.ids[0] == 66:  # the prompt "B"
                logits[row, 7] = float("nan")
        return logits

    monkeypatch.setattr(PackedForward, "run", poisoned)
    with started(engine) as seen:
        engine.submit(job(1, "A", temperature=0.0, ignore_eos=True))
        engine.submit(job(2, "B"))
        failed = seen.answer(2).failed
        assert failed.code is FailureCode.NOT_FINITE
        assert not failed.retryable
        assert seen.answer(1).done.total_tokens == 24


def test_a_step_that_raises_fails_its_rows_retryable_and_the_next_ones_are_served(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The third row has a prefix and waits for its turn: what the pool held is gone, so it is fed again."""
    import torch

    engine = TorchEngine(checkpoint, threads=1)
    plain_run, plain_reserve = PackedForward.run, PackedForward.reserve

    def raising(self: PackedForward, segments: list[Segment]) -> Any:
        if any(segment.ids[0] == 66 and segment.start > 0 for segment in segments):  # "BBB…"
            raise RuntimeError("out of memory at /some/secret/path")
        return plain_run(self, segments)

    def emptied(self: PackedForward, blocks: int) -> None:
        monkeypatch.setattr(PackedForward, "run", plain_run)
        plain_reserve(self, blocks)
        with torch.inference_mode():
            for pool in self._pools:
                pool.keys.fill_(7.0)

    with started(engine) as seen:
        prompt = LONG_PROMPT + "and then it rests"
        engine.submit(replace(job(0, prompt), owner=b"another"))
        expected = seen.answer(0).ids
        monkeypatch.setattr(PackedForward, "run", raising)
        monkeypatch.setattr(PackedForward, "reserve", emptied)

        def react(events: Sequence[EngineEvent]) -> None:
            if any(isinstance(event, JobDone) and event.job_id == 1 for event in events):
                engine.submit(job(2, "B" * 600))  # from the model's thread: both are there for its next step
                engine.submit(job(3, prompt))

        seen.react = react
        engine.submit(job(1, LONG_PROMPT, max_tokens=1))
        failed = seen.answer(2).failed
        assert (failed.code, failed.retryable) == (FailureCode.ENGINE, True)
        assert "secret" not in failed.message
        assert seen.answer(3).ids == expected
        assert seen.started(3)[0].cached_tokens == len(LONG_PROMPT)
    assert "out of memory" in caplog.text


def test_an_end_token_ends_the_answer_and_is_not_shown(checkpoint: Checkpoint) -> None:
    plain = TorchEngine(checkpoint, threads=1)
    with started(plain) as seen:
        plain.submit(job(1, temperature=0.0, ignore_eos=True))
        whole = seen.answer(1)
    end = whole.ids[9]
    first = whole.ids.index(end)
    ending = TorchEngine(replace(checkpoint, eos_ids=(258, end)), threads=1)
    with started(ending) as seen:
        ending.submit(job(1, temperature=0.0))
        ending.submit(job(2, temperature=0.0, ignore_eos=True))
        answer = seen.answer(1)
        assert answer.ids == whole.ids[:first]
        assert answer.done.finish_reason is FinishReason.STOP
        assert seen.answer(2).ids == whole.ids
        ending.submit(job(3, temperature=0.0, resume=answer.resume_at(len(answer.ids))))
        resumed = seen.answer(3)
        assert (resumed.ids, resumed.done.finish_reason) == ((), FinishReason.STOP)
        assert resumed.done.text_digest == answer.done.text_digest


def test_a_model_that_cannot_be_packed_is_served_row_by_row_and_says_so(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = TorchEngine(checkpoint, threads=1)
    jobs = [job(1, "one"), job(2, LONG_PROMPT, temperature=0.0), job(3, "three", top_k=4)]
    with started(fast) as seen:
        for each in jobs:
            fast.submit(each)
        expected = [seen.answer(each.job_id).ids for each in jobs]
    monkeypatch.setattr(PackedForward, "run", _unservable)
    slow = TorchEngine(checkpoint, threads=1)
    assert any("one after another" in note for note in slow.info.notes)
    assert slow.info.numerics_class is NumericsClass.FP32
    with started(slow) as seen:
        for each in jobs:
            slow.submit(each)
        assert [seen.answer(each.job_id).ids for each in jobs] == expected


def test_a_model_whose_cached_steps_differ_is_refused_at_load(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (PackedForward, SerialForward):
        plain = kind.run
        monkeypatch.setattr(kind, "run", lambda self, segments, plain=plain: plain(self, segments) * 1.01)
    with pytest.raises(EngineError) as caught:
        TorchEngine(checkpoint, threads=1)
    assert "cache" in caught.value.message
    assert caught.value.hint


def test_the_context_is_what_memory_allows(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_per_token = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, size, fp32
    monkeypatch.setattr(memory, "memory_available", lambda: 2 * 1000 * bytes_per_token)
    engine = TorchEngine(checkpoint, threads=1)
    with started(engine) as seen:
        assert engine.info.context == 992  # whole blocks
        assert any("context is 992 of 4096" in note for note in engine.info.notes)
        engine.submit(job(1, max_tokens=1000))
        assert seen.answer(1).failed.code is FailureCode.TOO_LONG


def test_rows_wait_until_memory_holds_them(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_available", lambda: 2 * 1000 * 512)  # 1 000 tokens
    engine = TorchEngine(checkpoint, threads=1)
    with started(engine) as seen:
        for number in (1, 2, 3):
            engine.submit(job(number, max_tokens=400, ignore_eos=True))  # 16 + 400 each: two fit
        for number in (1, 2, 3):
            assert seen.answer(number).done.total_tokens == 400
    events = [event for call in seen.calls for event in call]
    third = events.index(seen.started(3)[0])
    assert third > min(events.index(seen.ends(number)[0]) for number in (1, 2))
    assert events.index(seen.started(2)[0]) < events.index(seen.ends(1)[0])


def test_sampled_tokens_are_the_samplers_at_absolute_positions(
    checkpoint: Checkpoint, engine: TorchEngine
) -> None:
    import torch

    prompt = (10, 20, 30, 40, 50)
    made = job(1, IdsPrompt(prompt), temperature=1.0, top_p=0.95, seed=3, max_tokens=8, ignore_eos=True)
    with started(engine) as seen:
        engine.submit(made)
        ids = seen.answer(1).ids
    with torch.inference_mode():
        logits = checkpoint.module(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].double().tolist()
    for number, token_id in enumerate(ids):
        position = len(prompt) + number
        assert reference.pick(logits[position - 1], made.config, position) == token_id


def test_penalties_count_the_resumed_part(engine: TorchEngine) -> None:
    options: dict[str, Any] = {
        "repetition": 1.5,
        "presence": 9.0,
        "frequency": 9.0,
        "ignore_eos": True,
        "max_tokens": 60,
    }
    with started(engine) as seen:
        engine.submit(job(0, **options))
        whole = seen.answer(0)
        assert len(set(whole.ids)) > 50  # what has come is hardly said again
        for count in (12, 30, 50):
            engine.submit(job(count, resume=whole.resume_at(count), **options))
            assert whole.ids[:count] + seen.answer(count).ids == whole.ids
        engine.submit(job(100, **{**options, "repetition": 1.0, "presence": 0.0, "frequency": 0.0}))
        assert seen.answer(100).ids != whole.ids


def test_what_is_served_is_told_honestly(engine: TorchEngine, checkpoint: Checkpoint) -> None:
    info = engine.info
    assert (info.model, info.backend, info.dtype) == ("tiny-random", "torch", "fp32")
    assert info.model_digest == checkpoint.model_digest
    assert info.numerics_id is not None
    if devices.pinned_kernels("cpu"):
        assert info.numerics_class is NumericsClass.EXACT
        assert info.numerics_id.startswith("s1-fp32-cpu-none-")
        assert "-hf-exact" in info.numerics_id
        assert len(info.numerics_id) <= 64
    else:
        assert (info.numerics_id, info.numerics_class) == ("s1-fp32-cpu-none", NumericsClass.FP32)
    assert info.device.startswith("cpu ")
    assert (info.context, info.max_concurrent) == (4096, 4)
    assert info.tokens_per_s > 0
    assert info.memory_bytes == 4 * checkpoint.parameters
    assert "random weights: for tests" in info.notes


def test_exactness_that_cannot_be_had_is_refused_where_it_was_asked_for(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    with pytest.raises(EngineError, match="cannot be served exactly"):
        TorchEngine(checkpoint, threads=1, numerics="exact")
    engine = TorchEngine(checkpoint, threads=1)
    assert engine.info.numerics_class is NumericsClass.FP32
    engine.close()


def test_what_is_not_exact_is_not_called_so(checkpoint: Checkpoint) -> None:
    half = load_checkpoint("tiny-random", device="cpu", dtype="bf16")
    for loaded, kind in ((half, NumericsClass.FAST), (checkpoint, NumericsClass.FP32)):
        engine = TorchEngine(loaded, threads=1, numerics="fast")
        with started(engine) as seen:
            assert engine.info.numerics_class is kind
            assert "exact" not in str(engine.info.numerics_id)
            engine.submit(job(1, ignore_eos=True))
            assert seen.answer(1).done.total_tokens == 24
