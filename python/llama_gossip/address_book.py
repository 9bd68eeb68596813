"""Address book: the peers of a network that this node has met, kept for its next start.

One small JSON file a network. It holds no secret; a broken file is an empty book, never an error.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from nacl.bindings import crypto_core_ed25519_is_valid_point

from llama_gossip.protocol.messages import NodeId

MAX_PEERS = 64  # more bootstrap dials than a start can use
MAX_FILE_BYTES = 256 * 1024

Entry = tuple[NodeId, tuple[str, ...]]


def read(path: Path) -> list[Entry]:
    """Entries of the book; [] when there is none or it cannot be understood."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_FILE_BYTES))
        return [entry for item in found["peers"][:MAX_PEERS] if (entry := _entry(item)) is not None]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _entry(item: object) -> Entry | None:
    match item:
        case {"node_id": str(text), "addresses": list(addresses)} if len(text) == 64:
            key = bytes.fromhex(text)
            if not crypto_core_ed25519_is_valid_point(key):  # the network layer would refuse to start with it
                return None
            return NodeId(key), tuple(a for a in addresses if isinstance(a, str))[:8]
        case _:
            return None


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Replaces the book atomically. A full disk loses the book, not the node: the error is swallowed here."""
    peers = [{"node_id": i.hex(), "addresses": list(a)} for i, a in list(entries)[:MAX_PEERS]]
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"peers": peers}), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class Book:
    """What one node keeps: whom earlier runs met, and the peers of its tickets."""

    def __init__(self, path: Path, own_id: NodeId) -> None:
        self.entries: list[Entry] = []
        self._path = path
        self._own_id = own_id

    def read(self, fresh: Iterable[Entry]) -> None:
        """fresh: peers whose addresses are newer than the file's."""
        book = {**dict(read(self._path)), **dict(fresh)}
        book.pop(self._own_id, None)
        self.entries = list(book.items())

    def write(self, seen: Iterable[Entry]) -> None:
        """Who was seen first; what an earlier run knew stays behind them."""
        met = dict(seen)
        write(self._path, [*met.items(), *(entry for entry in self.entries if entry[0] not in met)])
