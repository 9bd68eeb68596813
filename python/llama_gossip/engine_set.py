"""Engine set: the engines that a node serves with, one a model, which are one worker to the others.

The law: a job goes to the engine of its model and to no other, and what becomes of one engine is the matter
of its own jobs. What is announced of the node holds for each of its models (`together`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama_gossip.engine_bridge import EngineBridge
from llama_gossip.protocol import effects
from llama_gossip.protocol.messages import Capacity


class EngineSet:
    """At least one started bridge; model names are distinct."""

    def __init__(self, bridges: Sequence[EngineBridge]) -> None:
        self._bridges = {bridge.model: bridge for bridge in bridges}

    def __iter__(self) -> Iterator[EngineBridge]:
        return iter(self._bridges.values())

    def submit(self, start: effects.StartJob) -> bool:
        """False: none of the engines has this model (any more)."""
        bridge = self._bridges.get(start.model)
        if bridge is not None:
            bridge.submit(start)
        return bridge is not None

    def cancel(self, job: int) -> None:
        """An engine ignores what it does not have, and job numbers are the node's."""
        for bridge in self:
            bridge.cancel(job)

    def capacity(self) -> Capacity:
        return together([bridge.capacity() for bridge in self])


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
