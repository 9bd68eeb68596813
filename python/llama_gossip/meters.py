"""Meters: times that a node measures of itself, in seconds, beside what its core counts.

The law: a token costs one observation, and who reads the meters asks nothing of the node for it.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

from llama_gossip.histogram import WAIT_BOUNDS_S, Histogram

if TYPE_CHECKING:
    from llama_gossip.protocol.envelope import Verifier
    from llama_gossip.protocol.messages import NodeId

GAP_BOUNDS_S: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05),  # a GPU's steps, a small model's on a CPU
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0),  # slower than one reads; a failover
)
VERIFY_BOUNDS_S: Final = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01)


class Meters:
    """One a node."""

    def __init__(self) -> None:
        self.received_gaps_s = Histogram(GAP_BOUNDS_S)  # between the tokens of an answer that came here
        self.made_gaps_s = Histogram(GAP_BOUNDS_S)  # between those that this node's engines made
        self.queue_wait_s = Histogram(WAIT_BOUNDS_S)  # from a job's acceptance to its beginning
        self.verify_s = Histogram(VERIFY_BOUNDS_S)  # one signature

    def timed(self, verify: Verifier) -> Verifier:
        """The same verifier, and how long it takes is observed."""
        seen, clock = self.verify_s, time.perf_counter

        def timed_verify(node_id: NodeId, message: bytes, signature: bytes) -> bool:
            began_s = clock()
            good = verify(node_id, message, signature)
            seen.observe(clock() - began_s)
            return good

        return timed_verify


class Gaps:
    """Times between the tokens of one or of several answers. A batch's tokens share the time since the last
    one: as many gaps as tokens but the answer's first, which together are the time from that to the last."""

    __slots__ = ("_last_s", "_seen")

    def __init__(self, seen: Histogram) -> None:
        self._seen = seen
        self._last_s: dict[Hashable, float] = {}  # of an answer's newest token

    def tokens(self, answer: Hashable, count: int, now_s: float) -> None:
        """So many tokens of it have come now."""
        if not count:
            return
        last_s = self._last_s.get(answer)
        self._last_s[answer] = now_s
        if last_s is not None:
            self._seen.observe((now_s - last_s) / count, count)

    def over(self, answer: Hashable) -> None:
        """It brings no more. Harmless when repeated."""
        self._last_s.pop(answer, None)
