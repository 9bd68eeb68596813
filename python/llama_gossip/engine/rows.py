"""Rows: one job inside the model thread, what a step may bring it, and the figures of load.

The law: a model returns outcomes and never touches events, queues or clocks of jobs; the thread never touches
tensors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from llama_gossip.engine.base import EngineInfo, EngineJob, EngineLoad, JobTimings
from llama_gossip.engine.jobs import Answer, JobError
from llama_gossip.protocol.messages import TokenLogprob

EWMA_WEIGHT: Final = 0.3  # of the newest request: three requests outweigh the past


class Row(Protocol):
    """A job as its model holds it."""

    @property
    def answer(self) -> Answer: ...


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A chunk of the prompt is in; no token yet."""

    percent: int


@dataclass(frozen=True, slots=True)
class Sampled:
    token_id: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The model gave an end token."""


Outcome: TypeAlias = Prefilled | Sampled | Ended | JobError


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Of the memory for keys and values, in bytes; all 0: the model has none of its own."""

    reserved: int = 0
    used: int = 0  # by rows
    kept: int = 0  # by beginnings that no row uses now


class SteppedModel(Protocol[RowT]):
    """A model as the thread drives it. Everything but `interrupt`, `memory_free` and `pool_use` runs in that
    thread."""

    def open(self) -> EngineInfo: ...

    def read(self, job: EngineJob) -> RowT:
        """Renders, tokenises and checks; takes no memory for the cache yet. Raises JobError."""

    def admit(self, row: RowT) -> bool:
        """Takes the memory that the row needs at its full length. False: not before another row ends; alone
        it always fits."""

    def ready_at_s(self) -> float:
        """The monotonic time from which on a step may begin; in the past: at once."""

    def step(self, rows: Sequence[RowT]) -> list[tuple[RowT, Outcome]]:
        """One forward. Rows come longest-waiting first; the outcomes name each that was in it, once."""

    def release(self, row: RowT) -> None:
        """The row has ended: frees its cache. Idempotent."""

    def memory_free(self) -> int: ...

    def pool_use(self) -> PoolUse: ...

    def interrupt(self) -> None:
        """The engine closes: a step that can end early does. Any thread."""

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Live(Generic[RowT]):
    """A job from submit to its end."""

    job: EngineJob
    submitted_s: float
    row: RowT | None = None  # None until it is read
    running: bool = False
    parked: bool = False  # no step is taken for it
    was_parked: bool = False  # its times say nothing of the model's speed
    started_s: float = 0.0
    first_token_s: float = 0.0
    tokens: int = 0  # made here

    @property
    def steps(self) -> bool:
        """The model is to step for it."""
        return self.running and not self.parked

    @property
    def deadline_s(self) -> float:
        limit_ms = self.job.deadline_ms
        return math.inf if limit_ms is None else self.submitted_s + limit_ms / 1000

    def token(self, now_s: float) -> None:
        self.tokens += 1
        if self.tokens == 1:
            self.first_token_s = now_s

    def timings(self, now_s: float) -> JobTimings:
        first_s = self.first_token_s or now_s
        return JobTimings(
            queue_ms=(self.started_s - self.submitted_s) * 1000,
            first_token_ms=(first_s - self.submitted_s) * 1000,
            total_ms=(now_s - self.submitted_s) * 1000,
        )


@dataclass(slots=True)
class Gauges:
    """Moving averages over ended requests, and the age of the last step. Single values: no lock needed."""

    steps: int = 0
    fed_tokens: int = 0
    cached_tokens: int = 0
    tokens_per_s: float = 0.0
    first_token_ms: float = 0.0
    last_step_s: float = field(default_factory=time.monotonic)

    def busy(self, already_stepped: int) -> None:
        """A job is to be stepped from now on: an idle model's age counts from here."""
        if already_stepped == 0:
            self.last_step_s = time.monotonic()

    def admitted(self, answer: Answer) -> None:
        self.cached_tokens += answer.cached
        self.fed_tokens += answer.prompt_tokens + len(answer.replayed) - answer.cached

    def stepped(self) -> None:
        self.steps += 1
        self.last_step_s = time.monotonic()

    def ended(self, live: Live[RowT], timings: JobTimings) -> None:
        if live.tokens == 0 or live.was_parked:
            return
        self.first_token_ms = _averaged(self.first_token_ms, timings.first_token_ms)
        decode_ms = timings.total_ms - timings.first_token_ms
        if live.tokens > 1 and decode_ms > 0:
            self.tokens_per_s = _averaged(self.tokens_per_s, (live.tokens - 1) / decode_ms * 1000)

    def report(
        self, running: int, queued: int, loaded_tokens_per_s: float, memory_free: int, *, idle: bool
    ) -> EngineLoad:
        """idle: nothing is to be stepped."""
        age_s = 0.0 if idle else time.monotonic() - self.last_step_s
        return EngineLoad(
            running=running,
            queued=queued,
            tokens_per_s=self.tokens_per_s or loaded_tokens_per_s,
            first_token_ms=self.first_token_ms,
            memory_free=memory_free,
            last_step_age_ms=age_s * 1000,
            fed_tokens=self.fed_tokens,
            cached_tokens=self.cached_tokens,
        )


def _averaged(old: float, new: float) -> float:
    return new if old == 0.0 else old + EWMA_WEIGHT * (new - old)
