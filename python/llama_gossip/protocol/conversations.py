"""Conversations: the marks of those that this worker's engine most likely still holds, for its Announces.

The law: a mark comes from the Assign of an answer that was made to its end here, means nothing to anybody but
its requester, and is given back as it came. It goes with the engine, with its age, or for newer ones.
"""

from __future__ import annotations

from collections import OrderedDict

from llama_gossip.protocol.limits import MAX_CONVERSATION_MARKS
from llama_gossip.protocol.timers import Timers


class Conversations:
    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._held: OrderedDict[bytes, int] = OrderedDict()  # mark → when it ends, the oldest first

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, mark: bytes | None, now_mono_ms: int) -> None:
        if mark is None:
            return
        self._held[mark] = now_mono_ms + self._timers.affinity_ms
        self._held.move_to_end(mark)
        if len(self._held) > MAX_CONVERSATION_MARKS:
            self._held.popitem(last=False)

    def forget(self) -> None:
        """What the engine held is gone."""
        self._held.clear()

    def announced(self, now_mono_ms: int) -> tuple[bytes, ...]:
        """The newest first."""
        return tuple(mark for mark, end_ms in reversed(self._held.items()) if end_ms > now_mono_ms)
