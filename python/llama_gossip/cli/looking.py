"""Looking around: joins for a moment, to see who is there. For `peers` and `ticket`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_gossip.news import NodeEvent
    from llama_gossip.node import InferenceNode
    from llama_gossip.peers import Peer

PATIENCE_S = 3.0  # after it a roster counts as complete: workers answer a newcomer within a second
QUIET_S = 1.0  # nobody new for so long, and somebody is there: that is all of them
WORKING = frozenset({"loading", "ready", "draining"})


async def look_around(node: InferenceNode) -> list[Peer]:
    """Joins and returns the peers that made themselves heard, workers first."""
    changed = asyncio.Event()

    def listen(_event: NodeEvent) -> None:
        changed.set()

    remove = node.add_listener(listen)
    try:
        await node.join()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + PATIENCE_S
        while (left_s := end_s - loop.time()) > 0:
            changed.clear()
            try:
                await asyncio.wait_for(changed.wait(), min(left_s, QUIET_S))
            except TimeoutError:
                if node.peers():
                    break
    finally:
        remove()
    return sorted(node.peers(), key=lambda peer: (peer.state not in WORKING, peer.name, peer.node_id))
