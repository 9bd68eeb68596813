"""What an engine is: it takes jobs, steps a model, and hands batches of events to one sink.

The law: after `submit(job)` exactly one terminal event (JobDone or JobFailed) follows for that job,
also after `cancel`. Engines never touch the network, the event loop or `_native`; a node and a bench
drive them through the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from llama_gossip.protocol.messages import (
    FinishReason,
    GenerationConfig,
    NumericsClass,
    Prompt,
    Resume,
    TokenLogprob,
)

JobId: TypeAlias = int  # chosen by the caller, unique within one engine


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine serves. Constant after `load` has returned."""

    model: str  # the name that requests use
    model_digest: bytes | None  # sha256 root over the model's files; None: random or unknown weights
    numerics_id: str | None  # equal ids compute equal logits where numerics_class is exact
    numerics_class: NumericsClass
    backend: str  # "torch", "scripted", …
    device: str  # "cpu", "cuda:0 NVIDIA …"
    dtype: str  # "fp32", "bf16"
    quantisation: str  # "none", "q4_1", …
    context: int  # tokens, prompt and answer together
    max_concurrent: int
    notes: tuple[str, ...] = ()  # sentences worth telling the user, e.g. that CUDA was expected
    tokens_per_s: float = 0.0  # one request alone, measured at load; 0: unknown
    memory_bytes: int = 0  # weights
    pool_bytes: int = 0  # reserved for keys and values


class EngineState(StrEnum):
    """Whether the engine takes jobs. Where it does not, each one fails at once as lost."""

    READY = "ready"
    LOADING = "loading"  # it is being started again
    DOWN = "down"  # it will not come back


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy the engine is now."""

    running: int
    queued: int
    tokens_per_s: float  # a request, moving average; the load-time figure before the first request
    first_token_ms: float  # moving average
    memory_free: int  # bytes
    last_step_age_ms: float  # since the model last stepped, or since it became busy; 0 when idle
    fed_tokens: int = 0  # of prompts and resumed parts since the start, that had to be fed
    cached_tokens: int = 0  # and those that were there already
    state: EngineState = EngineState.READY
    pool_bytes: int = 0  # reserved for keys and values
    pool_used_bytes: int = 0  # of these, by what runs
    pool_kept_bytes: int = 0  # and by beginnings that are kept for what may follow


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One attempt of one request. The engine renders, tokenises and checks it."""

    job_id: JobId
    prompt: Prompt
    config: GenerationConfig
    date: str  # "YYYY-MM-DD", given to chat templates that ask for it
    resume: Resume | None = None
    deadline_ms: int | None = None  # relative to submit
    owner: bytes | None = None  # whose earlier work may shorten this job's; None: anybody's without an owner


class FailureCode(StrEnum):
    """Why a job failed. The first four are the request's own fault: never retried elsewhere as they are."""

    TOO_LONG = "too_long"  # prompt + resume + max_tokens over the context
    BAD_REQUEST = "bad_request"  # ids outside the vocabulary, NaN temperature, an unreadable template …
    UNSUPPORTED = "unsupported"  # an option that this engine does not have
    NOT_FINITE = "not_finite"  # the model produced NaN or infinite logits
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ENGINE = "engine_failed"  # a step failed; another worker may do it
    LOST = "engine_lost"  # the engine is gone


@dataclass(frozen=True, slots=True)
class JobStarted:
    """The prompt is tokenised and admitted; prefill begins."""

    job_id: JobId
    prompt_tokens: int
    prompt_digest: bytes | None  # BLAKE2b-256 over u32 BE ids, BOS and template included
    cached_tokens: int = 0  # that need no prefill


@dataclass(frozen=True, slots=True)
class JobPrefill:
    job_id: JobId
    percent: int


@dataclass(frozen=True, slots=True)
class JobTokens:
    """Tokens whose text is final: one text a token, never split between events."""

    job_id: JobId
    index: int  # of the first token, counted from the answer's start, resumed part included
    token_ids: tuple[int, ...]  # empty from an engine without ids
    texts: tuple[str, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class JobDone:
    job_id: JobId
    finish_reason: FinishReason
    total_tokens: int  # the whole answer, resumed part included
    prompt_tokens: int
    text_digest: bytes  # BLAKE2b-256 over the UTF-8 of the whole answer
    timings: JobTimings = field(default_factory=lambda: JobTimings())


@dataclass(frozen=True, slots=True)
class JobTimings:
    """Milliseconds on the engine's own clock."""

    queue_ms: float = 0.0  # submit to prefill
    first_token_ms: float = 0.0  # submit to first token
    total_ms: float = 0.0  # submit to end


@dataclass(frozen=True, slots=True)
class JobFailed:
    job_id: JobId
    code: FailureCode
    message: str  # one sentence, fit for the requester: no path, no internals
    retryable: bool


EngineEvent: TypeAlias = JobStarted | JobPrefill | JobTokens | JobDone | JobFailed
Sink: TypeAlias = Callable[[Sequence[EngineEvent]], None]


class Engine(Protocol):
    """See the module's law. `submit`, `cancel`, `park`, `unpark`, `load` are thread-safe, return at once, and
    never raise for a bad job: that ends as JobFailed."""

    @property
    def info(self) -> EngineInfo: ...

    def start(self, sink: Sink) -> None:
        """Begins to work. `sink` is called from the engine's thread, once a step, with that step's events.

        Once an engine: raises UsageError when it works already or was closed."""

    def submit(self, job: EngineJob) -> None: ...

    def cancel(self, job_id: JobId) -> None:
        """Idempotent; an unknown or ended job is ignored. Ends as JobFailed(CANCELLED) within one step."""

    def park(self, job_id: JobId) -> None:
        """Leaves the job out of the steps until `unpark`; what the running step makes of it still comes.

        It keeps its place and its memory; a cancel or its deadline ends it as ever. Idempotent; an unknown or
        ended job is ignored."""

    def unpark(self, job_id: JobId) -> None:
        """The job is stepped again. Idempotent; an unknown or ended job is ignored."""

    def load(self) -> EngineLoad: ...

    def close(self, timeout_s: float = 2.0) -> None:
        """Ends every job as JobFailed(LOST), stops the thread, frees the model. Idempotent."""
