"""Jobs: what this node's engine is asked to do, from acceptance to the freed slot.

The law: a job starts only in a free slot, a slot is freed exactly once at the engine's end, and the engine is
told to stop in the very event in which its requester is gone.
"""

from __future__ import annotations

from collections.abc import Callable

from llama_gossip.errors import ProtocolError
from llama_gossip.histogram import WAIT_BOUNDS_S, Histogram
from llama_gossip.protocol.admission import Offer, Policy, model_of
from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.conversations import Conversations
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import CancelJob, JobAccepted, JobEnded, ResetStream, StartJob
from llama_gossip.protocol.events import (
    EngineDone,
    EngineFailed,
    EngineProgress,
    EngineStarted,
    EngineTokens,
)
from llama_gossip.protocol.fences import Fences, RequestKey
from llama_gossip.protocol.job import Job
from llama_gossip.protocol.jobqueue import JobQueue
from llama_gossip.protocol.limits import NOT_READ
from llama_gossip.protocol.messages import Assign, Capacity, ModelOffer, NodeId
from llama_gossip.protocol.pace import Pace
from llama_gossip.protocol.parking import Parking
from llama_gossip.protocol.states import JobState, JobStep
from llama_gossip.protocol.streams import Plane, StreamCode

_SWEEP: TimerKey = ("jobs", None, "sweep")
ENGINE_LOST = "engine_lost"  # the code of a job whose engine is gone
_ENGINE_STATES = (JobState.PREFILL, JobState.DECODE)


