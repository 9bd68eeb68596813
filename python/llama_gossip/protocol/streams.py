"""Stream codes: why one side abandons a stream (PROTOCOL section 5)."""

from __future__ import annotations

from enum import IntEnum


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
