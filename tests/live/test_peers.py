"""What a node says of its peers that only its own connections can tell it."""

from __future__ import annotations

import pytest

from .conftest import Spawn, eventually

pytestmark = pytest.mark.live


async def test_a_peer_is_shown_with_the_path_and_round_trip_of_the_live_connection(spawn: Spawn) -> None:
    worker = await spawn("worker", engine="scripted")
    client = await spawn("client")
    await eventually(lambda: [p.path for p in client.peers()] == ["direct"], "the client is connected")
    (peer,) = client.peers()
    assert peer.node_id == worker.node_id.hex()
    assert peer.rtt_ms is not None
    assert 0 < peer.rtt_ms < 10_000


async def test_after_the_shutdown_the_last_peers_are_still_told_without_a_connection(spawn: Spawn) -> None:
    await spawn("worker", engine="scripted")
    client = await spawn("client")
    await eventually(lambda: [p.path for p in client.peers()] == ["direct"], "the client is connected")
    await client.shutdown()
    assert [(peer.name, peer.path, peer.rtt_ms) for peer in client.peers()] == [("worker", "", None)]
