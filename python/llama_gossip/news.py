"""News: what a node tells those who listen to it, for event logs and counters. Ids are lowercase hex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A peer is ready to serve, or a client; once a boot."""

    node_id: str
    name: str
    role: str
    state: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerDown:
    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RequestAccepted:
    """This node's worker took a request."""

    request_id: str
    requester: str
    model: str


@dataclass(frozen=True, slots=True)
class RequestEnded:
    request_id: str
    requester: str
    tokens: int
    reason: str


@dataclass(frozen=True, slots=True)
class RequestAsked:
    """This node's user asks. Exactly one RequestAnswered follows, whatever becomes of the request."""

    request_id: str
    model: str  # "": any that is offered


@dataclass(frozen=True, slots=True)
class RequestTaken:
    """A worker has begun with a request of this node's user; once an attempt."""

    request_id: str
    worker: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RequestFailedOver:
    """Another worker continues an answer that has begun; told before its first token."""

    request_id: str
    attempt: int  # the one that continues
    from_worker: str
    to_worker: str
    index: int  # of the first token behind the seam
    reason: str  # why the earlier attempt ended


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    """The end of a request that this node's user asked, told before its reader hears of it."""

    request_id: str
    model: str  # that answered; of a request without an answer the one that was asked for
    worker: str  # the last that accepted it, "": none did
    outcome: str  # stop | length | the error's code (cancelled, no_workers, ...)
    tokens: int  # that were handed out
    prompt_tokens: int  # 0 without an answer
    first_token_ms: float | None  # from the submit; None: no token came
    total_ms: float
    attempts: int
    failovers: int
    delivery: str  # direct | gossip, "": no worker accepted it


NodeEvent: TypeAlias = (
    PeerUp
    | PeerDown
    | RequestAccepted
    | RequestEnded
    | RequestAsked
    | RequestTaken
    | RequestFailedOver
    | RequestAnswered
)
