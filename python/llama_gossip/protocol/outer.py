"""A cursor over the few bytes that are read before a signature is checked: outer arrays and heads.

The outer array must be in msgpack's shortest form (one message, one encoding); heads inside a payload may
have any width. Every method raises only ProtocolError. It meets every byte that a stranger sends, so a step
of it reads what it needs where it stands.
"""

from __future__ import annotations

from llama_gossip.protocol.structure import malformed

_UINT_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_INT_BYTES = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_BIN_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAY_LENGTH_BYTES = {0xDC: 2, 0xDD: 4}


class OuterArray:
    """Reads one array from its first byte on."""

    __slots__ = ("_data", "_position")

    def __init__(
        self, data: bytes, *, elements: int = 0, shortest: bool = True, least: int = 0, most: int = 0
    ) -> None:
        """Exactly `elements` (< 16) in the shortest form, or (not shortest) between `least` and `most`."""
        self._data = data
        self._position = 1
        if shortest:
            if not data or data[0] != 0x90 | elements:
                raise malformed(f"no array of exactly {elements}")
        elif not least <= self._any_length() <= most:
            raise malformed(f"an array of fewer than {least} or more than {most}")

    def _any_length(self) -> int:
        first = self._data[0] if self._data else 0
        if 0x90 <= first < 0xA0:
            return first & 0x0F
        size = _ARRAY_LENGTH_BYTES.get(first)
        if size is None:
            raise malformed("no array")
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> bytes:
        start = self._position
        self._position = end = start + size
        if end > len(self._data):
            raise malformed("truncated")
        return self._data[start:end]

    def _first(self) -> int:
        """The first byte of the next element."""
        position = self._position
        if position >= len(self._data):
            raise malformed("truncated")
        self._position = position + 1
        return self._data[position]

    def uint8(self) -> int:
        """0-255 in the shortest form."""
        value = self._first()
        if value < 0x80:
            return value
        if value != 0xCC:
            raise malformed("a number over 255, or not in its shortest form")
        value = self._first()
        if value < 0x80:
            raise malformed("a number that is not in its shortest form")
        return value

    def uint(self) -> int:
        """A u64 of any width."""
        first = self._first()
        if first < 0x80:
            return first
        if size := _UINT_BYTES.get(first):
            return int.from_bytes(self._take(size), "big")
        if size := _INT_BYTES.get(first):
            value = int.from_bytes(self._take(size), "big", signed=True)
            if value >= 0:
                return value
        raise malformed("expected a u64")

    def binary(self) -> bytes:
        """bin in the shortest form."""
        data, position = self._data, self._position
        size = _BIN_LENGTH_BYTES.get(self._first())
        if size is None:
            raise malformed("expected bytes")
        start = position + 1 + size
        length = int.from_bytes(data[position + 1 : start], "big")
        if size > 1 and length < 1 << (4 * size):  # it would have fitted half the width
            raise malformed("a length that is not in its shortest form")
        self._position = end = start + length
        if end > len(data):
            raise malformed("truncated")
        return data[start:end]

    def end(self) -> None:
        if self._position != len(self._data):
            raise malformed("bytes after the array")
