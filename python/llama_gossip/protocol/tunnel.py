"""Tunnel: streams whose bytes travel over the topic, sealed, for peers that cannot connect (PROTOCOL 1 G, 7).

The law: the machines see the events of an ordinary stream, in order and each byte once, whatever the topic
loses, repeats or turns round. Only the two parties open or change a channel; a worker holds one no longer
than its lease. What is written in one event travels in as few Packets as its pace allows.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import assert_never

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.desk import Desk, StreamEffect
from llama_gossip.protocol.effects import FinishStream, ResetStream, TrustStream, WriteStream
from llama_gossip.protocol.frames import context_of, open_assign, prefixed
from llama_gossip.protocol.limits import (
    MAX_CHANNELS,
    MAX_CHANNELS_PER_PEER,
    MAX_GOSSIP_ITEM_BYTES,
    MAX_UNWRITTEN_BYTES,
    SEAL_ID_BYTES,
)
from llama_gossip.protocol.messages import NodeId, Packet, Seal
from llama_gossip.protocol.prekeys import Prekeys
from llama_gossip.protocol.ratelimit import Buckets, Rate
from llama_gossip.protocol.seal import About, SealKeys, shared_point
from llama_gossip.protocol.streams import virtual_stream
from llama_gossip.protocol.tunnel_body import unpack_items
from llama_gossip.protocol.tunnel_channel import Channel, Key, Loose, key_of
from llama_gossip.protocol.tunnel_sender import Sender

PACKETS_EACH = Rate(10, 20)  # of one attempt; of one signer, for those that are not open
BYTES_EACH = Rate(65_536, 131_072)


class Tunnel:
    def __init__(
        self,
        desk: Desk,
        *,
        prekeys: Prekeys,
        deliver: Callable[[ev.StreamEvent], None],
        unopened: Callable[[], None],
    ) -> None:
        """deliver: hands an event of a virtual stream to the machines. unopened: somebody seals to a key that
        this node no longer has."""
        self._desk = desk
        self._prekeys = prekeys
        self._deliver = deliver
        self._unopened = unopened
        self._sender = Sender(desk)
        self._channels: dict[int, Channel] = {}
        self._by_key: dict[Key, Channel] = {}
        self._filled: list[Channel] = []  # in this event
        self._numbers = 0
        self._rates: Buckets[tuple[object, str]] = Buckets(4 * MAX_CHANNELS)
        desk.tunnel = self.perform

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def live(self) -> int:
        """Channels whose attempt is not over here."""
        return sum(not channel.over for channel in self._channels.values())

    def find(self, peer: NodeId, packet: Packet) -> Channel | None:
        return self._by_key.get(key_of(packet, peer))

    # --- from the machines ---

    def open(self, worker: NodeId, prekey: bytes | None) -> int:
        """A stream to this worker; its first item must be an Assign of MAX_GOSSIP_ITEM_BYTES at most.
        None: unsealed. Raises ProtocolError, code seal, for a prekey that nobody can seal to."""
        if prekey is None:
            return self._add(worker, asks=True, prekey=b"").stream
        own = self._prekeys.fresh()
        dh = shared_point(own.secret, prekey)
        channel = self._add(worker, asks=True, prekey=prekey)
        channel.epk, channel.dh = own.public, dh
        return channel.stream

    def _add(self, peer: NodeId, *, asks: bool, prekey: bytes) -> Channel:
        channel = Channel(virtual_stream(self._numbers), peer, asks, prekey, rto_ms=self._desk.timers.rto_ms)
        self._numbers += 1
        self._channels[channel.stream] = channel
        return channel

    def perform(self, effect: StreamEffect) -> None:
        channel = self._channels.get(effect.stream)
        if channel is None:
            return
        match effect:
            case WriteStream(_, data):
                for item in channel.split(data):
                    self._write(channel, item)
                self._sender.soon(channel)
                if not channel.full and channel.outbox.bytes > MAX_UNWRITTEN_BYTES:
                    channel.full = True
                    self._filled.append(channel)
            case FinishStream():
                channel.finished = True
                self._let_go(channel)
            case ResetStream():
                if not channel.asks and not channel.finished:
                    channel.outbox.clear()
                self._let_go(channel)
            case TrustStream():
                pass  # strangers have no connection here whose limits could be lifted
            case _:
                assert_never(effect)

    def _write(self, channel: Channel, item: bytes) -> None:
        assert len(item) <= MAX_GOSSIP_ITEM_BYTES
        if channel.asks and channel.key is None:
            self._begin(channel, item)
        else:
            channel.outbox.add(item)

    def _begin(self, channel: Channel, item: bytes) -> None:
        desk = self._desk
        assign, channel.context = context_of(item, desk.net_id)
        channel.assign = assign
        if channel.prekey:
            about = About(desk.net_id, desk.own_id, channel.peer, assign.request_id, assign.attempt)
            channel.seal = Seal(channel.prekey[:SEAL_ID_BYTES], channel.epk)
            channel.seal_keys = SealKeys(channel.dh, epk=channel.epk, prekey=channel.prekey, about=about)
            channel.dh = b""
        channel.assign_item, channel.resend = item, True
        self._bind(channel, (channel.peer, desk.own_id, assign.request_id, assign.attempt))

    def _bind(self, channel: Channel, key: Key) -> None:
        channel.key = key
        self._by_key[key] = channel

    def _let_go(self, channel: Channel) -> None:
        """Its machine needs it no more; what was written is still repaired."""
        if not channel.over:
            channel.over = True
            self._desk.agenda.cancel(channel.timer("lease"))
            self._desk.after(channel.timer("forget"), self._desk.timers.linger_ms)
        if channel.asks and not channel.sent:
            self._forget(channel)  # nobody knows of it
        elif channel.waits or channel.ack_due:
            self._sender.soon(channel)

    def _forget(self, channel: Channel) -> None:
        self._sender.forget(channel)
        for name in ("lease", "forget"):
            self._desk.agenda.cancel(channel.timer(name))
        del self._channels[channel.stream]
        if channel.key is not None:
            del self._by_key[channel.key]

    def flush(self) -> None:
        """At the end of every event: what was said in it goes out."""
        while self._filled:
            channel = self._filled.pop()
            if not channel.over:
                self._deliver(ev.StreamFull(channel.stream))
        for channel in self._sender.flush():
            if channel.over and channel.asks and not channel.heard:
                self._forget(channel)  # nobody is there to repair it for

    # --- from the topic ---

    def received(self, sender: NodeId, packet: Packet) -> None:
        if packet.to != self._desk.own_id:
            self._desk.count("packets_of_others")
            return
        channel = self._by_key.get(key_of(packet, sender))
        try:
            self._take_rate(sender if channel is None else channel.stream, packet)
            if channel is None:
                self._first(sender, packet)
            else:
                self._apply(channel, self._frames(channel, packet))
        except ProtocolError as error:
            self._desk.count(f"packets_{error.code}")
            if error.code == "seal":
                self._unopened()

    def _take_rate(self, whose: object, packet: Packet) -> None:
        now_ms, size = self._desk.now.mono_ms, len(packet.body)
        in_number = self._rates.take((whose, "packets"), PACKETS_EACH, now_ms)
        if not in_number or not self._rates.take((whose, "bytes"), BYTES_EACH, now_ms, cost=size):
            raise ProtocolError("more Packets than an attempt may bring", code="rate")

    def _frames(self, channel: Channel, packet: Packet) -> list[Loose]:
        if packet.seal != channel.seal:
            raise ProtocolError("another seal than the attempt's", code="other_seal")
        items = self._items(packet, channel.seal_keys, to_worker=not channel.asks)
        digest = blake2b(items[0], digest_size=32).digest()
        return channel.check(items, self._desk.verify, digest)

    def _items(self, packet: Packet, keys: SealKeys | None, *, to_worker: bool) -> list[bytes]:
        body = packet.body
        if keys is not None:
            body = keys.open(body, packet.head, to_worker=to_worker)
            self._desk.count("packets_opened")
        return unpack_items(body)

    def _first(self, sender: NodeId, packet: Packet) -> None:
        """The Assign must be in it: it is what opens a channel."""
        if packet.requester != sender:
            raise ProtocolError("a worker's Packet of an attempt that is long over", code="unknown")
        if not self._has_room(sender):
            raise ProtocolError("too many attempts over gossip", code="full")
        keys, prekey = self._keys_of(sender, packet)
        items = self._items(packet, keys, to_worker=True)
        assign, signer, context, _ = open_assign(items[0], self._desk.net_id, self._desk.verify)
        named = (signer, assign.worker, assign.request_id, assign.attempt)
        if named != (sender, packet.to, packet.request_id, packet.attempt):
            raise ProtocolError("an Assign that is not its Packet's", code="assign")
        channel = self._add(sender, asks=False, prekey=prekey)
        channel.expect_frames()
        channel.context, channel.seal, channel.seal_keys = context, packet.seal, keys
        channel.assign_digest = blake2b(items[0], digest_size=32).digest()
        try:
            frames = channel.check(items, self._desk.verify, channel.assign_digest)
        except ProtocolError:
            self._forget(channel)
            raise
        self._bind(channel, key_of(packet, sender))
        self._desk.after(channel.timer("lease"), self._desk.timers.lease_ms)
        self._desk.count("channels")
        self._deliver(ev.StreamAccepted(channel.stream, sender))
        self._deliver(ev.StreamData(channel.stream, prefixed(items[0])))
        self._apply(channel, frames)

    def _keys_of(self, sender: NodeId, packet: Packet) -> tuple[SealKeys | None, bytes]:
        seal, desk = packet.seal, self._desk
        if seal is None:
            return None, b""
        prekey = self._prekeys.find(seal.prekey_id)
        if prekey is None:
            raise ProtocolError("sealed to a key that this node does not have", code="seal")
        about = About(desk.net_id, sender, desk.own_id, packet.request_id, packet.attempt)
        dh = shared_point(prekey.secret, seal.epk)
        return SealKeys(dh, epk=seal.epk, prekey=prekey.public, about=about), prekey.public

    def _has_room(self, requester: NodeId) -> bool:
        of_peer = [c for c in self._channels.values() if c.peer == requester and not c.asks]
        crowded = of_peer if len(of_peer) >= MAX_CHANNELS_PER_PEER else []
        if len(self._channels) >= MAX_CHANNELS:
            crowded = list(self._channels.values())
        if not crowded:
            return True
        ended = next((channel for channel in crowded if channel.over), None)
        if ended is not None:
            self._forget(ended)
        return ended is not None

    def _apply(self, channel: Channel, frames: list[Loose]) -> None:
        channel.heard = True
        if channel.asks and frames:
            channel.assign_item = None
        for frame in frames:
            if frame.ack is not None:
                self._acked(channel, frame.ack.next_n)
                continue
            for item in channel.in_order(frame):
                if not channel.over:
                    self._deliver(ev.StreamData(channel.stream, prefixed(item)))
        if channel.asks and channel.peer_over:
            self._deliver(ev.StreamFinished(channel.stream))
        self._sender.soon(channel)

    def _acked(self, channel: Channel, next_n: int) -> None:
        before = channel.outbox.base
        if not channel.outbox.ack(next_n):
            return
        if not channel.asks and not channel.over:
            self._desk.after(channel.timer("lease"), self._desk.timers.lease_ms)
        if channel.outbox.base > before:
            self._sender.repaired(channel)
        if channel.full and channel.outbox.bytes <= MAX_UNWRITTEN_BYTES // 2:
            channel.full = False
            if not channel.over:
                self._deliver(ev.StreamWritable(channel.stream))
        if channel.finished and not channel.asks and not channel.outbox.unacked:
            self._deliver(ev.StreamFinished(channel.stream))

    # --- timers ---

    def timer(self, stream: int, name: str) -> None:
        channel = self._channels[stream]
        match name:
            case "lease":
                self._desk.count("leases_lapsed")
                self._deliver(ev.StreamLost(stream, "the requester was not heard of for a lease"))
                channel.outbox.clear()
                self._let_go(channel)
            case "forget":
                self._forget(channel)
            case _:
                self._sender.timer(channel, name)
