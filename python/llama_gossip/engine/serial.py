"""The serial forward: one transformers cache a row, one row at a time. For models that cannot be packed.

The law: correct wherever the model's own cache is, however odd its layers; no row gains from another.
A cache cannot be cut or copied, so no prefix is kept for a later row.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llama_gossip.engine.forward import Segment, Span


@dataclass(slots=True, eq=False)
class _Held:
    span: Span
    cache: Any  # a transformers DynamicCache
    tokens: int = 0

    def overlaps(self, span: Span) -> bool:
        mine, theirs = self.span, span
        return (
            mine.first_block < theirs.first_block + theirs.blocks
            and theirs.first_block < mine.first_block + mine.blocks
        )


class SerialForward:
    """A Forward whose spans stand for caches of their own."""

    def __init__(self, module: Any, *, device: str) -> None:
        self.module = module
        self._device = device
        self._word = cache_word(module)
        self._held: dict[int, _Held] = {}  # by first block

    @property
    def vocabulary(self) -> int:
        return int(self.module.get_input_embeddings().weight.shape[0])

    @property
    def bytes_per_token(self) -> int:
        held = _Held(Span(0, 1), self._new_cache())
        self._feed(held, [0])
        layers = getattr(held.cache, "layers", ())
        tensors = [getattr(layer, word, None) for layer in layers for word in ("keys", "values")]
        return sum(int(tensor.nbytes) for tensor in tensors if isinstance(tensor, torch.Tensor))

    @property
    def numerics(self) -> str:
        return "hf-serial"

    def reserve(self, blocks: int) -> None:
        self._held.clear()

    def run(self, segments: Sequence[Segment]) -> torch.Tensor:
        logits = [(segment.draw, self._feed(self._cache_of(segment), segment.ids)) for segment in segments]
        drawn = [row for draw, row in logits if draw is not None]
        return torch.stack(drawn) if drawn else torch.empty(0, self.vocabulary)

    def close(self) -> None:
        self._held.clear()

    def _cache_of(self, segment: Segment) -> _Held:
        if segment.start == 0:
            for first, held in list(self._held.items()):
                if held.overlaps(segment.span):
                    del self._held[first]
            self._held[segment.span.first_block] = _Held(segment.span, self._new_cache())
        held = self._held[segment.span.first_block]
        if held.tokens != segment.start:
            raise ValueError(f"{held.tokens} tokens are in the cache, not {segment.start}")
        return held

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.module.config)

    def _feed(self, held: _Held, ids: Sequence[int]) -> torch.Tensor:
        """fp32 logits after the last id; the cache grows by all of them."""
        with torch.inference_mode():
            out = self.module(
                input_ids=torch.tensor([list(ids)], device=self._device),
                use_cache=True,
                logits_to_keep=1,
                **{self._word: held.cache},
            )
            held.tokens += len(ids)
            logits: torch.Tensor = out.logits[0, -1].float()
        return logits


def cache_word(module: Any) -> str:
    """How this transformers names the cache of keys and values (`past_key_values` in older ones)."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"
