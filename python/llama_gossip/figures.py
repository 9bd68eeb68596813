"""Figures: what `stats()` says of the engines that a node serves with, in whole numbers.

The law: a figure has the name that its field has wherever else it is told (Announce, `peers`, EngineLoad).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_gossip.engine.base import EngineLoad


def of_engines(loads: Sequence[EngineLoad]) -> dict[str, int]:
    """{} without an engine.

    fed_tokens: of prompts and resumed parts since the start, that had to be fed; cached_tokens: those that a
    prefix cache had. first_token_ms: from a job's submit to the engine to its first token, tokens_per_s: of
    one request, both moving averages of the slowest engine. memory_free: bytes, where least is left.
    """
    if not loads:
        return {}
    return {
        "fed_tokens": sum(load.fed_tokens for load in loads),
        "cached_tokens": sum(load.cached_tokens for load in loads),
        "first_token_ms": round(max(load.first_token_ms for load in loads)),
        "tokens_per_s": round(min(load.tokens_per_s for load in loads)),
        "memory_free": min(load.memory_free for load in loads),
    }
