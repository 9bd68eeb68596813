"""Presence: when this node says that it is there, and what it says.

The law (PROTOCOL section 6): a worker every 15 s ± 20 %, a client every 60 s; soon after a change of load or
state, on a new neighbour, and when an unknown signer shows that somebody does not know us. Never two
Announces within half a second; strangers are greeted with a jitter, so that a crowd does not answer at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llama_gossip.errors import UsageError
from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.codec import clip_text
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import Broadcast
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.health import Health
from llama_gossip.protocol.jobs import Jobs
from llama_gossip.protocol.limits import (
    HEARD_ID_BYTES,
    MAX_ERROR_BYTES,
    MAX_HEARD,
    MAX_NAME_BYTES,
)
from llama_gossip.protocol.messages import Announce, Capacity, Head, Leave, NodeState
from llama_gossip.protocol.prekeys import Prekeys
from llama_gossip.protocol.roster import Peer, Roster

NO_CAPACITY = Capacity("", "", (), 0, 0, 0, 0, 0.0, 0)
_PERIODIC: TimerKey = ("presence", None, "periodic")
_GREET: TimerKey = ("presence", None, "greet")
_CHANGE: TimerKey = ("presence", None, "change")


def checked_name(what: str, name: str) -> str:
    """Raises UsageError for a name that no Announce can carry."""
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        problem = f"the {what} {name!r} is longer than {MAX_NAME_BYTES} bytes"
        raise UsageError(problem, hint="give it a shorter name: others see it in their lists")
    return name


class Presence:
    def __init__(
        self,
        desk: Desk,
        *,
        roster: Roster,
        jobs: Jobs,
        node_name: str,
        features: tuple[str, ...],
        version: str,
        prekeys: Prekeys,
        skew_ms: Callable[[], int],
    ) -> None:
        self._desk = desk
        self._roster = roster
        self._jobs = jobs
        self._node_name = checked_name("node name", node_name)
        self._features = features
        self._version = version
        self._prekeys = prekeys
        self._addresses: tuple[str, ...] = ()
        self._joined = False
        self._said: tuple[NodeState, int, Capacity | None] | None = None  # what the newest Announce told
        self._said_mono_ms = 0
        self._health = Health(desk, skew_ms=skew_ms)

    # --- when ---

    def joined(self, addresses: tuple[str, ...]) -> None:
        self._joined = True
        self._addresses = addresses
        self._prekeys.begin()
        self.announce()

    def neighbor_up(self) -> None:
        self._soon(_GREET, self._desk.timers.greet_gap_ms)

    def stranger_heard(self) -> None:
        """Somebody whom we did not know; it may not know us."""
        if self.state() is not NodeState.CLIENT:
            timers = self._desk.timers
            jitter_ms = self._desk.rng.randint(0, timers.greet_jitter_ms)
            self._soon(_GREET, timers.greet_gap_ms, jitter_ms)

    def unopened(self) -> None:
        """Somebody seals to a key that this node does not have (any more)."""
        self._soon(_GREET, self._desk.timers.unopened_gap_ms)

    def look_for_change(self) -> None:
        """Called after every event: has what we last said become wrong? What came and went is not told."""
        if self._said is None:
            return
        if self._is_as_said(*self._said):
            self._desk.agenda.cancel(_CHANGE)
            return
        timers = self._desk.timers
        same_state = self._said[0] is self.state() and self._same_offer()
        self._soon(_CHANGE, timers.change_gap_ms if same_state else timers.greet_gap_ms)

    def _soon(self, key: TimerKey, gap_ms: int, jitter_ms: int = 0) -> None:
        if not self._joined:
            return
        at = max(self._desk.now.mono_ms, self._said_mono_ms + gap_ms) + jitter_ms
        due = self._desk.agenda.due_of(key)
        if at <= self._desk.now.mono_ms:
            self.announce()
        elif due is None or at < due:
            self._desk.agenda.set(key, at)

    # --- what ---

    def announce(self) -> None:
        desk, timers = self._desk, self._desk.timers
        announce = self._announce(desk.head(), self._heard_digest())
        desk.emit(Broadcast(sign_envelope(announce, desk.signer, desk.net_id), urgent=True))
        desk.count("announces_sent")
        self._said, self._said_mono_ms = self._tell(), desk.now.mono_ms
        self._health.sent(announce.head.seq)
        period_ms = timers.client_announce_ms if self._is_client() else timers.announce_ms
        spread = 1 + timers.announce_spread * (2 * desk.rng.random() - 1)
        desk.agenda.cancel(_GREET)
        desk.agenda.cancel(_CHANGE)
        desk.after(_PERIODIC, round(period_ms * spread))

    def leave(self, reason: str) -> None:
        if not self._joined:
            return
        desk = self._desk
        leave = Leave(desk.head(), clip_text(reason, MAX_ERROR_BYTES))
        desk.emit(Broadcast(sign_envelope(leave, desk.signer, desk.net_id), urgent=True))
        self._joined = False
        self._said = None
        self._prekeys.end()
        for key in (_PERIODIC, _GREET, _CHANGE):
            desk.agenda.cancel(key)

    def state(self) -> NodeState:
        offer = self._jobs.offer
        if offer.capacity is None and not offer.loading:
            return NodeState.CLIENT
        if offer.draining:
            return NodeState.DRAINING
        return NodeState.LOADING if offer.loading else NodeState.READY

    def own_peer(self) -> Peer:
        """This node as a candidate for its own requests."""
        now = self._desk.now
        head = Head(self._desk.boot, self._desk.seq, now.wall_ms)
        return Peer(self._announce(head, heard=()), now.mono_ms, now.mono_ms + 1)

    def _announce(self, head: Head, heard: tuple[tuple[bytes, int], ...]) -> Announce:
        timers = self._desk.timers
        return Announce(
            head=head,
            node_name=self._node_name,
            capacity=self.capacity(),
            state=self.state(),
            features=self.features(),
            prekey=self._prekeys.announced,
            addresses=self._addresses,
            ttl_ms=timers.client_ttl_ms if self._is_client() else timers.announce_ttl_ms,
            heard=heard,
            conversations=self._jobs.conversations.announced(self._desk.now.mono_ms),
        )

    def capacity(self) -> Capacity:
        """What the driver said of the engine, with the load that the core itself knows."""
        jobs = self._jobs
        return replace(
            jobs.offer.capacity or NO_CAPACITY,
            current_load=jobs.load,
            queue_depth=jobs.queue.queued,
            queue_ms=jobs.queue_ms(),
        )

    def features(self) -> tuple[str, ...]:
        role = "role/client" if self._is_client() else "role/worker"
        own = () if any(name.startswith("role/") for name in self._features) else (role,)
        version = (f"v/{self._version}",) if self._version else ()
        return (*own, *version, *self._features)

    def _is_client(self) -> bool:
        return self.state() is NodeState.CLIENT

    def _tell(self) -> tuple[NodeState, int, Capacity | None]:
        jobs = self._jobs
        return self.state(), jobs.load + jobs.queue.queued, jobs.offer.capacity

    def _is_as_said(self, state: NodeState, load: int, capacity: Capacity | None) -> bool:
        """Cheapest first: after most events nothing has changed."""
        jobs = self._jobs
        if jobs.load + jobs.queue.queued != load or self.state() is not state:
            return False
        return jobs.offer.capacity is capacity or jobs.offer.capacity == capacity

    def _same_offer(self) -> bool:
        before, after = self._said[2] if self._said else None, self._jobs.offer.capacity
        return (before.models if before else ()) == (after.models if after else ())

    # --- who hears us ---

    def _heard_digest(self) -> tuple[tuple[bytes, int], ...]:
        peers = self._roster.items()
        chosen = self._desk.rng.sample(peers, min(MAX_HEARD, len(peers)))
        return tuple((node_id[:HEARD_ID_BYTES], peer.announce.head.seq) for node_id, peer in chosen)

    def heard(self, announce: Announce) -> None:
        """Somebody's Announce: does it show that ours arrive?"""
        if self._joined:
            self._health.heard(announce, len(self._roster))

    def is_mute(self, now_mono_ms: int) -> bool:
        return self._health.is_mute(now_mono_ms, len(self._roster))
