"""Answer: what a user gets, token by token and at the end. Plain values, ready for JSON and data frames."""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_gossip.protocol.messages import TokenLogprob


@dataclass(frozen=True, slots=True)
class Token:
    """One token with its final text (a half character or a possible stop string is never shown)."""

    index: int
    token_id: int | None
    text: str
    logprob: TokenLogprob | None = None  # where the request asked for logprobs


@dataclass(frozen=True, slots=True)
class Failover:
    """A seam: another worker took the answer up in mid-stream."""

    attempt: int  # the one that continues
    from_worker: str
    to_worker: str
    index: int  # of the first token behind the seam
    gap_ms: float  # between the last token before and the first one behind it
    resume: str  # exact | ids | text
    reason: str  # why the earlier attempt ended


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Measured by the requester. first_token_ms and total_ms run from the submission."""

    first_token_ms: float
    total_ms: float
    tokens_per_s: float  # between the first and the last token; 0 with fewer than two


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. Never a truncated one: what ends early raises."""

    request_id: str
    seed: int  # the one given, or the one drawn: with it the same workers give the same text
    text: str
    finish_reason: str  # stop | length
    usage: Usage
    model: str
    model_digest: str | None
    worker: str  # the node id that made the last token
    attempts: int
    delivery: str  # direct | gossip: how the last worker's tokens came
    resume: str | None  # class of the weakest seam; None: there was none
    verified: bool  # the signed transcript of this answer holds, checked offline
    timings: Timings
    transcript: bytes = field(default=b"", repr=False)  # PROTOCOL section 8; verify_transcript checks it
