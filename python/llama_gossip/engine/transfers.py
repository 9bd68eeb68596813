"""Transfers: numbers that cross between the main memory and a device's, few and together.

The law: a call is one copy. What goes to the device does not wait for it; what comes home waits once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def to_device(
    lists: Sequence[Sequence[float]], device: str | torch.device, dtype: torch.dtype = torch.int64
) -> tuple[torch.Tensor, ...]:
    """A tensor of each list, in one copy."""
    flat = staged([number for numbers in lists for number in numbers], device, dtype)
    return tuple(flat.to(device, non_blocking=True).split([len(numbers) for numbers in lists]))


def staged(numbers: Sequence[Any], device: str | torch.device, dtype: torch.dtype) -> torch.Tensor:
    """In main memory, where the device can fetch them by itself; torch keeps it until that is done."""
    return torch.tensor(numbers, dtype=dtype, pin_memory=torch.device(device).type == "cuda")


def to_host(*tensors: torch.Tensor) -> list[NDArray[Any]]:
    """The values of tensors that lie on one device, in one copy and one wait."""
    device = tensors[0].device
    flat = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors])
    home = torch.empty(flat.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    home.copy_(flat, non_blocking=True)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    values, found, at = home.numpy(), [], 0
    for tensor in tensors:
        part = values[at : at + tensor.nbytes]
        found.append(part.view(_NUMPY[tensor.dtype]).reshape(tensor.shape))
        at += tensor.nbytes
    return found


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64}
