"""Wires: direct streams between parties. Ordered and reliable until their connection is lost, as QUIC's are.

The law: what is blocked for less than the idle timeout arrives late, what is blocked for longer is lost at
both ends; a reset may overtake what was written before it; a process that is gone says nothing. A writer
whose peer does not read is told so, and again when it reads.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import NodeId
from llama_gossip.simulation.clock import Clock
from llama_gossip.simulation.party import Party

IDLE_MS = 10_000  # the transport's own constant: a silent connection is dead after it
IDLE_SPREAD_MS = 1_500
FULL_BYTES = 300  # that wait for a reader: most answers here are short
HANDSHAKE_ROUNDS = 2  # one-way trips before the first stream byte

Path = tuple[int, int]  # (from, to), places
Sent = tuple[NodeId, type, object, bool]  # sender, kind of event, its argument, lossy


@dataclass(slots=True, eq=False)
class End:
    """One end of a stream."""

    number: int
    owner: Party
    life: int
    opener: bool
    twin: End = field(init=False)
    announced: bool = False  # the owner knows of it
    ended: bool = False  # the owner's own side
    deaf: bool = False  # nothing is delivered to the owner any more
    wrote: bool = False
    last_ms: int = 0  # what this end sends stays in order
    paused: bool = False  # its owner does not read
    held: deque[Sent] = field(default_factory=deque)  # what waits for it to read
    held_bytes: int = 0
    full: bool = False  # and its writer knows it


class Wires:
    def __init__(self, clock: Clock, rng: random.Random, places: int, *, base_ms: tuple[int, int]) -> None:
        self._clock = clock
        self._rng = rng
        self.base_ms = {(a, b): rng.randint(*base_ms) for a in range(places) for b in range(a, places)}
        self.blocked: dict[Path, int] = {}  # until
        self.clogged: dict[Path, tuple[int, int]] = {}  # (until, extra)
        self.unreachable: dict[int, int] = {}  # place → until: dials to it fail
        self.apart: set[Path] = set()  # pairs (low, high) that cannot connect
        self.cut_chunks = False
        self.ends: dict[int, End] = {}
        self._numbers = 0
        self.disturbed: dict[
            Path, int
        ] = {}  # (low, high) → the last moment when the path was not as it should
        self.lost_streams = 0
        self.late_writes = 0

    # --- time on the way ---

    def delay_ms(self, a: int, b: int) -> int:
        if a == b:
            return 0
        base = self.base_ms[(a, b) if a < b else (b, a)]
        delay = base + int(self._rng.random() * base)
        if self.clogged and (clog := self.clogged.get((a, b))) is not None and clog[0] > self._clock.now_ms:
            delay += int(self._rng.random() * clog[1])
        if self.blocked and (until := self.blocked.get((a, b), 0)) > self._clock.now_ms:
            delay += until - self._clock.now_ms
        return delay

    def is_blocked(self, a: int, b: int) -> bool:
        return self.blocked.get((a, b), 0) > self._clock.now_ms

    def block(self, a: int, b: int, for_ms: int) -> None:
        until = self._clock.now_ms + for_ms
        self.blocked[a, b] = max(until, self.blocked.get((a, b), 0))
        self.disturb(a, b, until)
        self._clock.after(IDLE_MS, self._idle, a, b)

    def clog(self, a: int, b: int, for_ms: int, extra_ms: int) -> None:
        self.clogged[a, b] = (self._clock.now_ms + for_ms, extra_ms)
        self.disturb(a, b, self._clock.now_ms + for_ms + extra_ms)

    def disturb(self, a: int, b: int, until_ms: int) -> None:
        path = (min(a, b), max(a, b))
        self.disturbed[path] = max(until_ms, self.disturbed.get(path, 0))

    def disturbed_until(self, a: int, b: int) -> int:
        return self.disturbed.get((min(a, b), max(a, b)), -1)

    def heal(self) -> None:
        self.blocked.clear()
        self.clogged.clear()
        self.unreachable.clear()
        self.apart.clear()

    # --- connections that are lost ---

    def _idle(self, a: int, b: int) -> None:
        if self.is_blocked(a, b):
            for end in self._between(a, b):
                self._lose(end, "idle", int(self._rng.random() * IDLE_SPREAD_MS))

    def _between(self, a: int, b: int) -> list[End]:
        return [e for e in self.ends.values() if {e.owner.place, e.twin.owner.place} == {a, b}]

    def cut(self, a: int, b: int) -> int:
        """The connection between the two breaks at once; the number of its streams' ends."""
        ends = self._between(a, b)
        for end in ends:
            self._lose(end, "cut", self.delay_ms(a, b))
        return len(ends)

    def gone(self, party: Party, *, silently: bool) -> None:
        """The party's process is gone, or stopped for longer than the idle timeout."""
        spread = int(self._rng.random() * IDLE_SPREAD_MS)
        for end in [e for e in self.ends.values() if e.twin.owner is party and e.owner is not party]:
            self._lose(end, "connection lost", IDLE_MS + spread if silently else self.delay_ms(0, 0) + 2)

    def forgotten(self, party: Party) -> None:
        """A stopped process has been silent for too long: both ends lose their connection."""
        for end in [e for e in self.ends.values() if party in (e.owner, e.twin.owner)]:
            if end.owner is not end.twin.owner:
                self._lose(end, "idle", int(self._rng.random() * IDLE_SPREAD_MS))

    def _lose(self, end: End, reason: str, delay_ms: int) -> None:
        self._clock.after(delay_ms, self._lost, end, reason)

    def _lost(self, end: End, reason: str) -> None:
        self.ends.pop(end.number, None)
        if not end.deaf and end.announced:
            self.lost_streams += 1
            end.deaf = True
            if end.owner.life == end.life:
                end.owner.feed(ev.StreamLost(end.number, reason))
        end.deaf = True

    # --- dials ---

    def dial(
        self, caller: Party, target: Party | None, timeout_ms: int, done: Callable[[End | None, str], None]
    ) -> None:
        if target is None:
            self._clock.after(timeout_ms, done, None, "timeout")
            return
        trip = sum(
            self.delay_ms(caller.place, target.place) + self.delay_ms(target.place, caller.place)
            for _ in range(HANDSHAKE_ROUNDS // 2)
        )
        pair = (min(caller.place, target.place), max(caller.place, target.place))
        hidden = self.unreachable.get(target.place, 0) > self._clock.now_ms and caller is not target
        hidden = hidden or pair in self.apart
        if hidden or trip >= timeout_ms:
            self._clock.after(timeout_ms, done, None, "timeout")
        else:
            self._clock.after(trip, self._connected, caller, caller.life, target, timeout_ms - trip, done)

    def _connected(
        self,
        caller: Party,
        life: int,
        target: Party,
        left_ms: int,
        done: Callable[[End | None, str], None],
    ) -> None:
        if caller.life != life:
            return
        if not target.life or target.paused:
            self._clock.after(left_ms, done, None, "timeout")
            return
        done(self.open(caller, target), "")

    def open(self, caller: Party, target: Party) -> End:
        self._numbers += 2
        near = End(self._numbers, caller, caller.life, opener=True, announced=True)
        far = End(self._numbers + 1, target, target.life, opener=False)
        near.twin, far.twin = far, near
        self.ends[near.number], self.ends[far.number] = near, far
        return near

    # --- what is sent ---

    def write(self, end: End, data: bytes) -> None:
        if end.ended:
            self.late_writes += 1
            return
        end.wrote = True
        if end.deaf:
            return
        if self.cut_chunks and len(data) > 1 and self._rng.random() < 0.3:
            middle = self._rng.randrange(1, len(data))
            self._send(end, ev.StreamData, data[:middle])
            self._send(end, ev.StreamData, data[middle:])
        else:
            self._send(end, ev.StreamData, data)

    def finish(self, end: End) -> None:
        if not end.ended and not end.deaf:
            self._send(end, ev.StreamFinished, None)
        end.ended = True
        self._forget_when_over(end)

    def reset(self, end: End, code: int) -> None:
        """Ours is reset, theirs is stopped, in any order; a reset may overtake what was written."""
        twin = end.twin
        if end.deaf:
            self.ends.pop(end.number, None)
            return
        end.deaf = True
        lossy = not end.ended and twin.announced and self._rng.random() < 0.5
        if lossy:
            end.last_ms = self._clock.now_ms
        ours, theirs = not end.ended, not twin.ended
        if ours and theirs and self._rng.random() < 0.5:
            self._send(end, ev.StreamStopped, code)
            self._send(end, ev.StreamReset, code, lossy)
        else:
            if ours:
                self._send(end, ev.StreamReset, code, lossy)
            if theirs:
                self._send(end, ev.StreamStopped, code)
        end.ended = True
        self.ends.pop(end.number, None)

    def _send(self, end: End, kind: type, argument: object, lossy: bool = False) -> None:
        now_ms, twin = self._clock.now_ms, end.twin
        at_ms = now_ms + self.delay_ms(end.owner.place, twin.owner.place)
        end.last_ms = at_ms = max(at_ms, end.last_ms)
        self._clock.at(at_ms, self._deliver, twin, end.owner.node_id, kind, argument, lossy)

    def pause(self, end: End) -> None:
        end.paused = True

    def resume(self, end: End) -> None:
        end.paused = False
        self._clock.after(0, self._read_up, end)

    def _read_up(self, end: End) -> None:
        while end.held and not end.paused:
            sent = end.held.popleft()
            self._hold(end, -_size(sent[2]))
            self._hand(end, *sent)

    def _hold(self, end: End, count: int) -> None:
        """So many bytes more, or fewer, wait for its owner."""
        end.held_bytes += count
        if not end.full and end.held_bytes > FULL_BYTES:
            end.full = True
            self._tell_writer(end.twin, ev.StreamFull(end.twin.number))
        elif end.full and end.held_bytes <= FULL_BYTES // 2:
            end.full = False
            self._tell_writer(end.twin, ev.StreamWritable(end.twin.number))

    def _tell_writer(self, writer: End, event: ev.StreamFull | ev.StreamWritable) -> None:
        if not writer.deaf and not writer.ended and writer.owner.life == writer.life:
            writer.owner.feed(event)

    def _deliver(self, end: End, sender: NodeId, kind: type, argument: object, lossy: bool) -> None:
        if end.paused or end.held:
            end.held.append((sender, kind, argument, lossy))
            self._hold(end, _size(argument))
        else:
            self._hand(end, sender, kind, argument, lossy)

    def _hand(self, end: End, sender: NodeId, kind: type, argument: object, lossy: bool) -> None:
        owner = end.owner
        if end.deaf or owner.life != end.life:
            return
        if not end.announced:
            if kind is ev.StreamStopped:
                return
            end.announced = True
            owner.feed(ev.StreamAccepted(end.number, sender))
        if lossy:
            end.deaf = True  # what was written before the reset never comes
        owner.feed(kind(end.number) if argument is None else kind(end.number, argument))

    def _forget_when_over(self, end: End) -> None:
        if end.twin.ended:
            self.ends.pop(end.number, None)
            self.ends.pop(end.twin.number, None)


def _size(argument: object) -> int:
    return len(argument) if isinstance(argument, bytes) else 0
