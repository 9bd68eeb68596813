"""The real thing on a GPU: recorded steps equal launched ones, company changes no row, memory may run out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from llama_gossip.engine import acceleration, flash, selfcheck
from llama_gossip.engine.base import FailureCode
from llama_gossip.engine.checkpoint import Checkpoint, load_checkpoint
from llama_gossip.engine.device import place
from llama_gossip.engine.forward import Segment, Span
from llama_gossip.engine.packed import PackedForward
from llama_gossip.engine.torch_engine import TorchEngine
from llama_gossip.protocol.messages import IdsPrompt, NumericsClass
from tests.engine.driving import job, started
from tests.engine.test_batching import mixed
from tests.engine.test_decode_steps import DRAW, played, program
from tests.engine.test_families import FAMILIES, VOCABULARY, made

pytestmark = pytest.mark.gpu
DEVICE = "cuda:0"


@pytest.fixture(scope="module")
def half() -> Checkpoint:
    return load_checkpoint("tiny-random", device=DEVICE, dtype="bf16")


@pytest.fixture
def engine(half: Checkpoint) -> Iterator[TorchEngine]:
    made = TorchEngine(half, place(DEVICE), max_concurrent=16)
    yield made
    made.close()


def test_a_plain_llama_flashes_and_is_recorded(engine: TorchEngine) -> None:
    assert engine.info.numerics_id.endswith("-flash-rows")
    assert engine.info.numerics_class is NumericsClass.FAST
    assert engine.info.device.startswith("cuda:0 ")
    assert not [note for note in engine.info.notes if "here" in note]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2", "gpt2"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_recorded_steps_equal_launched_ones(family: str, dtype: str) -> None:
    halves = torch.bfloat16 if dtype == "bf16" else torch.float32
    module = made(family, FAMILIES[family]).to(device=DEVICE, dtype=halves)
    forward = PackedForward(module, device=DEVICE, exact=False)
    steps = program(random.Random(family), 40)
    plain = played(forward, steps, VOCABULARY)
    assert acceleration.accelerate(forward, selfcheck.LIMITS[dtype], 256) == ()
    assert forward.flashing == (dtype == "bf16" and forward.flashes())
    recorded = played(forward, steps, VOCABULARY)
    assert forward.steps is not None
    assert forward.steps.works
    off = max(selfcheck.apart(ours, right) for ours, right in zip(recorded, plain, strict=True))
    assert off < (1e-3 if dtype == "fp32" else 0.3)


def test_a_replay_gives_the_bits_of_its_function(half: Checkpoint) -> None:
    """The same function over the same buffers, once launched and once replayed."""
    forward = PackedForward(half.module, device=DEVICE, exact=False)
    forward.flashing = flash.is_here(DEVICE)
    forward.steps = acceleration.decode_steps(forward)
    forward.reserve(8)
    segments = [Segment(Span(row, 1), 0, [row + 3], DRAW) for row in range(3)]
    replayed = forward.run(segments).clone()
    graphs, forward.steps._graphs = forward.steps._graphs, None
    assert graphs is not None
    assert graphs.any
    assert torch.equal(forward.run(segments), replayed)


def test_64_mixed_requests_equal_their_lone_runs_in_fp32() -> None:
    checkpoint = load_checkpoint("tiny-random", device=DEVICE, dtype="fp32")
    jobs = [mixed(number) for number in range(64)]
    together = TorchEngine(checkpoint, place(DEVICE), max_concurrent=16)
    with started(together) as seen:
        for each in jobs:
            together.submit(each)
        answers = [seen.answer(each.job_id) for each in jobs]
    lone = TorchEngine(checkpoint, place(DEVICE), max_concurrent=1)
    with started(lone) as seen:
        for number, each in enumerate(jobs):
            lone.submit(replace(each, job_id=1000 + number, owner=b"%d" % number))
            alone = seen.answer(1000 + number)
            assert (answers[number].ids, answers[number].texts) == (alone.ids, alone.texts)


def test_64_mixed_requests_in_half_precision_all_end_as_they_should(engine: TorchEngine) -> None:
    jobs = [mixed(number) for number in range(64)]
    with started(engine) as seen:
        for each in jobs:
            engine.submit(each)
        for each in jobs:
            answer = seen.answer(each.job_id)
            config = each.config
            assert len(answer.ids) == config.max_tokens or (
                len(answer.ids) < config.max_tokens and answer.done
            )


def test_a_step_that_asks_for_too_much_memory_leaves_a_smaller_pool(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PackedForward.run
    before = engine.batch._pool.blocks

    def greedy(forward: PackedForward, segments: Any) -> torch.Tensor:
        monkeypatch.setattr(PackedForward, "run", plain)
        torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)  # the device's own refusal
        return plain(forward, segments)

    with started(engine) as seen:
        engine.submit(job(1, IdsPrompt((1, 2, 3)), max_tokens=8, ignore_eos=True))
        expected = seen.answer(1).ids
        monkeypatch.setattr(PackedForward, "run", greedy)
        engine.submit(job(2, IdsPrompt((1, 2, 3)), max_tokens=8, ignore_eos=True))
        failed = seen.answer(2).failed
        assert (failed.code, failed.retryable) == (FailureCode.ENGINE, True)
        engine.submit(job(3, IdsPrompt((1, 2, 3)), max_tokens=8, ignore_eos=True))
        assert seen.answer(3).ids == expected
    assert engine.batch._pool.blocks < before


def test_a_cancel_frees_the_row(engine: TorchEngine) -> None:
    with started(engine) as seen:
        engine.submit(job(1, max_tokens=3000, ignore_eos=True))
        seen.wait_for(lambda: len(seen.tokens(1)) >= 3, "3 tokens")
        engine.cancel(1)
        assert seen.answer(1).failed.code is FailureCode.CANCELLED
        assert engine.load().running == 0
