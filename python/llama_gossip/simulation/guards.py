"""Guards: the oracles whose evidence lies inside the core. I6 non-interference, I8 bounded tables, I15 codec.

The law: they look and never touch; what they read of the core is named here and nowhere else.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeAlias

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
from llama_gossip.protocol.limits import FORGET_SIGNER_MS, MAX_ASSIGN_BYTES, MAX_CHANNELS, MAX_SIGNERS
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


Guard: TypeAlias = Callable[[Core], str]  # what is wrong, "" when nothing is


def fingerprint(core: Core, mono_ms: int) -> int:
    """Of everything that the core could act on. Equal before and after what must change nothing."""
    walk = _Walk(mono_ms)
    return hash(tuple(walk.of(core)))


class _Walk:
    def __init__(self, mono_ms: int) -> None:
        self._mono_ms = mono_ms
        self._seen: dict[int, int] = {}

    def of(self, value: object) -> Iterator[object]:
        match value:
            case None | bool() | int() | float() | str() | bytes():
                yield value
            case Enum():
                yield value.name
            case random.Random():
                yield hash(value.getstate())
            case dict() | OrderedDict() | Counter():
                yield from self._mapping(value)
            case tuple() | list():
                yield len(value)
                for element in value:
                    yield from self.of(element)
            case set() | frozenset():
                yield len(value)
                yield hash(frozenset(hash(tuple(self.of(element))) for element in value))
            case bytearray():
                yield bytes(value)
            case _:
                yield from self._object(value)

    def _mapping(self, value: dict[Any, Any]) -> Iterator[object]:
        yield len(value)
        for key, element in value.items():
            yield from self.of(key)
            yield from self.of(element)

    def _object(self, value: object) -> Iterator[object]:
        name = type(value).__name__
        if id(value) in self._seen:
            yield self._seen[id(value)]
            return
        self._seen[id(value)] = len(self._seen)
        yield name
        if name in _SILENT_TYPES:
            return
        if name == "ReplayWindows":
            yield from self._windows(value)
            return
        for field_name, element in _attributes(value):
            if field_name not in _SILENT:
                yield from self.of(element)

    def _windows(self, windows: object) -> Iterator[object]:
        """What has expired counts as gone: looking up is allowed to drop it."""
        for signer, window in windows._windows.items():  # type: ignore[attr-defined]
            if self._mono_ms - window.last_mono_ms < FORGET_SIGNER_MS:
                yield signer
                yield from self.of((window.boot, window.highest, window.bits, window.last_mono_ms))


def _attributes(value: object) -> list[tuple[str, object]]:
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    named = list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        named.extend((name, getattr(value, name)) for name in names if hasattr(value, name))
    return named


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
        ("claims that wait", len(core._claimer)),
        ("own attempts in the ledger", sum(r.in_flight for r in requester._ledger._records.values())),
    ):
        if size:
            return f"{size} {name} are still held"
    return ""


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
