"""The model thread: one daemon thread that owns a model and steps it for several jobs at once.

The law: after `submit` exactly one terminal event follows for each job, whatever the model, the caller or the
clock does; all events of one step reach the sink in one call; a cancel or a deadline waits for at most the
step that runs. What a step does is the model's business: one row's forward today, a whole batch later.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Generic, assert_never

from llama_gossip.engine.base import (
    EngineEvent,
    EngineInfo,
    EngineJob,
    EngineLoad,
    EngineState,
    FailureCode,
    JobDone,
    JobFailed,
    JobId,
    JobPrefill,
    JobStarted,
    Sink,
)
from llama_gossip.engine.jobs import JobError
from llama_gossip.engine.rows import Ended, Gauges, Live, Outcome, Prefilled, RowT, Sampled, SteppedModel
from llama_gossip.errors import UsageError

OPEN_TIMEOUT_S: Final = 600.0  # a warm-up of a large model on a slow disk
_LOST: Final = "the engine was closed"

log = logging.getLogger(__name__)


class SteppedEngine(Generic[RowT]):
    """The Engine interface over a SteppedModel. The model is opened, stepped and closed in one thread."""

    def __init__(self, model: SteppedModel[RowT], name: str) -> None:
        self._model = model
        self._wake = threading.Condition()
        self._emitting = threading.RLock()  # one sink call at a time; taken before _wake, never after
        self._inbox: deque[EngineJob] = deque()
        self._cancels: set[JobId] = set()
        self._live: dict[JobId, Live[RowT]] = {}  # by submit order; under _wake
        self._rows: deque[Live[RowT]] = deque()  # in the model, the next to step first; model thread only
        self._room = False  # a row has left since the last admission; model thread only
        self._sink: Sink | None = None
        self._closing = False
        self._info: EngineInfo | None = None
        self._open_error: BaseException | None = None
        self._opened = threading.Event()
        self.gauges = Gauges()
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()
        self._opened.wait(OPEN_TIMEOUT_S)
        if self._open_error is not None:
            raise self._open_error

    # --- the interface, any thread ---------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise RuntimeError("the engine has not opened")
        return self._info

    @property
    def steps(self) -> int:
        """Steps of the model so far."""
        return self.gauges.steps

    def start(self, sink: Sink) -> None:
        with self._wake:
            if self._closing:
                raise UsageError(_LOST, hint="a node closes its engine at its end: load it again")
            if self._sink is not None:
                raise UsageError("this engine works for another already", hint="one engine, one node")
            self._sink = sink
            self._wake.notify_all()

    def submit(self, job: EngineJob) -> None:
        with self._wake:
            if self._closing:
                late = JobFailed(job.job_id, FailureCode.LOST, _LOST, retryable=True)
            elif job.job_id in self._live:
                raise UsageError(f"job {job.job_id} is already here", hint="job ids are unique in an engine")
            else:
                self._live[job.job_id] = Live(job, submitted_s=time.monotonic())
                self._inbox.append(job)
                self._wake.notify_all()
                return
        self._emit([late])

    def cancel(self, job_id: JobId) -> None:
        with self._wake:
            if job_id in self._live:
                self._cancels.add(job_id)
                self._wake.notify_all()

    def park(self, job_id: JobId) -> None:
        with self._wake:
            if (live := self._live.get(job_id)) is not None:
                live.parked = live.was_parked = True

    def unpark(self, job_id: JobId) -> None:
        with self._wake:
            live = self._live.get(job_id)
            if live is not None and live.parked:
                self.gauges.busy(sum(other.steps for other in self._live.values()))
                live.parked = False
                self._wake.notify_all()

    def load(self) -> EngineLoad:
        with self._wake:
            total = len(self._live)
            running = sum(live.running for live in self._live.values())
            idle = not any(live.steps for live in self._live.values())
            state = EngineState.DOWN if self._closing else EngineState.READY
        free = self._model.memory_free()
        load = self.gauges.report(running, total - running, self.info.tokens_per_s, free, idle=idle)
        pool = self._model.pool_use()
        return replace(
            load,
            state=state,
            pool_bytes=pool.reserved,
            pool_used_bytes=pool.used,
            pool_kept_bytes=pool.kept,
        )

    def close(self, timeout_s: float = 2.0) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._model.interrupt()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        self._lose_all()  # those of a model that does not come back; else nothing is left

    # --- the model thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._info = self._model.open()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that builds the engine
            self._open_error = error
            return
        finally:
            self._opened.set()
        while self._wait():
            try:
                self._emit(self._round())
            except Exception:  # a bug of ours or of the model's admission: better lost than silent
                log.exception("the model thread of %s failed", self._info.model)
                with self._wake:
                    self._closing = True
        self._lose_all()
        self._model.close()

    def _wait(self) -> bool:
        """Blocks until there is something to do. False: the end."""
        with self._wake:
            while not self._closing:
                now_s = time.monotonic()
                wake_s = math.inf
                if self._sink is not None:
                    if self._inbox or self._cancels:
                        return True
                    wake_s = min((live.deadline_s for live in self._live.values()), default=math.inf)
                    if self._room or any(live.steps for live in self._rows):
                        wake_s = min(wake_s, self._model.ready_at_s())
                if wake_s <= now_s:
                    return True
                self._wake.wait(None if wake_s == math.inf else wake_s - now_s)
            return False

    def _round(self) -> list[EngineEvent]:
        """Inbox, cancels, deadlines, admission, one step."""
        with self._wake:
            arrived, cancelled = list(self._inbox), list(self._cancels)
            self._inbox.clear()
            self._cancels.clear()
        events: list[EngineEvent] = []
        for job_id in cancelled:
            events += self._fail(job_id, JobError(FailureCode.CANCELLED, "cancelled"))
        for job in arrived:
            events += self._read(job)
        now_s = time.monotonic()
        for live in [live for live in self._all() if live.deadline_s <= now_s]:
            events += self._fail(live.job.job_id, JobError(FailureCode.DEADLINE, "the deadline passed"))
        events += self._admit()
        rows = [live.row for live in self._rows if live.row is not None and not live.parked]
        if rows and self._model.ready_at_s() <= now_s:
            events += self._step(rows)
        return events

    def _read(self, job: EngineJob) -> list[EngineEvent]:
        """Tokenises and checks at once, so that a bad job does not wait in the queue to hear so."""
        live = self._live.get(job.job_id)
        if live is None:  # cancelled before its turn
            return []
        try:
            live.row = self._model.read(job)
        except JobError as error:
            return self._fail(job.job_id, error)
        except Exception:  # whatever a tokenizer does with hostile text stays with its job
            log.exception("job %d could not be read", job.job_id)
            return self._fail(job.job_id, JobError(FailureCode.ENGINE, "the prompt could not be read"))
        return []

    def _all(self) -> list[Live[RowT]]:
        """By submit order. Others submit meanwhile, so nobody walks over the table itself."""
        with self._wake:
            return list(self._live.values())

    def _admit(self) -> list[EngineEvent]:
        self._room = False
        events: list[EngineEvent] = []
        for live in self._all():
            if len(self._rows) >= self.info.max_concurrent:
                break
            if live.running or live.row is None:
                continue
            if not self._model.admit(live.row):
                break  # nobody overtakes, or a long job would wait for ever
            live.running = True
            live.started_s = time.monotonic()
            self.gauges.busy(sum(not other.parked for other in self._rows))
            answer = live.row.answer
            events.append(
                JobStarted(live.job.job_id, answer.prompt_tokens, answer.prompt_digest, answer.cached)
            )
            if answer.finish_reason is not None:  # the resumed part is already the whole answer
                events += self._done(live)
            else:
                self.gauges.admitted(answer)
                self._rows.append(live)
        return events

    def _step(self, rows: Sequence[RowT]) -> list[EngineEvent]:
        try:
            outcomes = self._model.step(rows)
        except Exception:  # a failure that no row owns ends them all, each retryable elsewhere
            log.exception("a step of the model failed")
            outcomes = [(row, JobError(FailureCode.ENGINE, "the model's step failed")) for row in rows]
        self.gauges.stepped()
        events: list[EngineEvent] = []
        for row, outcome in outcomes:
            live = self._live.get(row.answer.job.job_id)
            if live is None or live.row is not row:  # lost in a close that did not wait
                continue
            self._rows.remove(live)
            self._rows.append(live)  # stepped rows go to the end of the round
            events += self._apply(live, row, outcome)
        return events

    def _apply(self, live: Live[RowT], row: RowT, outcome: Outcome) -> Sequence[EngineEvent]:
        match outcome:
            case Prefilled(percent):
                return [JobPrefill(live.job.job_id, percent)]
            case Sampled(token_id, logprob):
                tokens = row.answer.push(token_id, logprob)
                live.token(time.monotonic())
            case Ended():
                tokens = row.answer.end()
            case JobError():
                return self._fail(live.job.job_id, outcome)
            case _:
                assert_never(outcome)
        events: list[EngineEvent] = [] if tokens is None else [tokens]
        return events + self._done(live) if row.answer.finish_reason is not None else events

    # --- ends: each pops the job, so that none ends twice -----------------------------------------

    def _pop(self, job_id: JobId) -> Live[RowT] | None:
        with self._wake:
            live = self._live.pop(job_id, None)
            self._cancels.discard(job_id)
        if live is not None and live in self._rows:
            self._rows.remove(live)
            self._room = True
        if live is not None and live.row is not None:
            self._model.release(live.row)
        return live

    def _fail(self, job_id: JobId, error: JobError) -> list[EngineEvent]:
        if self._pop(job_id) is None:
            return []
        return [JobFailed(job_id, error.code, error.message, error.retryable)]

    def _done(self, live: Live[RowT]) -> list[EngineEvent]:
        if self._pop(live.job.job_id) is None or live.row is None:
            return []
        answer = live.row.answer
        if answer.finish_reason is None:
            raise RuntimeError("an answer without an end was ended")
        timings = live.timings(time.monotonic())
        self.gauges.ended(live, timings)
        return [
            JobDone(
                live.job.job_id,
                answer.finish_reason,
                answer.made,
                answer.prompt_tokens,
                answer.text_digest,
                timings,
            )
        ]

    def _lose_all(self) -> None:
        with self._emitting:
            with self._wake:
                lost = list(self._live)
                self._live.clear()
                self._inbox.clear()
            self._emit([JobFailed(job_id, FailureCode.LOST, _LOST, retryable=True) for job_id in lost])

    def _emit(self, events: Sequence[EngineEvent]) -> None:
        """One sink call. What a job says after it was lost to a close that did not wait is dropped."""
        if not events or self._sink is None:
            return
        with self._emitting:
            ended = {event.job_id for event in events if isinstance(event, JobDone | JobFailed)}
            heard = [event for event in events if event.job_id in ended or event.job_id in self._live]
            try:
                self._sink(heard)
            except Exception:  # the sink is the caller's; its bug must not silence every other job
                log.exception("the engine's sink failed")
