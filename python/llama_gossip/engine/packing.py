"""Packing: 4-bit and 8-bit weights of GGUF files, and freshly quantised ones, for torch's int4 kernel on CPU.

torch computes (q - 8) * scale + zero for q in 0..15, 32 weights of a row sharing scale and zero, with bf16
activations. ggml's formats map onto it: Q4_1 (q d + m) by scale = d, zero = m + 8 d; Q4_0 ((q - 8) d) by
scale = d, zero = 0; Q8_0 (q d) by splitting each weight in two digits, q = 16 high + low, that stand side by
side in a row of twice the length and meet the same activations (torch's int8 kernel has one scale a row, so
it cannot hold Q8_0). The law: integers are used as they are; scales become bf16 and nothing else is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

BLOCK: Final = 32
ROW_MULTIPLE: Final = 16  # rows of a packed matrix; the kernel refuses others
PACKED_KINDS: Final = ("Q4_0", "Q4_1", "Q8_0")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Quantised rows: values are q * scale + minimum."""

    q: torch.Tensor  # int8, [rows, width]; 0..15 in four bits, -128..127 in eight
    scale: torch.Tensor  # fp32, [rows, width / BLOCK]
    minimum: torch.Tensor | None  # fp32, like scale; None: eight bits, symmetric

    def values(self) -> torch.Tensor:
        """fp32, [rows, width]."""
        grouped = self.q.view(*self.scale.shape, BLOCK).float().mul_(self.scale[..., None])
        if self.minimum is not None:
            grouped += self.minimum[..., None]
        return grouped.view(self.q.shape)


def blocks_of(raw: NDArray[np.uint8], kind: str) -> Blocks:
    """The blocks of a GGUF tensor's bytes, shape [rows, bytes of a row]; `kind` is one of PACKED_KINDS."""
    import numpy as np
    import torch

    rows = raw.shape[0]
    head = 4 if kind == "Q4_1" else 2
    size = head + (BLOCK if kind == "Q8_0" else BLOCK // 2)
    grouped = raw.reshape(rows, -1, size)
    halves = np.ascontiguousarray(grouped[..., :head]).view(np.float16)  # as the format is: little-endian
    scale = torch.from_numpy(halves[..., 0].astype(np.float32))
    digits = torch.from_numpy(np.ascontiguousarray(grouped[..., head:]))
    if kind == "Q8_0":
        return Blocks(digits.view(torch.int8).reshape(rows, -1), scale, None)
    q = torch.cat((digits & 15, digits >> 4), dim=-1).view(torch.int8).reshape(rows, -1)
    if kind == "Q4_0":
        return Blocks(q, scale, -8 * scale)
    return Blocks(q, scale, torch.from_numpy(halves[..., 1].astype(np.float32)))


def quantised(values: torch.Tensor, bits: int) -> Blocks:
    """Rows rounded to the nearest of 16 levels between each block's ends, or of 255 around zero."""
    import torch

    grouped = values.float().reshape(values.shape[0], -1, BLOCK)
    if bits == 8:
        scale = grouped.abs().amax(dim=-1) / 127
        q = _levels(grouped, scale).clamp_(-127, 127)
        return Blocks(q.to(torch.int8).reshape(values.shape), scale, None)
    low, high = grouped.amin(dim=-1), grouped.amax(dim=-1)
    scale = (high - low) / 15
    q = _levels(grouped - low[..., None], scale).clamp_(0, 15)
    return Blocks(q.to(torch.int8).reshape(values.shape), scale, low)


def _levels(grouped: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A block of equal values has no scale: its levels are all zero."""
    import torch

    inverse = torch.where(scale > 0, 1 / scale, torch.zeros_like(scale))
    return (grouped * inverse[..., None]).round_()


class Int4:
    """A matrix [rows, width] for bf16 activations. Each row of them is computed alone, whatever the batch."""

    def __init__(self, blocks: Blocks) -> None:
        import torch

        self.rows, self.width = map(int, blocks.q.shape)
        self.doubled = blocks.minimum is None
        q, scale, zero = _digits(blocks) if self.doubled else _nibbles(blocks)
        missing = -self.rows % ROW_MULTIPLE
        if missing:
            q, scale, zero = (
                torch.cat((part, part.new_zeros(missing, part.shape[1]))) for part in (q, scale, zero)
            )
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 1)
        self.scales = torch.stack((scale.t(), zero.t()), dim=-1).to(torch.bfloat16).contiguous()
        self._cut = bool(missing)
        self._multiply = torch.ops.aten._weight_int4pack_mm_for_cpu.default

    @property
    def nbytes(self) -> int:
        return int(self.packed.nbytes + self.scales.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """bf16 [n, width] to bf16 [n, rows]."""
        import torch

        if self.doubled:
            x = torch.cat((x, x), dim=-1)
        y: torch.Tensor = self._multiply(x, self.packed, BLOCK, self.scales)
        return y[:, : self.rows] if self._cut else y


def _nibbles(blocks: Blocks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert blocks.minimum is not None, "four bits have a minimum"
    return blocks.q, blocks.scale, blocks.minimum + 8 * blocks.scale


def _digits(blocks: Blocks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """High digits (-8..7, stored from 0) with 16 times the scale, then low ones (0..15)."""
    import torch

    q = torch.cat(((blocks.q >> 4) + 8, blocks.q & 15), dim=-1)
    scale = torch.cat((16 * blocks.scale, blocks.scale), dim=-1)
    zero = torch.cat((torch.zeros_like(blocks.scale), 8 * blocks.scale), dim=-1)
    return q, scale, zero
