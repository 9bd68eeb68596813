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

from llama_gossip.engine.attention import Attention, LayerPool, Options, Packed, pack
from llama_gossip.engine.forward import BLOCK_TOKENS, Segment, Span

REFUSED: Final = ("s_aux", "position_bias", "head_mask")  # keywords that change the result
_numbers = itertools.count()


class Unservable(Exception):
    """This architecture's attention is not what ours computes."""


class PackedForward:
    """A Forward. `exact` promises nothing by itself: `least_rows` must be what the kernels need."""

    def __init__(self, module: Any, *, device: str, exact: bool) -> None:
        from transformers import AttentionInterface

        self.module = _twin(module)
        self.least_rows = 1  # packed tokens and logits are padded up to here
        self._device = device
        self._attention = Attention(exact)
        self._pools: list[LayerPool] = []
        self._tokens = 0  # of the pool
        self._shapes: list[tuple[torch.Tensor, torch.Tensor]] = []  # of one token: empty pools' models
        self._packed: Packed | None = None
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

    def reserve(self, blocks: int) -> None:
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
        with torch.inference_mode():
            self._packed = pack(segments, self._device, exact=self.exact, padding=padding, waste=self._tokens)
            logits = self._call(ids + [0] * padding, positions + [0] * padding, wanted)
            return logits[:draws]

    def _call(self, ids: list[int], positions: list[int], wanted: list[int]) -> torch.Tensor:
        self._layer = 0
        out = self.module(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=torch.tensor([positions], device=self._device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, device=self._device),
        )
        logits: torch.Tensor = out.logits[0].float()
        return logits

    def copy(self, source: Span, target: Span, tokens: int) -> None:
        with torch.inference_mode():
            for pool in self._pools:
                pool.copy(source, target, tokens)

    def close(self) -> None:
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
        if self._packed is None:
            self._shapes.append((key.clone(), value.clone()))
            return value.transpose(1, 2).repeat_interleave(query.shape[1] // value.shape[1], 2), None
        pool = self._pools[self._layer]
        self._layer += 1
        pool.write(self._packed, key, value)
        options = Options(scaling, sliding_window, softcap)
        return self._attention.attend(self._packed, query, pool, options), None


def _twin(module: Any) -> Any:
    """The same weights under a configuration of its own: the original keeps its attention."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
