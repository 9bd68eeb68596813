"""Inbound: a stream that a peer has opened to this node, before and after it has brought its Assign."""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_gossip.protocol.frames import ItemSplitter
from llama_gossip.protocol.job import Job
from llama_gossip.protocol.messages import NodeId


@dataclass(slots=True)
class Inbound:
    stream: int
    remote: NodeId  # proven by the handshake
    splitter: ItemSplitter = field(default_factory=ItemSplitter)
    job: Job | None = None
    refused: bool = False  # a Reject is written; only the peer's end is awaited
