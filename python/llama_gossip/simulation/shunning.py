"""Shunning: whoever has just been caught at a fault is not asked while somebody else is there (I9).

The law: it speaks only where nothing but the cooldown can have decided: the other worker is well, was heard,
has never failed this requester, and is neither dialled nor at work for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_gossip.protocol.messages import NodeId, NodeState
from llama_gossip.protocol.streams import StreamCode
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.wires import End

if TYPE_CHECKING:
    from llama_gossip.simulation.world import World

COOLDOWN_MS = 15_000  # of the first fault; later ones cost more


class Shunning:
    def __init__(self, world: World) -> None:
        self._world = world
        self._faults: dict[tuple[int, int, NodeId], tuple[int, int]] = {}  # → (when, the worker's life)

    def was_reset(self, end: End, code: int) -> None:
        """By its requester, for what the worker has sent."""
        if end.opener and code == StreamCode.PROTOCOL:
            key = (end.owner.place, end.owner.life, end.twin.owner.node_id)
            self._faults[key] = (self._world.clock.now_ms, end.twin.owner.life)

    def dialled(self, node: Process, worker: NodeId, dials: Mapping[tuple[int, int, int], NodeId]) -> None:
        """dials: of all nodes, that are under way."""
        caught_ms, life = self._faults.get((node.place, node.life, worker), (-COOLDOWN_MS, 0))
        target, now_ms = self._world.by_id.get(worker), self._world.clock.now_ms
        if now_ms - caught_ms >= COOLDOWN_MS or target is None or target.life != life:
            return
        busy = {to for (place, _, _), to in dials.items() if place == node.place} | self._at_work_for(node)
        for other in self._world.workers:
            if other is not target and other.node_id not in busy and self._is_spotless(node, other):
                what = f"{node.name} asks {target.name} {now_ms - caught_ms} ms after a fault"
                self._world.oracles.blame("I9", now_ms, f"{what}, and {other.name} is there")
                return

    def _is_spotless(self, node: Process, other: Process) -> bool:
        machine, now_ms = other.machine, self._world.clock.now_ms
        if machine is None or machine.crowded or (node.place, node.life, other.node_id) in self._faults:
            return False
        if (node.place, other.place) in self._world.witness.failed_at:
            return False
        return self._is_known_as_ready(node, other) and self._world.witness.could_serve(node, other, now_ms)

    @staticmethod
    def _is_known_as_ready(node: Process, other: Process) -> bool:
        """The Announce that says so may have been lost."""
        peer = None if node.core is None else node.core._roster.get(other.node_id)
        return peer is not None and peer.announce.state is NodeState.READY

    def _at_work_for(self, node: Process) -> set[NodeId]:
        stories = self._world.oracles.stories.values()
        open_ones = [story for story in stories if story.requester == node.node_id and not story.over]
        return {assign.worker for story in open_ones for assign in story.assigns.values()}
