"""Which envelopes were seen before: one sliding window over (boot, seq) for each signer.

Laws: nothing is accepted twice; checking changes nothing; an entry that was used within 120 s is never
evicted, so a full table turns newcomers away instead of forgetting what it has seen. Forgetting is safe
because the acceptance of `ts` is narrower than 120 s.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum

from llama_gossip.protocol.limits import (
    FORGET_SIGNER_MS,
    KNOWN_SIGNERS_RESERVE,
    MAX_NEIGHBOURS,
    MAX_SIGNERS,
    NEW_SIGNERS_PER_NEIGHBOUR,
    NEW_SIGNERS_PERIOD_MS,
    WINDOW_BITS,
)
from llama_gossip.protocol.messages import NodeId

_WINDOW_MASK = (1 << WINDOW_BITS) - 1


class Verdict(Enum):
    """What the windows say of an envelope, before anything of it is believed."""

    NEW = "new"
    SEEN = "seen"  # this (boot, seq) was accepted before
    BEHIND = "behind"  # too far below the highest seq for the window to know
    LOWER_BOOT = "lower_boot"  # of an earlier process of that signer
    TABLE_FULL = "table_full"  # an unknown signer, and no room
    NEIGHBOUR_QUOTA = "neighbour_quota"  # an unknown signer too many by this neighbour


@dataclass(slots=True)
class _Window:
    boot: int
    highest: int  # seq
    bits: int  # bit i: highest - i was accepted
    last_mono_ms: int
    known: bool  # as it was when it came: keys that become known later still fill the strangers' part
    first_mono_ms: int

    def verdict(self, boot: int, seq: int) -> Verdict:
        if boot != self.boot:
            return Verdict.NEW if boot > self.boot else Verdict.LOWER_BOOT
        behind = self.highest - seq
        if behind < 0:
            return Verdict.NEW
        if behind >= WINDOW_BITS:
            return Verdict.BEHIND
        return Verdict.SEEN if self.bits >> behind & 1 else Verdict.NEW

    def accept(self, boot: int, seq: int) -> None:
        if boot != self.boot:
            self.boot, self.highest, self.bits = boot, seq, 1
            return
        ahead = seq - self.highest
        if ahead < 0:
            self.bits |= 1 << -ahead
            return
        shifted = self.bits << ahead if ahead < WINDOW_BITS else 0
        self.bits = (shifted | 1) & _WINDOW_MASK
        self.highest = seq


class ReplayWindows:
    """The windows of all signers heard in the last 120 s."""

    def __init__(self, max_signers: int = MAX_SIGNERS, known_reserve: int = KNOWN_SIGNERS_RESERVE) -> None:
        self._max_signers = max_signers
        self._max_strangers = max_signers - known_reserve
        self._windows: OrderedDict[NodeId, _Window] = OrderedDict()  # the longest unused first
        self._strangers = 0
        self._newcomers: OrderedDict[NodeId, deque[int]] = OrderedDict()  # times, by neighbour

    def __len__(self) -> int:
        return len(self._windows)

    def check(
        self, signer: NodeId, boot: int, seq: int, *, neighbour: NodeId, known: bool, mono_ms: int
    ) -> Verdict:
        """Would it be accepted now? Changes nothing: the windows whose time is over count as gone already."""
        self._forget(mono_ms)
        window = self._windows.get(signer)
        if window is not None:
            return window.verdict(boot, seq)
        if not self._has_room(known):
            return Verdict.TABLE_FULL
        if not known and self._newcomers_of(neighbour, mono_ms) >= NEW_SIGNERS_PER_NEIGHBOUR:
            return Verdict.NEIGHBOUR_QUOTA
        return Verdict.NEW

    def commit(
        self, signer: NodeId, boot: int, seq: int, *, neighbour: NodeId, known: bool, mono_ms: int
    ) -> Verdict:
        """Accepts it for good: NEW, exactly once for each (signer, boot, seq), or why not."""
        verdict = self.check(signer, boot, seq, neighbour=neighbour, known=known, mono_ms=mono_ms)
        if verdict is not Verdict.NEW:
            return verdict
        window = self._windows.get(signer)
        if window is None:
            self._windows[signer] = _Window(boot, seq, 1, mono_ms, known, mono_ms)
            if not known:
                self._strangers += 1
                self._count_newcomer(neighbour, mono_ms)
        else:
            window.accept(boot, seq)
            window.last_mono_ms = mono_ms
            self._windows.move_to_end(signer)
        return verdict

    def boot_of(self, signer: NodeId) -> int | None:
        """The newest boot that was accepted of it, while its window is kept."""
        window = self._windows.get(signer)
        return None if window is None else window.boot

    def heard_for_ms(self, signer: NodeId, mono_ms: int) -> int:
        """Since the first envelope that was accepted of it, while its window is kept."""
        window = self._windows.get(signer)
        return 0 if window is None else mono_ms - window.first_mono_ms

    def _has_room(self, known: bool) -> bool:
        if len(self._windows) >= self._max_signers:
            return False
        return known or self._strangers < self._max_strangers

    def _forget(self, mono_ms: int) -> None:
        while self._windows:
            signer, window = next(iter(self._windows.items()))
            if mono_ms - window.last_mono_ms < FORGET_SIGNER_MS:
                return
            del self._windows[signer]
            self._strangers -= not window.known

    def _newcomers_of(self, neighbour: NodeId, mono_ms: int) -> int:
        since = mono_ms - NEW_SIGNERS_PERIOD_MS
        return sum(time > since for time in self._newcomers.get(neighbour, ()))

    def _count_newcomer(self, neighbour: NodeId, mono_ms: int) -> None:
        """The times are kept per neighbour, the neighbour that was longest quiet is the first to go."""
        times = self._newcomers.setdefault(neighbour, deque(maxlen=NEW_SIGNERS_PER_NEIGHBOUR))
        times.append(mono_ms)
        self._newcomers.move_to_end(neighbour)
        if len(self._newcomers) > MAX_NEIGHBOURS:
            self._newcomers.popitem(last=False)
