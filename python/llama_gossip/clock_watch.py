"""Clock watch: says when this machine's clock is off, and what follows from it.

The law: each worsening is told once, and again only after the clock was right in between. A node whose
messages are dropped for their time hears no complaint from anybody: this is how its owner learns of it.
"""

from __future__ import annotations

from enum import IntEnum

from llama_gossip.protocol.limits import MAX_AGE_MS, MAX_AHEAD_MS

WARN_MS = 10_000  # a third of what the protocol bears: time is left to set it right
RIGHT_MS = WARN_MS // 2  # below this it counts as right again: a clock at the limit is told once


class Trouble(IntEnum):
    NONE = 0
    OFF = 1  # everything still works
    CUT_OFF = 2  # one side or both drop the other's messages


class ClockWatch:
    def __init__(self) -> None:
        self._told = Trouble.NONE

    def look(self, skew_ms: int) -> str | None:
        """skew_ms: the others' clocks minus ours, median. One sentence, if there is news."""
        trouble = _trouble(skew_ms)
        if abs(skew_ms) < RIGHT_MS:
            self._told = Trouble.NONE
        if trouble <= self._told:
            return None
        self._told = trouble
        return sentence(skew_ms)


def _trouble(skew_ms: int) -> Trouble:
    if abs(skew_ms) > min(MAX_AHEAD_MS, MAX_AGE_MS):
        return Trouble.CUT_OFF
    return Trouble.OFF if abs(skew_ms) > WARN_MS else Trouble.NONE


def sentence(skew_ms: int) -> str:
    """How far the clock is off, what that does, and the remedy."""
    direction = "behind" if skew_ms > 0 else "ahead of"
    unheard = skew_ms < -MAX_AHEAD_MS or skew_ms > MAX_AGE_MS
    deaf = skew_ms > MAX_AHEAD_MS or skew_ms < -MAX_AGE_MS
    effects = [
        text for holds, text in ((unheard, "they drop its messages"), (deaf, "it drops theirs")) if holds
    ]
    what = (
        f": {' and '.join(effects)}" if effects else f" (beyond {MAX_AHEAD_MS // 1000} s messages are lost)"
    )
    seconds = round(abs(skew_ms) / 1000)
    return f"this machine's clock is {seconds} s {direction} its peers' clocks{what}; set the clock"
