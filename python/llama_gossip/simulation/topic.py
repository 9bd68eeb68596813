"""Topic: iroh-gossip as far as the core can tell. Unordered, lossy, multi-hop, and deaf to what it has seen.

The law, as measured on the real one: identical bytes are delivered once in 90 s; a message over the topic's
size is taken in silence and kills its sender's outbound gossip; a healed split does not re-merge at once; a
receiver that lags loses what it could not take.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import NodeId
from llama_gossip.simulation.clock import Clock
from llama_gossip.simulation.process import Process

DEDUP_MS = 90_000
REJOIN_MS = (1_000, 30_000)  # from the end of a cut to neighbours again: somebody has to dial
LAG_LOSS = 0.9


class Topic:
    def __init__(self, clock: Clock, rng: random.Random, members: Sequence[Process]) -> None:
        self._clock = clock
        self._rng = rng
        self._members = members
        self.loss = 0.0
        self.duplicates = 0.0
        self.reorder_ms = 0
        self.dead_outbound: set[int] = set()  # places
        self.lagging: dict[int, int] = {}  # place → until
        self.sides: dict[int, int] = {}  # place → side, while the overlay is split
        self._seen: dict[bytes, int] = {}
        self.sent = 0
        self.delivered = 0
        self.lost = 0
        self.oversize = 0
        self.taps: list[Callable[[int, bytes], None]] = []  # strangers listen

    def broadcast(self, place: int, data: bytes) -> None:
        """By a node's own gossip."""
        self.sent += 1
        if len(data) > MAX_TOPIC_BYTES:
            self.oversize += 1
            self.dead_outbound.add(place)
        now_ms = self._clock.now_ms
        if place in self.dead_outbound or now_ms - self._seen.get(data, -DEDUP_MS) < DEDUP_MS:
            return
        self._seen[data] = now_ms
        event = ev.GossipReceived(self._neighbour(place), data)
        for member in self._members:
            if member.place != place:
                self._towards(member, place, event, "")
        for tap in self.taps:
            tap(place, data)

    def inject(self, place: int, data: bytes, evil: str, target: int | None = None) -> None:
        """By a stranger, who need not keep to the rules of the overlay. target: only to this neighbour."""
        event = ev.GossipReceived(self._neighbour(place), data)
        for member in self._members:
            if target is None or member.place == target:
                self._towards(member, place, event, evil)

    def _neighbour(self, place: int) -> NodeId:
        """Who hands on what comes from there; a stranger sits behind one of the members."""
        return self._members[place % len(self._members)].node_id

    def _towards(self, member: Process, place: int, event: ev.GossipReceived, evil: str) -> None:
        rng = self._rng
        if not member.life or rng.random() < self.loss or self._cut_off(place, member.place):
            self.lost += 1
            return
        if (
            self.lagging
            and self.lagging.get(member.place, 0) > self._clock.now_ms
            and rng.random() < LAG_LOSS
        ):
            self.lost += 1
            return
        copies = 2 if self.duplicates and rng.random() < self.duplicates else 1
        for _ in range(copies):
            delay_ms = 1 + int(rng.random() * (20 + self.reorder_ms))
            self._clock.after(delay_ms, self._deliver, member, member.life, event, evil)

    def _deliver(self, member: Process, life: int, event: ev.GossipReceived, evil: str) -> None:
        if member.life == life:
            self.delivered += 1
            member.hear(event, evil)

    def _cut_off(self, a: int, b: int) -> bool:
        return bool(self.sides) and self.sides.get(a, 0) != self.sides.get(b, 0)

    # --- the overlay ---

    def split(self, places: Sequence[int]) -> None:
        self.sides = dict.fromkeys(places, 1)

    def merge(self) -> None:
        """The paths are whole again; the overlay is a while later."""
        sides = self.sides
        if sides:
            self._clock.after(self._rng.randint(*REJOIN_MS), self._merged, sides)

    def _merged(self, sides: dict[int, int]) -> None:
        if self.sides is sides:
            self.sides = {}
            for member in self._members:
                other = self._members[(member.place + 1) % len(self._members)]
                if member.life:
                    member.feed(ev.NeighborUp(other.node_id))

    def heal(self) -> None:
        self.loss = self.duplicates = 0.0
        self.reorder_ms = 0
        self.dead_outbound.clear()
        self.lagging.clear()
        self.merge()
