"""Peers: the roster as users see it. Plain values, ready for JSON and data frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_gossip.protocol.roster import PeerView


@dataclass(frozen=True, slots=True)
class Peer:
    node_id: str  # 64 hex characters
    name: str
    role: str  # worker | client | hybrid
    state: str  # loading | ready | draining | client
    models: tuple[str, ...]
    device: str
    tokens_per_s: float  # one request alone, as announced
    queue_depth: int
    running: int
    max_concurrent: int
    memory_free: int  # bytes
    last_seen_s: float
    addresses: tuple[str, ...]
    version: str
    path: str  # direct | relayed, how this node is connected to it now; "": it is not
    rtt_ms: float | None  # of that connection


def feature(features: tuple[str, ...], prefix: str) -> str:
    """The rest of the first feature that begins with `prefix`; "" when there is none."""
    return next((name[len(prefix) :] for name in features if name.startswith(prefix)), "")


def peer_of(view: PeerView, link: tuple[str, float] | None) -> Peer:
    """link: path and round trip in ms of the live connection to it."""
    capacity = view.capacity
    path, rtt_ms = link if link is not None else ("", None)
    return Peer(
        node_id=view.node_id.hex(),
        name=view.name,
        role=feature(view.features, "role/"),
        state=view.state.name.lower(),
        models=tuple(offer.name for offer in capacity.models),
        device=capacity.device,
        tokens_per_s=capacity.tokens_per_s,
        queue_depth=capacity.queue_depth,
        running=capacity.current_load,
        max_concurrent=capacity.max_concurrent,
        memory_free=capacity.memory_free,
        last_seen_s=view.last_seen_ms / 1000,
        addresses=view.addresses,
        version=feature(view.features, "v/"),
        path=path,
        rtt_ms=rtt_ms,
    )
