"""Decode steps: steps that feed one id to each row, in a few fixed shapes, recorded where a device can.

The law: the same function over the same buffers computes a step, whether it is run or replayed; a shape that
cannot be recorded is left to the packed way. What a step returns is overwritten by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import torch

from llama_gossip.engine.forward import Segment
from llama_gossip.engine.graphs import Graphs
from llama_gossip.engine.row_step import RowStep

ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)  # a step has the least of these that suffices
SHORTEST: Final = 256  # keys of a row; then twice as many, and so on
GATHERED_KEYS: Final = 1 << 17  # of all rows, where they are copied together: more is not worth its memory

Shape: TypeAlias = tuple[int, int]  # rows, keys of the longest


class DecodeSteps:
    """`call` computes the logits of a filled RowStep: [rows, vocabulary]. `gathers`: some layer's attention
    copies keys together."""

    def __init__(
        self,
        call: Callable[[RowStep], torch.Tensor],
        *,
        vocabulary: int,
        device: str,
        flashing: bool,
        gathers: bool,
    ) -> None:
        self._call = call
        self._vocabulary = vocabulary
        self._device = device
        self._flashing, self._gathers = flashing, gathers
        self._steps: dict[Shape, RowStep] = {}
        self._logits: dict[int, torch.Tensor] = {}  # by rows
        self._graphs = Graphs(device) if torch.device(device).type == "cuda" else None

    @property
    def works(self) -> bool:
        """Whether some shape was computed so."""
        return bool(self._steps) if self._graphs is None else self._graphs.any

    def forget(self) -> None:
        """The pool is to be another one: what was recorded reads the old."""
        if self._graphs is not None:
            self._graphs.forget()

    def run(self, segments: Sequence[Segment], spare: int) -> torch.Tensor | None:
        """fp32 logits [segments, vocabulary]; None: no such step, or it cannot be recorded."""
        shape = self._shape_of(segments)
        if shape is None:
            return None
        rows, longest = shape
        step = self._steps.get(shape)
        if step is None:
            step = RowStep(rows, longest, self._device, flashing=self._flashing)
            self._steps[shape] = step
        if rows not in self._logits:
            self._logits[rows] = torch.empty(rows, self._vocabulary, device=self._device)
        logits = self._logits[rows]
        step.fill(segments, spare)

        def compute() -> None:
            step.begin()
            logits.copy_(self._call(step))
            step.end()

        if self._graphs is None:
            compute()
        elif not self._graphs.replay(shape, compute):
            return None
        return logits[: len(segments)]

    def _shape_of(self, segments: Sequence[Segment]) -> Shape | None:
        if not 0 < len(segments) <= ROWS[-1]:
            return None
        if any(len(segment.ids) != 1 or segment.draw is None for segment in segments):
            return None
        if any(segment.start >= segment.span.tokens for segment in segments):
            return None  # the packed way says what is wrong
        rows = next(rows for rows in ROWS if rows >= len(segments))
        longest = SHORTEST
        while longest <= max(segment.start for segment in segments):
            longest *= 2
        if self._gathers and rows * longest > GATHERED_KEYS:
            return None
        return rows, longest
