"""Address book: kept between runs, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_gossip import address_book
from llama_gossip.protocol.messages import NodeId

ENTRIES = [(NodeId(bytes([n]) * 32), (f"127.0.0.1:{4000 + n}",)) for n in range(100)]


def test_what_is_written_is_read_again_up_to_its_bound(tmp_path: Path) -> None:
    book = tmp_path / "deep" / "book.json"
    address_book.write(book, ENTRIES)
    assert address_book.read(book) == ENTRIES[: address_book.MAX_PEERS]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"peers": 3}', b'{"peers": [1, {"node_id": 5}]}', b"\xff"]
)
def test_a_broken_book_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    book = tmp_path / "book.json"
    book.write_bytes(content)
    assert address_book.read(book) == []


def test_a_missing_book_is_an_empty_one(tmp_path: Path) -> None:
    assert address_book.read(tmp_path / "none") == []


def test_a_folder_that_cannot_be_written_costs_only_the_book(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    address_book.write(blocked / "book.json", ENTRIES)
    assert list(tmp_path.iterdir()) == [blocked]
