"""Figures of the engines of a node, added up as each of them can be."""

from __future__ import annotations

from dataclasses import replace

from llama_gossip.engine.base import EngineLoad
from llama_gossip.figures import of_engines

ONE = EngineLoad(2, 0, 40.4, 120.6, 8_000, 5.0, fed_tokens=100, cached_tokens=30)
OTHER = replace(ONE, tokens_per_s=9.6, first_token_ms=80.0, memory_free=5_000, fed_tokens=7, cached_tokens=1)


def test_a_node_without_an_engine_has_no_figures_of_one() -> None:
    assert of_engines([]) == {}


def test_tokens_are_added_up_and_the_slowest_engine_speaks_for_all() -> None:
    assert of_engines([ONE, OTHER]) == {
        "fed_tokens": 107,
        "cached_tokens": 31,
        "first_token_ms": 121,
        "tokens_per_s": 10,
        "memory_free": 5_000,
    }
