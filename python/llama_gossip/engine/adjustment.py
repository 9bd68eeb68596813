"""Adjustment: step 2 of sampler s1, the logits that a request changes before anything is chosen.

The law: a changed value depends on that token's own logit and history alone, so that any subset of ids can be
changed alone and comes out as it would in the whole row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_gossip.engine.noise import Float64, Ids
from llama_gossip.protocol.messages import GenerationConfig

FIRST_ROOM: Final = 64  # changed ids before the table first grows
ABSENT: Final = -1


class Adjustment:
    """One request's: repetition over prompt and answer, presence and frequency over the answer, bias."""

    def __init__(
        self, config: GenerationConfig, prompt_ids: Iterable[int], answer_ids: Iterable[int] = ()
    ) -> None:
        self._repetition = config.repetition
        self._frequency, self._presence = config.frequency, config.presence
        self._repeats = config.repetition != 1.0
        self._counts = config.presence != 0.0 or config.frequency != 0.0
        self._slots: NDArray[np.int32] = np.full(0, ABSENT, np.int32)  # by token id
        self._ids: Ids = np.zeros(FIRST_ROOM, np.int64)  # by slot, like the three below
        self._repeated = np.zeros(FIRST_ROOM, np.bool_)
        self._count: Float64 = np.zeros(FIRST_ROOM)
        self._bias: Float64 = np.zeros(FIRST_ROOM)
        self._used = 0
        for token_id, bias in config.logit_bias:  # the last of duplicate ids holds
            slot = self._slot(token_id)
            self._bias[slot] = bias
        if self._repeats:
            for token_id in set(prompt_ids):
                slot = self._slot(token_id)
                self._repeated[slot] = True
        for token_id in answer_ids:
            self.seen(token_id)

    def __len__(self) -> int:
        return self._used

    @property
    def ids(self) -> Ids:
        """Every id whose logit changes, once, in no particular order."""
        return self._ids[: self._used]

    def seen(self, token_id: int) -> None:
        """The answer has grown by this id."""
        if not (self._repeats or self._counts):
            return
        slot = self._slot(token_id)  # before its tables are named: it may grow them
        self._repeated[slot] = self._repeats
        self._count[slot] += self._counts

    def touches(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these ids change."""
        known: NDArray[np.bool_] = self._slots_of(ids) != ABSENT
        return known

    def changed(self, ids: Ids, logits: Float64) -> Float64:
        """The values of these ids after step 2; an id that does not change keeps its logit."""
        slots = self._slots_of(ids)
        hit = slots != ABSENT
        values = logits.copy()
        values[hit] = self._apply(slots[hit], logits[hit])
        return values

    def _apply(self, slots: NDArray[np.int32], x: Float64) -> Float64:
        if self._repeats:
            scaled = np.where(x > 0, x / self._repetition, x * self._repetition)
            x = np.where(self._repeated[slots], scaled, x)
        if self._counts:
            count = self._count[slots]
            x = np.where(count > 0, x - (self._frequency * count + self._presence), x)
        return x + self._bias[slots]

    def _slots_of(self, ids: Ids) -> NDArray[np.int32]:
        if ids.size:
            self._cover(int(ids.max()))
        return self._slots[ids]

    def _slot(self, token_id: int) -> int:
        self._cover(token_id)
        slot = int(self._slots[token_id])
        if slot == ABSENT:
            slot = self._slots[token_id] = self._used
            self._used += 1
            if self._used > self._ids.size:
                self._grow()
            self._ids[slot] = token_id
        return int(slot)

    def _cover(self, token_id: int) -> None:
        missing = token_id + 1 - self._slots.size
        if missing > 0:
            more = np.full(max(missing, self._slots.size), ABSENT, np.int32)  # doubled: few copies
            self._slots = np.concatenate((self._slots, more))

    def _grow(self) -> None:
        self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
        self._repeated = np.concatenate((self._repeated, np.zeros_like(self._repeated)))
        self._count = np.concatenate((self._count, np.zeros_like(self._count)))
        self._bias = np.concatenate((self._bias, np.zeros_like(self._bias)))
