"""Nodes that are closed at the end of their test, whatever happened in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from helpers import Peer, full_mesh, until


@pytest.fixture
def make() -> Iterator[Callable[..., Peer]]:
    """Makes a bound node; options as those of `_native.Node`."""
    peers: list[Peer] = []

    def build(**options: Any) -> Peer:
        peer = Peer(**options)
        peers.append(peer)
        return peer.bind()

    yield build
    for peer in peers:
        peer.node.close()
    until(lambda: all(peer.node.fileno() == -1 for peer in peers), *peers)


@pytest.fixture
def mesh(make: Callable[..., Peer]) -> Callable[..., list[Peer]]:
    """Makes `count` nodes that have all joined and are all neighbours."""

    def build(count: int, **options: Any) -> list[Peer]:
        peers: list[Peer] = []
        for _ in range(count):
            peer = make(**options)
            peer.join([other.contact for other in peers])
            peers.append(peer)
        full_mesh(*peers)
        return peers

    return build
