"""Mute: does anybody still hear me? The verdict that this node's outbound gossip has died in silence.

The law (PROTOCOL section 6): four or more Announces heard within 60 s, none of which names me with a seq at
least that of my own Announce of 60 s ago. Without that much evidence there is no verdict.
"""

from __future__ import annotations

from collections import deque

from llama_gossip.protocol.timers import Timers

MIN_ANNOUNCES = 4  # fewer may all have left me out by chance
MAX_REMEMBERED = 1_024  # of each list: own Announces, and those that name this node, within the window


class Mute:
    def __init__(self, timers: Timers) -> None:
        self._window_ms = timers.mute_ms
        self._sent: deque[tuple[int, int]] = deque(maxlen=MAX_REMEMBERED)  # (mono, seq)
        self._heard: deque[int] = deque(maxlen=MIN_ANNOUNCES)  # mono, of anybody's
        self._named: deque[tuple[int, int]] = deque(maxlen=MAX_REMEMBERED)  # (mono, seq that names me)

    def sent(self, seq: int, now_mono_ms: int) -> None:
        """Keeps the newest that is older than the window, and all younger ones."""
        self._sent.append((now_mono_ms, seq))
        while len(self._sent) > 1 and self._sent[1][0] <= now_mono_ms - self._window_ms:
            self._sent.popleft()

    def heard(self, names_me: int | None, now_mono_ms: int) -> None:
        self._heard.append(now_mono_ms)
        if names_me is not None:
            self._named.append((now_mono_ms, names_me))

    def verdict(self, now_mono_ms: int) -> bool:
        since = now_mono_ms - self._window_ms
        if len(self._heard) < MIN_ANNOUNCES or self._heard[0] <= since:
            return False
        old = [seq for at, seq in self._sent if at <= since]
        named = max((seq for at, seq in self._named if at > since), default=-1)
        return bool(old) and named < old[-1]
