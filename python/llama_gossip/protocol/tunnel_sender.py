"""Sender: when the Packets of the channels go out, and what is in each.

The law: at most eight Packets a second and 60 KiB a second of one attempt, thirty a second of this node; an
Ack at most twice a second and at least every four; what is not acked goes again after 1, 2, 4, 4 … seconds.
"""

from __future__ import annotations

from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import Broadcast
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.messages import Packet
from llama_gossip.protocol.tunnel_body import pack_items
from llama_gossip.protocol.tunnel_channel import Channel

BYTES_PER_S = 61_440  # a little below what a receiver takes of one attempt
NODE_GAP_MS = 33  # thirty Packets a second: more than fifty messages a second of one node stall a topic
NODE_BURST = 10


class Sender:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._dirty: dict[int, Channel] = {}
        self._next_mono_ms = 0  # of this node

    def soon(self, channel: Channel) -> None:
        self._dirty[channel.stream] = channel

    def forget(self, channel: Channel) -> None:
        self._dirty.pop(channel.stream, None)
        for name in ("send", "repair", "ack"):
            self._desk.agenda.cancel(channel.timer(name))

    def repaired(self, channel: Channel) -> None:
        """Something new was acked: patience begins anew."""
        channel.rto_ms = self._desk.timers.rto_ms
        if channel.waits:
            self._desk.after(channel.timer("repair"), channel.rto_ms)
        else:
            self._desk.agenda.cancel(channel.timer("repair"))

    def timer(self, channel: Channel, name: str) -> None:
        timers = self._desk.timers
        match name:
            case "send":
                pass
            case "ack":
                channel.ack_due = channel.may_ack
            case "repair":
                if not channel.waits:
                    return
                self._desk.count("repairs")
                channel.outbox.go_back()
                channel.resend = channel.assign_item is not None
                channel.rto_ms = min(2 * channel.rto_ms, timers.rto_max_ms)
            case _:
                raise AssertionError(f"no such timer: {name}")
        self.soon(channel)

    def flush(self) -> list[Channel]:
        """The channels that have sent."""
        if not self._dirty:
            return []
        dirty, self._dirty = self._dirty, {}
        return [channel for channel in dirty.values() if self._flush(channel)]

    def _flush(self, channel: Channel) -> bool:
        if channel.key is None:
            return False
        now_ms = self._desk.now.mono_ms
        at = max(channel.next_mono_ms, self._next_mono_ms)
        if at > now_ms:
            self._desk.agenda.set(channel.timer("send"), at)
            return False
        items = channel.items(self._desk)
        if items:
            self._send(channel, items)
        self._plan(channel)
        return bool(items)

    def _send(self, channel: Channel, items: list[bytes]) -> None:
        desk, now_ms = self._desk, self._desk.now.mono_ms
        assert channel.key is not None
        peer, requester, request_id, attempt = channel.key
        head, body = desk.head(), pack_items(items)
        if channel.seal_keys is not None:
            body = channel.seal_keys.seal(body, head, to_worker=channel.asks)
        packet = Packet(head, peer, requester, request_id, attempt, channel.seal, body)
        data = sign_envelope(packet, desk.signer, desk.net_id)
        desk.emit(Broadcast(data))
        desk.count("packets_sent")
        gap_ms = max(desk.timers.packet_gap_ms, len(data) * 1_000 // BYTES_PER_S)
        channel.sent = True
        channel.next_mono_ms = now_ms + gap_ms
        self._next_mono_ms = max(self._next_mono_ms, now_ms - NODE_BURST * NODE_GAP_MS) + NODE_GAP_MS

    def _plan(self, channel: Channel) -> None:
        """When it speaks next if nothing happens."""
        agenda, timers, now_ms = self._desk.agenda, self._desk.timers, self._desk.now.mono_ms
        if channel.outbox.unsent:
            agenda.set(channel.timer("send"), channel.next_mono_ms)
        if channel.waits and agenda.due_of(channel.timer("repair")) is None:
            agenda.set(channel.timer("repair"), now_ms + channel.rto_ms)
        if channel.ack_due:
            agenda.set(channel.timer("ack"), channel.acked_mono_ms + timers.ack_gap_ms)
        elif channel.asks and channel.heard and not channel.over:
            agenda.set(channel.timer("ack"), channel.acked_mono_ms + timers.ack_every_ms)
