"""Guards: the oracles whose evidence lies inside the core. I6 non-interference, I8 bounded tables, I15 codec.

The law: they look and never touch; what they read of the core is named here and nowhere else.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import TypeAlias

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.affinity import MAX_CONVERSATIONS
from llama_gossip.protocol.call import MAX_BIDS, MAX_CALLS
from llama_gossip.protocol.claimer import MAX_PENDING
from llama_gossip.protocol.codec import decode_payload, encode_payload
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.fences import MAX_TOMBSTONES_PER_REQUESTER
from llama_gossip.protocol.inbound import Inbound
from llama_gossip.protocol.jobqueue import MAX_QUEUED
from llama_gossip.protocol.ledger import MAX_RECORDS
from llama_gossip.protocol.limits import (
    FORGET_SIGNER_MS,
    MAX_ASSIGN_BYTES,
    MAX_CHANNELS,
    MAX_CONVERSATION_MARKS,
    MAX_SIGNERS,
)
from llama_gossip.protocol.messages import Kind
from llama_gossip.protocol.outer import OuterArray
from llama_gossip.protocol.roster import MAX_PEERS
from llama_gossip.protocol.streams import is_virtual
from llama_gossip.protocol.transcript import MAX_KEPT

_TIMERS_EACH = 16  # of one request, job or stream at most
_TIMERS_OWN = 8  # presence, roster, sweep

# What may change without meaning anything: counters, buckets, clock samples (PROTOCOL, I6), and what points
# back to what is walked anyway.
_SILENT = frozenset({"counters", "dropped", "accepted", "bad_signatures", "_rates", "_budget", "_skew"})
_SILENT_TYPES = ("function", "method", "builtin_function_or_method", "partial")
_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
_NONE: Mapping[str, object] = {}


Guard: TypeAlias = Callable[[Core], str]  # what is wrong, "" when nothing is


def fingerprint(core: Core, mono_ms: int) -> int:
    """Of everything that the core could act on. Equal before and after what must change nothing."""
    walk = _Walk(mono_ms)
    walk.see(core)
    return hash(tuple(walk.found))


class _Walk:
    """Lists what a value is made of, in order."""

    def __init__(self, mono_ms: int) -> None:
        self.found: list[object] = []
        self._mono_ms = mono_ms
        self._seen: dict[int, int] = {}

    def see(self, value: object) -> None:
        if type(value) in _ATOMS:  # most are
            self.found.append(value)
            return
        match value:
            case int() | float() | str() | bytes():
                self.found.append(value)
            case Enum():
                self.found.append(value.name)
            case bytearray():
                self.found.append(bytes(value))
            case tuple() | list() | deque():
                self.found.append(len(value))
                for element in value:
                    self.see(element)
            case dict():
                self.found.append(len(value))
                for key, element in value.items():
                    self.see(key)
                    self.see(element)
            case set() | frozenset():
                self.found.append(len(value))
                self.found.append(hash(frozenset(self._alone(element) for element in value)))
            case _:
                self._object(value)

    def _alone(self, element: object) -> int:
        """A set has no order: each of its elements is told by itself."""
        around, self.found = self.found, []
        self.see(element)
        alone, self.found = self.found, around
        return hash(tuple(alone))

    def _object(self, value: object) -> None:
        known = self._seen.get(id(value))
        if known is not None:
            self.found.append(known)
            return
        self._seen[id(value)] = len(self._seen)
        name = type(value).__name__
        self.found.append(name)
        if isinstance(value, random.Random):
            self.found.append(hash(value.getstate()))
        elif name == "ReplayWindows":
            self._windows(value)
        elif name not in _SILENT_TYPES:
            self._attributes(value)

    def _attributes(self, value: object) -> None:
        for name, element in getattr(value, "__dict__", _NONE).items():
            if name not in _SILENT:
                self.see(element)
        kind: type = type(value)
        for name in _slots(kind):
            self.see(getattr(value, name, None))

    def _windows(self, windows: object) -> None:
        """What has expired counts as gone: looking up is allowed to drop it."""
        for signer, window in windows._windows.items():  # type: ignore[attr-defined]
            if self._mono_ms - window.last_mono_ms < FORGET_SIGNER_MS:
                self.found.append(signer)
                self.see((window.boot, window.highest, window.bits, window.last_mono_ms))


@cache
def _slots(kind: type) -> tuple[str, ...]:
    """The names of its slots that mean anything."""
    found: list[str] = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        found.extend((slots,) if isinstance(slots, str) else slots)
    return tuple(name for name in found if name not in _SILENT)


# --- I8 ------------------------------------------------------------------------------------------------


def overfull(core: Core) -> str:
    """The first table that is larger than it may be, "" when none is."""
    requester, worker, receiver = core._requester, core._worker, core._receiver
    jobs = worker.jobs
    live = len(requester) + len(jobs) + len(worker._inbound) + len(core._claimer) + len(core._tunnel)
    calls = requester._solicitor._calls.values()
    agenda = core._desk.agenda
    graves = max((len(of_one) for of_one in jobs._fences._buried.values()), default=0)
    timers = _TIMERS_OWN + _TIMERS_EACH * live
    for name, size, most in (
        ("replay windows", len(receiver._windows), MAX_SIGNERS),
        ("roster", len(core._roster), MAX_PEERS),
        ("ledger", len(core._requester._ledger._records), MAX_RECORDS),
        ("tombstones of one requester", graves, MAX_TOMBSTONES_PER_REQUESTER),
        ("queue", jobs.queue.queued, MAX_QUEUED),
        ("ended transcripts", len(core._book._ended), MAX_KEPT),
        ("transcripts", len(core._book._pages), MAX_KEPT + len(requester)),
        ("timers", len(agenda), timers),
        ("streams of requests", len(requester._by_stream), len(requester)),
        ("channels", len(core._tunnel), MAX_CHANNELS),
        ("channels by name", len(core._tunnel._by_key), len(core._tunnel)),
        ("questions to the topic", len(calls), MAX_CALLS),
        ("claims of one question", max((len(c.bids) + len(c.gathered) for c in calls), default=0), MAX_BIDS),
        ("claims that wait", len(core._claimer), MAX_PENDING),
        ("conversations", len(requester._finder._affinity), MAX_CONVERSATIONS),
        ("conversations of others", len(jobs.conversations), MAX_CONVERSATION_MARKS),
    ):
        if size > most:
            return f"{name}: {size}, at most {most}"
    return ""


def unfinished(core: Core) -> str:
    """After quiescence: what is still held, "" when nothing is."""
    requester, worker = core._requester, core._worker
    for name, size in (
        ("requests", len(requester)),
        ("streams of requests", len(requester._by_stream)),
        ("jobs", len(worker.jobs)),
        ("running jobs", worker.jobs.queue.running),
        ("queued jobs", worker.jobs.queue.queued),
        ("inbound streams", sum(not _closes_soon(core, inbound) for inbound in worker._inbound.values())),
        ("live channels", core._tunnel.live),
        ("askers of the topic", sum(len(c.members) for c in requester._solicitor._calls.values())),
        ("claims that wait", sum(not _speaks_soon(core, number) for number in core._claimer._by_number)),
        ("own attempts in the ledger", sum(r.in_flight for r in requester._ledger._records.values())),
    ):
        if size:
            return f"{size} {name} are still held"
    return ""


def _speaks_soon(core: Core, claim: int) -> bool:
    """A stranger has asked just now."""
    return core._desk.agenda.due_of(("claim", claim, "send")) is not None


def _closes_soon(core: Core, inbound: Inbound) -> bool:
    """A refused attempt over the topic, which its requester may repeat until shortly before the end; or a
    stranger's stream of just now, which has seconds to bring an Assign."""
    is_young = core._desk.agenda.due_of(("inbound", inbound.stream, "first")) is not None
    return is_young or (inbound.refused and is_virtual(inbound.stream))


# --- I15 -----------------------------------------------------------------------------------------------


def reencodes(data: bytes) -> str:
    """An envelope or a frame, without prefix: what it means comes back as it went; "" if it does."""
    try:
        if data[0] == 0x95:
            raw = split_envelope(data, MAX_ASSIGN_BYTES)
            kind, payload, message = raw.kind, raw.payload, decode_envelope(raw)
        else:
            outer = OuterArray(data, elements=3)
            kind, payload = Kind(outer.uint8()), outer.binary()
            message = decode_payload(kind, payload)  # type: ignore[assignment]
        again = encode_payload(message)
    except ProtocolError as error:
        return f"what a node has sent is refused: {error.message}"
    if again != payload or decode_payload(kind, again) != message:
        return f"a {kind.name} is another after decoding and encoding"
    return ""
