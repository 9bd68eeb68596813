"""Roster: who is alive and what they serve.

The law: an entry comes only from its own signer's Announce, ordered by (boot, seq) and fresh by local
receipt time; only the signer refreshes or withdraws it. Third parties relay, never invent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from llama_gossip.protocol.events import Now
from llama_gossip.protocol.messages import Announce, Capacity, Leave, NodeId, NodeState
from llama_gossip.protocol.timers import Timers

MAX_PEERS = 4_096  # the signer table's cap (PROTOCOL section 2)
RESERVED_PEERS = MAX_PEERS // 4  # kept for allow-listed keys: strangers cannot crowd friends out


@dataclass(slots=True)
class Peer:
    announce: Announce
    received_mono_ms: int
    expires_mono_ms: int
    told_up: bool = False  # PeerUp was said for this boot

    @property
    def order(self) -> tuple[int, int]:
        return (self.announce.head.boot, self.announce.head.seq)


@dataclass(frozen=True, slots=True)
class PeerView:
    """What the rest of the program may know of a peer."""

    node_id: NodeId
    name: str
    state: NodeState
    capacity: Capacity
    addresses: tuple[str, ...]
    last_seen_ms: int  # age of the newest Announce
    boot: int
    features: tuple[str, ...]

    @property
    def role(self) -> str:
        """worker | client | hybrid, as it says itself; "" when it does not."""
        return next((name[5:] for name in self.features if name.startswith("role/")), "")


class Change(Enum):
    """What an Announce did to the roster."""

    NEW = auto()  # an unknown signer
    REBOOTED = auto()
    REFRESHED = auto()
    OLD = auto()  # an earlier message that arrived late
    FULL = auto()  # no room for newcomers


class Roster:
    def __init__(self, *, timers: Timers, allowlist: frozenset[NodeId] | None = None) -> None:
        self._timers = timers
        self._allowlist = allowlist
        self._peers: dict[NodeId, Peer] = {}
        self._gone: dict[NodeId, tuple[int, int, int]] = {}  # boot, seq, forget at: late echoes stay dead

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._peers

    def get(self, node_id: NodeId) -> Peer | None:
        return self._peers.get(node_id)

    def items(self) -> list[tuple[NodeId, Peer]]:
        return list(self._peers.items())

    def apply(self, sender: NodeId, announce: Announce, now: Now) -> Change:
        peer = self._peers.get(sender)
        order = (announce.head.boot, announce.head.seq)
        if order <= self._newest(sender, peer):
            return Change.OLD
        if peer is None and not self._room_for(sender):
            return Change.FULL
        ttl_ms = min(announce.ttl_ms, self._timers.ttl_max_ms)
        same_boot = peer is not None and peer.announce.head.boot == announce.head.boot
        self._peers[sender] = Peer(
            announce=announce,
            received_mono_ms=now.mono_ms,
            expires_mono_ms=now.mono_ms + ttl_ms,
            told_up=peer.told_up if peer is not None and same_boot else False,
        )
        self._gone.pop(sender, None)
        if peer is None:
            return Change.NEW
        return Change.REFRESHED if same_boot else Change.REBOOTED

    def leave(self, sender: NodeId, leave: Leave, now: Now) -> bool:
        """True when the peer was there and is now gone."""
        peer = self._peers.get(sender)
        order = (leave.head.boot, leave.head.seq)
        if order <= self._newest(sender, peer):
            return False
        if peer is None and not self._room_for(sender):
            return False
        self._gone[sender] = (*order, now.mono_ms + self._timers.forget_ms)
        return self._peers.pop(sender, None) is not None

    def expire(self, now: Now) -> list[tuple[NodeId, Peer]]:
        """Drops what is no longer fresh; the peers that went."""
        for node_id in [n for n, mark in self._gone.items() if mark[2] <= now.mono_ms]:
            del self._gone[node_id]
        ended = [(n, peer) for n, peer in self._peers.items() if peer.expires_mono_ms <= now.mono_ms]
        for node_id, peer in ended:
            del self._peers[node_id]
            self._gone[node_id] = (*peer.order, now.mono_ms + self._timers.forget_ms)
        return ended

    def next_expiry(self) -> int | None:
        ends = [peer.expires_mono_ms for peer in self._peers.values()]
        ends.extend(mark[2] for mark in self._gone.values())
        return min(ends, default=None)

    def views(self, now: Now) -> tuple[PeerView, ...]:
        return tuple(
            PeerView(
                node_id=node_id,
                name=peer.announce.node_name,
                state=peer.announce.state,
                capacity=peer.announce.capacity,
                addresses=peer.announce.addresses,
                last_seen_ms=now.mono_ms - peer.received_mono_ms,
                boot=peer.announce.head.boot,
                features=peer.announce.features,
            )
            for node_id, peer in self._peers.items()
            if peer.expires_mono_ms > now.mono_ms
        )

    def _newest(self, sender: NodeId, peer: Peer | None) -> tuple[int, int]:
        if peer is not None:
            return peer.order
        mark = self._gone.get(sender)
        return (mark[0], mark[1]) if mark is not None else (-1, -1)

    def _room_for(self, sender: NodeId) -> bool:
        used = len(self._peers) + len(self._gone)
        friend = self._allowlist is not None and sender in self._allowlist
        return used < (MAX_PEERS if friend else MAX_PEERS - RESERVED_PEERS)
