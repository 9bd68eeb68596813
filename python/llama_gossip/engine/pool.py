"""The pool: the memory that the keys and values of all rows share, and which rows' prefixes it keeps.

The law: as much as all rows can use, or as memory allows; what a device refuses is asked for again by half;
a pool that is made anew has room for one whole context at least. Model thread only.
"""

from __future__ import annotations

import logging
from typing import Final

from llama_gossip.engine.forward import BLOCK_TOKENS, Forward
from llama_gossip.engine.kv_spans import blocks_for
from llama_gossip.engine.memory import FreeMemory, out_of_memory
from llama_gossip.engine.prefix_cache import PrefixCache
from llama_gossip.engine.rows import PoolUse
from llama_gossip.errors import EngineError

MEMORY_SHARE: Final = 0.5  # of free memory that keys and values may take
LEAST_TOKENS: Final = 512  # a context below this serves nobody

log = logging.getLogger(__name__)


class Pool:
    """`room` is another object after the pool became smaller: spans of the old one are worth nothing then."""

    def __init__(
        self,
        forward: Forward,
        free: FreeMemory,
        *,
        context: int,
        rows: int,
        kept: int,
        share: float,
        most_bytes: int | None = None,
    ) -> None:
        """most_bytes: this pool's part, where others take theirs of the same memory.

        Raises EngineError where memory does not suffice for LEAST_TOKENS.
        """
        self._forward = forward
        self._kept = kept
        wanted = blocks_for(context) * rows
        free.read()
        per_block = forward.bytes_per_token * BLOCK_TOKENS
        if free.bytes and per_block:
            wanted = min(wanted, max(1, int(free.bytes * share / per_block)))
        if most_bytes is not None and per_block:
            wanted = min(wanted, max(1, most_bytes // per_block))
        self.blocks = self._reserve(wanted, min(wanted, blocks_for(LEAST_TOKENS)))
        self.room = PrefixCache(self.blocks, kept)
        self.context = min(context, self.blocks * BLOCK_TOKENS)

    @property
    def bytes(self) -> int:
        return self._bytes(self.blocks)

    def use(self) -> PoolUse:
        """Now."""
        used = self.blocks - self.room.free_blocks
        return PoolUse(self.bytes, self._bytes(used), self._bytes(self.room.kept_blocks))

    def _bytes(self, blocks: int) -> int:
        return blocks * BLOCK_TOKENS * self._forward.bytes_per_token

    def renew(self, *, smaller: bool) -> None:
        """What it held is gone. Raises EngineError where not even one context can be had any more."""
        least = blocks_for(self.context)
        blocks = self._reserve(max(least, self.blocks // 2) if smaller else self.blocks, least)
        if blocks == self.blocks:
            self.room.forget()
        else:
            log.warning("the pool of keys and values has %d tokens from now on", blocks * BLOCK_TOKENS)
            self.blocks, self.room = blocks, PrefixCache(blocks, self._kept)

    def _reserve(self, blocks: int, least: int) -> int:
        while not self._reserved(blocks):
            if blocks <= least:
                raise EngineError(
                    f"the device has no memory for keys and values of {blocks * BLOCK_TOKENS} tokens",
                    hint="end what else uses it, or serve a smaller model",
                )
            blocks = max(least, blocks // 2)
        return blocks

    def _reserved(self, blocks: int) -> bool:
        """Returns before the next try: what an error holds is memory."""
        try:
            self._forward.reserve(blocks)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return False
        return True
