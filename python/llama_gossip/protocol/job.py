"""Job: one accepted attempt on the worker's side, from its Assign to the closed stream.

The law: frames only while the requester is there; indices and digest count the whole answer, its resumed part
included; progress is said only while it is true (queued, or the engine has stepped lately); the answer ends
with exactly one Complete or Error.
"""

from __future__ import annotations

from hashlib import blake2b

from llama_gossip.protocol.batch import Batch, is_sendable
from llama_gossip.protocol.codec import clip_text
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import FinishStream, WriteStream
from llama_gossip.protocol.events import EngineDone, EngineTokens
from llama_gossip.protocol.fences import RequestKey
from llama_gossip.protocol.frames import REQUESTER_KINDS, FrameReader, FrameWriter
from llama_gossip.protocol.limits import MAX_ERROR_BYTES
from llama_gossip.protocol.messages import (
    Assign,
    Complete,
    Error,
    Frame,
    NodeId,
    Phase,
    Progress,
    PromptFacts,
    RequestId,
)
from llama_gossip.protocol.states import JOB_MOVES, JobState, JobStep, move
from llama_gossip.protocol.streams import plane_of


class Job:
    def __init__(
        self, desk: Desk, *, number: int, assign: Assign, requester: NodeId, stream: int, context: bytes
    ) -> None:
        self.number = number
        self.assign = assign
        self.requester = requester
        self.stream = stream
        self.plane = plane_of(stream)
        self.state = JobState.QUEUED
        self.ending = ""  # why it ended, for the log and the counters
        self.accepted_mono_ms = desk.now.mono_ms
        self.started_mono_ms: int | None = None
        self.first_token_mono_ms: int | None = None
        self.was_parked = False  # its times are no measure of this node
        self.reader = FrameReader(context, requester, desk.verify, REQUESTER_KINDS)
        self._desk = desk
        self._writer = FrameWriter(context, desk.signer)
        resume = assign.resume
        self.first_index = 0 if resume is None else resume.from_index
        self._batch = Batch(next_index=self.first_index)
        self._digest = blake2b(b"" if resume is None else resume.text.encode("utf-8"), digest_size=32)
        self._facts: PromptFacts | None = None
        self._percent = 0
        self._flushed_mono_ms: int | None = None

    @property
    def request_id(self) -> RequestId:
        return self.assign.request_id

    @property
    def tokens(self) -> int:
        """Made by the engine so far: the resumed part of an answer is not its work."""
        return self._batch.next_index - self.first_index

    @property
    def request_key(self) -> RequestKey:
        return (self.requester, self.assign.request_id)

    def step(self, step: JobStep) -> None:
        self.state = move(JOB_MOVES, self.state, step)

    # --- towards the requester ---

    def tell_progress(self, *, position: int, est_ms: int) -> None:
        """The heartbeat of a job that has no token to send."""
        match self.state:
            case JobState.QUEUED:
                phase, value = Phase.QUEUED, position
            case JobState.PREFILL:
                phase, value = Phase.PREFILL, self._percent
            case _:
                phase, value = Phase.DECODE, self.tokens
        facts, self._facts = self._facts, None
        self._write(Progress(n=0, phase=phase, value=value, est_ms=est_ms, facts=facts))
        self.beat()

    def engine_started(self, facts: PromptFacts, est_ms: int) -> None:
        self._facts = facts
        self.tell_progress(position=0, est_ms=est_ms)

    def prefilled(self, percent: int) -> None:
        """Told with the next heartbeat."""
        self._percent = max(self._percent, min(percent, 100))

    def add(self, event: EngineTokens) -> bool:
        """False: the engine has skipped or repeated a token, or made one that no frame carries."""
        if event.index != self._batch.next_index or not is_sendable(event):
            return False
        if self.state is not JobState.DECODE:  # there it changes nothing, a thousand times an answer
            self.step(JobStep.TOKEN)
        for text in event.texts:
            self._digest.update(text.encode("utf-8"))
        now_ms = self._desk.now.mono_ms
        if self.first_token_mono_ms is None:
            self.first_token_mono_ms = now_ms
        for token in self._batch.add(event.token_ids, event.texts, event.logprobs):
            self._write(token)
            self._flushed_mono_ms = now_ms
        self._flush_when_due()
        return True

    def _flush_when_due(self) -> None:
        coalesce_ms, now_ms = self._desk.timers.coalesce_of(self.plane), self._desk.now.mono_ms
        last = self._flushed_mono_ms
        if last is None or now_ms - last >= coalesce_ms:
            self.flush()
        elif len(self._batch):
            self._desk.agenda.set(self.key("flush"), last + coalesce_ms)

    def flush(self) -> None:
        for token in self._batch.take():
            self._write(token)
            self._flushed_mono_ms = self._desk.now.mono_ms
        self._desk.agenda.cancel(self.key("flush"))
        self.beat()

    def is_whole(self, done: EngineDone) -> bool:
        """Whether the engine's own account of the answer is the one that was sent."""
        return done.total_tokens == self._batch.next_index and done.text_digest == self._digest.digest()

    def complete(self, done: EngineDone) -> None:
        self.flush()
        started = self.accepted_mono_ms if self.started_mono_ms is None else self.started_mono_ms
        self._answer(
            Complete(
                n=0,
                total_tokens=done.total_tokens,
                duration_secs=(self._desk.now.mono_ms - started) / 1_000,
                finish_reason=done.finish_reason,
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.total_tokens,
                text_digest=done.text_digest,
                model_digest=done.model_digest,
            )
        )

    def fail(self, code: str, message: str, *, retryable: bool) -> None:
        self.flush()
        self._answer(Error(n=0, error=clip_text(message, MAX_ERROR_BYTES), code=code, retryable=retryable))

    def _answer(self, frame: Complete | Error) -> None:
        """The last frame; our side ends after it, the requester's end is awaited."""
        self._write(frame)
        self.stop_timers()
        self.step(JobStep.ANSWER)
        self._desk.emit(FinishStream(self.stream))
        self._desk.after(self.key("closing"), self._desk.timers.closing_ms)

    def _write(self, frame: Frame) -> None:
        self._desk.emit(WriteStream(self.stream, self._writer.encode(frame)))

    # --- timers ---

    def key(self, name: str) -> tuple[str, object, str]:
        return ("job", self.number, name)

    def beat(self) -> None:
        self._desk.after(self.key("beat"), self._desk.timers.heartbeat_of(self.plane))

    def stop_timers(self) -> None:
        for name in ("beat", "flush", "deadline", "closing", "unread"):
            self._desk.agenda.cancel(self.key(name))
