"""Evil Packets: what a member who is no party to an attempt can do with the Packets that it hears.

The law: `copy` gives a copied seal every chance (its envelope has the boot and seq, hence the nonce, of the
original); what it must not do is open.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Head, NodeId, Packet, RequestId, Seal
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.topic import Topic

FLOOD = 60  # Packets at once: three times what a receiver takes of one signer


class Sender(Protocol):
    place: int

    @property
    def node_id(self) -> NodeId: ...
    def sign(self, message: Packet) -> bytes: ...


def copy(topic: Topic, sender: Sender, rng: random.Random, data: bytes, head: Callable[[], Head]) -> None:
    """Somebody's Packet in an envelope of the sender's own."""
    packet = decode_envelope(split_envelope(data, MAX_TOPIC_BYTES))
    assert isinstance(packet, Packet)
    chance = rng.random()
    own = head()
    if chance < 0.5:  # in its own name; the receiver has the same key
        same_nonce = replace(packet.head, ts=own.ts)
        topic.inject(
            sender.place,
            sender.sign(replace(packet, head=same_nonce, requester=sender.node_id)),
            "copy",
        )
    elif chance < 0.75:  # as if it were a party
        evil = "copy" if packet.to == packet.requester else "misattributed"
        topic.inject(sender.place, sender.sign(replace(packet, head=own)), evil)
    else:  # with the seal taken off
        bare = replace(packet, head=own, requester=sender.node_id, seal=None)
        topic.inject(sender.place, sender.sign(bare), "copy")


def flood(
    topic: Topic, sender: Sender, rng: random.Random, victim: Process, head: Callable[[], Head]
) -> None:
    """Sealed rubbish, each with a key of its own: all of it costs the victim a multiplication."""
    if victim.core is None:
        return
    prekey = victim.core._prekeys.announced
    for _ in range(FLOOD if rng.random() < 0.3 else 1):
        packet = Packet(
            head(),
            victim.node_id,
            sender.node_id,
            RequestId(rng.randbytes(16)),
            1,
            Seal(prekey[:8], rng.randbytes(32)),
            rng.randbytes(272),
        )
        topic.inject(sender.place, sender.sign(packet), "flood", target=victim.place)
