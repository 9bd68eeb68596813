"""Fences: the highest attempt that was taken of each request, and for how long that is remembered.

The law: an attempt that is not higher than the fence never starts work, so two attempts of one request never
generate at once on this node and none is served twice. A request is keyed by (requester, request_id).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.protocol.timers import Timers

RequestKey: TypeAlias = tuple[NodeId, RequestId]

MAX_TOMBSTONES_PER_REQUESTER = 256  # beyond it a requester's oldest go: only it can repeat its own Assigns
MAX_FENCES = 65_536  # of all requesters: keys cost nothing in an open network, memory does


@dataclass(slots=True)
class _Fence:
    attempt: int
    forget_mono_ms: int | None = None  # None: its job lives


class Fences:
    def __init__(self, timers: Timers) -> None:
        self._tombstone_ms = timers.tombstone_ms
        self._fences: dict[RequestKey, _Fence] = {}
        self._buried: dict[NodeId, dict[RequestId, None]] = {}  # in the order of their end

    def __len__(self) -> int:
        return len(self._fences)

    def admits(self, key: RequestKey, attempt: int, now_mono_ms: int) -> bool:
        self._expire(key[0], now_mono_ms)
        fence = self._fences.get(key)
        return fence is None or attempt > fence.attempt

    def has_room(self, key: RequestKey, now_mono_ms: int, *, known: bool) -> bool:
        """False: this request is new, and nothing that is remembered may be forgotten for it yet. known: an
        allow-listed or roster key; a quarter is kept for these."""
        most = MAX_FENCES if known else MAX_FENCES - MAX_FENCES // 4
        if len(self._fences) >= most and key not in self._fences:
            self.sweep(now_mono_ms)
        return len(self._fences) < most or key in self._fences

    def take(self, key: RequestKey, attempt: int) -> None:
        """Its job lives from now on."""
        self._unbury(key)
        self._fences[key] = _Fence(attempt)

    def bury(self, key: RequestKey, now_mono_ms: int) -> None:
        """Its job has ended: a tombstone."""
        fence = self._fences.get(key)
        if fence is None:
            return
        self._unbury(key)
        fence.forget_mono_ms = now_mono_ms + self._tombstone_ms
        graves = self._buried.setdefault(key[0], {})
        graves[key[1]] = None
        if len(graves) > MAX_TOMBSTONES_PER_REQUESTER:
            self._forget((key[0], next(iter(graves))))

    def sweep(self, now_mono_ms: int) -> None:
        for requester in list(self._buried):
            self._expire(requester, now_mono_ms)

    def _expire(self, requester: NodeId, now_mono_ms: int) -> None:
        for request_id in list(self._buried.get(requester, ())):
            forget = self._fences[requester, request_id].forget_mono_ms
            if forget is None or forget > now_mono_ms:
                return  # the rest ended later
            self._forget((requester, request_id))

    def _forget(self, key: RequestKey) -> None:
        self._unbury(key)
        del self._fences[key]

    def _unbury(self, key: RequestKey) -> None:
        graves = self._buried.get(key[0])
        if graves is not None:
            graves.pop(key[1], None)
            if not graves:
                del self._buried[key[0]]
