"""The pool: what a device refuses is asked for by half, and a step that it refuses ends in a smaller pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from llama_gossip.engine.base import FailureCode
from llama_gossip.engine.checkpoint import Checkpoint, load_checkpoint
from llama_gossip.engine.forward import BLOCK_TOKENS, Segment
from llama_gossip.engine.packed import PackedForward
from llama_gossip.engine.pool import LEAST_TOKENS
from llama_gossip.engine.torch_engine import TorchEngine
from llama_gossip.errors import EngineError
from llama_gossip.protocol.messages import IdsPrompt
from tests.engine.driving import Collector, job, started

CONTEXT_BLOCKS = 4096 // BLOCK_TOKENS  # of tiny-random


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint("tiny-random", device="cpu", dtype="fp32")


class Device:
    """Gives so many blocks at most, and refuses the steps that it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = 1 << 30
        self.pools: list[int] = []
        self.refuse = 0  # so many steps
        reserve, run = PackedForward.reserve, PackedForward.run

        def reserved(forward: PackedForward, blocks: int) -> None:
            self.pools.append(blocks)
            if blocks > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            reserve(forward, blocks)

        def stepped(forward: PackedForward, segments: Sequence[Segment]) -> Any:
            if self.refuse:
                self.refuse -= 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(forward, segments)

        monkeypatch.setattr(PackedForward, "reserve", reserved)
        monkeypatch.setattr(PackedForward, "run", stepped)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def test_a_refused_pool_is_asked_for_by_half(checkpoint: Checkpoint, device: Device) -> None:
    device.most = 3 * CONTEXT_BLOCKS
    engine = TorchEngine(checkpoint, max_concurrent=8, threads=1)
    engine.close()
    assert device.pools[-3:] == [8 * CONTEXT_BLOCKS, 4 * CONTEXT_BLOCKS, 2 * CONTEXT_BLOCKS]
    assert engine.info.context == 4096


def test_a_small_pool_is_a_small_context_and_said(checkpoint: Checkpoint, device: Device) -> None:
    device.most = CONTEXT_BLOCKS // 3
    engine = TorchEngine(checkpoint, max_concurrent=2, threads=1)
    engine.close()
    assert engine.info.context == 1024
    assert "the context is 1024 of 4096 tokens: memory allows no more" in engine.info.notes


def test_no_room_at_all_is_one_sentence(checkpoint: Checkpoint, device: Device) -> None:
    asked: list[int] = []
    plain = PackedForward.reserve

    def refused(forward: PackedForward, blocks: int) -> None:
        device.most = 40 if blocks == 40 else 0  # the check's own pool is given
        asked.append(blocks)
        plain(forward, blocks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedForward, "reserve", refused)
        with pytest.raises(EngineError, match=f"no memory for keys and values of {LEAST_TOKENS} tokens"):
            TorchEngine(checkpoint, max_concurrent=1, threads=1)
    assert asked[-1] == LEAST_TOKENS // BLOCK_TOKENS


def test_a_refused_step_fails_its_rows_retryable_and_makes_the_pool_smaller(
    checkpoint: Checkpoint, device: Device
) -> None:
    engine = TorchEngine(checkpoint, max_concurrent=4, threads=1)
    with started(engine) as seen:
        engine.submit(job(1, IdsPrompt((1, 2, 3)), max_tokens=20, ignore_eos=True))
        expected = seen.answer(1).ids
        for round_, left in enumerate((2, 1, 1)):  # never below one context
            device.refuse = 1
            bad, good = 10 + round_, 20 + round_
            engine.submit(job(bad, IdsPrompt((1, 2, 3)), max_tokens=20, ignore_eos=True))
            failed = seen.answer(bad).failed
            assert (failed.code, failed.retryable) == (FailureCode.ENGINE, True)
            engine.submit(job(good, IdsPrompt((1, 2, 3)), max_tokens=20, ignore_eos=True))
            assert seen.answer(good).ids == expected
            assert device.pools[-1] == left * CONTEXT_BLOCKS


def test_a_row_outside_the_refused_step_loses_its_span_as_well(
    checkpoint: Checkpoint, device: Device
) -> None:
    """The second prompt waits behind the first's chunk: it is in no step, and its span is of the old pool."""
    engine = TorchEngine(checkpoint, max_concurrent=2, threads=1)
    device.refuse = 1
    for number in (1, 2):
        engine.submit(job(number, IdsPrompt((number,) * 600), max_tokens=4))
    with started(engine) as seen:
        for number in (1, 2):
            failed = seen.answer(number).failed
            assert (failed.code, failed.retryable) == (FailureCode.ENGINE, True)
        engine.submit(job(3, IdsPrompt((2,) * 600), max_tokens=4, ignore_eos=True))
        assert len(seen.answer(3).ids) == 4
    assert device.pools[-1] == CONTEXT_BLOCKS


def test_a_step_that_fails_otherwise_keeps_the_pools_size(
    checkpoint: Checkpoint, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(checkpoint, max_concurrent=2, threads=1)
    made = len(device.pools)
    with started(engine) as seen, monkeypatch.context() as patch:

        def failing(*_: Any) -> Any:
            patch.undo()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        patch.setattr("llama_gossip.engine.batching.pick_rows", failing)
        engine.submit(job(1, IdsPrompt((1, 2, 3)), max_tokens=4))
        assert seen.answer(1).failed.retryable
        engine.submit(job(2, IdsPrompt((1, 2, 3)), max_tokens=4, ignore_eos=True))
        assert len(seen.answer(2).ids) == 4
    assert device.pools[made:] == [2 * CONTEXT_BLOCKS]


def test_the_pools_use_is_told_of_what_runs_and_of_what_is_kept(checkpoint: Checkpoint) -> None:
    engine = TorchEngine(checkpoint, max_concurrent=2, threads=1)
    block_bytes = engine.info.pool_bytes // (2 * CONTEXT_BLOCKS)
    used: list[int] = []
    with started(engine, Collector(lambda _: used.append(engine.load().pool_used_bytes))) as seen:
        assert engine.load().pool_bytes == engine.info.pool_bytes
        prompt = IdsPrompt(tuple(range(1, 3 * BLOCK_TOKENS + 1)))
        engine.submit(job(1, prompt, max_tokens=BLOCK_TOKENS, ignore_eos=True))
        assert seen.answer(1).done
        load = engine.load()
    assert used[0] == 4 * block_bytes  # prompt and answer at their full length
    assert (used[-1], load.pool_used_bytes) == (0, 0)
    assert load.pool_kept_bytes == 4 * block_bytes


def test_a_pool_that_became_smaller_tells_its_new_size(checkpoint: Checkpoint, device: Device) -> None:
    engine = TorchEngine(checkpoint, max_concurrent=2, threads=1)
    with started(engine) as seen:
        device.refuse = 1
        engine.submit(job(1, IdsPrompt((1, 2, 3)), max_tokens=4))
        assert seen.answer(1).failed.retryable
        load = engine.load()
    assert load.pool_bytes == engine.info.pool_bytes // 2
    assert (load.pool_used_bytes, load.pool_kept_bytes) == (0, 0)
