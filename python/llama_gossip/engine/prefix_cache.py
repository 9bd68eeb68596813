"""Prefix cache: spans of ended rows, kept until their room is needed, so that what follows is not prefilled.

The law: a row gets only keys and values of its own owner's ids, exactly its own prefix, and never the last id
(whose logits are wanted). What is kept is never in the way: room for a row comes before any memory of old
ones, the longest unused first. Pure: whoever asks performs the copies.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from llama_gossip.engine.forward import BLOCK_TOKENS, Span
from llama_gossip.engine.kv_spans import SpanPool, blocks_for

KEPT_SPANS: Final = 32  # conversations; each keeps memory that has been touched once
CHAIN_BYTES: Final = 16  # of a hash in the chain; ids are compared as well


@dataclass(frozen=True, slots=True)
class Grant:
    """Room for a row. The first `cached` tokens are there already, or come by a copy from `source`."""

    span: Span
    cached: int = 0
    source: Span | None = None  # copy from here, at once: it may be given away by the next call


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    span: Span
    ids: tuple[int, ...]  # whose keys and values the span holds
    chain: tuple[bytes, ...]


def chain(root: bytes, ids: Sequence[int]) -> Iterator[bytes]:
    """One hash for each full block of ids, over all ids up to its end."""
    link = root
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = struct.pack(f">{BLOCK_TOKENS}I", *ids[start : start + BLOCK_TOKENS])
        link = hashlib.blake2b(link + block, digest_size=CHAIN_BYTES).digest()
        yield link


def chain_root(model_digest: bytes | None, numerics_id: str | None, owner: bytes | None) -> bytes:
    """What must be equal for keys and values to be shared, beside the ids."""
    parts = (model_digest or b"", (numerics_id or "").encode(), b"" if owner is None else b"\1" + owner)
    return hashlib.blake2b(b"".join(struct.pack(">I", len(part)) + part for part in parts)).digest()


class PrefixCache:
    """All spans of a pool: those of rows, handed out here, and the kept ones."""

    def __init__(self, blocks: int, kept_spans: int = KEPT_SPANS) -> None:
        self._pool = SpanPool(blocks)
        self._kept_spans = kept_spans
        self._kept: OrderedDict[int, Kept] = OrderedDict()  # by first block; the longest unused first
        self._by_link: dict[bytes, dict[int, None]] = {}  # first blocks, the newest last

    @property
    def kept_blocks(self) -> int:
        return sum(kept.span.blocks for kept in self._kept.values())

    @property
    def free_blocks(self) -> int:
        """What a new row may take, kept spans counted as free."""
        return self._pool.free_blocks + self.kept_blocks

    def take(self, root: bytes, ids: Sequence[int], tokens: int) -> Grant | None:
        """Room for `tokens`, of which `ids` are to be fed. None: not before a row ends."""
        blocks = blocks_for(tokens)
        kept, cached = self._best(root, ids)
        if kept is not None:
            granted = self._continued(kept, cached, blocks) or self._copied(kept, cached, blocks)
            if granted is not None:
                return granted
        span = self._make_room(blocks, spare=None)
        return None if span is None else Grant(span)

    def give(self, span: Span, root: bytes, ids: Sequence[int]) -> None:
        """A row has ended. `ids`: those whose keys and values are sound and worth keeping; may be empty."""
        links = tuple(chain(root, ids)) if self._kept_spans else ()
        if not links:
            self._pool.give(span)
            return
        kept = Kept(self._pool.shrink(span, blocks_for(len(ids))), tuple(ids), links)
        self._kept[kept.span.first_block] = kept
        for link in links:
            self._by_link.setdefault(link, {})[kept.span.first_block] = None
        if len(self._kept) > self._kept_spans:
            self._evict(next(iter(self._kept.values())))

    def forget(self) -> None:
        """What the pool held is gone: frees all kept spans."""
        for kept in list(self._kept.values()):
            self._evict(kept)

    def _best(self, root: bytes, ids: Sequence[int]) -> tuple[Kept | None, int]:
        """The kept span with the longest common beginning."""
        found: Kept | None = None
        for link in chain(root, ids[: len(ids) - 1]):
            holders = self._by_link.get(link)
            if not holders:
                break
            found = self._kept[next(reversed(holders))]
        if found is None:
            return None, 0
        cached = 0
        for ours, theirs in zip(ids[: len(ids) - 1], found.ids, strict=False):
            if ours != theirs:
                break
            cached += 1
        return (found, cached) if cached >= BLOCK_TOKENS else (None, 0)

    def _continued(self, kept: Kept, cached: int, blocks: int) -> Grant | None:
        """The kept span itself, where hardly anything of it would be lost."""
        if cached <= len(kept.ids) - BLOCK_TOKENS:
            return None
        grown = self._pool.grow(kept.span, blocks)
        if grown is None:
            return None
        self._drop(kept)
        return Grant(self._pool.shrink(grown, blocks), cached)

    def _copied(self, kept: Kept, cached: int, blocks: int) -> Grant | None:
        span = self._make_room(blocks, spare=kept)
        if span is None:
            return None
        self._kept.move_to_end(kept.span.first_block)
        return Grant(span, cached, kept.span)

    def _make_room(self, blocks: int, spare: Kept | None) -> Span | None:
        """A new span, for which old ones go in turn. Nothing goes where that could not help."""
        spared = 0 if spare is None else spare.span.blocks
        if self.free_blocks - spared < blocks:
            return None
        old = [kept for kept in self._kept.values() if kept is not spare]
        span = self._pool.take(blocks)
        while span is None and old:
            self._evict(old.pop(0))
            span = self._pool.take(blocks)
        return span

    def _evict(self, kept: Kept) -> None:
        self._drop(kept)
        self._pool.give(kept.span)

    def _drop(self, kept: Kept) -> None:
        del self._kept[kept.span.first_block]
        for link in kept.chain:
            holders = self._by_link[link]
            del holders[kept.span.first_block]
            if not holders:
                del self._by_link[link]
