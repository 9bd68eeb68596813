"""Packets: what the oracles see of gossip delivery, on the topic and in the counters of the cores.

The law: it reads what every member could read, and of a core only its channels' Assigns and its counters.
I10 and I5 need the attempts that run there, I12 a number and I13 a body that tells nothing.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol.limits import KEY_BYTES
from llama_gossip.protocol.messages import NodeId, Packet, RequestId, Seal
from llama_gossip.protocol.seal import About, SealKeys
from llama_gossip.protocol.streams import Visibility
from llama_gossip.simulation import load
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.reading import message_of, raw_of

if TYPE_CHECKING:
    from llama_gossip.simulation.world import World

GAP_MS = 120  # between two Packets of one attempt and side: eight a second
EAVESDROP_EVERY = 8  # Packets
LATE_MS = 8_000  # accept_by is 4 s; the worker's clock is known only from an Announce that was on its way
REFUSED_A_SECOND = (
    45  # of sealed rubbish that a core tries to open: twenty at once and ten a second, and others'
)

_PROMPT = re.compile(load.CANARY.encode() + b"([0-9a-f]{32})")

Side = tuple[int, int, NodeId, RequestId, int]  # (place, life, requester, request_id, attempt)


class PacketWatch:
    def __init__(self, world: World) -> None:
        self._world = world
        self._sent_at: dict[Side, int] = {}  # the last Packet
        self._acked: dict[tuple[int, int, int], int] = {}  # (place, life, virtual stream)
        self._refused: dict[tuple[int, int], deque[int]] = {}  # (place, life) → when
        self._bodies: set[bytes] = set()
        self._assigned: set[tuple[NodeId, RequestId, int]] = set()
        self.sent = 0
        self.answers = 0  # whose last attempt was here

    def _blame(self, oracle: str, what: str) -> None:
        self._world.oracles.blame(oracle, self._world.clock.now_ms, what)

    def sees(self, node: Process, data: bytes) -> None:
        """A node's own broadcast of a Packet."""
        self.sent += 1
        packet = message_of(data)
        assert isinstance(packet, Packet)
        if packet.seal is not None:
            if packet.body in self._bodies:
                self._blame("I13", f"{node.name} seals the same twice with one nonce")
            self._bodies.add(packet.body)
            self._eavesdrop(node, packet, packet.seal)
        self._count(node, packet)
        if packet.requester == node.node_id:
            self._assign(node, packet)

    def _eavesdrop(self, node: Process, packet: Packet, seal: Seal) -> None:
        """I13: everything but the shared secret is known to everybody."""
        channel = node.core._tunnel.find(packet.to, packet) if node.core is not None else None
        if self.sent % EAVESDROP_EVERY or channel is None:
            return
        asks = packet.requester == node.node_id
        parties = (node.node_id, packet.to) if asks else (packet.to, node.node_id)
        about = About(self._world.net_id, *parties, packet.request_id, packet.attempt)
        keys = SealKeys(bytes(32), epk=seal.epk, prekey=channel.prekey, about=about)
        try:
            keys.open(packet.body, packet.head, to_worker=asks)
        except ProtocolError:
            return
        self._blame("I13", f"everybody can open what {node.name} seals")

    def may_show(self, data: bytes) -> bool:
        """Whether the prompts in it are those of public requests. A turn quotes the turns before it."""
        said = "".join(str(ask.submit.prompt) for ask in self._world.asks if _is_public(ask)).encode()
        shown = _PROMPT.findall(data)
        return bool(shown) and set(_PROMPT.findall(said)).issuperset(shown)

    def _count(self, node: Process, packet: Packet) -> None:
        """I12: a pause between any two."""
        now_ms, side = self._world.clock.now_ms, _side(node, packet)
        since_ms = now_ms - self._sent_at.get(side, -GAP_MS)
        self._sent_at[side] = now_ms
        if since_ms < GAP_MS:
            self._blame("I12", f"{node.name}: two Packets of one attempt within {since_ms} ms")

    def heard(self, node: Process, data: bytes) -> None:
        """I6: what was acked once stays acked, whatever comes late. data: a Packet that it has taken."""
        if node.core is None or data.find(node.node_id, KEY_BYTES) < 0:
            return
        packet = message_of(data)
        assert isinstance(packet, Packet)
        channel = node.core._tunnel.find(raw_of(data).sender, packet)
        if channel is None:
            return
        key, base = (node.place, node.life, channel.stream), channel.outbox.base
        if base < self._acked.get(key, 0):
            self._blame("I6", f"{node.name} believes an Ack of {base} after one of {self._acked[key]}")
        self._acked[key] = base

    def _assign(self, node: Process, packet: Packet) -> None:
        """The first Packet of an attempt carries its Assign."""
        key = (node.node_id, packet.request_id, packet.attempt)
        if key in self._assigned or node.core is None:
            return
        self._assigned.add(key)
        channel = node.core._tunnel.find(packet.to, packet)
        if channel is not None and channel.assign is not None:
            oracles = self._world.oracles
            self._world.stage.offers.assigned(node, channel.assign)
            oracles.assigned(node.node_id, channel.assign, self._world.clock.now_ms)
            story = oracles.stories.get((node.node_id, packet.request_id))
            if story is not None:
                story.by_gossip[packet.attempt] = self._world.clock.now_ms

    # --- what a core has made of it ---

    def job_accepted(self, node: Process, job: ef.JobAccepted) -> None:
        """I10: an Assign that was held back starts no work."""
        story = self._world.oracles.stories.get((job.requester, job.request_id))
        if story is None:
            return
        own = [a for a in story.by_gossip if story.assigns[a].worker == node.node_id]
        newest = max((a for a, said in story.assigns.items() if said.worker == node.node_id), default=0)
        if not own or max(own) != newest:
            return  # it came on a stream
        late_ms = self._world.clock.now_ms - story.by_gossip[newest]
        if late_ms > LATE_MS and node.stepped_ms < story.by_gossip[newest] - 60_000:
            self._blame("I10", f"{node.name} takes an Assign that is {late_ms} ms old")

    def opened(self, node: Process, before: tuple[int, int], evil: str) -> None:
        """I13: what was sealed for two opens for nobody else. before: Packets that it had opened, and that
        had not opened."""
        if node.core is None:
            return
        counters = node.core._desk.counters
        if evil == "copy" and counters["packets_opened"] > before[0]:
            self._blame("I13", f"{node.name} has opened a copied seal")
        if counters["packets_seal"] > before[1]:
            self._did_not_open(node)

    def _did_not_open(self, node: Process) -> None:
        """I12: a flood of sealed rubbish costs a core little."""
        now_ms = self._world.clock.now_ms
        times = self._refused.setdefault((node.place, node.life), deque(maxlen=REFUSED_A_SECOND))
        if len(times) == REFUSED_A_SECOND and now_ms - times[0] < 1_000:
            self._blame("I12", f"{node.name} tries to open {len(times)} Packets a second in vain")
            times.clear()
        times.append(now_ms)


def _is_public(ask: load.Ask) -> bool:
    return ask.submit.visibility is Visibility.PUBLIC


def _side(node: Process, packet: Packet) -> Side:
    return node.place, node.life, packet.requester, packet.request_id, packet.attempt
