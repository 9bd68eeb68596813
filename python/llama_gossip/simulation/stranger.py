"""Stranger: a member with a key of its own and bad intentions. It hears everything and may say anything.

The law: whatever it sends that is not its own, new and true must change nothing in any honest node; `evil`
names what a message is, so that the oracles know what must not happen.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import KeySigner, Signer, sign_envelope
from llama_gossip.protocol.frames import prefixed
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import (
    Announce,
    Assign,
    Capacity,
    Claim,
    GenerationConfig,
    Head,
    Kind,
    Leave,
    NodeId,
    NodeState,
    NumericsClass,
    Packet,
    RawPrompt,
    Request,
    RequestId,
)
from llama_gossip.protocol.outer import OuterArray
from llama_gossip.protocol.structure import pack
from llama_gossip.simulation import evil_packets
from llama_gossip.simulation.answers import WEIGHTS
from llama_gossip.simulation.clock import WALL_ORIGIN_MS, Clock
from llama_gossip.simulation.faults import FaultKind
from llama_gossip.simulation.greed import Greed, priority_of
from llama_gossip.simulation.machine import MODEL
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.reading import message_of
from llama_gossip.simulation.signing import signer_of
from llama_gossip.simulation.topic import Topic
from llama_gossip.simulation.wires import Wires

MEMORY = 400  # envelopes that it keeps for later
REPEAT_MS = 40_000  # a repeated Assign comes up to so much later
CROWD = 60  # keys
AT_ONCE = 0.1  # of the Assigns that it sees go into a race with the real one
GARBAGE = (
    b"\0\0\0\x40a part",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\0\0\0\5hello",
    b"GET / HTTP/1.1\r\n\r\n",
    b"",
)


class Stranger:
    """Party: it has a place on the network, and no core."""

    def __init__(
        self,
        kind: FaultKind,
        place: int,
        *,
        clock: Clock,
        rng: random.Random,
        signer: Signer,
        net_id: bytes,
        topic: Topic,
        wires: Wires,
        victims: Callable[[], list[Process]],
        assigned: Callable[[NodeId, Assign], None],
        open_network: bool,
    ) -> None:
        """victims: the living nodes. assigned: told of its own good Assigns, which may start work."""
        self._open_network = open_network
        self.kind = kind
        self.place = place
        self.life = 1
        self.paused = False
        self.node_id = signer.node_id
        self.sent = 0
        self.assigns: deque[bytes] = deque(maxlen=MEMORY)  # of others, as it may have received them
        self._clock = clock
        self._rng = rng
        self._signer = signer
        self._net_id = net_id
        self._topic = topic
        self._wires = wires
        self._victims = victims
        self._assigned = assigned
        self._greed = Greed(self, rng, wires)
        self._until_ms = 0
        self._seq = 0
        self._memory: deque[tuple[int, bytes]] = deque(maxlen=MEMORY)
        topic.taps.append(self._tap)

    def sign(self, message: Packet) -> bytes:
        return sign_envelope(message, self._signer, self._net_id)

    def feed(self, event: ev.Event) -> None:
        """It does not care what is answered; what it has claimed it does not serve."""
        if not isinstance(event, ev.StreamData) or self.kind is not FaultKind.CLAIM:
            return
        end = self._wires.ends.get(event.stream)
        if end is None or end.ended or self._rng.random() < 0.5:
            return
        if self._rng.random() < 0.5:
            self._wires.write(end, self._rng.choice(GARBAGE) or b"\0")
        else:
            self._wires.finish(end)

    def act(self, until_ms: int) -> None:
        self._until_ms = until_ms
        if self._clock.now_ms >= until_ms:
            self._greed.let_go()
            return
        match self.kind:
            case FaultKind.REPLAY:
                self._replay()
            case FaultKind.FORGE:
                self._forge()
            case FaultKind.REENCODE:
                self._reencode()
            case FaultKind.FLOOD:
                self._flood()
            case FaultKind.DOUBLE:
                self._double()
            case FaultKind.GREEDY:
                self._greed.ask(self._workers(), self._good_assign)
            case FaultKind.CROWD:
                self._shout_as_many()
            case FaultKind.COPY:
                self._copy()
            case _:
                victims = self._victims()
                requester = self._rng.choice(victims).node_id if victims else self.node_id
                self._claim(requester, RequestId(self._rng.randbytes(16)))
        self.sent += 1
        self._clock.after(50 + int(self._rng.random() * 900), self.act, until_ms)

    def _head(self) -> Head:
        self._seq += 1
        return Head(WALL_ORIGIN_MS, self._seq, WALL_ORIGIN_MS + self._clock.now_ms)

    def _pick(self) -> tuple[int, bytes] | None:
        return self._rng.choice(self._memory) if self._memory else None

    def _send_first(self, data: bytes, victim: Process | None = None, *, finish: bool | None = None) -> None:
        """As the first bytes of a stream of its own to somebody."""
        victims = self._victims()
        if victims and data:
            end = self._wires.open(self, victim or self._rng.choice(victims))
            self._wires.write(end, data)
            if self._rng.random() < 0.5 if finish is None else finish:
                self._wires.finish(end)

    def overhear(self, worker: Process, data: bytes) -> None:
        """An Assign of an honest requester, on its way."""
        self.assigns.append(data)
        replays = self.kind is FaultKind.REPLAY and self._clock.now_ms < self._until_ms
        if replays and worker.life and self._rng.random() < AT_ONCE:
            self._send_first(data, worker, finish=False)

    # --- what was said before ---

    def _replay(self) -> None:
        picked = self._pick()
        if self.assigns and self._rng.random() < 0.4:
            self._send_first(self._rng.choice(self.assigns))
        elif picked is not None:
            self._topic.inject(self.place, picked[1], "replay")

    def _reencode(self) -> None:
        """The same envelope in other bytes: the signature holds, the overlay sees a new message."""
        picked = self._pick()
        if picked is None:
            return
        outer = OuterArray(picked[1], elements=5)
        version, kind = outer.uint8(), outer.uint8()
        sender, payload, signature = outer.binary(), outer.binary(), outer.binary()
        wide = b"\xc6" + len(payload).to_bytes(4, "big") + payload
        narrow = pack((payload,))[1:]
        data = self._rng.choice(
            [
                b"\x95" + bytes((version, kind)) + pack((sender,))[1:] + wide + pack((signature,))[1:],
                b"\xdc\0\5" + picked[1][1:],
                picked[1] + b"\0",
                b"\x95\x01\xcc" + bytes((kind,)) + pack((sender,))[1:] + narrow + pack((signature,))[1:],
                b"\x96" + picked[1][1:] + b"\xc0",
            ]
        )
        self._topic.inject(self.place, data, "reencoded")

    # --- what nobody said ---

    def _forge(self) -> None:
        chance = self._rng.random()
        if chance < 0.4:
            picked = self._pick()
            if picked is not None:
                data = bytearray(picked[1])
                data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
                self._topic.inject(self.place, bytes(data), "forged")
        elif chance < 0.7 and self._victims():
            self._topic.inject(self.place, *self._in_the_name_of_another())
        elif chance < 0.9:
            self._false_assign()
        else:
            self._send_first(self._rng.choice(GARBAGE))

    def _in_the_name_of_another(self) -> tuple[bytes, str]:
        """From the future, in the name of a node: its word would shut the real one out. Or signed by the
        stranger itself, with another's name in it."""
        victim = self._rng.choice(self._victims())
        node_id = victim.node_id
        head = Head(victim.boot + 10**9, 1, WALL_ORIGIN_MS + self._clock.now_ms)
        message = Leave(head, "forged")
        if self._rng.random() < 0.3:
            request = Request(self._head(), RequestId(bytes(16)), MODEL, 1, 1, 5, 1_000, node_id)
            return sign_envelope(request, self._signer, self._net_id), "misattributed"
        return sign_envelope(message, _Mask(node_id, self._signer), self._net_id), "forged"

    def _false_assign(self) -> None:
        """For another worker, for another boot, in another's name, or with a signature that is none."""
        victims = self._victims()
        if len(victims) < 2:
            return
        victim, other = self._rng.sample(victims, 2)
        signer: Signer = self._signer
        worker, boot, spoil = victim.node_id, victim.boot, False
        match self._rng.randrange(4):
            case 0:
                worker = other.node_id
            case 1:
                boot -= 1
            case 2:
                signer = _Mask(other.node_id, self._signer)
            case _:
                spoil = True
        data = prefixed(sign_envelope(self._assign(worker, boot), signer, self._net_id))
        self._send_first(data[:-1] + bytes((data[-1] ^ spoil,)), victim, finish=False)

    # --- twice ---

    def _double(self) -> None:
        """A good Assign, then the same or the next attempt on another stream, at once or later."""
        workers = self._workers()
        if not workers:
            return
        worker = self._rng.choice(workers)
        assign = self._assign(worker.node_id, worker.boot)
        again = replace(assign, attempt=1 + self._rng.randrange(2))
        for late, said in enumerate((assign, again)):
            self._assigned(self.node_id, said)
            data = prefixed(sign_envelope(said, self._signer, self._net_id))
            delay_ms = late * int(self._rng.random() ** 4 * REPEAT_MS)
            self._clock.after(delay_ms, self._send_first, data, worker)

    def _workers(self) -> list[Process]:
        return [victim for victim in self._victims() if victim.machine is not None]

    def _good_assign(self, worker: Process) -> bytes:
        assign = replace(
            self._assign(worker.node_id, worker.boot),
            config=GenerationConfig(max_tokens=self._rng.randint(8, 24)),
            priority=priority_of(self._rng, open_network=self._open_network),
        )
        self._assigned(self.node_id, assign)
        return prefixed(sign_envelope(assign, self._signer, self._net_id))

    def _assign(self, worker: NodeId, boot: int) -> Assign:
        return Assign(
            head=self._head(),
            request_id=RequestId(self._rng.randbytes(16)),
            attempt=1,
            worker=worker,
            worker_boot=boot,
            accept_by=WALL_ORIGIN_MS + self._clock.now_ms + 4_000,
            prompt=RawPrompt("stranger"),
            config=GenerationConfig(max_tokens=8),
            resume=None,
            priority=9,
            deadline_ms=120_000,
            model=MODEL,
            model_digest=WEIGHTS,
            date="2026-11-24",
        )

    # --- too much, and at odds with itself ---

    def _flood(self) -> None:
        for _ in range(20):
            announce = Announce(
                self._head(), "flood", _NOTHING, NodeState.CLIENT, (), bytes(32), (), 180_000, ()
            )
            data = sign_envelope(announce, self._signer, self._net_id)
            if self._rng.random() < 0.2:
                data = self._rng.randbytes(self._rng.randrange(1, 400))
            self._topic.inject(self.place, data, "flood")
        if self._rng.random() < 0.2:
            self._topic.inject(self.place, b"\x95" + bytes(MAX_TOPIC_BYTES), "oversize")
        for _ in range(3):
            self._send_first(self._rng.choice(GARBAGE))
        if victims := self._victims():
            evil_packets.flood(self._topic, self, self._rng, self._rng.choice(victims), self._head)

    def _copy(self) -> None:
        picked = [data for _, data in self._memory if data[2] == Kind.PACKET]
        if picked:
            evil_packets.copy(self._topic, self, self._rng, self._rng.choice(picked), self._head)

    def _shout_as_many(self) -> None:
        """Each minted key keeps to its rate; all come by different neighbours."""
        if not self._open_network:
            return
        for _ in range(CROWD // 2):  # an act comes each half second
            self._seq += 1
            who = self._seq % CROWD
            signer = signer_of(who.to_bytes(32, "big"), ed25519=isinstance(self._signer, KeySigner))
            head = Head(WALL_ORIGIN_MS, self._seq, WALL_ORIGIN_MS + self._clock.now_ms)
            announce = Announce(head, "crowd", _NOTHING, NodeState.CLIENT, (), bytes(32), (), 180_000, ())
            self._topic.inject(who, sign_envelope(announce, signer, self._net_id), "crowd")

    def _tap(self, place: int, data: bytes) -> None:
        """It hears what the others hear, and claims whatever is asked for, faster than anybody."""
        self._memory.append((place, data))
        claims = self.kind is FaultKind.CLAIM and self._clock.now_ms < self._until_ms
        if claims and data[2] == Kind.REQUEST:
            asked = message_of(data)
            assert isinstance(asked, Request)
            delay_ms = int(self._rng.random() ** 2 * 200)
            self._clock.after(delay_ms, self._claim, asked.requester, asked.request_id)

    def _claim(self, requester: NodeId, request_id: RequestId) -> None:
        """Two Claims for one request that say different things, and one in the name of another."""
        for speed in (1.0, 1e6):
            claim = Claim(
                head=self._head(),
                requester=requester,
                request_id=request_id,
                worker=self.node_id if speed > 1 else requester,
                queue_position=0,
                est_ttft_ms=int(self._rng.random() * 3),
                tokens_per_s=speed,
                digest=WEIGHTS,
                numerics_id=None,
                numerics_class=NumericsClass.EXACT,
                prekey=bytes(32),
                addresses=(),
            )
            data = sign_envelope(claim, self._signer, self._net_id)
            self._topic.inject(self.place, data, "claim" if speed > 1 else "misattributed")


_NOTHING = Capacity("", "", (), 0, 0, 0, 0, 0.0, 0)


class _Mask:
    """Signs in the name of another with its own key: the forgery that everybody must see through."""

    def __init__(self, node_id: NodeId, signer: Signer) -> None:
        self.node_id = node_id
        self._signer = signer

    def sign(self, message: bytes) -> bytes:
        return self._signer.sign(message)
