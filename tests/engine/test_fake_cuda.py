"""A GPU's steps on tensors that have a device but no values: nothing mixes devices, and nothing waits.

torch itself refuses to go on where a step asks for a value (that would be a wait for the GPU, which no
recording takes) or brings tensors of two devices together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from llama_gossip.engine import flash, packed, tiny_random, transfers
from llama_gossip.engine.forward import Draw, Segment, Span
from llama_gossip.engine.logit_rows import DeviceRows
from llama_gossip.engine.packed import PackedForward
from llama_gossip.engine.row_step import RowStep

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


class Seen(TorchDispatchMode):
    """The operators of a step, and which of them cross between memories."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.crossings: list[str] = []
        self.flashed: list[tuple[Any, dict[str, Any]]] = []  # what the kernel was called with

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name  # type: ignore[attr-defined]
        self.names.append(name)
        if name == "aten::_flash_attention_forward":
            self.flashed.append((args, dict(kwargs or {})))
        tensors = [each for each in (*args, made) if isinstance(each, torch.Tensor)]
        if name in WAITS or len({each.device.type for each in tensors if each.dim()}) > 1:
            self.crossings.append(name)
        return made


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackedForward]:
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setattr(
        transfers, "staged", lambda numbers, device, dtype: torch.tensor(numbers, dtype=dtype)
    )
    monkeypatch.setattr(packed, "_twin", lambda module: module)  # a copy would be of another fake device
    with FakeTensorMode():
        with torch.device("cuda"):
            config = LlamaConfig(**tiny_random.CONFIG)
            module = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
        made = PackedForward(module, device="cuda", exact=False)
        made.reserve(8)
        yield made


def stepped(forward: PackedForward, flashing: bool) -> Seen:
    step = RowStep(4, 256, "cuda", flashing=flashing)
    with torch.inference_mode(), Seen() as seen:
        step.begin()
        logits = forward.call_rows(step)
        step.end()
    assert (logits.shape, logits.dtype, logits.device.type) == ((4, 259), torch.float32, "cuda")
    return seen


@pytest.mark.parametrize("flashing", [True, False])
def test_a_decode_step_stays_on_its_device(forward: PackedForward, flashing: bool) -> None:
    seen = stepped(forward, flashing)
    assert seen.crossings == []
    assert ("aten::_flash_attention_forward" in seen.names) == flashing


def test_a_model_that_asks_for_a_value_is_seen(
    forward: PackedForward, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PackedForward.call_rows

    def asking(self: PackedForward, step: RowStep) -> torch.Tensor:
        if int(step.positions.max()) > 7:
            step.ids.zero_()
        return real(self, step)

    monkeypatch.setattr(PackedForward, "call_rows", asking)
    with pytest.raises(DataDependentOutputException):
        stepped(forward, True)


@pytest.mark.parametrize("flashing", [True, False])
def test_a_packed_step_takes_its_numbers_there_and_nothing_back(
    forward: PackedForward, flashing: bool
) -> None:
    forward.flashing = flashing
    draw = Draw(0.0, 0, 0)
    segments = [
        Segment(Span(0, 2), 0, list(range(20)), draw),
        Segment(Span(4, 1), 3, [1], draw),
        Segment(Span(3, 1), 0, [1, 2, 3], None),
    ]
    with Seen() as seen:
        logits = forward.run(segments)
    assert (logits.shape, logits.device.type) == ((2, 259), "cuda")
    assert set(seen.crossings) <= {"aten::_to_copy", "aten::to"}
    assert len(seen.crossings) == (3 if flashing else 2)
    assert ("aten::_flash_attention_forward" in seen.names) == flashing


@pytest.mark.parametrize("contested", [{0: 0.7, 2: None}, {0: None, 1: None, 2: None, 3: None}], ids=str)
def test_what_sampling_looks_at_is_found_on_the_device(
    forward: PackedForward, contested: dict[int, float | None]
) -> None:
    logits = torch.zeros(4, 5000, device="cuda")
    with Seen() as seen:
        found = DeviceRows(logits)._looked_at(contested, logits.amax(dim=1))
    assert [part.device.type for part in found] == ["cuda"] * 3
    assert [part.shape for part in found] == [(len(contested), 1024)] * 2 + [(len(contested),)]
    assert seen.crossings == ["aten::_to_copy"]


def test_the_kernel_sees_as_many_keys_as_a_window_has() -> None:
    """It counts the keys to the left of a token, the token itself apart."""
    with FakeTensorMode(), Seen() as seen:
        query, pool = (torch.zeros(5, heads, 16, dtype=torch.bfloat16, device="cuda") for heads in (4, 2))
        bounds = torch.zeros(4, dtype=torch.int32, device="cuda")
        places = flash.Places(bounds, bounds.clone(), bounds[:3], most_queries=3, longest=40)
        for window in (12, None):
            assert flash.attend(query, pool, pool, places, 0.5, window).shape == query.shape
    (_, windowed), (args, plain) = seen.flashed
    assert (windowed["window_size_left"], windowed["window_size_right"]) == (11, 0)
    assert (plain.get("window_size_left"), plain.get("window_size_right")) == (None, None)
    assert args[3] is bounds
    assert args[4] is places.starts
    assert args[5:9] == (3, 40, 0.0, True)
    assert plain["scale"] == 0.5
    assert plain["seqused_k"] is places.lengths
