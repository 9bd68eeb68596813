"""Scenario: how one simulated network looks, what may go wrong in it and how much is asked of it.

The law: everything a run depends on stands in one frozen value and the seed. Profiles are scenarios with a
name; a file (TOML or JSON) is a profile with some fields changed:

    base = "full"
    workers = [6, 6]
    faults = ["crash", "pause"]
    share = 1.0
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from llama_gossip.errors import UsageError
from llama_gossip.simulation.faults import ALL, SHARE, STRANGERS, FaultKind

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    faults: frozenset[FaultKind] = ALL
    share: float = SHARE  # how likely each kind is in one seed
    failover: bool = True  # an answer that has begun must go on elsewhere; False: it may fail
    requesters: Range = (1, 3)
    workers: Range = (2, 5)
    hybrids: Range = (0, 1)  # workers that also ask
    slots: Range = (1, 4)
    step_ms: Range = (4, 40)
    prefill_ms: Range = (5, 120)
    base_delay_ms: Range = (1, 40)  # one way
    requests: int = 150  # of one seed
    requests_per_s: Range = (6, 16)  # of all requesters
    patient_share: float = 0.1  # of the seeds: a fifth of that, so that what takes a minute shows
    early: int = 2  # asked before anybody has heard of anybody
    turn_share: float = 0.1  # go on with an earlier conversation
    crowded_share: float = 0.15  # of the workers: their Announce does not name the model
    all_crowded_share: float = 0.04  # of the seeds: no Announce does
    open_share: float = 0.15  # of the seeds are open networks: nobody vouches for a key
    ageing_ms: int = 2_000  # a fifth of the live one: a seed lasts for half a minute, not for many
    unread_ms: int = 6_000  # a fifth of the live one, and half of the longest pause of a reader
    late_share: float = 0.06  # asked long after the heal: these must all succeed
    cancel_share: float = 0.04
    hurried_share: float = 0.04  # with a deadline of seconds
    slow_reader_share: float = 0.04  # whose user stops reading for a while
    gossip_share: float = 0.03  # that may go by gossip only
    direct_share: float = 0.03  # that may not
    public_share: float = 0.015  # that everybody may read
    ed25519_every: int = 50  # one seed in so many signs as the live node does
    repeat_every: int = 50  # one seed in so many runs twice: one seed, one trace
    evil_checks: int = 12  # hostile messages of one seed around which the whole state is compared


_NETWORK = frozenset(
    {
        FaultKind.LOSS,
        FaultKind.DUPLICATES,
        FaultKind.REORDER,
        FaultKind.LAG,
        FaultKind.SPLIT,
        FaultKind.MUTE,
        FaultKind.CLOG,
        FaultKind.ONE_WAY,
        FaultKind.TWO_WAY,
        FaultKind.CUT,
        FaultKind.UNREACHABLE,
        FaultKind.APART,
        FaultKind.CHUNKS,
    }
)
_PROCESSES = frozenset(
    {FaultKind.CRASH, FaultKind.PAUSE, FaultKind.LEAVE, FaultKind.SKEW, FaultKind.CLOCK_STEP}
)
_ENGINES = frozenset({FaultKind.SLOW, FaultKind.HANG, FaultKind.ENGINE_FAILURE, FaultKind.RELOAD})
_HOSTILE = frozenset({FaultKind.LIAR, *STRANGERS})

PROFILES: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("full"),
        Scenario("quiet", faults=frozenset()),
        Scenario("network", faults=_NETWORK, share=0.6),
        Scenario("processes", faults=_PROCESSES, share=0.8),
        Scenario("engines", faults=_ENGINES, share=0.8),
        Scenario("hostile", faults=_HOSTILE, share=0.7),
        Scenario("worst", share=1.0),
    )
}


def profile(name: str) -> Scenario:
    if name not in PROFILES:
        raise UsageError(f"no profile {name!r}", hint=f"one of: {', '.join(PROFILES)}")
    return PROFILES[name]


def read(text: str, *, toml: bool) -> Scenario:
    """A scenario file. Raises UsageError for what is no scenario."""
    try:
        raw: object = tomllib.loads(text) if toml else json.loads(text)
    except ValueError as error:
        raise UsageError(f"the scenario cannot be read: {error}", hint="it is TOML or JSON") from None
    if not isinstance(raw, dict):
        raise UsageError("a scenario is a table of fields", hint="see the module scenario")
    return _changed(profile(str(raw.pop("base", "full"))), raw)


def _changed(base: Scenario, changes: dict[str, object]) -> Scenario:
    known = {field.name for field in fields(Scenario)}
    for name, value in changes.items():
        if name not in known:
            raise UsageError(f"a scenario has no field {name!r}", hint=f"fields: {', '.join(sorted(known))}")
        changes[name] = _typed(name, getattr(base, name), value)
    changes.setdefault("name", f"{base.name}, changed")
    return replace(base, **changes)  # type: ignore[arg-type]  # each was just given the field's type


def _typed(name: str, before: object, value: object) -> object:
    match before, value:
        case frozenset(), list():
            return kinds_of([str(kind) for kind in value])
        case tuple(), [int(low), int(high)] if 0 <= low <= high:
            return (low, high)
        case float(), float() | int():
            return float(value)
        case bool(), bool():
            return value
        case int(), int() if not isinstance(before, bool):
            return value
        case str(), str():
            return value
        case _:
            raise UsageError(f"{name} cannot be {value!r}", hint=f"it is like {before!r}")


def kinds_of(names: list[str]) -> frozenset[FaultKind]:
    """Raises UsageError for a kind that is none."""
    known = {str(kind) for kind in FaultKind}
    for name in names:
        if name not in known:
            raise UsageError(f"no fault {name!r}", hint=f"kinds: {', '.join(sorted(known))}")
    return frozenset(FaultKind(name) for name in names)
