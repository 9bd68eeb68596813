"""Party: whoever has a place on the simulated network: a node with a core, or a stranger without one."""

from __future__ import annotations

from typing import Protocol

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import NodeId


class Party(Protocol):
    place: int  # its number in the network
    life: int  # changes with each start of its process; 0: there is none
    paused: bool

    @property
    def node_id(self) -> NodeId: ...
    def feed(self, event: ev.Event) -> None: ...
