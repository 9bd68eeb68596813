"""Spans of the pool: whatever is taken, grown and given back, nothing overlaps and nothing is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.engine.forward import Span
from llama_gossip.engine.kv_spans import SpanPool, blocks_for

BLOCKS = 24


def blocks_of(span: Span) -> set[int]:
    return set(range(span.first_block, span.first_block + span.blocks))


@given(
    st.lists(st.tuples(st.sampled_from(["take", "give", "grow", "shrink"]), st.integers(1, 9)), max_size=60),
    st.randoms(use_true_random=False),
)
def test_spans_never_overlap_and_first_fit_finds_what_is_free(
    moves: list[tuple[str, int]], rng: random.Random
) -> None:
    pool = SpanPool(BLOCKS)
    out: list[Span] = []
    for move, count in moves:
        free = set(range(BLOCKS)).difference(*(blocks_of(span) for span in out))
        if move == "take":
            fits = [at for at in range(BLOCKS) if set(range(at, at + count)) <= free]
            span = pool.take(count)
            assert span == (Span(fits[0], count) if fits else None)
            out += [] if span is None else [span]
        elif out:
            span = out.pop(rng.randrange(len(out)))
            if move == "give":
                pool.give(span)
            elif move == "grow":
                more = set(range(span.first_block + span.blocks, span.first_block + count))
                grown = pool.grow(span, count)
                assert grown == (Span(span.first_block, max(count, span.blocks)) if more <= free else None)
                out.append(grown or span)
            else:
                out.append(pool.shrink(span, count))
                assert out[-1] == Span(span.first_block, min(count, span.blocks))
        assert pool.free_blocks == BLOCKS - sum(span.blocks for span in out)
        assert len(set().union(*map(blocks_of, out))) == sum(span.blocks for span in out)
    for span in out:
        pool.give(span)
    assert pool.take(BLOCKS) == Span(0, BLOCKS)


@pytest.mark.parametrize("span", [Span(0, 1), Span(2, 4), Span(15, 2), Span(23, 2), Span(-1, 1), Span(3, 0)])
def test_what_is_not_out_cannot_be_given_back(span: Span) -> None:
    pool = SpanPool(BLOCKS)
    assert [pool.take(3), pool.take(5), pool.take(8)] == [Span(0, 3), Span(3, 5), Span(8, 8)]
    pool.give(Span(0, 3))
    with pytest.raises(ValueError, match="were not all out"):
        pool.give(span)
    assert pool.free_blocks == BLOCKS - 13


def test_tokens_take_whole_blocks() -> None:
    assert [blocks_for(tokens) for tokens in (1, 16, 17, 4096)] == [1, 1, 2, 256]
