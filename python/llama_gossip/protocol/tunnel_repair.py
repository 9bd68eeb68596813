"""Repair: go-back-N on the frames' own numbers, for one direction each. No time and no bytes of a wire in it.

The law: a frame is kept until it is acked and given on once, in order. An Ack counts only if it is not lower
than the highest before it and not higher than what exists: an old one that comes late means nothing.
"""

from __future__ import annotations

from llama_gossip.protocol.limits import LENGTH_PREFIX_BYTES, MAX_AHEAD_BYTES, MAX_AHEAD_ITEMS


class Outbox:
    """What one side has written, until the other has acked it."""

    def __init__(self) -> None:
        self.base = 0  # the lowest n that is not acked
        self.bytes = 0  # of all that is not acked
        self._frames: list[bytes] = []  # base, base + 1, …
        self._cursor = 0  # how many of them were sent since the last going back

    @property
    def next_n(self) -> int:
        return self.base + len(self._frames)

    @property
    def unacked(self) -> int:
        return len(self._frames)

    @property
    def unsent(self) -> int:
        return max(0, len(self._frames) - self._cursor)

    def add(self, item: bytes) -> None:
        self._frames.append(item)
        self.bytes += len(item)

    def ack(self, next_n: int) -> bool:
        """Whether it counts."""
        if not self.base <= next_n <= self.next_n:
            return False
        gone = next_n - self.base
        self.bytes -= sum(len(item) for item in self._frames[:gone])
        del self._frames[:gone]
        self._cursor = max(0, self._cursor - gone)
        self.base = next_n
        return True

    def go_back(self) -> None:
        self._cursor = 0

    def take(self, room: int) -> list[bytes]:
        """The next frames that fit, in order."""
        start = self._cursor
        for item in self._frames[start:]:
            room -= len(item) + LENGTH_PREFIX_BYTES
            if room < 0:
                break
            self._cursor += 1
        return self._frames[start : self._cursor]

    def clear(self) -> None:
        """Nobody waits for them any more; the numbers stay used."""
        self.base = self.next_n
        self._frames.clear()
        self.bytes = 0
        self._cursor = 0


class Order:
    """Puts what comes in back into its order. A few frames that came too early wait for the repair."""

    def __init__(self) -> None:
        self.next_n = 0
        self._ahead: dict[int, bytes] = {}
        self._ahead_bytes = 0

    def take(self, n: int, item: bytes) -> list[bytes]:
        """The items that are next in order now: none for what was given on before or comes too early."""
        if n > self.next_n:
            self._keep(n, item)
        if n != self.next_n:
            return []
        items = [item]
        self.next_n += 1
        while (following := self._ahead.pop(self.next_n, None)) is not None:
            self._ahead_bytes -= len(following)
            items.append(following)
            self.next_n += 1
        return items

    def _keep(self, n: int, item: bytes) -> None:
        near = n - self.next_n <= MAX_AHEAD_ITEMS
        if near and n not in self._ahead and self._ahead_bytes + len(item) <= MAX_AHEAD_BYTES:
            self._ahead[n] = item
            self._ahead_bytes += len(item)
