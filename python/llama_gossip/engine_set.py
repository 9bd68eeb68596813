"""Engine set: the engines that a node serves with, one a model, which are one worker to the others.

The law: a job goes to the engine of its model and to no other, and what becomes of one engine is the matter
of its own jobs. What is announced of the node holds for each of its models (`together`). An engine that
cannot take jobs is not offered; while none can and one is started again, the node is announced as loading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import assert_never

from llama_gossip.engine.base import EngineState
from llama_gossip.engine_bridge import EngineBridge
from llama_gossip.protocol import effects, events
from llama_gossip.protocol.messages import Capacity


class EngineSet:
    """At least one started bridge; model names are distinct."""

    def __init__(self, bridges: Sequence[EngineBridge], feed: Callable[[events.Event], None]) -> None:
        self._bridges = {bridge.model: bridge for bridge in bridges}
        self._feed = feed
        self._offered: list[EngineState] | None = None  # each engine's, as the core knows it

    def __iter__(self) -> Iterator[EngineBridge]:
        return iter(self._bridges.values())

    def perform(
        self, effect: effects.StartJob | effects.CancelJob | effects.ParkJob | effects.UnparkJob
    ) -> bool:
        """False: none of the engines has the job's model (any more). What an engine does not have it ignores,
        and job numbers are the node's: all are told the rest."""
        match effect:
            case effects.StartJob():
                bridge = self._bridges.get(effect.model)
                if bridge is not None:
                    bridge.submit(effect)
                return bridge is not None
            case effects.CancelJob(job):
                for bridge in self:
                    bridge.cancel(job)
            case effects.ParkJob(job):
                for bridge in self:
                    bridge.park(job)
            case effects.UnparkJob(job):
                for bridge in self:
                    bridge.unpark(job)
            case _:
                assert_never(effect)
        return True

    def capacity(self) -> Capacity | None:
        """Of those that take jobs; None: none does."""
        ready = [bridge.capacity() for bridge in self if bridge.state() is EngineState.READY]
        return together(ready) if ready else None

    def offer(self) -> None:
        """Tells the core what the node can offer now."""
        self._offered = [bridge.state() for bridge in self]
        capacity = self.capacity()
        loading = capacity is None and EngineState.LOADING in self._offered
        self._feed(events.EngineChanged(capacity, loading=loading))

    def look(self) -> None:
        """The same, if an engine has ceased to take jobs or takes them again."""
        if self._offered is not None and self._offered != [bridge.state() for bridge in self]:
            self.offer()


def together(parts: Sequence[Capacity]) -> Capacity:
    """What a node announces that serves all of these, in their order.

    max_concurrent: the least. Slots are the node's: a job may be for any model, so each engine must have room
    for as many as start at once, and a sum would promise what one model cannot hold.
    tokens_per_s: of the slowest whose speed is known. Requesters go by it until they have measured the worker
    themselves; too much draws them to a model that is slow here, too little costs a share of the first asks.
    memory_free: the least, for it is where the next request may be refused. backend, device: each word once.
    """
    return Capacity(
        backend=_words(part.backend for part in parts),
        device=_words(part.device for part in parts),
        models=tuple(offer for part in parts for offer in part.models),
        max_concurrent=min(part.max_concurrent for part in parts),
        current_load=sum(part.current_load for part in parts),
        queue_depth=sum(part.queue_depth for part in parts),
        queue_ms=max(part.queue_ms for part in parts),
        tokens_per_s=min((part.tokens_per_s for part in parts if part.tokens_per_s), default=0.0),
        memory_free=min((part.memory_free for part in parts if part.memory_free), default=0),
    )


def _words(words: Iterator[str]) -> str:
    return " + ".join(dict.fromkeys(words))
