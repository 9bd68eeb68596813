"""Flash: torch's attention kernel for rows of different lengths, over a pool in which each row has its place.

The law: a row is where its keys begin and how many of them count. Rows may lie in any order with anything
between them: of the places only the beginnings are read once the counts are given. It runs on GPUs, in half
precision, and is used where a check has seen it compute what the plain way does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

HEAD_SIZE: Final = 256  # the largest; and a multiple of 8
_HALVES: Final = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the rows of a step lie. int32, on the device."""

    queries: torch.Tensor  # [rows + 1]: the first packed token of each row, then their number
    starts: torch.Tensor  # [rows + 1]: the first key of each row in the pool, then anything
    lengths: torch.Tensor  # [rows]: keys of each row, those of this step included
    most_queries: int
    longest: int  # no row has more keys


def is_here(device: str) -> bool:
    """Whether this torch has the kernel for the device, with counts of its own for the keys."""
    if torch.device(device).type != "cuda" or not torch.backends.cuda.is_flash_attention_available():
        return False
    return "seqused_k" in str(torch.ops.aten._flash_attention_forward.default._schema)


def fits(keys: torch.Tensor, values: torch.Tensor, softcap: float | None) -> bool:
    """Whether it takes a layer with such keys and values, the last dimension a head's size."""
    size = keys.shape[-1]
    return (
        softcap is None
        and keys.dtype in _HALVES
        and values.shape[-1] == size
        and size % 8 == 0
        and size <= HEAD_SIZE
    )


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: Places,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """query: [tokens, heads, size]; keys, values: [tokens of the pool, heads of keys, size]; causal, the last
    query at the row's last key. Returns [tokens, heads, size]."""
    made: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query,
        keys,
        values,
        places.queries,
        places.starts,
        places.most_queries,
        places.longest,
        0.0,
        True,
        False,
        scale=scale,
        window_size_left=None if window is None else window - 1,
        window_size_right=None if window is None else 0,
        seqused_k=places.lengths,
    )[0]
    return made
