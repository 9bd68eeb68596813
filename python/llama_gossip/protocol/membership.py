"""Membership: what gossip tells this node of the others, and what becomes of it.

The law: nothing reaches the roster that its signer did not sign for this network, now (receive.py judges
that); whoever is told to be up is told to be down once, and a peer is up once a boot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import AddressHint, PeerDown, PeerUp
from llama_gossip.protocol.events import GossipReceived
from llama_gossip.protocol.messages import (
    Announce,
    Assign,
    Claim,
    EnvelopeMessage,
    Leave,
    NodeId,
    NodeState,
    Packet,
    Request,
)
from llama_gossip.protocol.presence import Presence
from llama_gossip.protocol.receive import Received, Receiver
from llama_gossip.protocol.roster import Change, Peer, Roster

_EXPIRE: TimerKey = ("roster", None, "expire")
_UP = (NodeState.READY, NodeState.CLIENT)


class Membership:
    def __init__(
        self,
        desk: Desk,
        *,
        receiver: Receiver,
        roster: Roster,
        presence: Presence,
        loaded: Callable[[NodeId, int], None],
        changed: Callable[[], None],
        packet: Callable[[NodeId, Packet], None],
        asked: Callable[[Request], None],
        claimed: Callable[[NodeId, Claim], None],
        gone: Callable[[NodeId, tuple[int, int]], None],
    ) -> None:
        self._desk = desk
        self._receiver = receiver
        self._roster = roster
        self._presence = presence
        self._loaded = loaded  # told how many jobs a peer has
        self._packet = packet
        self._changed = changed  # told when a request that waits might find a worker now
        self._asked = asked
        self._claimed = claimed
        self._gone = gone  # told whose process has ended, and before which (boot, seq)

    def received(self, event: GossipReceived) -> None:
        known = self._roster.__contains__
        received = self._receiver.receive(event.data, event.delivered_from, self._desk.now, known)
        if isinstance(received, Received):
            self._apply(received.sender, received.message)

    def _apply(self, sender: NodeId, message: EnvelopeMessage) -> None:
        match message:
            case Announce():
                self._announced(sender, message)
            case Leave():
                self._left(sender, message)
            case Request():
                self._desk.count("requests_heard")
                if sender not in self._roster:
                    self._presence.stranger_heard()
                self._asked(message)
            case Claim():
                self._claimed(sender, message)
            case Packet():
                self._packet(sender, message)
            case Assign():
                self._desk.count("messages_without_use")  # it belongs on a stream
            case _:
                assert_never(message)

    def _announced(self, sender: NodeId, announce: Announce) -> None:
        before = self._roster.get(sender)
        change = self._roster.apply(sender, announce, self._desk.now)
        peer = self._roster.get(sender)
        if peer is None or change in (Change.OLD, Change.FULL):
            self._desk.count(f"announces_{change.name.lower()}")
            return
        self._presence.heard(announce)
        self._loaded(sender, announce.capacity.current_load + announce.capacity.queue_depth)
        if change is Change.NEW:
            self._presence.stranger_heard()
        if change is not Change.REFRESHED:
            self._gone(sender, (announce.head.boot, 0))
        self._tell(sender, peer, before)
        self._look_again(peer.expires_mono_ms)
        self._changed()

    def _tell(self, sender: NodeId, peer: Peer, before: Peer | None) -> None:
        announce = peer.announce
        known_addresses = before.announce.addresses if before is not None else ()
        if announce.addresses and announce.addresses != known_addresses:
            self._desk.emit(AddressHint(sender, announce.addresses))
        if not peer.told_up and announce.state in _UP:
            peer.told_up = True
            self._desk.emit(PeerUp(sender, announce.head.boot))

    def _left(self, sender: NodeId, leave: Leave) -> None:
        peer = self._roster.get(sender)
        self._gone(sender, (leave.head.boot, leave.head.seq))
        if self._roster.leave(sender, leave, self._desk.now):
            if peer is not None and peer.told_up:
                self._desk.emit(PeerDown(sender, leave.reason))
            self._changed()
        self._look_again(self._desk.now.mono_ms + self._desk.timers.forget_ms)

    def expire(self) -> None:
        """Time to look for entries that are no longer fresh."""
        ended = self._roster.expire(self._desk.now)
        for sender, peer in ended:
            if peer.told_up:
                self._desk.emit(PeerDown(sender, "was not heard of any more"))
        at = self._roster.next_expiry()
        if at is not None:
            self._look_again(at)
        if ended:
            self._changed()

    def _look_again(self, at_mono_ms: int) -> None:
        """The timer is never later than the end of the next entry. It may be earlier: a search for that end
        at every Announce would cost as much as the roster is long."""
        due = self._desk.agenda.due_of(_EXPIRE)
        if due is None or at_mono_ms < due:
            self._desk.agenda.set(_EXPIRE, at_mono_ms)
