"""Address book: kept between runs, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_gossip import address_book
from llama_gossip.identity import node_id_of
from llama_gossip.protocol.messages import NodeId

ENTRIES = [(node_id_of(bytes([n]) * 32), (f"127.0.0.1:{4000 + n}",)) for n in range(100)]


def test_what_is_written_is_read_again_up_to_its_bound(tmp_path: Path) -> None:
    book = tmp_path / "deep" / "book.json"
    address_book.write(book, ENTRIES)
    assert address_book.read(book) == ENTRIES[: address_book.MAX_PEERS]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"peers": 3}', b'{"peers": [1, {"node_id": 5}]}', b"\xff", b"[" * 100_000]
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


def test_an_id_that_is_no_key_is_passed_over_and_its_neighbours_kept(tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    address_book.write(path, [ENTRIES[0], (NodeId(b"\x02" * 32), ("127.0.0.1:1",)), ENTRIES[1]])
    assert address_book.read(path) == ENTRIES[:2]


def test_a_book_begins_with_who_was_seen_and_forgets_nobody_and_never_holds_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    book = address_book.Book(path, ENTRIES[0][0])
    book.read([ENTRIES[0], ENTRIES[1], ENTRIES[2]])
    assert book.entries == ENTRIES[1:3]
    moved = (ENTRIES[2][0], ("127.0.0.1:9",))
    book.write([moved])
    assert address_book.read(path) == [moved, ENTRIES[1]]
    again = address_book.Book(path, ENTRIES[0][0])
    again.read([ENTRIES[2]])  # a ticket's addresses are newer than the file's
    assert dict(again.entries) == dict(ENTRIES[1:3])
