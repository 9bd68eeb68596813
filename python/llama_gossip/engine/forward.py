"""Forward: a model's weights as one call over a packed step, and where keys and values lie.

The law: a forward knows spans, ids and positions; it knows no job, no clock and no sampler. What a row's
logits are depends, in exact mode, on its own ids alone: never on who else is in the step, on how its prompt
was cut into chunks, or on where its span lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    import torch

BLOCK_TOKENS: Final = 16  # spans begin and end at multiples of it


@dataclass(frozen=True, slots=True)
class Span:
    """Room for keys and values, contiguous in the pool: attention reads it without a copy."""

    first_block: int
    blocks: int

    @property
    def first_token(self) -> int:
        return self.first_block * BLOCK_TOKENS

    @property
    def tokens(self) -> int:
        return self.blocks * BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Draw:
    """What logits are wanted for. A head of two stages scores exactly what this draw may pick."""

    temperature: float
    seed: int
    position: int  # absolute, of the token to be drawn


@dataclass(frozen=True, slots=True)
class Segment:
    """Ids of one row, fed behind the `start` tokens that its span already holds."""

    span: Span
    start: int
    ids: Sequence[int]
    draw: Draw | None  # None: a chunk of a prompt, no logits


CopySpan: TypeAlias = Callable[[Span, Span, int], None]
"""The first tokens, so many, of one span's keys and values to another's beginning. In the model thread."""


class Forward(Protocol):
    """Everything but the properties runs in the model thread."""

    @property
    def vocabulary(self) -> int: ...

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values, over all layers."""

    @property
    def numerics(self) -> str:
        """What the logits depend on beside weights and ids: dtype, kernels, mode. Part of numerics_id."""

    def reserve(self, blocks: int) -> None:
        """Makes the pool, at addresses that stay; what it held is gone."""

    def run(self, segments: Sequence[Segment]) -> torch.Tensor:
        """fp32 logits, shape [segments with a draw, vocabulary], in their order, on the model's device.

        A step that raises leaves no row usable: the caller rebuilds them from their ids.
        """

    def close(self) -> None: ...
