"""Body: the items of one Packet, before it is sealed.

    (u32 BE length ‖ item)… ‖ 00 00 00 00 ‖ the fewest zeros to a multiple of 256 B

The law: one list of items, one body. Whatever is padded otherwise was not made by an honest sender.
"""

from __future__ import annotations

from collections.abc import Iterable

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.frames import prefixed
from llama_gossip.protocol.limits import (
    LENGTH_PREFIX_BYTES,
    MAX_BODY_BYTES,
    MAX_GOSSIP_ITEM_BYTES,
    PAD_BYTES,
)

ROOM_BYTES = MAX_BODY_BYTES - LENGTH_PREFIX_BYTES  # for items with their prefixes
_END = bytes(LENGTH_PREFIX_BYTES)


def pack_items(items: Iterable[bytes]) -> bytes:
    """The items, without their prefixes, as a body."""
    body = b"".join(map(prefixed, items)) + _END
    return body + bytes(-len(body) % PAD_BYTES)


def unpack_items(body: bytes) -> list[bytes]:
    """Raises only ProtocolError, code body."""
    if not body or len(body) > MAX_BODY_BYTES or len(body) % PAD_BYTES:
        raise _wrong(f"a body of {len(body)} bytes")
    items: list[bytes] = []
    position = 0
    while True:
        start = position + LENGTH_PREFIX_BYTES
        length = int.from_bytes(body[position:start], "big")
        position = start + length
        if start > len(body) or length > MAX_GOSSIP_ITEM_BYTES or position > len(body):
            raise _wrong("an item that is longer than its body")
        if length == 0:
            break
        items.append(body[start:position])
    if any(body[position:]) or len(body) - position >= PAD_BYTES:
        raise _wrong("padding that is not the fewest zeros")
    if not items:
        raise _wrong("a body without items")
    return items


def _wrong(what: str) -> ProtocolError:
    return ProtocolError(what, code="body")
