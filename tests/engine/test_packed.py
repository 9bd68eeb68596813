"""The packed forward: the bits of a row do not depend on its company, and other families compute the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from llama_gossip.engine import device as devices
from llama_gossip.engine import selfcheck, tiny_random
from llama_gossip.engine.checkpoint import load_checkpoint
from llama_gossip.engine.forward import Draw, Segment, Span
from llama_gossip.engine.packed import PackedForward
from llama_gossip.engine.torch_engine import open_checkpoint
from llama_gossip.errors import EngineError

DRAW = Draw(0.0, 0, 0)
LAST = 560  # tokens: beyond one block of keys of the CPU's attention kernel


@pytest.fixture(scope="module")
def module() -> Any:
    return tiny_random.module().eval().requires_grad_(False)


def text(count: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def fed(forward: PackedForward, span: Span, ids: Sequence[int], cuts: Sequence[int]) -> dict[int, Any]:
    """Logits after each cut."""
    logits = {}
    for begin, end in zip((0, *cuts), cuts, strict=False):
        logits[end] = forward.run([Segment(span, begin, ids[begin:end], DRAW)])[0].clone()
    return logits


def test_logits_are_those_of_the_model_itself(module: Any) -> None:
    import torch

    ids = text(LAST)
    with torch.inference_mode():
        plain = module(input_ids=torch.tensor([ids])).logits[0]
    for exact in (False, True):
        forward = PackedForward(module, device="cpu", exact=exact)
        forward.reserve(64)
        for end, logits in fed(forward, Span(7, 40), ids, (3, 16, 250, 506, 507, LAST)).items():
            assert torch.allclose(logits, plain[end - 1], atol=1e-4)
        forward.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exact_logits_are_equal_to_the_bit_in_any_company_chunks_and_place(dtype: str) -> None:
    import torch

    if not devices.pinned_kernels("cpu"):  # not x86, or the user's environment says otherwise
        with pytest.raises(EngineError, match="exactly"):
            open_checkpoint(load_checkpoint("tiny-random"), "cpu", "exact")
        return
    module = tiny_random.module().eval().requires_grad_(False).to(getattr(torch, dtype))
    forward = PackedForward(module, device="cpu", exact=True)
    assert selfcheck.rows_needed(forward) is not None
    forward.reserve(400)
    ids = text(LAST)
    alone = fed(forward, Span(0, 40), ids, (250, 506, *range(507, LAST + 1)))
    rng = random.Random(5)
    for number in range(3):
        span, at = Span(50 + 3 * number, 40), 0
        others = [Span(150 + 8 * row, 8) for row in range(rng.randrange(1, 20))]
        lengths = [0] * len(others)
        while at < LAST:
            count = min(rng.choice((1, 5, 16, 100)) if at < 500 else 1, LAST - at)
            segments = []
            for row, other in enumerate(others):
                more = rng.choice((1, 1, 7))
                if lengths[row] + more > other.tokens:
                    lengths[row] = 0
                segments.append(Segment(other, lengths[row], text(more, row), DRAW))
                lengths[row] += more
            place = rng.randrange(len(others) + 1)
            segments.insert(place, Segment(span, at, ids[at : at + count], DRAW))
            logits = forward.run(segments)[place]
            at += count
            if at in alone:
                assert torch.equal(logits, alone[at]), (number, at)
    forward.close()


def test_what_the_pool_held_before_does_not_matter(module: Any) -> None:
    import torch

    for exact in (False, True):
        forward = PackedForward(module, device="cpu", exact=exact)
        forward.reserve(4)
        ids = text(20)
        clean = fed(forward, Span(1, 2), ids, (17, 18, 19, 20))
        with torch.inference_mode():
            for pool in forward._pools:
                pool.keys.fill_(float("nan"))
                pool.values.fill_(float("inf"))
        again = fed(forward, Span(1, 2), ids, (17, 18, 19, 20))
        assert all(torch.equal(clean[end], again[end]) for end in clean)
        forward.run([Segment(Span(0, 1), 0, [1], DRAW)])
        with torch.inference_mode():
            for pool in forward._pools:
                pool.keys[:, :, 48:] = float("nan")
        forward.copy(Span(1, 2), Span(3, 1), 9)
        copied = forward.run([Segment(Span(3, 1), 9, ids[9:15], DRAW)])[0]
        straight = fed(forward, Span(1, 2), ids, (9, 15))[15]
        assert torch.equal(copied, straight) if exact else torch.allclose(copied, straight, atol=1e-4)
        forward.close()


def test_a_segment_beyond_its_span_is_refused(module: Any) -> None:
    forward = PackedForward(module, device="cpu", exact=False)
    forward.reserve(4)
    with pytest.raises(ValueError, match="do not fit"):
        forward.run([Segment(Span(1, 1), 10, text(7), DRAW)])
    forward.close()


def test_the_module_keeps_its_own_attention(module: Any) -> None:
    before = module.config._attn_implementation
    forward = PackedForward(module, device="cpu", exact=False)
    assert module.config._attn_implementation == before
    assert forward.module.lm_head.weight.data_ptr() == module.lm_head.weight.data_ptr()
    forward.close()
