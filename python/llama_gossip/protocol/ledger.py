"""Ledger: what this node has measured of each worker, and whom it avoids for now.

The law: own measurements come first, announced values second; a worker is kept out only by what it did to
this node, and only until it signs something newer or its cooldown ends. Nothing comes from third parties.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.timers import Timers

EWMA_WEIGHT = 0.3  # of the newest sample: five requests outweigh history
MAX_RECORDS = 4_096  # as many as the roster can hold


@dataclass(slots=True)
class Record:
    in_flight: int = 0  # own attempts on it
    dialling: int = 0  # own streams to it that are being opened
    last_start: int = 0  # the number of the newest own attempt or dial, counted over all workers
    others: int | None = None  # jobs of others when it last announced itself; None: as announced
    ttft_ms: float | None = None
    tokens_per_s: float | None = None  # of one request alone
    completed: int = 0
    faults: int = 0  # in a row, its own
    cooldown_until_ms: int = 0
    held_until_ms: int = 0  # its own retry_after
    out_since: tuple[int, int] | None = None  # (boot, seq) of the Announce that no longer counts
    out_at_ms: int = 0
    far_until_ms: int = 0  # it could not be dialled; what can goes by gossip meanwhile


class Ledger:
    def __init__(self, *, timers: Timers) -> None:
        self._timers = timers
        self._records: dict[NodeId, Record] = {}
        self._starts = 0
        self.usual_ttft_ms: float | None = None  # over all workers: what one that was never asked may take

    def record(self, worker: NodeId) -> Record:
        known = self._records.get(worker)
        if known is not None:
            return known
        if len(self._records) >= MAX_RECORDS:
            self._evict()
        self._records[worker] = fresh = Record()
        return fresh

    def peek(self, worker: NodeId) -> Record:
        """Reading only: makes no entry."""
        return self._records.get(worker) or Record()

    def dial(self, worker: NodeId) -> None:
        """Of many requests that come at once the first has dialled before the next one chooses: each sees
        those before it, else all would choose the same worker."""
        record = self._asked(worker)
        record.dialling += 1

    def dialled(self, worker: NodeId) -> None:
        """It is over, however."""
        self.record(worker).dialling -= 1

    def start(self, worker: NodeId) -> None:
        record = self._asked(worker)
        record.in_flight += 1

    def _asked(self, worker: NodeId) -> Record:
        record = self.record(worker)
        self._starts += 1
        record.last_start = self._starts
        return record

    def end(self, worker: NodeId) -> None:
        self.record(worker).in_flight -= 1

    def announced(self, worker: NodeId, load: int) -> None:
        """`load` jobs, running or queued, by its newest Announce. What this node has there it knows
        better, so only the rest is kept: an old load would hide that its own requests have ended."""
        record = self._records.get(worker)
        if record is not None:
            record.others = max(0, load - record.in_flight)

    def first_token(self, worker: NodeId, ttft_ms: float) -> None:
        record = self.record(worker)
        record.ttft_ms = _blend(record.ttft_ms, ttft_ms)
        self.usual_ttft_ms = _blend(self.usual_ttft_ms, ttft_ms)

    def success(self, worker: NodeId, tokens_per_s: float | None, slots: int) -> None:
        """A whole answer. Its speed counts as what it would have been alone, as far as that can be told from
        how many of `slots` this node itself kept busy: a worker that was crowded is no slow worker."""
        record = self.record(worker)
        record.completed += 1
        record.faults = 0
        if tokens_per_s is not None:
            crowding = 1 + min(max(0, record.in_flight - 1), slots) / max(1, slots)
            record.tokens_per_s = _blend(record.tokens_per_s, tokens_per_s * crowding)

    def hold(self, worker: NodeId, until_mono_ms: int) -> None:
        """It asked for patience: its retry_after."""
        self.record(worker).held_until_ms = until_mono_ms

    def out(self, worker: NodeId, order: tuple[int, int], now_mono_ms: int) -> None:
        """Dial, accept or stall failure: out until it signs a newer Announce than `order`."""
        record = self.record(worker)
        record.out_since = order
        record.out_at_ms = now_mono_ms

    def far(self, worker: NodeId, until_mono_ms: int) -> None:
        self.record(worker).far_until_ms = until_mono_ms

    def is_far(self, worker: NodeId, now_mono_ms: int) -> bool:
        return self.peek(worker).far_until_ms > now_mono_ms

    def cools(self, worker: NodeId, now_mono_ms: int) -> bool:
        return self.peek(worker).cooldown_until_ms > now_mono_ms

    def fault(self, worker: NodeId, now_mono_ms: int, *, least_ms: int = 0) -> None:
        """A fault of its own (wrong bytes, wrong digest): cooldown 15 s x 2^n, at most 5 min."""
        record = self.record(worker)
        cooldown_ms = min(self._timers.cooldown_ms << min(record.faults, 16), self._timers.cooldown_max_ms)
        record.faults += 1
        record.cooldown_until_ms = now_mono_ms + max(cooldown_ms, least_ms)

    def _evict(self) -> None:
        """The idle record that is least worth keeping goes."""
        idle = [
            (record.cooldown_until_ms, record.completed, worker)
            for worker, record in self._records.items()
            if not record.in_flight and not record.dialling
        ]
        if idle:
            del self._records[min(idle)[2]]


def _blend(old: float | None, sample: float) -> float:
    return sample if old is None else old + EWMA_WEIGHT * (sample - old)
