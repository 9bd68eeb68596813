"""The receiver against a naive model: every envelope that was ever sent, by many signers, boots and seqs, may
come again at any time and by any neighbour, whole or broken, while both clocks move.

The model remembers all that was accepted in a plain set. I6 is checked beside it: what is not accepted leaves
nothing behind that changes a later answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llama_gossip.protocol.events import Now
from llama_gossip.protocol.limits import FORGET_SIGNER_MS, MAX_AGE_MS, MAX_AHEAD_MS, WINDOW_BITS
from llama_gossip.protocol.messages import Head, Leave, NodeId
from llama_gossip.protocol.receive import Dropped, DropReason, Received, Receiver
from llama_gossip.simulation.signing import verify_hash
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.machines.parts import key, picked, signed
from tests.protocol.machines.profile import MACHINES, PATIENCE

SIGNERS = [key(f"signer {n}") for n in range(4)]
OWN = key("own")
NEIGHBOURS = [key(f"neighbour {n}").node_id for n in range(2)]
pytestmark = PATIENCE

PICK = st.integers(0, 100_000)
BURST, PER_S = 5, 1.0  # PROTOCOL section 2, of a Leave as of an Announce
SEQS = st.sampled_from([0, 1, 2, 3, 5, *range(WINDOW_BITS - 2, WINDOW_BITS + 5)])


@dataclass(frozen=True)
class Sent:
    signer: NodeId
    boot: int
    seq: int
    ts: int
    data: bytes


class ReceiveMachine(RuleBasedStateMachine):
    @initialize(listed=st.booleans())
    def begin(self, listed: bool) -> None:
        """listed: an allowlist without the last signer."""
        allowed = frozenset(s.node_id for s in SIGNERS[:-1]) if listed else None
        self.receiver = Receiver(NET_ID, OWN.node_id, verify_hash, allowlist=allowed)
        self.allowed = allowed
        self.mono_ms, self.wall_ms = 0, WALL_MS
        self.sent: list[Sent] = []
        self.accepted: dict[NodeId, set[tuple[int, int]]] = {}
        self.last_ms: dict[NodeId, int] = {}
        self.tokens: dict[NodeId, tuple[float, int]] = {}
        self.ever: set[tuple[NodeId, int, int, int]] = set()
        self.counted = 0

    # --- the model ---

    def expected(self, sent: Sent) -> DropReason | None:
        """None: it is taken."""
        if self.allowed is not None and sent.signer not in self.allowed:
            return DropReason.NOT_ALLOWED
        if (seen := self.seen(sent)) is not None:
            return seen
        ahead_ms = sent.ts - self.wall_ms
        if ahead_ms > MAX_AHEAD_MS:
            return DropReason.FUTURE
        if ahead_ms < -MAX_AGE_MS:
            return DropReason.STALE
        return None if self.level(sent.signer) >= 1 else DropReason.RATE

    def seen(self, sent: Sent) -> DropReason | None:
        if self.mono_ms - self.last_ms.get(sent.signer, -FORGET_SIGNER_MS) >= FORGET_SIGNER_MS:
            return None
        mine = self.accepted[sent.signer]
        boot, highest = max(mine)
        if sent.boot != boot:
            return DropReason.LOWER_BOOT if sent.boot < boot else None
        if sent.seq <= highest - WINDOW_BITS:
            return DropReason.BEHIND
        return DropReason.SEEN if (sent.boot, sent.seq) in mine else None

    def level(self, signer: NodeId) -> float:
        tokens, since_ms = self.tokens.get(signer, (float(BURST), 0))
        return min(float(BURST), tokens + (self.mono_ms - since_ms) * PER_S / 1_000)

    def take(self, sent: Sent) -> None:
        if self.mono_ms - self.last_ms.get(sent.signer, -FORGET_SIGNER_MS) >= FORGET_SIGNER_MS:
            self.accepted[sent.signer] = set()
        self.accepted[sent.signer].add((sent.boot, sent.seq))
        self.last_ms[sent.signer] = self.mono_ms
        self.tokens[sent.signer] = self.level(sent.signer) - 1, self.mono_ms
        assert (sent.signer, sent.boot, sent.seq, sent.ts) not in self.ever, "I6: taken twice"
        self.ever.add((sent.signer, sent.boot, sent.seq, sent.ts))

    # --- what happens ---

    def deliver(self, sent: Sent, data: bytes, pick: int) -> Received | Dropped:
        now = Now(self.mono_ms, self.wall_ms)
        return self.receiver.receive(data, picked(NEIGHBOURS, pick), now, lambda _: True)

    def judge(self, sent: Sent, pick: int) -> None:
        expected = self.expected(sent)
        got = self.deliver(sent, sent.data, pick)
        if expected is None:
            assert isinstance(got, Received), got
            assert (got.sender, got.message.head) == (sent.signer, Head(sent.boot, sent.seq, sent.ts))
            self.take(sent)
            self.counted += 1
        else:
            assert got == Dropped(expected)

    @rule(pick=PICK, boot=st.integers(1, 3), seq=SEQS, late_ms=st.sampled_from([0, 0, 0, -31_000, 61_000]))
    def somebody_says_something(self, pick: int, boot: int, seq: int, late_ms: int) -> None:
        signer = picked(SIGNERS, pick)
        ts = self.wall_ms - late_ms
        if any((s.signer, s.boot, s.seq) == (signer.node_id, boot, seq) for s in self.sent):
            return  # an honest signer uses no seq twice
        data = signed(Leave(Head(boot, seq, ts), "bye"), signer)
        self.sent.append(Sent(signer.node_id, boot, seq, ts, data))
        self.judge(self.sent[-1], pick)

    @precondition(lambda self: self.sent)
    @rule(pick=PICK, times=st.integers(1, 3))
    def something_comes_again(self, pick: int, times: int) -> None:
        for _ in range(times):
            self.judge(picked(self.sent, pick), pick)

    @precondition(lambda self: self.sent)
    @rule(pick=PICK, at=PICK)
    def something_comes_broken(self, pick: int, at: int) -> None:
        """Any byte of it flipped: it is never taken, and nothing that comes later is judged otherwise."""
        sent = picked(self.sent, pick)
        data = bytearray(sent.data)
        data[at % len(data)] ^= 1 << at % 8
        got = self.deliver(sent, bytes(data), pick)
        assert isinstance(got, Dropped)

    @rule(pick=PICK)
    def own_words_come_back(self, pick: int) -> None:
        data = signed(Leave(Head(9, pick, self.wall_ms), "mine"), OWN)
        sent = Sent(OWN.node_id, 9, pick, self.wall_ms, data)
        assert self.deliver(sent, data, pick) == Dropped(DropReason.OWN)

    @rule(ms=st.sampled_from([1, 999, 1_000, 5_000, 29_000, 61_000, FORGET_SIGNER_MS]))
    def time_passes(self, ms: int) -> None:
        self.mono_ms += ms
        self.wall_ms += ms

    @rule(ms=st.sampled_from([-40_000, -5_000, 5_000, 40_000]))
    def the_wall_clock_steps(self, ms: int) -> None:
        if abs(self.wall_ms + ms - WALL_MS - self.mono_ms) < FORGET_SIGNER_MS - MAX_AGE_MS - MAX_AHEAD_MS:
            self.wall_ms += ms

    @invariant()
    def it_has_counted_every_one(self) -> None:
        if hasattr(self, "receiver"):
            assert self.receiver.accepted == self.counted
            assert len(self.receiver._windows) <= len(SIGNERS)


TestReceive = ReceiveMachine.TestCase
TestReceive.settings = MACHINES
