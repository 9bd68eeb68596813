"""Liar Packets: a liar's mouth where its attempts travel over gossip.

The law: it says in the place of each frame what it would say on a stream, under numbers of its own, and says
the same again when its core repairs: a lie that is taken back in silence would be none. Acks it leaves alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_gossip.protocol.codec import decode_payload
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.limits import LENGTH_PREFIX_BYTES
from llama_gossip.protocol.messages import Kind, NodeId, Packet, Phase, Progress, RequestId
from llama_gossip.protocol.outer import OuterArray
from llama_gossip.protocol.tunnel_body import pack_items, unpack_items
from llama_gossip.protocol.tunnel_channel import Channel
from llama_gossip.simulation.liar import Ear, Liar, Lie
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.reading import message_of

if TYPE_CHECKING:
    from llama_gossip.simulation.world import World

BEAT_MS = 2_000  # of a staller: a heartbeat over gossip
BEATS = 25  # longer than anybody waits for a token

Key = tuple[int, int, NodeId, RequestId, int]  # (place, life, requester, request_id, attempt)


@dataclass(slots=True)
class _Told:
    """What came out of one attempt's frames."""

    ear: Ear
    first_n: int  # what was said before it was said by an honest mouth
    said: dict[int, list[bytes]] = field(default_factory=dict)  # by the number of the core's own frame
    beats: int = 0


class LiarPackets:
    def __init__(self, world: World) -> None:
        self._world = world
        self._told: dict[Key, _Told] = {}

    def say(self, node: Process, liar: Liar, data: bytes) -> bytes | None:
        """What goes out in the place of a Packet; None: nothing."""
        packet = message_of(data)
        assert isinstance(packet, Packet)
        if packet.requester == node.node_id:
            return data  # it asks as honestly as anybody
        channel = node.core._tunnel.find(packet.to, packet) if node.core is not None else None
        if channel is None:
            return None
        key = (node.place, node.life, packet.requester, packet.request_id, packet.attempt)
        before = liar.lies
        items = [
            said for item in self._open(channel, packet) for said in self._instead(key, liar, channel, item)
        ]
        self._world.struck["lies_by_gossip"] += liar.lies - before
        told = self._told.get(key)
        if told is not None and told.ear.lied and told.ear.lie is Lie.STALL and not told.beats:
            self._beat(node, liar, channel, packet, told)
        return self._seal(node, channel, packet, items) if items else None

    def _instead(self, key: Key, liar: Liar, channel: Channel, item: bytes) -> list[bytes]:
        outer = OuterArray(item, elements=3)
        kind = Kind(outer.uint8())
        n = decode_payload(kind, outer.binary()).n  # type: ignore[union-attr]  # a Packet carries frames
        told = self._told.get(key)
        if kind is Kind.ACK:
            return [] if liar.lie is Lie.BLACK_HOLE else [item]
        if told is None:
            told = self._told[key] = _Told(liar.ear(channel.context, key[3:], n), n)
        if n < told.first_n:
            return [item]
        if n not in told.said:
            told.said[n] = [said[LENGTH_PREFIX_BYTES:] for said in liar.instead(told.ear, item)]
        return told.said[n]

    def _beat(self, node: Process, liar: Liar, channel: Channel, packet: Packet, told: _Told) -> None:
        """It is alive, and makes nothing."""
        told.beats += 1
        if told.beats > 1 and told.ear.writer is not None and node.core is not None:
            head = replace(node.core._desk.head(), ts=node.now().wall_ms)
            item = told.ear.writer.encode(Progress(0, Phase.DECODE, 1, 0))[LENGTH_PREFIX_BYTES:]
            data = self._seal(node, channel, replace(packet, head=head), [item])
            self._world.topic.broadcast(node.place, data)
        if told.beats <= BEATS:
            self._world.clock.after(BEAT_MS, self._next_beat, node, node.life, liar, channel, packet, told)

    def _next_beat(
        self, node: Process, life: int, liar: Liar, channel: Channel, packet: Packet, told: _Told
    ) -> None:
        if node.life == life and node.liar is liar and not node.paused:
            self._beat(node, liar, channel, packet, told)

    def _open(self, channel: Channel, packet: Packet) -> list[bytes]:
        keys = channel.seal_keys
        return unpack_items(
            packet.body if keys is None else keys.open(packet.body, packet.head, to_worker=False)
        )

    def _seal(self, node: Process, channel: Channel, packet: Packet, items: list[bytes]) -> bytes:
        body, keys = pack_items(items), channel.seal_keys
        if keys is not None:
            body = keys.seal(body, packet.head, to_worker=False)
        return sign_envelope(replace(packet, body=body), node.signer, self._world.net_id)
