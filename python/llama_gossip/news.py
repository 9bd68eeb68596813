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


NodeEvent: TypeAlias = PeerUp | PeerDown | RequestAccepted | RequestEnded
