"""Gossip hand: a requester played by the test, Packet by Packet, against one real worker core."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import (
    KeySigner,
    decode_envelope,
    sign_envelope,
    split_envelope,
    verify_signature,
)
from llama_gossip.protocol.frames import WORKER_KINDS, FrameReader, FrameWriter, encode_assign
from llama_gossip.protocol.limits import LENGTH_PREFIX_BYTES, MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Ack, Frame, Head, Kind, Packet, Seal
from llama_gossip.protocol.seal import About, SealKeys, public_key, shared_point
from llama_gossip.protocol.tunnel_body import pack_items, unpack_items
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.hand import HandClient, key

EPHEMERAL = bytes(range(7, 39))
MAX_EVERY = WORKER_KINDS | {Kind.ACK}


class GossipHand:
    """One attempt of one requester. Whatever is sent may be spoilt on the way by the test."""

    def __init__(self, hand: HandClient, name: str = "gossip hand", **assign: Any) -> None:
        self.worker = hand.worker
        self.signer: KeySigner = key(name)
        self.accept_by = assign.pop("accept_by", WALL_MS + self.worker.now_ms + 4_000)
        self.assign = hand.assign(accept_by=self.accept_by, **assign)
        stream, self.context = encode_assign(self.assign, self.signer, NET_ID)
        self.assign_item = stream[LENGTH_PREFIX_BYTES:]
        self.writer = FrameWriter(self.context, self.signer)
        self.prekey = self.worker.core._prekeys.announced
        self.epk = public_key(EPHEMERAL)
        self.seal: Seal | None = Seal(self.prekey[:8], self.epk)
        about = About(
            NET_ID, self.signer.node_id, self.worker.node_id, self.assign.request_id, self.assign.attempt
        )
        self.keys = SealKeys(
            shared_point(EPHEMERAL, self.prekey), epk=self.epk, prekey=self.prekey, about=about
        )
        self.seq = 0
        self._reader = FrameReader(self.context, self.worker.node_id, verify_signature, MAX_EVERY)
        self._read = 0

    # --- towards the worker ---

    def head(self) -> Head:
        self.seq += 1
        return Head(5, self.seq, WALL_MS + self.worker.now_ms)

    def packet(self, *items: bytes, body: bytes | None = None, **changes: Any) -> Packet:
        head = changes.pop("head", None) or self.head()
        plain = pack_items(items) if body is None else body
        sealed = plain if self.seal is None else self.keys.seal(plain, head, to_worker=True)
        packet = Packet(
            head,
            self.worker.node_id,
            self.signer.node_id,
            self.assign.request_id,
            self.assign.attempt,
            self.seal,
            sealed,
        )
        return replace(packet, **changes)

    def send(self, packet: Packet, signer: KeySigner | None = None) -> list[ef.Effect]:
        return self.raw(sign_envelope(packet, signer or self.signer, NET_ID))

    def raw(self, data: bytes) -> list[ef.Effect]:
        return self.worker.feed(ev.GossipReceived(self.signer.node_id, data))

    def ask(self) -> list[ef.Effect]:
        return self.send(self.packet(self.assign_item))

    def frame(self, frame: Frame) -> bytes:
        return self.writer.encode(frame)[LENGTH_PREFIX_BYTES:]

    def ack(self, next_n: int) -> list[ef.Effect]:
        return self.send(self.packet(self.frame(Ack(0, next_n))))

    # --- from the worker ---

    def packets(self) -> list[Packet]:
        """All that the worker has sent to this requester."""
        found = []
        for effect in self.worker.all(ef.Broadcast):
            if effect.data[2] != Kind.PACKET:
                continue
            packet = decode_envelope(split_envelope(effect.data, MAX_TOPIC_BYTES))
            assert isinstance(packet, Packet)
            if packet.to == self.signer.node_id:
                found.append(packet)
        return found

    def frames(self) -> list[Frame]:
        """What is new in the Packets since the last look, Acks left out."""
        frames: list[Frame] = []
        for packet in self.packets()[self._read :]:
            self._read += 1
            body = packet.body
            if packet.seal is not None:
                body = self.keys.open(body, packet.head, to_worker=False)
            for item in unpack_items(body):
                if item[1] == Kind.ACK or self._is_old(item):
                    continue
                frame = self._reader.decode(item)
                assert frame is not None
                frames.append(frame)
        return frames

    def _is_old(self, item: bytes) -> bool:
        probe = FrameReader(self.context, self.worker.node_id, verify_signature, MAX_EVERY)
        for probe.next_n in range(self._reader.next_n):
            try:
                probe.decode(item)
            except ProtocolError:  # another number than this one
                continue
            return True
        return False

    @property
    def running(self) -> int:
        return int(self.worker.core._worker.jobs.queue.running)