class Jobs:
    def __init__(self, desk: Desk, *, policy: Policy, closed: Callable[[Job], None]) -> None:
        self._desk = desk
        self._policy = policy
        self._closed = closed  # told in the event in which a job's stream is over
        self.offer = Offer(capacity=None, loading=False, draining=False)
        self.queue_wait_s = Histogram(WAIT_BOUNDS_S)  # from acceptance to the engine's beginning
        self.queue = JobQueue(ageing_ms=desk.timers.ageing_ms)
        self.pace = Pace()
        self.parking = Parking(desk)
        self.conversations = Conversations(desk.timers)
        self._jobs: dict[int, Job] = {}  # until stream and engine are both done with it
        self._live: dict[RequestKey, Job] = {}
        self._fences = Fences(desk.timers)
        self._numbers = 0
        self._alive_mono_ms = desk.now.mono_ms  # the engine has stepped, or had nothing to step for

    def __len__(self) -> int:
        return len(self._jobs)

    # --- this node's own side ---

    def change(self, capacity: Capacity | None, loading: bool) -> None:
        if _models(capacity) != _models(self.offer.capacity):
            self.conversations.forget()
        self.offer = Offer(capacity, loading, self.offer.draining)
        self.queue.resize(capacity.max_concurrent if capacity is not None else 0)
        if capacity is None and not loading:
            self._fail_waiting(ENGINE_LOST, "this node serves no model any more")
        self._start_waiting()

    def drain(self) -> None:
        """No new work; what waits is sent elsewhere; what runs may finish."""
        self.offer = Offer(self.offer.capacity, self.offer.loading, draining=True)
        self._fail_waiting("draining", "this worker is leaving")

    def goodbye(self) -> None:
        self.drain()
        for job in list(self._live.values()):
            self._fail(job, "draining", "this worker has left", retryable=True)

    def _fail_waiting(self, code: str, message: str) -> None:
        for number in self.queue.waiting():
            self._fail(self._jobs[number], code, message, retryable=True)

    @property
    def load(self) -> int:
        """Slots that are taken: all of them when the engine gives nothing back."""
        running = self.queue.running
        return max(running, self.queue.slots) if running and self.is_stalled() else running

    def queue_ms(self) -> int:
        """Estimated wait of a new job."""
        if self.load < self.queue.slots:
            return 0
        return self.pace.wait_ms(self.queue.queued, self.queue.slots)

    def figures(self) -> dict[str, int]:
        """What this node does now, as it announces it; {} where it serves nothing."""
        if self.offer.capacity is None:
            return {}
        return {
            "running": self.load,
            "queue_depth": self.queue.queued,
            "queue_ms": self.queue_ms(),
            "parked": len(self.parking),
        }

    # --- acceptance ---

    def passes_fence(self, key: RequestKey, attempt: int) -> bool:
        """A newer attempt ends the older one of the same request, whatever becomes of itself."""
        if not self._fences.admits(key, attempt, self._desk.now.mono_ms):
            return False
        older = self._live.get(key)
        if older is not None:
            self.close(older, "superseded", StreamCode.SUPERSEDED)
        return True

    def remembers_another(self, key: RequestKey, *, known: bool) -> bool:
        """False: the table of fences is full, a new request has no place in it."""
        return self._fences.has_room(key, self._desk.now.mono_ms, known=known)

    def accept(self, assign: Assign, *, requester: NodeId, stream: int, context: bytes, friend: bool) -> Job:
        self._numbers += 1
        desk = self._desk
        job = Job(
            desk, number=self._numbers, assign=assign, requester=requester, stream=stream, context=context
        )
        self._jobs[job.number] = job
        self._live[job.request_key] = job
        self._fences.take(job.request_key, assign.attempt)
        priority = self._policy.priority_for(assign.priority, friend)
        self.queue.add(
            job.number,
            requester,
            priority,
            self._policy.caps_for(friend),
            desk.now.mono_ms,
            owner=requester == desk.own_id,
        )
        desk.count("jobs")
        boot = assign.head.boot
        desk.emit(JobAccepted(job.number, assign.request_id, requester, self._model(job), boot))
        desk.after(job.key("deadline"), self._time_limit_ms(job))
        job.beat()
        self._start_waiting()
        if job.state is JobState.QUEUED or job.plane is Plane.GOSSIP:
            self._tell(job)  # a heartbeat of two seconds would be too late a yes
        return job

    def _start_waiting(self) -> None:
        now_ms = self._desk.now.mono_ms
        while (number := self._next(now_ms)) is not None:
            job = self._jobs[number]
            job.step(JobStep.START)
            job.started_mono_ms = now_ms
            self._desk.emit(self._start_of(job))
            self.parking.started(job)

    def _next(self, now_ms: int) -> int | None:
        self._begin_to_owe()
        return self.queue.start_next(now_ms)

    def _start_of(self, job: Job) -> StartJob:
        assign = job.assign
        return StartJob(
            job=job.number,
            requester=job.requester,
            request_id=job.request_id,
            attempt=assign.attempt,
            model=self._model(job),
            prompt=assign.prompt,
            config=assign.config,
            date=assign.date,
            resume=assign.resume,
            deadline_ms=max(1, job.accepted_mono_ms + self._time_limit_ms(job) - self._desk.now.mono_ms),
        )

    def _time_limit_ms(self, job: Job) -> int:
        return min(job.assign.deadline_ms, self._desk.timers.max_job_ms)

    def _model(self, job: Job) -> str:
        capacity = self.offer.capacity
        offer = model_of(job.assign, capacity) if capacity is not None else None
        return offer.name if offer is not None else job.assign.model

    def _tell(self, job: Job) -> None:
        waits = job.state is JobState.QUEUED
        position = self.queue.position(job.number, self._desk.now.mono_ms) if waits else 0
        est_ms = self.pace.wait_ms(position, self.queue.slots) if waits else self.pace.first_token_ms
        job.tell_progress(position=position, est_ms=est_ms)

    # --- a requester that does not read ---

    def stream_full(self, job: Job) -> None:
        if job.state is not JobState.DRAINING:
            self.parking.full(job, runs=self.queue.runs(job.number))

    def stream_writable(self, job: Job) -> None:
        self._begin_to_owe()
        self.parking.writable(job)

    # --- the engine ---

    def stepped(self) -> None:
        self._alive_mono_ms = self._desk.now.mono_ms

    @property
    def _stepping(self) -> int:
        """Jobs for which the engine owes steps."""
        return self.queue.running - len(self.parking)

    def _begin_to_owe(self) -> None:
        """Before a job is stepped (again)."""
        if not self._stepping:  # an idle engine owes no step: its time runs from the first job on
            self._alive_mono_ms = self._desk.now.mono_ms

    def is_stalled(self) -> bool:
        """It has had work for 30 s and not stepped. What comes new is no sign of life."""
        silent_ms = self._desk.now.mono_ms - self._alive_mono_ms
        return silent_ms >= self._desk.timers.engine_stalled_ms and self._stepping > 0

    def engine_started(self, event: EngineStarted) -> None:
        self.stepped()
        job = self._jobs.get(event.job)
        if job is not None and job.state is JobState.PREFILL:
            self.queue_wait_s.observe((self._desk.now.mono_ms - job.accepted_mono_ms) / 1_000)
            job.engine_started(event.facts, self.pace.first_token_ms)

    def engine_progress(self, event: EngineProgress) -> None:
        self.stepped()
        job = self._jobs.get(event.job)
        if job is not None and job.state is JobState.PREFILL:
            job.prefilled(event.value)

    def engine_tokens(self, event: EngineTokens) -> None:
        self.stepped()
        self._desk.count("tokens_made", len(event.texts))
        job = self._jobs.get(event.job)
        if job is None or job.state not in _ENGINE_STATES:
            return
        try:
            in_order = job.add(event)
        except ProtocolError:  # what the codec refuses: a text too long, a logprob that is no number
            in_order = False
        if not in_order:
            self._fail(job, "engine_failed", "the engine gave tokens that cannot be sent", retryable=True)

    def engine_done(self, event: EngineDone) -> None:
        self.stepped()
        job = self._freed(event.job)
        if job is not None and job.is_whole(event):
            job.ending = "done"
            self.pace.learn(job, self._desk.now.mono_ms)
            self.conversations.keep(job.assign.conversation, self._desk.now.mono_ms)
            job.complete(event)
        elif job is not None:
            message = "the engine's answer is not the one it had sent"
            self._fail(job, "engine_failed", message, retryable=True)
        self._after_engine(event.job)

    def engine_failed(self, event: EngineFailed) -> None:
        if event.code == ENGINE_LOST:
            self.conversations.forget()
        job = self._freed(event.job)
        if job is not None:
            self._fail(job, event.code, event.message, retryable=event.retryable)
        self._after_engine(event.job)

    def _freed(self, number: int) -> Job | None:
        """Frees the slot; the job, if it still owes its requester an answer."""
        job = self._jobs.get(number)
        if job is None or not self.queue.free(number):
            return None
        self.parking.over(number)
        return job if job.state in _ENGINE_STATES else None

    def _after_engine(self, number: int) -> None:
        job = self._jobs.get(number)
        if job is not None:
            self._settle(job)
        self._start_waiting()

    # --- ends ---

    def _fail(self, job: Job, code: str, message: str, *, retryable: bool) -> None:
        """Error to the requester; the engine is told to stop if it still runs."""
        if job.state in (JobState.DRAINING, JobState.CLOSED):
            return
        job.ending = code
        self._stop_engine(job, code)
        job.fail(code, message, retryable=retryable)

    def close(self, job: Job, reason: str, code: StreamCode | None = None) -> None:
        """The stream is over. code: how our side of it is ended, None where it has ended already."""
        if job.state is not JobState.DRAINING:
            job.ending = reason
            self._stop_engine(job, reason)
        job.stop_timers()
        job.step(JobStep.CLOSE)
        self._closed(job)
        del self._live[job.request_key]
        self._fences.bury(job.request_key, self._desk.now.mono_ms)
        if self._desk.agenda.due_of(_SWEEP) is None:
            self._desk.after(_SWEEP, self._desk.timers.tombstone_ms)
        if code is not None:
            self._desk.emit(ResetStream(job.stream, code))
        self._settle(job)
        self._start_waiting()

    def requester_gone(self, requester: NodeId, order: tuple[int, int]) -> None:
        """The process that signed what came before this (boot, seq) has ended: so have its leases."""
        for job in [job for (asker, _), job in self._live.items() if asker == requester]:
            head = job.assign.head
            if (head.boot, head.seq) < order and job.state is not JobState.DRAINING:
                self.close(job, "requester_gone", StreamCode.CANCELLED)

    def _stop_engine(self, job: Job, reason: str) -> None:
        self._begin_to_owe()
        self.parking.over(job.number)
        if not self.queue.withdraw(job.number) and self.queue.runs(job.number):
            self._desk.emit(CancelJob(job.number, reason))

    def _settle(self, job: Job) -> None:
        """Forgets a job when neither the stream nor the engine needs it any more."""
        if job.state is not JobState.CLOSED or self.queue.runs(job.number):
            return
        del self._jobs[job.number]
        self._desk.count(f"jobs_{job.ending}")
        self._desk.emit(JobEnded(job.number, job.request_id, job.requester, job.tokens, job.ending))

    # --- timers ---

    def timer(self, number: int, name: str) -> None:
        job = self._jobs[number]
        match name:
            case "beat":
                self._beat(job)
            case "flush":
                job.flush()
            case "deadline":
                self._fail(job, "deadline", "the request's deadline has passed", retryable=False)
            case "unread":
                message = f"the requester did not read for {self._desk.timers.unread_ms // 1_000} s"
                self._fail(job, NOT_READ, message, retryable=True)
            case "closing":
                self.close(job, job.ending, StreamCode.DONE)
            case _:
                raise AssertionError(f"no such timer: {name}")

    def sweep(self) -> None:
        """Old tombstones go; the rest has its turn one tombstone's life later."""
        self._fences.sweep(self._desk.now.mono_ms)
        if len(self._fences):
            self._desk.after(_SWEEP, self._desk.timers.tombstone_ms)

    def _beat(self, job: Job) -> None:
        if self.parking.is_full(job):
            job.beat()
        elif self.is_stalled():
            self._fail(job, "engine_stalled", "the engine has stopped stepping", retryable=True)
        else:
            self._tell(job)


def _models(capacity: Capacity | None) -> tuple[ModelOffer, ...]:
    return () if capacity is None else capacity.models
