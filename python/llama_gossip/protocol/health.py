"""Health: this node's own view of whether the others hear it, and what it does when they do not.

The law: the outbound gossip is rebuilt when nobody names this node any more, each time after twice as long a
wait, until somebody names it again. A clock that makes the others drop its messages is not cured by that.
"""

from __future__ import annotations

from collections.abc import Callable

from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import RebuildGossip
from llama_gossip.protocol.limits import HEARD_ID_BYTES, MAX_AGE_MS, MAX_AHEAD_MS
from llama_gossip.protocol.messages import Announce
from llama_gossip.protocol.mute import Mute


class Health:
    def __init__(self, desk: Desk, *, skew_ms: Callable[[], int]) -> None:
        """skew_ms: the others' clocks minus ours."""
        self._desk = desk
        self._skew_ms = skew_ms
        self._mute = Mute(desk.timers)
        self._name = desk.own_id[:HEARD_ID_BYTES]
        self._rebuilds = 0  # in a row, without a sign that one has helped
        self._not_before_mono_ms = 0
        self._cured_by_seq = 0  # whoever names this seq or a later one has heard us since the last rebuild

    def sent(self, seq: int) -> None:
        """An Announce of this node."""
        self._mute.sent(seq, self._desk.now.mono_ms)

    def heard(self, announce: Announce, peers: int) -> None:
        """Somebody's Announce: does it show that ours arrive? peers: how many the roster holds."""
        now_ms = self._desk.now.mono_ms
        names_me = next((seq for signer, seq in announce.heard if signer == self._name), None)
        self._mute.heard(names_me, now_ms)
        if self._rebuilds and names_me is not None and names_me >= self._cured_by_seq:
            self._rebuilds = 0
        if (
            now_ms >= self._not_before_mono_ms
            and self.is_mute(now_ms, peers)
            and not self._clock_explains_it()
        ):
            self._rebuild()

    def is_mute(self, now_mono_ms: int, peers: int) -> bool:
        return self._mute.verdict(now_mono_ms, peers)

    def _rebuild(self) -> None:
        desk, timers = self._desk, self._desk.timers
        wait_ms = min(timers.rebuild_ms << min(self._rebuilds, 16), timers.rebuild_max_ms)
        self._rebuilds += 1
        self._not_before_mono_ms = desk.now.mono_ms + wait_ms
        self._cured_by_seq = desk.seq + 1
        self._mute.forget()
        desk.count("gossip_rebuilds")
        desk.emit(RebuildGossip(self._rebuilds))

    def _clock_explains_it(self) -> bool:
        """The others drop what comes from so far in the past or the future."""
        skew_ms = self._skew_ms()
        return skew_ms < -MAX_AHEAD_MS or skew_ms > MAX_AGE_MS
