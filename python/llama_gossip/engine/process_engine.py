"""The process engine: any engine in a process of its own, whose death is no more than lost jobs.

The law: exactly one terminal event for each job, also when the process is killed in mid-word: its jobs end as
lost, retryable elsewhere, at once, and so does what is submitted until another process has loaded the model.
After MAX_DEATHS of them without a finished job in between none is begun any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from llama_gossip.engine import wire
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
    JobStarted,
    Sink,
)
from llama_gossip.engine.child_process import ChildProcess
from llama_gossip.engine.progress import Progress
from llama_gossip.errors import LlamaGossipError, ProtocolError, UsageError

MAX_DEATHS: Final = 5  # in a row: what kills it is the model or the machine, not a request
FIRST_WAIT_S = 1.0  # doubled with each death in a row
LONGEST_WAIT_S = 30.0
_CLOSED: Final = "the engine was closed"
_GONE: Final = "the engine's process has gone"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """A job that has no end yet."""

    running: bool = False
    parked: bool = False

    @property
    def steps(self) -> bool:
        return self.running and not self.parked


class ProcessEngine:
    """The Engine interface over an engine in a child process; the constructor returns when that is loaded."""

    def __init__(self, begin: wire.Begin, progress: Progress | None = None) -> None:
        """Raises what `load_engine` raises."""
        self._begin = begin
        self._changed = threading.Condition()
        self._emitting = threading.RLock()  # one sink call at a time; taken before _changed, never after
        self._unheard: list[EngineEvent] = []  # ends that came before there was a sink; under _emitting
        self._live: dict[JobId, _Held] = {}  # under _changed, as all below
        self._sink: Sink | None = None
        self._closing = False
        self._deaths = 0  # since a job was finished
        self._stepped_s = 0.0  # when the model last stepped, as far as is known here
        self._child = ChildProcess(begin)
        opened = self._child.open(progress)
        self._info, self._load, self._state = opened.info, opened.load, EngineState.READY
        self._thread = threading.Thread(target=self._run, name=f"engine {self._info.model}", daemon=True)
        self._thread.start()

    # --- the interface, any thread ---------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def pid(self) -> int:
        """Of the process that has, or had last, the model."""
        return self._child.pid

    def start(self, sink: Sink) -> None:
        with self._emitting:
            with self._changed:
                if self._closing:
                    raise UsageError(_CLOSED, hint="a node closes its engine at its end: load it again")
                if self._sink is not None:
                    raise UsageError("this engine works for another already", hint="one engine, one node")
                self._sink = sink
                if self._state is EngineState.READY:
                    self._send(wire.Start())
                unheard, self._unheard = self._unheard, []
            self._tell(unheard)

    def submit(self, job: EngineJob) -> None:
        try:
            frame = wire.framed(wire.TO_CHILD, wire.Submit(job))
        except ValueError as error:
            refused = JobFailed(
                job.job_id, FailureCode.BAD_REQUEST, f"the job cannot be told: {error}", False
            )
            return self._tell([refused])
        with self._changed:
            if job.job_id in self._live:
                raise UsageError(f"job {job.job_id} is already here", hint="job ids are unique in an engine")
            if self._state is EngineState.READY:
                self._live[job.job_id] = _Held()
                self._child.send(frame)
                return None
            lost = JobFailed(job.job_id, FailureCode.LOST, _CLOSED if self._closing else _GONE, True)
        return self._tell([lost])

    def cancel(self, job_id: JobId) -> None:
        with self._changed:
            if job_id in self._live:
                self._send(wire.Cancel(job_id))

    def park(self, job_id: JobId) -> None:
        with self._changed:
            if (held := self._live.get(job_id)) is not None:
                held.parked = True
                self._send(wire.Park(job_id))

    def unpark(self, job_id: JobId) -> None:
        with self._changed:
            held = self._live.get(job_id)
            if held is not None and held.parked:
                if not self._is_stepping():
                    self._stepped_s = time.monotonic()
                held.parked = False
                self._send(wire.Unpark(job_id))

    def _is_stepping(self) -> bool:
        return any(held.steps for held in self._live.values())

    def load(self) -> EngineLoad:
        with self._changed:
            running = sum(held.running for held in self._live.values())
            age_s = time.monotonic() - self._stepped_s if self._is_stepping() else 0.0
            return replace(
                self._load,
                running=running,
                queued=len(self._live) - running,
                last_step_age_ms=age_s * 1000,
                state=self._state,
            )

    def close(self, timeout_s: float = 2.0) -> None:
        with self._changed:
            self._closing = True
            self._state = EngineState.DOWN
            self._changed.notify_all()
            child = self._child
        child.end(timeout_s)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        self._lose_all(_CLOSED)

    # --- the thread that hears the child ----------------------------------------------------------

    def _run(self) -> None:
        reason = self._hear(self._child)
        while self._may_begin_again(reason):
            try:
                child = self._another()
            except LlamaGossipError as error:
                reason = error.message
            else:
                log.warning("%s: the engine serves again", self._info.model)
                reason = self._hear(child)

    def _hear(self, child: ChildProcess) -> str:
        """Passes on what it says, to its end; how it went."""
        try:
            while (message := child.receive()) is not None:
                self._figures(message.load)
                if isinstance(message, wire.Batch):
                    self._pass_on(message.events)
        except ProtocolError as error:
            child.end(0.0)
            child.reap()
            return f"it said what nobody can read: {error.message}"
        return child.reap()

    def _figures(self, load: EngineLoad | None) -> None:
        if load is None:
            return
        with self._changed:
            self._load = load
            self._stepped_s = max(self._stepped_s, time.monotonic() - load.last_step_age_ms / 1000)

    def _pass_on(self, events: Sequence[EngineEvent]) -> None:
        """What a job says after its end here (it was lost to a close) is dropped."""
        with self._emitting:
            heard = []
            with self._changed:
                self._stepped_s = time.monotonic()
                for event in events:
                    if event.job_id not in self._live:
                        continue
                    heard.append(event)
                    match event:
                        case JobStarted():
                            self._live[event.job_id].running = True
                        case JobDone() | JobFailed():
                            del self._live[event.job_id]
                            self._deaths = 0 if isinstance(event, JobDone) else self._deaths
            self._tell(heard)

    # --- after a death ---------------------------------------------------------------------------

    def _may_begin_again(self, reason: str) -> bool:
        """Ends what was lost with it and waits its time."""
        with self._changed:
            if self._closing:
                return False
            self._deaths += 1
            down = self._deaths >= MAX_DEATHS
            self._state = EngineState.DOWN if down else EngineState.LOADING
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (self._deaths - 1))
        self._lose_all(_GONE)
        name = self._info.model
        if down:
            log.error("%s: engine lost (%s), %d times in a row: it stays down", name, reason, MAX_DEATHS)
            return False
        log.warning("%s: engine lost (%s); starting it again", name, reason)
        with self._changed:
            return not self._changed.wait_for(lambda: self._closing, wait_s)

    def _another(self) -> ChildProcess:
        """Raises LlamaGossipError where the model cannot be loaded now."""
        child = ChildProcess(self._begin)
        with self._changed:
            self._child = child
            closing = self._closing
        if closing:  # it came too late for `close` to end it
            child.end(0.0)
        opened = child.open(None)
        with self._changed:
            if not self._closing:
                self._info, self._load, self._state = opened.info, opened.load, EngineState.READY
                if self._sink is not None:
                    self._send(wire.Start())
        return child

    def _lose_all(self, message: str) -> None:
        with self._emitting:
            with self._changed:
                lost = list(self._live)
                self._live.clear()
            self._tell([JobFailed(job_id, FailureCode.LOST, message, retryable=True) for job_id in lost])

    # --- both ways -------------------------------------------------------------------------------

    def _send(self, message: wire.ToChild) -> None:
        self._child.send(wire.framed(wire.TO_CHILD, message))

    def _tell(self, events: Sequence[EngineEvent]) -> None:
        """One sink call."""
        with self._emitting:
            if self._sink is None:
                self._unheard += events
            elif events:
                try:
                    self._sink(events)
                except Exception:  # the sink is the caller's; its bug must not silence every other job
                    log.exception("the engine's sink failed")
