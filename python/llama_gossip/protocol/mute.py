"""Mute: does anybody still hear me? The verdict that this node's outbound gossip has died in silence.

The law (PROTOCOL section 6): four or more Announces heard within 60 s, and none names me with the seq of any
Announce that I sent since one that is 60 s old. An Announce names three of those that its sender hears, so in
a crowd many leave me out by chance: the silence counts once chance no longer explains it.
"""

from __future__ import annotations

import math
from collections import deque

from llama_gossip.protocol.limits import MAX_HEARD
from llama_gossip.protocol.timers import Timers

MIN_ANNOUNCES = 4  # fewer may all have left me out by chance
MAX_UNCONFIRMED = 1_024  # own Announces: the oldest decides, minutes of the others follow it
# Minus the logarithm of the chance that a node that is heard was named by nobody, for each Announce that it
# sends: by mistake once in half a year.
LEAST_SURPRISE = 14.0


class Mute:
    def __init__(self, timers: Timers) -> None:
        self._window_ms = timers.mute_ms
        self._heard: deque[int] = deque(maxlen=MIN_ANNOUNCES)  # mono, of anybody's
        self._count = 0  # of all Announces heard
        self._unconfirmed: deque[tuple[int, int, int]] = deque()  # own Announces: mono, seq, count then
        self._newest_seq = -1

    def sent(self, seq: int, now_mono_ms: int) -> None:
        self._newest_seq = seq
        if len(self._unconfirmed) < MAX_UNCONFIRMED:
            self._unconfirmed.append((now_mono_ms, seq, self._count))

    def heard(self, names_me: int | None, now_mono_ms: int) -> None:
        """names_me: the seq that somebody's Announce gives of mine."""
        self._heard.append(now_mono_ms)
        self._count += 1
        if names_me is None or names_me > self._newest_seq:  # of an earlier boot
            return
        while self._unconfirmed and self._unconfirmed[0][1] <= names_me:
            self._unconfirmed.popleft()

    def forget(self) -> None:
        """Something was done about it: the evidence is gathered anew."""
        self._heard.clear()
        self._unconfirmed.clear()

    def verdict(self, now_mono_ms: int, peers: int) -> bool:
        """peers: of how many each Announce names three."""
        since = now_mono_ms - self._window_ms
        if len(self._heard) < MIN_ANNOUNCES or self._heard[0] <= since or not self._unconfirmed:
            return False
        sent_ms, _, count = self._unconfirmed[0]
        return sent_ms <= since and (self._count - count) * _surprise(peers) >= LEAST_SURPRISE


def _surprise(peers: int) -> float:
    """Of one Announce that does not name a node that is heard."""
    return -math.log1p(-MAX_HEARD / peers) if peers > MAX_HEARD else LEAST_SURPRISE
