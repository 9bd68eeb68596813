"""Scripted model: a deterministic engine for the fake wire, driven by StartJob and CancelJob.

The text of an answer depends on the seed and the index only, as with a real model and sampler `s1`; a resumed
answer goes on at its index. After a start exactly one EngineDone or EngineFailed follows, also after a
cancel: the engine's law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Capacity,
    FinishReason,
    ModelOffer,
    NumericsClass,
    Phase,
    PromptFacts,
)

DIGEST = blake2b(b"weights", digest_size=32).digest()
Schedule = Callable[[int, ev.Event], None]  # (delay in ms, event)


def text_of(seed: int, index: int) -> str:
    return f" w{(seed * 31 + index * 7) % 97}"


def answer_of(seed: int, tokens: int) -> str:
    return "".join(text_of(seed, index) for index in range(tokens))


@dataclass
class ScriptedModel:
    name: str = "tiny"
    slots: int = 2
    context: int = 512
    start_ms: int = 2
    prefill_ms: int = 10
    token_ms: int = 5
    cancel_ms: int = 3
    stop_after: int | None = None  # tokens; None: until max_tokens
    fail_after: int | None = None  # tokens, then EngineFailed
    fail_code: str = "engine_failed"
    fail_retryable: bool = True
    hang_after: int | None = None  # tokens, then nothing more until a cancel
    corrupt_at: int | None = None  # the token at which it lies about the index
    wrong_digest: bool = False
    digest: bytes | None = DIGEST
    numerics_id: str | None = "scripted-1"
    numerics_class: NumericsClass = NumericsClass.EXACT
    prompt_digest: bytes | None = DIGEST
    ids: bool = True
    running: dict[int, int] = field(default_factory=dict)  # job → tokens made
    starts: list[ef.StartJob] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    most_running: int = 0

    def capacity(self) -> Capacity:
        offer = ModelOffer(
            self.name, self.digest, self.context, "none", self.numerics_id, self.numerics_class
        )
        return Capacity("scripted", "cpu", (offer,), self.slots, 0, 0, 0, 1_000 / self.token_ms, 1 << 30)

    def start(self, job: ef.StartJob, schedule: Schedule) -> None:
        assert job.job not in self.running, "started twice"
        self.starts.append(job)
        self.running[job.job] = 0
        self.most_running = max(self.most_running, len(self.running))
        facts = PromptFacts(7, self.prompt_digest, self.digest, self.numerics_id, self.numerics_class)
        schedule(self.start_ms, ev.EngineStarted(job.job, facts))
        schedule(self.start_ms + self.prefill_ms // 2, ev.EngineProgress(job.job, Phase.PREFILL, 50))
        self._script(job, schedule)

    def _script(self, job: ef.StartJob, schedule: Schedule) -> None:
        total = job.config.max_tokens if self.stop_after is None else self.stop_after
        total = min(total, job.config.max_tokens)
        at = self.start_ms + self.prefill_ms
        first = 0 if job.resume is None else job.resume.from_index
        for made, index in enumerate(range(first, total)):
            if made == self.hang_after:
                return
            if made == self.fail_after:
                schedule(at, ev.EngineFailed(job.job, self.fail_code, "scripted", self.fail_retryable))
                return
            told = index + 1 if index == self.corrupt_at else index
            ids = (index,) if self.ids else ()
            schedule(at, ev.EngineTokens(job.job, told, ids, (text_of(job.config.seed, index),)))
            at += self.token_ms
        whole = answer_of(job.config.seed, total) + ("!" if self.wrong_digest else "")
        reason = FinishReason.LENGTH if total == job.config.max_tokens else FinishReason.STOP
        digest = blake2b(whole.encode(), digest_size=32).digest()
        schedule(at, ev.EngineDone(job.job, reason, total, 7, digest, self.digest))

    def cancel(self, job: int, schedule: Schedule) -> None:
        self.cancels.append(job)
        if job in self.running:
            schedule(self.cancel_ms, ev.EngineFailed(job, "cancelled", "cancelled", retryable=False))

    def takes(self, event: ev.Event) -> bool:
        """Whether the engine still says this: nothing follows a job's terminal event."""
        match event:
            case ev.EngineDone(job=job) | ev.EngineFailed(job=job):
                return self.running.pop(job, None) is not None
            case ev.EngineStarted(job=job) | ev.EngineProgress(job=job):
                return job in self.running
            case ev.EngineTokens(job=job):
                if job in self.running:
                    self.running[job] += 1
                return job in self.running
            case _:
                return True
