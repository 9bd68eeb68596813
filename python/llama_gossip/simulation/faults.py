"""Faults: what goes wrong in one seed, drawn before anything runs.

The law: each kind draws from a generator of its own, so dropping one kind leaves the others as they were:
that is what makes a failing seed shrink.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    # gossip
    LOSS = "loss"
    DUPLICATES = "duplicates"
    REORDER = "reorder"
    LAG = "lag"  # a node's receive buffer overflows
    SPLIT = "split"  # the overlay falls into two and does not re-merge at once
    MUTE = "mute"  # a node's outbound gossip is dead in silence
    # paths
    CLOG = "clog"
    ONE_WAY = "one_way"
    TWO_WAY = "two_way"
    CUT = "cut"  # one connection breaks
    APART = "apart"  # some pairs can never connect
    UNREACHABLE = "unreachable"  # dials to a node fail
    CHUNKS = "chunks"  # stream data is cut anywhere
    # processes
    CRASH = "crash"
    PAUSE = "pause"
    LEAVE = "leave"
    SKEW = "skew"
    CLOCK_STEP = "clock_step"
    # engines
    SLOW = "slow"
    HANG = "hang"
    ENGINE_FAILURE = "engine_failure"
    RELOAD = "reload"
    # lying workers
    LIAR = "liar"
    # strangers who are members
    REPLAY = "replay"
    FORGE = "forge"
    REENCODE = "reencode"
    FLOOD = "flood"
    CLAIM = "claim"
    COPY = "copy"  # takes what others have sealed into Packets of its own
    DOUBLE = "double"  # a requester that assigns twice and never ends its side
    GREEDY = "greedy"  # one key asks one worker for more than everything
    CROWD = "crowd"  # minted keys, in an open network, where they cost nothing


ALL = frozenset(FaultKind)
# Each is a stranger of its own, in this order: its place in the network.
STRANGERS = (
    FaultKind.REPLAY,
    FaultKind.FORGE,
    FaultKind.REENCODE,
    FaultKind.FLOOD,
    FaultKind.CLAIM,
    FaultKind.COPY,
    FaultKind.DOUBLE,
    FaultKind.GREEDY,
    FaultKind.CROWD,
)
STANDING = frozenset(  # for the whole time until the heal, not at a moment
    {
        FaultKind.LOSS,
        FaultKind.DUPLICATES,
        FaultKind.REORDER,
        FaultKind.CHUNKS,
        FaultKind.APART,
        FaultKind.SKEW,
        FaultKind.ENGINE_FAILURE,
        FaultKind.LIAR,
        *STRANGERS,
    }
)
SHARE = 0.4  # of the kinds are on in one seed: all at once would hide what one alone does
MAX_EACH = 4  # moments of one kind in one seed
_SPANS_MS = {  # shortest and longest
    FaultKind.LAG: (500, 4_000),
    FaultKind.SPLIT: (2_000, 15_000),
    FaultKind.MUTE: (5_000, 60_000),
    FaultKind.CLOG: (200, 5_000),
    FaultKind.ONE_WAY: (500, 20_000),
    FaultKind.TWO_WAY: (500, 20_000),
    FaultKind.CUT: (0, 0),
    FaultKind.UNREACHABLE: (2_000, 20_000),
    FaultKind.CRASH: (100, 15_000),
    FaultKind.PAUSE: (200, 30_000),
    FaultKind.LEAVE: (500, 10_000),
    FaultKind.CLOCK_STEP: (1_000, 30_000),
    FaultKind.SLOW: (2_000, 20_000),
    FaultKind.HANG: (2_000, 60_000),
    FaultKind.RELOAD: (200, 4_000),
}


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    at_ms: int
    for_ms: int
    target: float  # 0 ≤ … < 1: which of those it can hit
    other: float
    amount: float  # 0 ≤ … < 1: how bad


def draw(seed: int, kinds: Iterable[FaultKind], *, start_ms: int, end_ms: int, share: float) -> list[Fault]:
    """In the order of time. Every kind decides alone whether it occurs in this seed."""
    faults: list[Fault] = []
    for kind in sorted(kinds):
        rng = random.Random(f"{seed}/{kind}")
        if rng.random() >= share:
            continue
        times = 1 if kind in STANDING else rng.randint(1, MAX_EACH)
        for _ in range(times):
            at_ms = start_ms if kind in STANDING else rng.randint(start_ms, end_ms)
            shortest, longest = _SPANS_MS.get(kind, (end_ms - start_ms, end_ms - start_ms))
            span_ms = min(round(shortest + (longest - shortest) * rng.random() ** 2), end_ms - at_ms)
            faults.append(Fault(kind, at_ms, span_ms, rng.random(), rng.random(), rng.random()))
    return sorted(faults, key=lambda fault: (fault.at_ms, fault.kind))
