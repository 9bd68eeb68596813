"""One reader for each field type of the wire: it returns the value, typed, or raises ProtocolError.

Types are exact: no bool passes for a number, no integer for a float, no NaN or infinity at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from math import isfinite
from typing import TypeVar

from llama_gossip.protocol.limits import (
    CONVERSATION_MARK_BYTES,
    DIGEST_BYTES,
    KEY_BYTES,
    MAX_ARRAY,
    MAX_PRIORITY,
    MAX_U32,
    MAX_U64,
    REQUEST_ID_BYTES,
)
from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.protocol.structure import malformed

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)

_DATE = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])")


def u64(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_U64:
        raise malformed("expected a u64")
    return value


def u32(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_U32:
        raise malformed("expected a u32")
    return value


def up_to(most: int, value: object) -> int:
    number = u64(value)
    if number > most:
        raise malformed(f"a number over {most}")
    return number


def priority(value: object) -> int:
    return up_to(MAX_PRIORITY, value)


def attempt(value: object) -> int:
    number = u32(value)
    if number == 0:
        raise malformed("attempts count from 1")
    return number


def f64(value: object) -> float:
    if type(value) is not float or not isfinite(value):
        raise malformed("expected a finite float")
    return value


def flag(value: object) -> bool:
    if type(value) is not bool:
        raise malformed("expected a bool")
    return value


def text(value: object) -> str:
    if type(value) is not str:
        raise malformed("expected a text")
    return value


def short_text(most_bytes: int, value: object) -> str:
    string = text(value)
    if len(string) > most_bytes or len(string.encode("utf-8")) > most_bytes:
        raise malformed(f"a text over {most_bytes} bytes")
    return string


def ascii_text(most_bytes: int, value: object) -> str:
    string = short_text(most_bytes, value)
    if not string.isascii():
        raise malformed("a name that is not ASCII")
    return string


def date(value: object) -> str:
    """Only its form: it goes into the model's chat template as it is."""
    string = text(value)
    if _DATE.fullmatch(string) is None:
        raise malformed("a date that is not YYYY-MM-DD")
    return string


def binary(size: int, value: object) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise malformed(f"expected {size} bytes")
    return value


def any_binary(value: object) -> bytes:
    if type(value) is not bytes:
        raise malformed("expected bytes")
    return value


def key(value: object) -> bytes:
    return binary(KEY_BYTES, value)


def node_id(value: object) -> NodeId:
    if type(value) is not bytes or len(value) != KEY_BYTES:
        raise malformed(f"expected {KEY_BYTES} bytes")
    return NodeId(value)


def request_id(value: object) -> RequestId:
    return RequestId(binary(REQUEST_ID_BYTES, value))


def digest(value: object) -> bytes:
    return binary(DIGEST_BYTES, value)


def mark(value: object) -> bytes:
    return binary(CONVERSATION_MARK_BYTES, value)


def optional(read: Callable[[object], T], value: object) -> T | None:
    return None if value is None else read(value)


def enum(kind: type[E], value: object) -> E:
    if type(value) is not int:
        raise malformed(f"expected a {kind.__name__}")
    member: E | None = _members(kind).get(value)
    if member is None:
        raise malformed(f"{value} is no {kind.__name__}")
    return member


@cache
def _members(kind: type[E]) -> dict[int, E]:
    """By value: a dict finds one several times faster than a call of the enumeration."""
    return {int(member): member for member in kind}


def array(value: object, most: int = MAX_ARRAY) -> tuple[object, ...]:
    if type(value) is not tuple:
        raise malformed("expected an array")
    if len(value) > most:
        raise malformed(f"an array of more than {most} elements")
    return value


def array_of(read: Callable[[object], T], value: object, most: int = MAX_ARRAY) -> tuple[T, ...]:
    return tuple(map(read, array(value, most)))


def group(value: object, listed: int) -> tuple[object, ...]:
    """A group of fields: all listed ones must be there; later versions may have added more at its tail."""
    fields = array(value)
    count = len(fields)
    if count < listed:
        raise malformed(f"{count} fields where {listed} are listed")
    if count > listed:
        for extra in fields[listed:]:
            _check_extra(extra)
    return fields


def token_ids(value: object, most: int) -> tuple[int, ...]:
    """Checked in bulk: a prompt may have hundreds of thousands."""
    ids = array(value, most)
    if not ids:
        return ()
    if len(ids) == 1:
        return (u32(ids[0]),)
    if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > MAX_U32:  # type: ignore[type-var, operator]
        raise malformed("token ids must be u32")
    return ids  # type: ignore[return-value]  # every element was just seen to be an int


def _check_extra(value: object) -> None:
    """What we do not know keeps the same type limits. Depth, maps and extensions were ruled out before."""
    if type(value) is float:
        f64(value)
    elif type(value) is tuple:
        for element in array(value):
            _check_extra(element)
