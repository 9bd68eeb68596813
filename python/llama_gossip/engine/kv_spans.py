"""KV spans: which tokens of the pool belong to whom. Pure arithmetic over blocks; no tensor, no job.

The law: spans never overlap, what is given back merges with its free neighbours, and the free blocks and the
spans out together are the whole pool.
"""

from __future__ import annotations

from bisect import bisect_left

from llama_gossip.engine.forward import BLOCK_TOKENS, Span


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


class SpanPool:
    """First fit over free runs of blocks, by address."""

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ValueError(f"a pool of {blocks} blocks")
        self.blocks = blocks
        self.free_blocks = blocks
        self._starts = [0]  # of free runs, ascending; no two of them touch
        self._ends = [blocks]

    def take(self, blocks: int) -> Span | None:
        """A span of so many blocks at the lowest address that has them; None: no run is long enough."""
        if blocks < 1:
            raise ValueError(f"a span of {blocks} blocks")
        for at, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            if end - start >= blocks:
                self._cut(at, start + blocks)
                return Span(start, blocks)
        return None

    def grow(self, span: Span, blocks: int) -> Span | None:
        """The span at its place with `blocks` in all, where the blocks behind it are free."""
        more = blocks - span.blocks
        if more <= 0:
            return span
        at = bisect_left(self._starts, span.first_block + span.blocks)
        if at == len(self._starts) or self._starts[at] != span.first_block + span.blocks:
            return None
        if self._ends[at] - self._starts[at] < more:
            return None
        self._cut(at, self._starts[at] + more)
        return Span(span.first_block, blocks)

    def shrink(self, span: Span, blocks: int) -> Span:
        """Gives back all but the first `blocks`, at least one."""
        if not 0 < blocks < span.blocks:
            return span
        self.give(Span(span.first_block + blocks, span.blocks - blocks))
        return Span(span.first_block, blocks)

    def give(self, span: Span) -> None:
        """Back to the pool. A span that is not out, wholly or in part, is a ValueError."""
        start, end = span.first_block, span.first_block + span.blocks
        at = bisect_left(self._starts, start)
        joins_before = at > 0 and self._ends[at - 1] == start
        joins_after = at < len(self._starts) and self._starts[at] == end
        if not (
            0 <= start < end <= self.blocks
            and (at == 0 or self._ends[at - 1] <= start)
            and (at == len(self._starts) or end <= self._starts[at])
        ):
            raise ValueError(f"blocks {start} to {end} were not all out")
        self.free_blocks += span.blocks
        if joins_before and joins_after:
            self._ends[at - 1] = self._ends[at]
            del self._starts[at], self._ends[at]
        elif joins_before:
            self._ends[at - 1] = end
        elif joins_after:
            self._starts[at] = start
        else:
            self._starts.insert(at, start)
            self._ends.insert(at, end)

    def _cut(self, at: int, start: int) -> None:
        """The free run number `at` begins at `start` from now on."""
        self.free_blocks -= start - self._starts[at]
        if start == self._ends[at]:
            del self._starts[at], self._ends[at]
        else:
            self._starts[at] = start
