"""Parts that all machines share: keys, clocks, what a worker says of itself, and the driver's contract.

Signatures are the simulation's keyed hash: these machines look for orders of events, not for forged curves.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.messages import (
    Announce,
    Capacity,
    EnvelopeMessage,
    ModelOffer,
    NodeState,
    NumericsClass,
    PromptFacts,
)
from llama_gossip.simulation import guards
from llama_gossip.simulation.answers import WEIGHTS, WholeAnswer
from llama_gossip.simulation.load import CANARY
from llama_gossip.simulation.machine import CONTEXT, MODEL, NUMERICS
from llama_gossip.simulation.oracles import Oracles
from llama_gossip.simulation.signing import HashSigner, verify_hash
from tests.protocol.fakewire import NET_ID, WALL_MS

DATE = "2026-11-24"
START_MS = 1_000
T = TypeVar("T")


def key(name: str) -> HashSigner:
    return HashSigner(blake2b(name.encode(), digest_size=32).digest())


def picked(things: Sequence[T], pick: int) -> T:
    return things[pick % len(things)]


def capacity(slots: int = 2) -> Capacity:
    offer = ModelOffer(MODEL, WEIGHTS, CONTEXT, "none", NUMERICS, NumericsClass.EXACT)
    return Capacity("machine", "cpu", (offer,), slots, 0, 0, 0, 100.0, 1 << 30)


def facts(answer: WholeAnswer) -> PromptFacts:
    return PromptFacts(answer.prompt_tokens, answer.prompt_digest, WEIGHTS, NUMERICS, NumericsClass.EXACT)


def announce(boot: int, seq: int, ts: int, state: NodeState = NodeState.READY, **changes: Any) -> Announce:
    from llama_gossip.protocol.messages import Head

    told = capacity() if state is NodeState.READY else capacity(0)
    base = {"capacity": told, "features": ("role/worker",), "heard": ()} | changes
    return Announce(
        head=Head(boot, seq, ts),
        node_name="hand",
        state=state,
        prekey=bytes(32),
        addresses=("127.0.0.1:1",),
        ttl_ms=45_000,
        **base,
    )


def new_core(signer: HashSigner, name: str, boot: int, seed: int = 1, **options: Any) -> Core:
    return Core(
        signer=signer,
        net_id=NET_ID,
        boot=boot,
        node_name=name,
        rng=random.Random(f"{seed}/{name}/{boot}"),
        verify=verify_hash,
        version="0.1.0",
        **options,
    )


def signed(message: EnvelopeMessage, signer: HashSigner) -> bytes:
    return sign_envelope(message, signer, NET_ID)


def no_violation(oracles: Oracles) -> None:
    assert not oracles.violations, "\n".join(str(found) for found in oracles.violations)


class Clocked:
    """A core under the driver's contract: it is woken when it has asked for it, and not by anything else."""

    def __init__(self, core: Core, oracles: Oracles, now_ms: int = START_MS) -> None:
        self.core = core
        self.oracles = oracles
        self.now_ms = now_ms
        self.wake_at: int | None = None

    def handle(self, event: ev.Event) -> list[ef.Effect]:
        effects = self.core.handle(event, ev.Now(self.now_ms, WALL_MS + self.now_ms))
        for effect in effects:
            if isinstance(effect, ef.Wake):
                self.wake_at = effect.at_mono_ms
            elif isinstance(effect, ef.Broadcast):
                self._broadcast(effect.data)
        return effects

    def _broadcast(self, data: bytes) -> None:
        assert CANARY.encode() not in data, "I13: a prompt on the topic"
        assert not (wrong := guards.reencodes(data)), f"I15: {wrong}"
        if data[2] == 1:
            self.oracles.announced(self.core._desk.own_id, 1, self.now_ms)

    def ticks_until(self, end_ms: int) -> int | None:
        """The moment of the next Tick up to then, or None when time has come to it without one."""
        if self.wake_at is None or self.wake_at > end_ms:
            self.now_ms = max(self.now_ms, end_ms)
            return None
        self.now_ms, self.wake_at = max(self.now_ms, self.wake_at), None
        return self.now_ms

    def check(self) -> None:
        """What holds after every event."""
        no_violation(self.oracles)
        assert not (found := guards.overfull(self.core)), f"I8: {found}"
        due = self.core._desk.agenda.earliest()
        assert due is None or (self.wake_at is not None and self.wake_at <= due), "a timer without a Wake"
