"""The shape of a payload, checked before msgpack builds anything from it.

msgpack allocates an array when it reads the array's header, so a few nested headers of five bytes could ask
for gigabytes: the walk below proves first that every announced element is there, that nothing is nested too
deep, that no map and no extension type occurs, and that nothing follows the value.
"""

from __future__ import annotations

import re

import msgpack  # type: ignore[import-untyped]  # the one module that touches it

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.limits import MAX_DEPTH

_VARIABLE, _ARRAY, _FORBIDDEN = -1, -2, 0


def _sizes() -> tuple[int, ...]:
    """Bytes of the element that begins with each first byte, or one of the three marks."""
    table = [_FORBIDDEN] * 256  # maps, extension types and the unused c1 stay forbidden
    for byte in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
        table[byte] = 1  # small integers, nil, false, true
    for byte in range(0xA0, 0xC0):
        table[byte] = 1 + (byte & 0x1F)  # short strings
    for byte, size in {0xCC: 2, 0xD0: 2, 0xCD: 3, 0xD1: 3, 0xCE: 5, 0xD2: 5, 0xCF: 9, 0xD3: 9}.items():
        table[byte] = size  # integers
    table[0xCA], table[0xCB] = 5, 9  # float32, float64
    for byte in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):
        table[byte] = _VARIABLE  # bin and str with a length of 1, 2 or 4 bytes
    for byte in (*range(0x90, 0xA0), 0xDC, 0xDD):
        table[byte] = _ARRAY
    return tuple(table)


_SIZES = _sizes()
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4}

# A prompt may be 262 144 ids long. Runs of unsigned integers are walked by the regex engine, not by Python:
# 5 ms instead of 50 for a frame that a stranger can send.
_RUN = 64
_INT_RUN = re.compile(rb"(?:[\x00-\x7f]|\xcd..|\xce....|\xcc.){%d}" % _RUN, re.DOTALL)


def malformed(what: str) -> ProtocolError:
    return ProtocolError(f"malformed message: {what}", code="malformed")


def pack(value: tuple[object, ...]) -> bytes:
    """Minimal msgpack: shortest integers and lengths, str and bin kept apart, floats always 64 bit."""
    packed: bytes = msgpack.packb(value, use_bin_type=True, use_single_float=False)
    return packed


def unpack_payload(payload: bytes, max_array: int, max_depth: int = MAX_DEPTH) -> tuple[object, ...]:
    """The payload's array, arrays as tuples. Raises only ProtocolError, and never allocates more than the
    payload's own size calls for. No array in it is longer than `max_array`."""
    if not payload or _SIZES[payload[0]] != _ARRAY:
        raise malformed("the payload is no array")
    check_structure(payload, max_array, max_depth)
    try:
        value: tuple[object, ...] = msgpack.unpackb(
            payload,
            use_list=False,
            raw=False,
            strict_map_key=True,
            max_array_len=max_array,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=len(payload),
            max_bin_len=len(payload),
        )
    except (ValueError, msgpack.UnpackException) as error:  # not UTF-8; the rest was checked above
        raise malformed("a text is not UTF-8") from error
    return value


def check_structure(data: bytes, max_array: int, max_depth: int = MAX_DEPTH) -> None:
    """Raises ProtocolError unless `data` is exactly one msgpack value within the limits."""
    try:
        end = _end_of_value(data, max_array, max_depth)
    except IndexError:  # an element, or the length of one, begins behind the end
        raise malformed("truncated") from None
    if end != len(data):
        raise malformed("truncated" if end > len(data) else "bytes after the value")


def _end_of_value(data: bytes, max_array: int, max_depth: int) -> int:
    """Where the value ends that begins `data`: behind the end of it where the last element is cut."""
    position = 0
    left = 1  # elements still to come in the innermost open array
    outer: list[int] = []  # the same of the arrays around it
    while True:
        while left:
            left -= 1
            byte = data[position]
            size = _SIZES[byte]
            if size > 0:
                position += size
            elif size == _VARIABLE:
                start = position + 1
                body = start + _LENGTH_BYTES[byte]
                position = body + int.from_bytes(data[start:body], "big")
            elif size == _ARRAY:
                outer.append(left)
                left, position = _array_header(data, position)
                if left > max_array:
                    raise malformed(f"an array of {left} elements")
                if len(outer) > max_depth:
                    raise malformed(f"nested deeper than {max_depth}")
                while left >= _RUN and (run := _INT_RUN.match(data, position)):
                    left -= _RUN
                    position = run.end()
            else:
                raise malformed("a map or an extension type")
        if not outer:
            return position
        left = outer.pop()


def _array_header(data: bytes, position: int) -> tuple[int, int]:
    """(number of elements, position of the first)."""
    byte = data[position]
    start = position + 1
    if byte < 0xA0:
        return byte & 0x0F, start
    body = start + _LENGTH_BYTES[byte]
    return int.from_bytes(data[start:body], "big"), body
