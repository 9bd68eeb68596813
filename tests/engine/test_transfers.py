"""Transfers: what crosses between the memories is whole, and a step's sampling waits for the device once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from llama_gossip.engine.batch_sampling import pick_from
from llama_gossip.engine.logit_rows import DeviceRows
from llama_gossip.engine.sampling import Sampler
from llama_gossip.engine.transfers import to_device, to_host
from llama_gossip.protocol.messages import GenerationConfig
from tests.engine.test_batch_sampling import like_a_model

WAITS = ("numpy", "item", "tolist", "cpu", "nonzero", "__float__", "__int__", "__bool__", "__index__")


class Crossings(TorchFunctionMode):
    """Counts calls on tensors by which a caller would wait for a GPU, or give it something."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.gifts = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in WAITS:
            self.waits[name] += 1
        if name in ("tensor", "from_numpy", "as_tensor"):
            self.gifts += 1
        return func(*args, **(kwargs or {}))


def crossings(**options: Any) -> Crossings:
    """Of sampling for 16 rows. The CPU is the device: what would be a wait there is a call here."""
    logits = torch.from_numpy(like_a_model(16, 20_000))
    samplers = [Sampler(GenerationConfig(seed=n, **options), range(40), range(30, 60)) for n in range(16)]
    with Crossings() as seen:
        pick_from(DeviceRows(logits), samplers, list(range(100, 116)))
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0, "top_k": 40},
        {"temperature": 0.8, "min_p": 0.1},
    ],
    ids=str,
)
def test_a_step_of_sampled_rows_waits_once(options: dict[str, Any]) -> None:
    seen = crossings(**options)
    assert (seen.waits, seen.gifts) == (Counter(numpy=1), 1)


def test_a_step_of_greedy_rows_waits_once_and_gives_nothing() -> None:
    seen = crossings(temperature=0.0)
    assert (seen.waits, seen.gifts) == (Counter(numpy=1), 0)


def test_a_greedy_row_with_penalties_waits_once_more() -> None:
    seen = crossings(temperature=0.0, presence=1.0)
    assert (seen.waits, seen.gifts) == (Counter(numpy=17), 16)


def test_an_unfiltered_row_waits_at_most_twice_more() -> None:
    seen = crossings(temperature=1.0, top_p=1.0)
    assert seen.waits["numpy"] <= 17
    assert seen.waits["nonzero"] <= 16
    assert (set(seen.waits), seen.gifts) == ({"numpy", "nonzero"}, 1)


def test_values_cross_as_they_are() -> None:
    tensors = (
        torch.arange(3, dtype=torch.float32) / 3,
        torch.full((2, 2), -7, dtype=torch.int64),
        torch.zeros(0, 5),
        torch.tensor([[1e300], [float("nan")]], dtype=torch.float64),
    )
    for there, home in zip(tensors, to_host(*tensors), strict=True):
        assert home.shape == tuple(there.shape)
        assert np.array_equal(home, there.numpy(), equal_nan=True)
        assert home.dtype == there.numpy().dtype
    lists = ([1, 2**40], [], [-3])
    assert [list(part) for part in to_device(lists, "cpu")] == [list(numbers) for numbers in lists]
