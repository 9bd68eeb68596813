"""Call: one question to the topic ("who could serve this?") and the Claims that answer it.

The law: requests that ask the same share one call, so a hundred that wait cost one Request a round. A Claim
is taken only for what was asked, and a call keeps a bounded number of them for a bounded time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from llama_gossip.protocol.messages import Claim, NodeId, RequestId
from llama_gossip.protocol.request import Request

MAX_CALLS = 256  # different questions that are remembered: none of them costs more than its Claims
MAX_BIDS = 64  # Claims of one call: more workers than one request could try
MAX_IDS = 4  # of the newest Requests of a call: a Claim may be later than the next round


class Question(NamedTuple):
    """What a Request tells of a request, and what makes two of them one question.

    A public Request, which carries prompt and config, is a question of its own: its request id belongs here.
    """

    model: str
    prompt_tokens: int  # rounded up to a power of two: members learn no more of a prompt than its size
    max_tokens: int  # that a worker's context must have room for
    public: RequestId | None = None  # whose prompt it carries


@dataclass(frozen=True, slots=True)
class Bid:
    """A Claim as it was received."""

    claim: Claim
    received_mono_ms: int

    @property
    def order(self) -> tuple[int, int]:
        return (self.claim.head.boot, self.claim.head.seq)


@dataclass(slots=True)
class Call:
    number: int
    question: Question
    gap_ms: int  # from the end of one round to the next
    members: dict[RequestId, Request] = field(default_factory=dict)  # that wait for an answer
    ids: deque[RequestId] = field(default_factory=lambda: deque(maxlen=MAX_IDS))  # that its Requests bore
    is_open: bool = False  # Claims are gathered, and none is taken up yet
    closed_mono_ms: int | None = None  # the end of its newest round
    gathered: dict[NodeId, Bid] = field(default_factory=dict)
    bids: dict[NodeId, Bid] = field(default_factory=dict)  # of the rounds that are over

    def take(self, sender: NodeId, bid: Bid) -> bool:
        """False: it has no place, or the same worker has said something newer."""
        known = self.gathered.get(sender) or self.bids.get(sender)
        if known is None and len(self.gathered) + len(self.bids) >= MAX_BIDS:
            return False
        if known is not None and bid.order <= known.order:
            return False
        (self.gathered if self.is_open else self.bids)[sender] = bid
        return True

    def close(self, now_mono_ms: int) -> None:
        self.is_open = False
        self.closed_mono_ms = now_mono_ms
        self.bids.update(self.gathered)
        self.gathered.clear()

    def forget(self, sender: NodeId, order: tuple[int, int]) -> None:
        """What it claimed before `order`."""
        for bids in (self.gathered, self.bids):
            if sender in bids and bids[sender].order < order:
                del bids[sender]

    def expire(self, before_mono_ms: int) -> None:
        for sender in [s for s, bid in self.bids.items() if bid.received_mono_ms < before_mono_ms]:
            del self.bids[sender]


def question_of(request: Request) -> Question:
    config = request.submit.config
    tokens = max(request.prompt_tokens, request.least_context - config.needed, 1)
    public = request.request_id if request.public else None
    return Question(request.submit.model, 1 << (tokens - 1).bit_length(), config.needed, public)
