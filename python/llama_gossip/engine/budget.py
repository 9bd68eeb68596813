"""Budget: what the models of one worker may take of one memory. Arithmetic only, bytes in and out.

The law: weights come first and are not negotiable, so a set whose weights do not fit is refused before any
is loaded; a share of what they leave is for keys and values, in equal parts, and what a model does not need
of its part is there for those that are loaded after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_gossip.errors import ModelUnavailable


@dataclass(frozen=True, slots=True)
class Need:
    """What one model's weights take."""

    model: str
    weight_bytes: int


def check_fit(needs: Sequence[Need], free_bytes: int, where: str) -> None:
    """Raises ModelUnavailable for a set that cannot be. free_bytes 0: unknown, nothing is refused.

    where: "this machine", "cuda:0".
    """
    total = sum(need.weight_bytes for need in needs)
    if not free_bytes or total <= free_bytes:
        return
    each = " and ".join(f"{need.model} ({size(need.weight_bytes)})" for need in needs)
    take = f"take {size(total)} of memory together" if len(needs) > 1 else "takes that much memory"
    fewer = "serve fewer of them, or " if len(needs) > 1 else ""
    raise ModelUnavailable(
        f"{each} {take}, and {where} has {size(free_bytes)} free",
        hint=f"{fewer}choose a smaller model or --dtype, or free memory",
        code="memory",
    )


class PoolBudget:
    """The keys and values of models that are loaded one after the other."""

    def __init__(self, free_bytes: int, weight_bytes: int, models: int, *, share: float) -> None:
        """free_bytes: before any was loaded; weight_bytes: of all; share: of the rest, for the pools."""
        self._left = max(0, int((free_bytes - weight_bytes) * share))
        self._models = models

    def part(self) -> int:
        """Of the model that is loaded next."""
        return self._left // self._models

    def taken(self, pool_bytes: int) -> None:
        """By the model that was loaded last."""
        self._left = max(0, self._left - pool_bytes)
        self._models -= 1


def size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
