"""Acceleration: a GPU kernel is given what its contract asks for, and what computes otherwise is off.

The kernel itself needs a GPU (tests/engine/test_cuda.py); here a plain computation of its contract stands in.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llama_gossip.engine import acceleration, flash, selfcheck, tiny_random
from llama_gossip.engine.acceleration import accelerate, run_program
from llama_gossip.engine.packed import PackedForward
from tests.engine.test_families import FAMILIES, made

LIMIT = selfcheck.LIMITS["bf16"]
CONTEXT = 512


def by_contract(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: flash.Places,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """What the kernel is documented to compute: row by row, from starts and counts alone."""
    queries, starts, lengths = places.queries.tolist(), places.starts.tolist(), places.lengths.tolist()
    assert all(tensor.dtype == torch.int32 for tensor in (places.queries, places.starts, places.lengths))
    assert len(starts) == len(queries) == len(lengths) + 1
    assert queries[-1] == len(query)
    found = []
    for row, (length, start) in enumerate(zip(lengths, starts, strict=False)):
        count = queries[row + 1] - queries[row]
        assert 0 < count <= places.most_queries
        assert count <= length <= places.longest
        q = query[queries[row] : queries[row + 1]].transpose(0, 1).float()
        k, v = (pool[start : start + length].transpose(0, 1).float() for pool in (keys, values))
        last = torch.arange(length - count, length)[:, None]
        distance = last - torch.arange(length)[None]
        seen = (distance >= 0) & (distance < (window or length))
        made = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=seen, scale=scale, enable_gqa=True
        )
        found.append(made[0].transpose(0, 1).to(query.dtype))
    return torch.cat(found)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(flash, "is_here", lambda device: True)
    monkeypatch.setattr(flash, "attend", by_contract)
    return monkeypatch


def halves(family: str) -> Any:
    return made(family, FAMILIES[family]).to(torch.bfloat16)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_what_the_kernel_is_given_computes_the_model(family: str, kernel: pytest.MonkeyPatch) -> None:
    module = halves(family)
    plain = run_program(PackedForward(module, device="cpu", exact=False), CONTEXT)
    forward = PackedForward(module, device="cpu", exact=False)
    assert accelerate(forward, LIMIT, CONTEXT) == ()
    assert forward.kind == "flash-rows"
    ours = run_program(forward, CONTEXT)
    off = [selfcheck.apart(row, right) for row, right in zip(ours, plain, strict=True)]
    assert max(off) < 0.1
    assert any(off), "the kernel was not used"


def test_a_kernel_that_computes_something_else_is_off(kernel: pytest.MonkeyPatch) -> None:
    kernel.setattr(flash, "attend", lambda *given: by_contract(*given[:5], 3))
    forward = PackedForward(halves("llama"), device="cpu", exact=False)
    notes = accelerate(forward, LIMIT, CONTEXT)
    assert [note.partition(":")[0] for note in notes] == ["flash attention does not compute this model here"]
    assert forward.kind == "rows"


def test_a_kernel_that_refuses_is_off(kernel: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer")

    kernel.setattr(flash, "attend", refused)
    forward = PackedForward(halves("llama"), device="cpu", exact=False)
    assert len(accelerate(forward, LIMIT, CONTEXT)) == 1
    assert forward.kind == "rows"


def test_layers_that_the_kernel_does_not_take_need_no_note(kernel: pytest.MonkeyPatch) -> None:
    for module in (halves("gemma2"), tiny_random.module().eval().requires_grad_(False)):  # soft-cap; fp32
        forward = PackedForward(module, device="cpu", exact=False)
        assert not forward.flashes()
        assert accelerate(forward, LIMIT, CONTEXT) == ()
        assert forward.kind == "rows"


def test_steps_that_compute_something_else_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(forward: PackedForward, step: Any) -> torch.Tensor:
        step._inputs[1] += 1
        return real(forward, step)

    real = PackedForward.call_rows
    monkeypatch.setattr(PackedForward, "call_rows", late)
    forward = PackedForward(made("llama", {}), device="cpu", exact=False)
    assert [note.partition(":")[0] for note in accelerate(forward, 1e-3, CONTEXT)] == [
        "decode steps of this model cannot be recorded here"
    ]
    assert forward.kind == ""
    assert forward.steps is None


def test_a_step_that_is_right_in_one_shape_only_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program passes the end of the shortest shape."""
    real = acceleration.DecodeSteps._shape_of

    def shortest(steps: Any, segments: Any) -> Any:
        shape = real(steps, segments)
        return shape and (shape[0], 256)

    monkeypatch.setattr(acceleration.DecodeSteps, "_shape_of", shortest)
    forward = PackedForward(made("llama", {}), device="cpu", exact=False)
    assert len(accelerate(forward, 1e-3, CONTEXT)) == 1


def test_no_position_beyond_the_context_is_fed() -> None:
    """On a GPU that would be the end of every engine in the process."""
    module = made("gpt2", FAMILIES["gpt2"])  # learned positions: 256
    forward = PackedForward(module, device="cpu", exact=False)
    assert accelerate(forward, 1e-3, 256) == ()
    assert forward.kind == "rows"
    small = made("gpt2", {**FAMILIES["gpt2"], "n_positions": 63})
    forward = PackedForward(small, device="cpu", exact=False)
    assert accelerate(forward, 1e-3, 63) == ()
    assert forward.kind == ""


def test_only_a_cuda_device_has_the_kernel() -> None:
    assert not flash.is_here("cpu")
    assert "seqused_k" in str(torch.ops.aten._flash_attention_forward.default._schema)
