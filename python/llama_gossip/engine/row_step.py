"""Row step: the inputs of a step that feeds one id to each of so many rows, at addresses that stay.

The law: whatever the rows are, shapes and addresses are the same and nothing waits for the device, so that a
step can be recorded once and run again. Idle rows feed id 0 at position 0 into the pool's spare token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llama_gossip.engine import flash
from llama_gossip.engine.attention import LayerPool, Options, sdpa
from llama_gossip.engine.forward import Segment
from llama_gossip.engine.transfers import staged


class RowStep:
    """`longest`: no row has more keys. `fill` once a step, then `begin`, every layer, `end`."""

    stale = None  # of keys behind a row's newest none is read

    def __init__(self, rows: int, longest: int, device: str, *, flashing: bool) -> None:
        self.rows, self.longest = rows, longest
        self._device, self._flashing = device, flashing
        self._inputs = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self.ids, self.positions, self.slots = self._inputs[0:1], self._inputs[1:2], self._inputs[2]
        self._places = flash.Places(
            queries=torch.arange(rows + 1, dtype=torch.int32, device=device),
            starts=torch.zeros(rows + 1, dtype=torch.int32, device=device),
            lengths=torch.zeros(rows, dtype=torch.int32, device=device),
            most_queries=1,
            longest=longest,
        )
        self._at: torch.Tensor | None = None
        self._masks: dict[int | None, torch.Tensor] = {}

    def fill(self, segments: Sequence[Segment], spare: int) -> None:
        """The rows of this step, one id each. `spare`: the pool's token that belongs to nobody."""
        idle = self.rows - len(segments)
        inputs = [
            [segment.ids[0] for segment in segments] + [0] * idle,
            [segment.start for segment in segments] + [0] * idle,
            [segment.span.first_token + segment.start for segment in segments] + [spare] * idle,
        ]
        self._inputs.copy_(staged(inputs, self._device, torch.int64), non_blocking=True)

    def begin(self) -> None:
        """What all layers share. From here on everything happens on the device."""
        positions = self.positions[0]
        self._places.starts[:-1].copy_(self.slots - positions)
        self._places.lengths.copy_(positions + 1)

    def end(self) -> None:
        """Lets go what the layers shared."""
        self._at = None
        self._masks = {}

    def attend(self, query: torch.Tensor, pool: LayerPool, options: Options) -> torch.Tensor:
        """query: [1, heads, rows, size]; returns [1, rows, heads, size of values]."""
        if self._flashing and flash.fits(pool.keys, pool.values, options.softcap):
            keys, values = pool.by_token
            places = self._places
            return flash.attend(
                query[0].transpose(0, 1), keys, values, places, options.scale, options.window
            )[None]
        return self._gathered(query, pool, options)

    def _gathered(self, query: torch.Tensor, pool: LayerPool, options: Options) -> torch.Tensor:
        """The plain way: every row's keys copied together, `longest` of them, masked behind its own."""
        _, heads, rows, size = query.shape
        kv_heads = pool.keys.shape[1]
        folded = query.transpose(1, 2).reshape(rows, kv_heads, heads // kv_heads, size)
        made = sdpa(
            folded, self._of(pool.keys), self._of(pool.values), self._mask(options.window, query), options
        )
        return made.reshape(1, rows, heads, pool.values.shape[3])

    def _of(self, pool: torch.Tensor) -> torch.Tensor:
        """[rows, heads, longest, size]. Behind a row's newest key it is repeated: what lies there may be
        anything, and a masked NaN is a NaN."""
        if self._at is None:
            starts, last = self.slots - self.positions[0], self.positions[0][:, None]
            steps = torch.arange(self.longest, device=pool.device)
            self._at = (starts[:, None] + torch.minimum(steps[None], last)).reshape(-1)
        _, heads, _, size = pool.shape
        return pool[0].index_select(1, self._at).view(heads, self.rows, self.longest, size).transpose(0, 1)

    def _mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Additive [rows, 1, 1, longest]."""
        mask = self._masks.get(window)
        if mask is None:
            distance = self.positions[0][:, None] - torch.arange(self.longest, device=like.device)
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            mask = mask.masked_fill(hidden, float("-inf"))[:, None, None]
            self._masks[window] = mask
        return mask
