"""The prefix cache: what is handed out is the row's own prefix, and never in the way of a row."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.engine.forward import BLOCK_TOKENS, Span
from llama_gossip.engine.kv_spans import blocks_for
from llama_gossip.engine.prefix_cache import Grant, PrefixCache, chain, chain_root

ROOT = chain_root(b"digest", "numerics", None)
OTHER = chain_root(b"digest", "numerics", b"owner")


def ids_of(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000) for _ in range(count)]


def test_the_next_turn_of_a_chat_goes_on_in_the_same_place() -> None:
    cache = PrefixCache(64)
    turn = ids_of(1, 100)
    first = cache.take(ROOT, turn, 120)
    assert first == Grant(Span(0, 8))
    cache.give(first.span, ROOT, turn)
    assert cache.free_blocks == 64
    assert cache.take(ROOT, [*turn, 1, 2, 3], 300) == Grant(Span(0, 19), 100)


def test_a_resume_of_all_that_is_there_costs_one_token() -> None:
    cache = PrefixCache(64)
    ids = ids_of(1, 101)
    granted = cache.take(ROOT, ids, 200)
    assert granted is not None
    cache.give(granted.span, ROOT, ids[:100])  # the last one had not been fed
    assert cache.take(ROOT, ids, 200) == Grant(Span(0, 13), 100)
    again = cache.take(ROOT, ids, 200)
    assert again == Grant(Span(13, 13))  # taken over is gone


def test_a_common_beginning_is_copied_and_stays_for_others() -> None:
    cache = PrefixCache(64)
    system = ids_of(1, 40)
    one, two = system + ids_of(2, 60), system + ids_of(3, 60)
    granted = cache.take(ROOT, one, 100)
    assert granted is not None
    cache.give(granted.span, ROOT, one)
    assert cache.take(ROOT, two, 100) == Grant(Span(7, 7), 40, Span(0, 7))
    assert cache.take(ROOT, [*one, 5], 102) == Grant(Span(0, 7), 100)


def test_a_prefix_of_another_owner_or_of_less_than_a_block_is_not_seen() -> None:
    cache = PrefixCache(64)
    ids = ids_of(1, 100)
    granted = cache.take(ROOT, ids, 100)
    assert granted is not None
    cache.give(granted.span, ROOT, ids)
    assert cache.take(OTHER, ids, 100) == Grant(Span(7, 7))
    assert cache.take(ROOT, [*ids[: BLOCK_TOKENS - 1], 7, *ids[BLOCK_TOKENS:]], 100) == Grant(Span(14, 7))


def test_an_older_holder_of_a_beginning_is_found_when_the_newer_is_taken_over() -> None:
    cache = PrefixCache(64)
    system = ids_of(1, 32)
    rows = [system + ids_of(seed, 30) for seed in (2, 3)]
    granted = [cache.take(ROOT, row, 62) for row in rows]
    for row, grant in zip(rows, granted, strict=True):
        assert grant is not None
        cache.give(grant.span, ROOT, row)
    assert cache.take(ROOT, [*rows[1], 1], 64) == Grant(Span(4, 4), 62)
    third = cache.take(ROOT, system + ids_of(4, 30), 62)
    assert third == Grant(Span(8, 4), 32, Span(0, 4))


def test_room_comes_before_memory_and_the_longest_unused_goes_first() -> None:
    cache = PrefixCache(12)
    rows = [ids_of(seed, 64) for seed in range(3)]
    for row in rows:
        granted = cache.take(ROOT, row, 64)
        assert granted is not None
        cache.give(granted.span, ROOT, row)
    half = cache.take(ROOT, [*rows[0][:40], 1, 2], 48)
    assert half == Grant(Span(4, 3), 40, Span(0, 4))  # the second one went, the first was used again
    assert cache.take(ROOT, ids_of(9, 20), 16 * 5) == Grant(Span(7, 5))  # and now the third
    assert cache.take(ROOT, ids_of(8, 20), 16 * 5) is None


def test_only_so_many_spans_are_kept() -> None:
    cache = PrefixCache(64, kept_spans=2)
    rows = [ids_of(seed, 64) for seed in range(3)]
    granted = [cache.take(ROOT, row, 64) for row in rows]
    for row, grant in zip(rows, granted, strict=True):
        assert grant is not None
        cache.give(grant.span, ROOT, row)
    found = [cache.take(ROOT, [*row, 1], 65) for row in rows]
    assert [0 if grant is None else grant.cached for grant in found] == [0, 64, 64]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 90), st.integers(0, 40)), max_size=40), st.data())
def test_what_is_granted_holds_the_rows_own_ids(
    rows: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """A model pool of ids: each grant's cached tokens must be there, and no two rows may share a token."""
    cache = PrefixCache(20, kept_spans=4)
    pool: list[object] = [None] * (20 * BLOCK_TOKENS)
    running: list[tuple[Span, list[int], bytes]] = []
    for seed, count, more in rows:
        ids = [*ids_of(0, 24), *ids_of(seed, 70)][:count]
        root = (ROOT, OTHER)[seed % 2]
        granted = cache.take(root, ids, count + more)
        if granted is None:
            needed = blocks_for(count + more)
            assert sum(span.blocks for span, _, _ in running) + needed > 20 or running
        else:
            base = granted.span.first_token
            source = base if granted.source is None else granted.source.first_token
            pool[base : base + granted.cached] = pool[source : source + granted.cached]
            assert pool[base : base + granted.cached] == [(root, token) for token in ids[: granted.cached]]
            assert granted.cached < count
            assert granted.span.tokens >= count + more
            taken = [set(range(span.first_block, span.first_block + span.blocks)) for span, _, _ in running]
            mine = set(range(granted.span.first_block, granted.span.first_block + granted.span.blocks))
            assert not mine & set().union(*taken)
            pool[base : base + count] = [(root, token) for token in ids]
            running.append((granted.span, ids, root))
        while running and data.draw(st.booleans()):
            span, ended, root = running.pop(data.draw(st.integers(0, len(running) - 1)))
            cache.give(span, root, ended if data.draw(st.integers(0, 3)) else ())
    for span, ended, root in running:
        cache.give(span, root, ended)
    assert cache.free_blocks == 20
    cache.forget()
    assert cache.take(ROOT, [1], 20 * BLOCK_TOKENS) == Grant(Span(0, 20))


def test_a_hash_covers_all_that_stands_before() -> None:
    ids = ids_of(1, 64)
    links = list(chain(ROOT, ids))
    assert len(links) == 4
    changed = list(chain(ROOT, [ids[0] + 1, *ids[1:]]))
    assert not set(links) & set(changed)
    roots = {
        chain_root(b"a", "b", None),
        chain_root(b"a", "b", b""),
        chain_root(b"ab", None, None),
        chain_root(b"a", "b", b"c"),
        chain_root(None, "ab", None),
    }
    assert len(roots) == 5
