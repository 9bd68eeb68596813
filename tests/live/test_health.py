"""A node whose broadcasts reach nobody finds out and joins the topic anew, over the real iroh stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from llama_gossip import InferenceNode
from llama_gossip.protocol.mute import Mute
from llama_gossip.protocol.timers import Timers
from llama_gossip.transport import Transport

from .conftest import Spawn, eventually

pytestmark = pytest.mark.live

# A minute of the protocol in four seconds; more than one Announce a second is more than a signer may.
QUICK = replace(Timers(), announce_ms=1_200, mute_ms=4_000, rebuild_ms=4_000)


class Dropped:
    """The transport of one node; what it broadcasts gets lost in silence until the gossip is rebuilt."""

    def __init__(self, transport: Transport, heard: Callable[[], int]) -> None:
        """heard: the newest seq that another node knows."""
        self._transport = transport
        self._heard = heard
        self.lost = 0
        self.rebuilt = False
        self.heard_until_then = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def broadcast(self, data: bytes, *, urgent: bool) -> bool:
        if self.rebuilt:
            return self._transport.broadcast(data, urgent=urgent)
        self.lost += 1
        return True

    def rebuild_gossip(self) -> None:
        if not self.rebuilt:
            self.rebuilt, self.heard_until_then = True, self._heard()
        self._transport.rebuild_gossip()


def hurry(node: InferenceNode) -> None:
    """The timers of the protocol, shortened; in force from the next Announce on."""
    node._core._desk.timers = QUICK
    node._core._presence._health._mute = Mute(QUICK)
    node._core._presence.announce()
    for effect in node._core._desk.take_effects():
        node._driver.perform(effect)


async def test_a_node_that_nobody_hears_rebuilds_its_gossip_and_is_heard_again(
    spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    mute, *others = nodes = [await spawn(f"worker-{n}", engine="scripted") for n in range(3)]
    await eventually(lambda: all(len(node.peers()) == 2 for node in nodes), "all see all")
    for node in nodes:
        hurry(node)

    def newest(of: InferenceNode, at: InferenceNode) -> int:
        return next(p.announce.head.seq for i, p in at._core._roster.items() if i == of.node_id)

    assert mute._transport is not None
    last_sent = mute._core._desk.seq
    dropping = Dropped(mute._transport, lambda: newest(mute, others[0]))
    mute._driver.transport = dropping  # type: ignore[assignment]
    await eventually(lambda: mute.stats().get("gossip_rebuilds", 0) >= 1, "the node finds out")
    assert dropping.lost >= 4, "it went on to announce itself"
    assert dropping.heard_until_then <= last_sent, "nobody has heard it meanwhile"
    await eventually(
        lambda: all(newest(mute, other) > last_sent + 3 for other in others), "the others hear it again"
    )
    assert mute.stats()["rejoins"] >= 1, "the connections of the topic were really made anew"
    assert [m for m in caplog.messages if "nobody has named this node" in m]
    assert all("gossip_rebuilds" not in other.stats() for other in others)
    answer = await mute.complete("Hello", seed=1, worker=others[1].node_id)
    assert answer.verified
