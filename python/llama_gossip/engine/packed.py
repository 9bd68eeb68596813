"""The packed forward: any transformers causal LM over tokens of several rows at once, with our own attention.

The law: the model's own code computes everything but attention, which is ours, under a name in transformers'
registry that no other engine has. What our attention cannot honour raises Unservable; what slips through (a
recurrent state) is caught by the check at load.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Final

import torch

from llama_gossip.engine import flash
from llama_gossip.engine.attention import Attention, LayerPool, Options, Packed, pack
from llama_gossip.engine.decode_steps import DecodeSteps
from llama_gossip.engine.forward import BLOCK_TOKENS, Segment, Span
from llama_gossip.engine.row_step import RowStep
from llama_gossip.engine.transfers import to_device

REFUSED: Final = ("s_aux", "position_bias", "head_mask")  # keywords that change the result
_numbers = itertools.count()


class Unservable(Exception):
    """This architecture's attention is not what ours computes."""


class PackedForward:
    """A Forward. `exact` promises nothing by itself: `least_rows` must be what the kernels need. `flashing`
    and `steps` are for whoever has seen that they compute the same (engine/acceleration.py)."""

    def __init__(self, module: Any, *, device: str, exact: bool) -> None:
        from transformers import AttentionInterface

        self.module = _twin(module)
        self.least_rows = 1  # packed tokens and logits are padded up to here
        self.flashing = False  # all rows of a step in one call of the flash kernel
        self.steps: DecodeSteps | None = None
        self.device = device
        self._attention = Attention(exact)
        self._pools: list[LayerPool] = []
        self._tokens = 0  # of the pool
        self._shapes: list[tuple[torch.Tensor, torch.Tensor]] = []  # of one token: empty pools' models
        self._softcaps: list[float | None] = []  # by layer, as the shapes
        self._step: Packed | RowStep | None = None
        self._layer = 0
        name = f"llama_gossip_{next(_numbers)}"
        AttentionInterface.register(name, self._attend)
        self.module.set_attn_implementation(name)
        with torch.inference_mode():  # one token: how many layers attend, and what their keys look like
            self._call([0], [0], [0])
        if not self._shapes:
            raise Unservable("no layer asks for attention")

    @property
    def exact(self) -> bool:
        return self._attention.exact

    def relax(self) -> None:
        """Gives up exactness: the quicker way of reading."""
        self._attention.exact = False
        self.least_rows = 1

    @property
    def vocabulary(self) -> int:
        return int(self.module.get_input_embeddings().weight.shape[0])

    @property
    def bytes_per_token(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self._shapes)

    @property
    def numerics(self) -> str:
        return f"hf-exact{self.least_rows}" if self.exact else "hf-fast"

    @property
    def kind(self) -> str:
        """What computes its steps, where that is not the plain way: part of a GPU's numerics id."""
        return "-".join(
            word for word, used in (("flash", self.flashing), ("rows", self.steps is not None)) if used
        )

    def flashes(self) -> bool:
        """Whether the flash kernel takes every layer."""
        return all(
            flash.fits(keys, values, softcap)
            for (keys, values), softcap in zip(self._shapes, self._softcaps, strict=True)
        )

    def reserve(self, blocks: int) -> None:
        if self.steps is not None:
            self.steps.forget()
        self._pools.clear()  # the old memory first
        self._tokens = blocks * BLOCK_TOKENS  # and one for the keys of padding
        self._pools = [
            LayerPool(
                keys.new_empty(1, keys.shape[1], self._tokens + 1, keys.shape[3]),
                values.new_empty(1, values.shape[1], self._tokens + 1, values.shape[3]),
            )
            for keys, values in self._shapes
        ]

    def run(self, segments: Sequence[Segment]) -> torch.Tensor:
        """As Forward has it; the next call may overwrite what this one returned."""
        with torch.inference_mode():
            logits = None if self.steps is None else self.steps.run(segments, self._tokens)
            return self._run_packed(segments) if logits is None else logits

    def _run_packed(self, segments: Sequence[Segment]) -> torch.Tensor:
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for segment in segments:
            ids += segment.ids
            positions += range(segment.start, segment.start + len(segment.ids))
            if segment.draw is not None:
                wanted.append(len(ids) - 1)
        draws = len(wanted)
        padding = max(0, self.least_rows - len(ids))
        wanted += wanted[-1:] * (self.least_rows - draws) or [0]
        self._step = pack(
            segments,
            self.device,
            exact=self.exact,
            flashing=self.flashing,
            padding=padding,
            spare=self._tokens,
        )
        logits = self._call(ids + [0] * padding, positions + [0] * padding, wanted)
        return logits[:draws]

    def _call(self, ids: list[int], positions: list[int], wanted: list[int]) -> torch.Tensor:
        fed, at, kept = to_device((ids, positions, wanted), self.device)
        return self._logits(fed[None], at[None], kept)

    def call_rows(self, step: RowStep) -> torch.Tensor:
        """For DecodeSteps: logits of every row of the step."""
        self._step = step
        return self._logits(step.ids, step.positions, 0)

    def _logits(self, ids: torch.Tensor, positions: torch.Tensor, kept: torch.Tensor | int) -> torch.Tensor:
        """kept: indices of tokens; 0: all."""
        self._layer = 0
        out = self.module(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=kept)
        logits: torch.Tensor = out.logits[0].float()
        return logits

    def copy(self, source: Span, target: Span, tokens: int) -> None:
        with torch.inference_mode():
            for pool in self._pools:
                pool.copy(source, target, tokens)

    def close(self) -> None:
        self.steps = None
        self._pools.clear()
        self.module = None  # transformers' registry keeps the name, and with it this object

    def _attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """As AttentionInterface asks: tensors of [1, heads, tokens, size]; gives [1, tokens, heads, size]."""
        if attention_mask is not None or any(others.get(word) is not None for word in REFUSED):
            raise Unservable("its attention has a mask, sinks or a bias of its own")
        step = self._step
        if step is None:
            self._shapes.append((key.clone(), value.clone()))
            self._softcaps.append(softcap)
            return value.transpose(1, 2).repeat_interleave(query.shape[1] // value.shape[1], 2), None
        pool = self._pools[self._layer]
        self._layer += 1
        pool.write(step, key, value)
        options = Options(scaling, sliding_window, softcap)
        if isinstance(step, RowStep):
            return step.attend(query, pool, options), None
        return self._attention.attend(step, query, pool, options), None


def _twin(module: Any) -> Any:
    """The same weights under a configuration of its own: the original keeps its attention."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
