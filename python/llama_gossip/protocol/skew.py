"""How far this node's clock is from the others': the median of one sample a signer.

A sample is taken from every envelope with a good signature, before its ts is judged: a node whose clock is
off by an hour accepts nothing, and this is how it learns why nobody hears it either.
"""

from __future__ import annotations

from collections import OrderedDict

from llama_gossip.protocol.limits import FORGET_SIGNER_MS, MAX_SKEW_SAMPLES
from llama_gossip.protocol.messages import NodeId


class ClockSkew:
    def __init__(self, most: int = MAX_SKEW_SAMPLES) -> None:
        self._most = most
        self._samples: OrderedDict[NodeId, tuple[int, int]] = OrderedDict()  # (ms, mono_ms), oldest first

    def add(self, signer: NodeId, skew_ms: int, mono_ms: int) -> None:
        """The newest sample of a signer replaces its earlier one. Newcomers never push others out."""
        while self._samples:
            oldest, (_, taken) = next(iter(self._samples.items()))
            if mono_ms - taken < FORGET_SIGNER_MS:
                break
            del self._samples[oldest]
        if signer in self._samples or len(self._samples) < self._most:
            self._samples[signer] = skew_ms, mono_ms
            self._samples.move_to_end(signer)

    def __len__(self) -> int:
        return len(self._samples)

    def median_ms(self) -> int:
        """Their clocks minus ours; 0 while nobody was heard."""
        ordered = sorted(skew for skew, _ in self._samples.values())
        return ordered[(len(ordered) - 1) // 2] if ordered else 0
