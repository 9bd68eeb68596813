"""The lean step of the Llama family on CPU: a Forward without transformers' modules.

q, k and v are one matrix and so are gate and up, rope is a complex product over q and k together, keys and
values of a layer lie in one pool and spans are views of it, the residual stream is fp32 in every dtype. The
law (exact mode): a row's logits are the same bits whoever shares the step, however its prompt was cut, and
with any number of threads; llama_check proves it at load, and `numerics` says what it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from .forward import Segment, Span
from .llama_attention import Attention, Plan, planned
from .llama_config import LlamaConfig
from .llama_head import PlainHead, TwoStageHead
from .llama_weights import DTYPES, Layer, LlamaWeights

if TYPE_CHECKING:
    import torch

GRAIN: Final = 32_768  # elements from which torch shares an element-wise operation among threads
ALIGNMENT: Final = 64  # bytes, as torch aligns
FIRST_POSITIONS: Final = 2048  # of the rope table; it grows by doubling


class LlamaForward:
    """A Forward. `pad`: rows that a step has at least; `mode`: "exact" where that was proven, else "fast"."""

    def __init__(
        self, config: LlamaConfig, weights: LlamaWeights, dtype: str, *, pad: int = 0, mode: str = "fast"
    ) -> None:
        import torch

        self.config, self.weights, self.dtype = config, weights, dtype
        self.pad, self.mode = pad, mode
        self._act: torch.dtype = getattr(torch, DTYPES[dtype])
        shape = config.shape
        self._turned = shape.heads + shape.kv_heads  # heads that rope turns: q, then k
        self._attend = Attention(shape.kv_heads, config.group, shape.head_dim)
        exact = weights.exact_head
        self._head = PlainHead(weights.head) if exact is None else TwoStageHead(weights.head, exact)
        self._pool = torch.zeros(0)
        self._turns = self._turn_table(FIRST_POSITIONS)

    @property
    def vocabulary(self) -> int:
        return self.config.shape.vocabulary

    @property
    def bytes_per_token(self) -> int:
        shape = self.config.shape
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * int(self._act.itemsize)

    @property
    def numerics(self) -> str:
        return f"lean-{self.mode}-pad{self.pad}"

    def reserve(self, blocks: int) -> None:
        import torch

        shape = self.config.shape
        self._pool = torch.zeros(0)  # the old memory first
        tokens = Span(0, blocks).tokens
        self._pool = _zeros((shape.layers, 2 * shape.kv_heads, tokens, shape.head_dim), self._act)

    def run(self, segments: Sequence[Segment]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            plan = planned(segments, self._act)
            hidden = self._layers(plan)
            if not bool(torch.isfinite(hidden).all()):
                self._clean(segments)
            return self._logits(segments, plan, hidden)

    def copy(self, source: Span, target: Span, tokens: int) -> None:
        read = self._pool[:, :, source.first_token : source.first_token + tokens]
        self._pool[:, :, target.first_token : target.first_token + tokens] = read

    def close(self) -> None:
        import torch

        self._pool = torch.zeros(0)

    def _layers(self, plan: Plan) -> torch.Tensor:
        """The residual stream behind the last layer, fp32 [rows padded, hidden]."""
        import torch

        rows = len(plan.ids)
        x = self.weights.embedding(torch.tensor(plan.ids))
        if rows < self.pad:
            x = torch.cat((x, x.new_zeros(self.pad - rows, x.shape[1])))
        turns = self._turns_of(plan.positions)
        for layer, pool in zip(self.weights.layers, self._pool, strict=True):
            self._attention(x, layer, pool, plan, turns)
            self._mlp(x, layer)
        return x

    def _attention(
        self, x: torch.Tensor, layer: Layer, pool: torch.Tensor, plan: Plan, turns: torch.Tensor
    ) -> None:
        rows = len(plan.ids)
        shape = self.config.shape
        qkv = layer.qkv(self._normed(x, layer.attention_norm))
        heads = qkv[:rows].unflatten(1, (self._turned + shape.kv_heads, shape.head_dim))
        self._turn(heads[:, : self._turned], turns)
        pool.index_copy_(1, plan.places, heads[:, shape.heads :].transpose(0, 1))
        attended = self._attend(qkv[:rows, : shape.heads * shape.head_dim], pool, plan.calls)
        if rows < self.pad:
            attended = _padded(attended, self.pad)
        x += layer.out(attended)

    def _mlp(self, x: torch.Tensor, layer: Layer) -> None:
        import torch

        gate_up = layer.gate_up(self._normed(x, layer.mlp_norm))
        gate, up = gate_up.chunk(2, dim=-1)
        product = torch.empty_like(up, memory_format=torch.contiguous_format)
        for rows in _serial(len(x), up.shape[1]):
            torch.mul(torch.nn.functional.silu(gate[rows]), up[rows], out=product[rows])
        x += layer.down(product)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.rms_norm(x, weight.shape, weight, self.config.eps).to(self._act)

    def _logits(self, segments: Sequence[Segment], plan: Plan, hidden: torch.Tensor) -> torch.Tensor:
        """The plan packs segments in another order; the answer has theirs."""
        import torch

        ends, row = {}, 0
        for number in plan.order:
            row += len(segments[number].ids)
            ends[number] = row - 1
        wanted = [(ends[n], segment.draw) for n, segment in enumerate(segments) if segment.draw is not None]
        if not wanted:
            return torch.zeros(0, self.vocabulary)
        last = hidden[[row for row, _ in wanted]]
        if len(last) < self.pad:
            last = _padded(last, self.pad)
        normed = torch.nn.functional.rms_norm(last, last.shape[1:], self.weights.norm, self.config.eps)
        return self._head(normed, [draw for _, draw in wanted])

    # --- rope ------------------------------------------------------------------------------------

    def _turn(self, heads: torch.Tensor, turns: torch.Tensor) -> None:
        """In place. Products of complex numbers round by where a vector ends, so a thread has whole rows."""
        import torch

        for rows in _serial(len(heads), heads.shape[1] * heads.shape[2] // 2):
            pairs = torch.view_as_complex(heads[rows].float().unflatten(-1, (-1, 2)))
            heads[rows] = torch.view_as_real(pairs * turns[rows]).flatten(-2)

    def _turns_of(self, positions: torch.Tensor) -> torch.Tensor:
        """Complex [rows, 1, head_dim / 2]."""
        last = int(positions.max())
        if last >= len(self._turns):
            self._turns = self._turn_table(max(last + 1, 2 * len(self._turns)))
        return self._turns[positions][:, None]

    def _turn_table(self, positions: int) -> torch.Tensor:
        """From fp64 by one thread: the same bits for a position whatever the table's size."""
        import numpy as np
        import torch

        angles = np.arange(positions, dtype=np.float32)[:, None] * self.config.frequencies()
        wide = angles.astype(np.float64)
        return torch.from_numpy((np.cos(wide) + 1j * np.sin(wide)).astype(np.complex64))

    # --- faults ----------------------------------------------------------------------------------

    def _clean(self, segments: Sequence[Segment]) -> None:
        """Zeroes spans that hold what is not finite: the next tenant would read it behind its mask."""
        import torch

        for segment in segments:
            span = slice(segment.span.first_token, segment.span.first_token + segment.span.tokens)
            if not bool(torch.isfinite(self._pool[:, :, span]).all()):
                self._pool[:, :, span] = 0


def _zeros(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that the system gives page by page when they are first touched; torch's own are all written."""
    import numpy as np
    import torch

    count = math.prod(size) * dtype.itemsize
    raw = np.zeros(count + ALIGNMENT, dtype=np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return torch.from_numpy(raw[first : first + count]).view(dtype).view(size)


def _padded(x: torch.Tensor, rows: int) -> torch.Tensor:
    import torch

    return torch.cat((x, x.new_zeros(rows - len(x), x.shape[1])))


def _serial(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows that torch computes in one thread, so that none is cut within a row."""
    size = max(1, (GRAIN - 1) // width)
    return (slice(begin, begin + size) for begin in range(0, rows, size))
