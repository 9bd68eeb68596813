"""Channel: one attempt over gossip, as one of its two ends keeps it.

The law: the Assign leads every Packet of its requester until the first worker frame has come; a Packet counts
as a whole or not at all. The channel outlives the attempt for a while: what was written is repaired, and what
is repeated is acked, until the other side can know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.envelope import Verifier
from llama_gossip.protocol.frames import (
    REQUESTER_KINDS,
    TERMINAL_KINDS,
    WORKER_KINDS,
    FrameWriter,
    ItemSplitter,
    open_loose,
)
from llama_gossip.protocol.limits import LENGTH_PREFIX_BYTES, MAX_FRAME_BYTES
from llama_gossip.protocol.messages import Ack, Assign, Kind, NodeId, Packet, RequestId, Seal
from llama_gossip.protocol.record import record
from llama_gossip.protocol.seal import SealKeys
from llama_gossip.protocol.tunnel_body import ROOM_BYTES
from llama_gossip.protocol.tunnel_repair import Order, Outbox

Key: TypeAlias = tuple[NodeId, NodeId, RequestId, int]  # (peer, requester, request_id, attempt)

_ENVELOPE = 0x95  # the first byte of an Assign; a frame begins with 0x93
_LONG_AGO = -(10**9)


@record(frozen=True, slots=True)
class Loose:
    """A frame out of a Packet, its signature checked, its place not."""

    n: int
    ack: Ack | None
    item: bytes


@dataclass(slots=True, eq=False)
class Channel:
    stream: int
    peer: NodeId
    asks: bool  # this node is the requester
    prekey: bytes  # the worker's
    epk: bytes = b""  # the requester's
    dh: bytes = field(repr=False, default=b"")  # until the seal's keys are made of it
    key: Key | None = None  # None: its Assign is not written yet
    assign: Assign | None = None
    context: bytes = b""
    seal: Seal | None = None
    seal_keys: SealKeys | None = None
    assign_item: bytes | None = None  # while it leads
    assign_digest: bytes = b""  # at the worker: only these bytes are this attempt's Assign
    outbox: Outbox = field(default_factory=Outbox)
    order: Order = field(default_factory=Order)
    splitter: ItemSplitter = field(default_factory=ItemSplitter)
    sent: bool = False  # a Packet of ours
    heard: bool = False  # a Packet of the other side has come
    resend: bool = False  # the Assign is due again
    ack_due: bool = False
    acked_mono_ms: int = _LONG_AGO
    next_mono_ms: int = _LONG_AGO  # no Packet before it
    rto_ms: int = 0
    full: bool = False  # more waits to be acked than its machine should add to
    over: bool = False  # this node's machine has let it go
    finished: bool = False  # … after its last frame
    peer_over: bool = False  # the worker's last frame has come

    def timer(self, name: str) -> TimerKey:
        return ("tunnel", self.stream, name)

    @property
    def waits(self) -> bool:
        """For the other side to say that it has got something."""
        return self.assign_item is not None or self.outbox.unacked > 0

    @property
    def may_ack(self) -> bool:
        """Whoever has turned away keeps nobody's lease alive."""
        return not self.over or self.peer_over or not self.asks

    # --- out ---

    def split(self, data: bytes) -> list[bytes]:
        return self.splitter.feed(data)

    def expect_frames(self) -> None:
        """The worker's side writes no Assign."""
        self.splitter = ItemSplitter(MAX_FRAME_BYTES)

    def items(self, desk: Desk) -> list[bytes]:
        """What the next Packet carries; [] when there is nothing to say."""
        room, lead, now_ms = ROOM_BYTES, [], desk.now.mono_ms
        if self.assign_item is not None and (self.resend or self.outbox.unsent):
            lead.append(self.assign_item)
            room -= len(self.assign_item) + LENGTH_PREFIX_BYTES
        if self.ack_due and now_ms - self.acked_mono_ms >= desk.timers.ack_gap_ms:
            writer = FrameWriter(self.context, desk.signer, start_n=self.outbox.next_n)
            ack = writer.encode(Ack(n=0, next_n=self.order.next_n))[LENGTH_PREFIX_BYTES:]
            room -= len(ack) + LENGTH_PREFIX_BYTES
            lead.append(ack)
            self.ack_due, self.acked_mono_ms = False, now_ms
        self.resend = False
        return [*lead, *self.outbox.take(room)]

    # --- in ---

    def check(self, items: list[bytes], verify: Verifier, digest: bytes) -> list[Loose]:
        """All frames of a Packet. digest: of its first item. Raises ProtocolError if one of them is wrong."""
        if items[0][:1] == bytes((_ENVELOPE,)):
            if self.asks or digest != self.assign_digest:
                raise ProtocolError("another Assign than the one of this attempt", code="assign")
            items = items[1:]
        allowed = (WORKER_KINDS if self.asks else REQUESTER_KINDS) | {Kind.ACK}
        return [Loose(*open_loose(item, self.context, self.peer, verify, allowed), item) for item in items]

    def in_order(self, frame: Loose) -> list[bytes]:
        """The items that the machine may have now."""
        self.ack_due = self.ack_due or self.may_ack
        items = self.order.take(frame.n, frame.item)
        if self.asks and any(item[1] in TERMINAL_KINDS for item in items):
            self.peer_over = self.ack_due = True
        return items


def key_of(packet: Packet, peer: NodeId) -> Key:
    return peer, packet.requester, packet.request_id, packet.attempt
