"""Greed: what a flooder keeps open at one worker, many good questions of one key.

The law: it does nothing that is not allowed; it only wants everything. At its end it lets go of all it has.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from llama_gossip.simulation.party import Party
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.wires import End, Wires

OPEN_AT_ONCE = 14  # more than all slots, and than an open network lets one key run and queue
ASKED_AT_ONCE = 6  # in one act
STOP_CODE = 1  # cancelled


class Greed:
    def __init__(self, party: Party, rng: random.Random, wires: Wires) -> None:
        self._party = party
        self._rng = rng
        self._wires = wires
        self._worker: Process | None = None
        self._ends: list[End] = []

    def ask(self, workers: list[Process], first_item: Callable[[Process], bytes]) -> None:
        """Fills up what the worker has answered or refused. first_item: one more Assign for it."""
        self._tidy()
        if self._worker not in workers:
            self._worker = self._rng.choice(workers) if workers else None
        for _ in range(min(ASKED_AT_ONCE, OPEN_AT_ONCE - len(self._ends))):
            if self._worker is not None:
                end = self._wires.open(self._party, self._worker)
                self._wires.write(end, first_item(self._worker))
                self._ends.append(end)

    def let_go(self) -> None:
        self._tidy()
        for end in self._ends:
            self._wires.reset(end, STOP_CODE)
        self._ends.clear()

    def _tidy(self) -> None:
        left = []
        for end in self._ends:
            if end.twin.ended and not end.ended:
                self._wires.finish(end)
            elif end.number in self._wires.ends and end.twin.owner.life == end.twin.life:
                left.append(end)
        self._ends = left


def priority_of(rng: random.Random, *, open_network: bool) -> int:
    """As urgent as it can be without keeping the others waiting for what they cannot stand."""
    return 9 if open_network else rng.choice((5, 6))
