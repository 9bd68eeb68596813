"""Driving an engine from a test: a sink that collects, waits without sleeping, and knows the law of ends."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llama_gossip.engine.base import (
    Engine,
    EngineEvent,
    EngineJob,
    JobDone,
    JobFailed,
    JobId,
    JobPrefill,
    JobStarted,
    JobTokens,
)
from llama_gossip.engine.stepped import SteppedEngine
from llama_gossip.protocol.messages import GenerationConfig, Prompt, RawPrompt, Resume

WAIT_S = 60.0  # a hang is a failure with this stack
DATE = "2026-11-24"
LONG_PROMPT = "The quick brown fox jumps over the lazy dog. " * 40  # 1 800 bytes: several chunks of prefill


@dataclass(frozen=True)
class Subject:
    """Makes engines of one kind. `vocabulary`: ids from here on do not exist."""

    name: str
    make: Callable[[int], Engine]
    vocabulary: int


@dataclass
class Collector:
    """The sink. `react` runs inside the model thread, after each call has been taken in."""

    react: Callable[[Sequence[EngineEvent]], None] = lambda events: None
    calls: list[tuple[EngineEvent, ...]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, events: Sequence[EngineEvent]) -> None:
        assert events, "an empty sink call"
        with self.changed:
            self.calls.append(tuple(events))
            self.changed.notify_all()
        self.react(events)

    def events(self, job_id: JobId) -> list[EngineEvent]:
        with self.changed:
            return [event for call in self.calls for event in call if event.job_id == job_id]

    def ends(self, job_id: JobId) -> list[JobDone | JobFailed]:
        return [event for event in self.events(job_id) if isinstance(event, JobDone | JobFailed)]

    def tokens(self, job_id: JobId) -> list[JobTokens]:
        return [event for event in self.events(job_id) if isinstance(event, JobTokens)]

    def prefills(self, job_id: JobId) -> list[JobPrefill]:
        return [event for event in self.events(job_id) if isinstance(event, JobPrefill)]

    def started(self, job_id: JobId) -> list[JobStarted]:
        return [event for event in self.events(job_id) if isinstance(event, JobStarted)]

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), f"waited in vain: {what}"

    def wait_end(self, job_id: JobId) -> JobDone | JobFailed:
        self.wait_for(lambda: self.ends(job_id), f"the end of job {job_id}")
        return self.ends(job_id)[0]

    def answer(self, job_id: JobId) -> AnswerSeen:
        """Waits for the end and checks the laws of base.py on the way."""
        end = self.wait_end(job_id)
        events = self.events(job_id)
        assert self.ends(job_id) == [end], "more than one terminal event"
        assert events[-1] == end, "events after the terminal one"
        ids: list[int] = []
        texts: list[str] = []
        first = None
        for event in self.tokens(job_id):
            first = event.index if first is None else first
            assert event.index == first + len(texts), "indices are not contiguous"
            assert len(event.token_ids) == len(event.texts) > 0
            assert event.logprobs is None or len(event.logprobs) == len(event.texts)
            ids += event.token_ids
            texts += event.texts
        return AnswerSeen(end, tuple(ids), tuple(texts), first)


@dataclass(frozen=True)
class AnswerSeen:
    end: JobDone | JobFailed
    ids: tuple[int, ...]
    texts: tuple[str, ...]
    first_index: int | None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def done(self) -> JobDone:
        assert isinstance(self.end, JobDone), self.end
        return self.end

    @property
    def failed(self) -> JobFailed:
        assert isinstance(self.end, JobFailed), self.end
        return self.end

    def resume_at(self, count: int, prompt_digest: bytes | None = None) -> Resume:
        return Resume(count, self.ids[:count], "".join(self.texts[:count]), prompt_digest, None)


def stepped(engine: Engine) -> SteppedEngine[Any]:
    """For what only a sink that is called between two steps can see: of a `near_subject`."""
    assert isinstance(engine, SteppedEngine)
    return engine


@contextmanager
def started(engine: Engine, collector: Collector | None = None) -> Iterator[Collector]:
    collector = collector or Collector()
    engine.start(collector)
    try:
        yield collector
    finally:
        engine.close()


def job(
    job_id: JobId,
    prompt: Prompt | str = "Once upon a time",
    *,
    resume: Resume | None = None,
    deadline_ms: int | None = None,
    **config: object,
) -> EngineJob:
    if isinstance(prompt, str):
        prompt = RawPrompt(prompt)
    options = {"max_tokens": 24, "seed": 11} | config
    made = GenerationConfig(**options)  # type: ignore[arg-type]
    return EngineJob(job_id, prompt, made, DATE, resume, deadline_ms)


def digest_of(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=32).digest()
