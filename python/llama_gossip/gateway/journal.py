"""Journal: what a node did lately, in words and rows that people read. Bounded, whatever comes.

The law: it knows only what the node's news told it; what peers said is cleaned before it is kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, assert_never

from llama_gossip import news
from llama_gossip.plain_text import one_line

MAX_REQUESTS = 50  # rows of each table of requests
MAX_LINES = 200  # of the log
MAX_NAMES = 4_096  # as many as the roster holds
SHORT_ID = 10  # hex characters: enough to tell peers apart by eye

Row = TypeVar("Row")


@dataclass(slots=True)
class Asked:
    """A request of this node's users. Fields as in news.RequestAnswered."""

    request_id: str
    asked_ms: int  # wall clock
    model: str
    worker: str = ""
    worker_name: str = ""
    outcome: str = ""  # "": it is under way
    tokens: int = 0
    prompt_tokens: int = 0
    first_token_ms: float | None = None
    total_ms: float | None = None
    attempts: int = 0
    failovers: int = 0
    delivery: str = ""


@dataclass(slots=True)
class Served:
    """A request that this node's own worker took."""

    request_id: str
    accepted_ms: int  # wall clock
    model: str
    requester: str
    requester_name: str
    tokens: int = 0
    reason: str = ""  # "": it is under way


@dataclass(frozen=True, slots=True)
class Line:
    number: int  # counts from 1
    at_ms: int  # wall clock
    kind: str  # peer_up | peer_down | failover | answered | cancelled | failed | served
    text: str


class Journal:
    """`hear` is a listener for a node's news."""

    def __init__(
        self,
        own_id: str,
        own_name: str,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.asked: dict[str, Asked] = {}  # oldest first
        self.served: dict[str, Served] = {}
        self.lines: deque[Line] = deque(maxlen=MAX_LINES)
        self.asked_total = 0
        self.under_way = 0
        self.failovers = 0
        self._names = {own_id: own_name}
        self._own_id = own_id
        self._wall_ms = wall_ms
        self._number = 0

    def name_of(self, node_id: str) -> str:
        """The peer's name, as far as it was heard; else the beginning of its id."""
        return self._names.get(node_id) or node_id[:SHORT_ID]

    def hear(self, event: news.NodeEvent) -> None:
        match event:
            case news.PeerUp():
                self._peer_up(event)
            case news.PeerDown(node_id, reason):
                self._note("peer_down", f"{self.name_of(node_id)} is gone: {one_line(reason)}")
            case news.RequestAsked(request_id, model):
                self.asked_total += 1
                self.under_way += 1
                self._put_asked(Asked(request_id, self._wall_ms(), one_line(model)))
            case news.RequestTaken():
                self._taken(event.request_id, event.worker)
            case news.RequestFailedOver():
                self._failed_over(event)
            case news.RequestAnswered():
                self._answered(event)
            case news.RequestAccepted(request_id, requester, model):
                name = self.name_of(requester)
                row = Served(request_id, self._wall_ms(), one_line(model), requester, name)
                _put(self.served, request_id, row)
            case news.RequestEnded():
                self._ended(event)
            case _:
                assert_never(event)

    def know(self, node_id: str, name: str) -> None:
        """A peer's name, as it says it."""
        if node_id != self._own_id:
            self._names.pop(node_id, None)
            self._names[node_id] = one_line(name)
            if len(self._names) > MAX_NAMES + 1:
                del self._names[next(node_id for node_id in self._names if node_id != self._own_id)]

    def _peer_up(self, event: news.PeerUp) -> None:
        self.know(event.node_id, event.name)
        name = self.name_of(event.node_id)
        models = ", ".join(one_line(model) for model in event.models)
        self._note("peer_up", f"{name} is ready and serves {models}" if models else f"{name} has joined")

    def _taken(self, request_id: str, worker: str) -> None:
        if (row := self.asked.get(request_id)) is not None:
            row.worker, row.worker_name = worker, self.name_of(worker)

    def _failed_over(self, event: news.RequestFailedOver) -> None:
        self.failovers += 1
        if (row := self.asked.get(event.request_id)) is not None:
            row.failovers += 1
        self._taken(event.request_id, event.to_worker)
        before, after = self.name_of(event.from_worker), self.name_of(event.to_worker)
        why = one_line(event.reason)
        self._note("failover", f"{after} continues at token {event.index} for {before}: {why}")

    def _answered(self, event: news.RequestAnswered) -> None:
        self.under_way -= 1
        known = self.asked.get(event.request_id)
        asked_ms = known.asked_ms if known else self._wall_ms() - round(event.total_ms)
        worker = self.name_of(event.worker) if event.worker else ""
        row = Asked(
            request_id=event.request_id,
            asked_ms=asked_ms,
            model=one_line(event.model),
            worker=event.worker,
            worker_name=worker,
            outcome=event.outcome,
            tokens=event.tokens,
            prompt_tokens=event.prompt_tokens,
            first_token_ms=None if event.first_token_ms is None else round(event.first_token_ms, 1),
            total_ms=round(event.total_ms, 1),
            attempts=event.attempts,
            failovers=event.failovers,
            delivery=event.delivery,
        )
        self._put_asked(row)
        self._tell_answer(row)

    def _tell_answer(self, row: Asked) -> None:
        by = f" by {row.worker_name}" if row.worker_name else ""
        took = f"{row.tokens} tokens in {(row.total_ms or 0) / 1000:.1f}\u00a0s"
        if row.outcome in ("stop", "length"):
            self._note("answered", f"answered{by}: {took} ({row.outcome})")
        elif row.outcome == "cancelled":
            self._note("cancelled", f"a request was cancelled: {took}{by}")
        else:
            self._note("failed", f"a request failed ({one_line(row.outcome)}): {took}{by}")

    def _ended(self, event: news.RequestEnded) -> None:
        row = self.served.get(event.request_id)
        if row is not None:
            row.tokens, row.reason = event.tokens, one_line(event.reason)
        name = self.name_of(event.requester)
        self._note("served", f"served {event.tokens} tokens to {name} ({one_line(event.reason)})")

    def _put_asked(self, row: Asked) -> None:
        _put(self.asked, row.request_id, row)

    def _note(self, kind: str, text: str) -> None:
        self._number += 1
        self.lines.append(Line(self._number, self._wall_ms(), kind, text))


def _put(rows: dict[str, Row], request_id: str, row: Row) -> None:
    rows[request_id] = row
    if len(rows) > MAX_REQUESTS:
        del rows[next(iter(rows))]
