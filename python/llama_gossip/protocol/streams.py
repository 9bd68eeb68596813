"""Streams: why one side abandons one (PROTOCOL section 5), and which plane it runs on.

The law: a stream whose bytes travel over the topic has an id of the core's own, far below any that a driver
gives, so the machines need not be told apart: they see the same events on both planes.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

_FIRST_VIRTUAL = -(1 << 62)  # drivers count up from 1, and down from -1 for streams within the process


class StreamCode(IntEnum):
    DONE = 0
    CANCELLED = 1
    SUPERSEDED = 2  # or a duplicate attempt
    PROTOCOL = 3
    BUSY = 4
    SHUTDOWN = 5

    @staticmethod
    def name_of(code: int) -> str:
        """Codes of later versions have no name."""
        return StreamCode(code).name.lower() if 0 <= code <= StreamCode.SHUTDOWN else f"code {code}"


class Plane(StrEnum):
    """How the frames of one attempt travel."""

    DIRECT = "direct"  # a QUIC stream
    GOSSIP = "gossip"  # Packets on the topic


class Delivery(StrEnum):
    """Which planes a request may use."""

    AUTO = "auto"  # direct where a connection can be made
    DIRECT = "direct"
    GOSSIP = "gossip"


class Visibility(StrEnum):
    """Who may read prompt and answer."""

    PRIVATE = "private"  # the worker
    PUBLIC = "public"  # everybody on the topic: the Request carries the prompt, Packets go unsealed


def virtual_stream(number: int) -> int:
    """number: 0, 1, 2 …"""
    return _FIRST_VIRTUAL - number


def is_virtual(stream: int) -> bool:
    return stream <= _FIRST_VIRTUAL


def plane_of(stream: int) -> Plane:
    return Plane.GOSSIP if is_virtual(stream) else Plane.DIRECT
