"""Desk: what all machines of one core share while they handle one event.

The law: machines speak to the world only by `emit`, read time only from `now`, take chance only from `rng`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from llama_gossip.protocol.agenda import Agenda, TimerKey
from llama_gossip.protocol.effects import Effect, FinishStream, ResetStream, TrustStream, WriteStream
from llama_gossip.protocol.envelope import Signer, Verifier
from llama_gossip.protocol.events import Now
from llama_gossip.protocol.messages import Head, NodeId
from llama_gossip.protocol.streams import is_virtual
from llama_gossip.protocol.timers import Timers

StreamEffect: TypeAlias = WriteStream | FinishStream | ResetStream | TrustStream
_STREAM_EFFECTS = (WriteStream, FinishStream, ResetStream, TrustStream)  # a tuple is asked much faster


class Desk:
    def __init__(
        self,
        *,
        signer: Signer,
        verify: Verifier,
        net_id: bytes,
        boot: int,
        rng: random.Random,
        timers: Timers,
    ) -> None:
        self.signer = signer
        self.verify = verify
        self.own_id: NodeId = signer.node_id
        self.net_id = net_id
        self.boot = boot
        self.rng = rng
        self.timers = timers
        self.agenda = Agenda()
        self.counters: Counter[str] = Counter()
        self.now = Now(mono_ms=0, wall_ms=0)
        self.tunnel: Callable[[StreamEffect], None] | None = None  # takes what is written to virtual streams
        self._effects: list[Effect] = []
        self._seq = 0

    @property
    def seq(self) -> int:
        """Of the newest envelope that this node signed."""
        return self._seq

    def head(self) -> Head:
        self._seq += 1
        return Head(boot=self.boot, seq=self._seq, ts=self.now.wall_ms)

    def emit(self, effect: Effect) -> None:
        if isinstance(effect, _STREAM_EFFECTS) and is_virtual(effect.stream):
            assert self.tunnel is not None  # it has made the stream
            self.tunnel(effect)
        else:
            self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] += by

    def after(self, key: TimerKey, delay_ms: int) -> None:
        self.agenda.set(key, self.now.mono_ms + delay_ms)
