"""Jobs: what makes one bad, and how far the answer of a good one has come. No torch.

The law: an `Answer` is a pure function of its ids. It says when the answer ends (stop string, end token,
max_tokens), gives each token out once with its final text, and counts the resumed part in.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from llama_gossip.engine.base import EngineJob, FailureCode, JobTokens
from llama_gossip.engine.detokenize import Decoder, Settled, TextStream, decode
from llama_gossip.protocol.messages import FinishReason, GenerationConfig, Resume, TokenLogprob

MAX_SEED: Final = 2**64 - 1
MAX_ALTERNATIVES: Final = 20  # what the protocol carries a token
RETRYABLE: Final = frozenset({FailureCode.ENGINE, FailureCode.LOST})  # another worker may do it


class JobError(Exception):
    """One job cannot go on. Never leaves the engine: it becomes a JobFailed."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE


def bad_request(message: str) -> JobError:
    return JobError(FailureCode.BAD_REQUEST, message)


def check_config(config: GenerationConfig, vocabulary: int) -> None:
    """Raises JobError(BAD_REQUEST) for values that no sampler can use."""
    ranges = (
        ("temperature", config.temperature, 0.0, math.inf),
        ("top_p", config.top_p, 0.0, 1.0),
        ("min_p", config.min_p, 0.0, 1.0),
        ("repetition", config.repetition, 0.0, math.inf),
        ("presence", config.presence, -math.inf, math.inf),
        ("frequency", config.frequency, -math.inf, math.inf),
        ("seed", config.seed, 0, MAX_SEED),
        ("max_tokens", config.max_tokens, 1, math.inf),
        ("top_k", 1 if config.top_k is None else config.top_k, 1, math.inf),
        ("logprobs", config.logprobs or 0, 0, MAX_ALTERNATIVES),
    )
    for name, value, low, high in ranges:
        if not math.isfinite(value) or not low <= value <= high:
            raise bad_request(f"{name} is {value}, which is outside [{low}, {high}]")
    if config.repetition == 0.0:
        raise bad_request("repetition is 0, it divides")
    if not all(config.stop):
        raise bad_request("a stop string is empty")
    for token_id, bias in config.logit_bias:
        if not 0 <= token_id < vocabulary or not math.isfinite(bias):
            raise bad_request(
                f"logit_bias has token {token_id} with {bias}; the vocabulary has {vocabulary} ids"
            )


def check_ids(ids: Sequence[int], vocabulary: int, what: str) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < vocabulary):
        raise bad_request(f"the {what} has ids outside the vocabulary of {vocabulary}")


def check_length(prompt_tokens: int, config: GenerationConfig, context: int) -> int:
    """The most tokens of the whole answer. Prompt and answer must fit together: raises JobError(TOO_LONG)."""
    if prompt_tokens + config.needed > context:
        raise JobError(
            FailureCode.TOO_LONG,
            f"{prompt_tokens} prompt tokens and {config.needed} for the answer exceed "
            f"the context of {context}",
        )
    return min(config.max_tokens, context - prompt_tokens)


def ids_digest(ids: Sequence[int]) -> bytes:
    """BLAKE2b-256 over u32 BE ids."""
    return hashlib.blake2b(struct.pack(f">{len(ids)}I", *ids), digest_size=32).digest()


@dataclass(slots=True)
class Answer:
    """The state of one answer. `replayed` are the ids of the resumed part as this vocabulary has them."""

    job: EngineJob
    prompt_tokens: int
    prompt_digest: bytes | None
    decoder: Decoder
    most: int  # tokens of the whole answer
    replayed: tuple[int, ...] = ()
    replayed_chars: int = 0  # of their text, that is not emitted again
    made: int = 0  # tokens of the whole answer, resumed part included
    finish_reason: FinishReason | None = None
    cached: int = 0  # of the prompt and the resumed part, tokens that need not be fed
    _emitted: int = 0
    _text: TextStream[TokenLogprob] = field(init=False)
    _digest: hashlib.blake2b = field(init=False)

    def __post_init__(self) -> None:
        resume = self.job.resume
        self._text = TextStream(self.decoder, self.job.config.stop, self.replayed_chars)
        self._digest = hashlib.blake2b(digest_size=32)
        if resume is not None:
            self.made = self._emitted = resume.from_index
            self._digest.update(resume.text.encode())
            self._text.replay(self.replayed)
        if self._text.stopped:
            self.finish_reason = FinishReason.STOP
        elif self.made >= self.most:
            self.finish_reason = FinishReason.LENGTH

    @property
    def text_digest(self) -> bytes:
        return self._digest.digest()

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> JobTokens | None:
        """Takes the next token; `finish_reason` says whether it was the last."""
        self.made += 1
        settled = self._text.push(token_id, logprob)
        if self._text.stopped:
            self.finish_reason = FinishReason.STOP
        elif self.made >= self.most:
            self.finish_reason = FinishReason.LENGTH
            settled += self._text.finish()
        return self._tokens(settled)

    def end(self) -> JobTokens | None:
        """The model gave an end token, which is no part of the answer."""
        self.finish_reason = FinishReason.STOP
        return self._tokens(self._text.finish())

    def _tokens(self, settled: list[Settled[TokenLogprob]]) -> JobTokens | None:
        if not settled:
            return None
        index, self._emitted = self._emitted, self._emitted + len(settled)
        texts = tuple(token.text for token in settled)
        self._digest.update("".join(texts).encode())
        logprobs = tuple(token.extra for token in settled if token.extra is not None)
        ids = tuple(token.token_id for token in settled)
        return JobTokens(self.job.job_id, index, ids, texts, logprobs or None)


def check_resume(resume: Resume, vocabulary: int) -> None:
    if len(resume.token_ids) not in (0, resume.from_index):
        raise bad_request(f"the resume has {len(resume.token_ids)} ids for {resume.from_index} tokens")
    check_ids(resume.token_ids, vocabulary, "resume")


def agrees(decoder: Decoder, resume: Resume) -> bool:
    """Whether the resumed ids are of this vocabulary: their text must begin with the delivered one."""
    return bool(resume.token_ids) and decode(decoder, resume.token_ids).startswith(resume.text)
