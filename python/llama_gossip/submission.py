"""Submission: what a user asks, checked and turned into the core's Submit. Every check names the field."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from llama_gossip.errors import UsageError
from llama_gossip.protocol.events import Submit
from llama_gossip.protocol.messages import (
    ChatPrompt,
    GenerationConfig,
    IdsPrompt,
    NodeId,
    Prompt,
    RawPrompt,
    RequestId,
)
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.protocol.streams import Delivery, Visibility

MAX_SEED = 2**64 - 1  # u64 on the wire
MAX_TEMPERATURE = 2.0
MAX_PRIORITY = 9
MAX_STOP_STRINGS = 16
DEFAULT_RESUME = "ids"  # the same weights go on; exactly so where the workers are equal

ChatMessage: TypeAlias = Mapping[str, str] | tuple[str, str]
PromptLike: TypeAlias = str | Sequence[ChatMessage] | Sequence[int] | RawPrompt | ChatPrompt | IdsPrompt


def _refuse(field: str, problem: str, hint: str) -> UsageError:
    return UsageError(f"{field} {problem}", hint=hint, code="bad_request")


def prompt_of(prompt: PromptLike, *, system: str | None = None, raw: bool = False) -> Prompt:
    """A string is one user message through the model's chat template; raw=True sends it as it is.

    A sequence of {"role", "content"} or (role, content) is a conversation, one of ints token ids.
    Raises UsageError.
    """
    if isinstance(prompt, RawPrompt | ChatPrompt | IdsPrompt):
        return prompt
    if raw:
        if not isinstance(prompt, str) or system is not None:
            raise _refuse("raw", "takes one string and no system message", "leave raw out for a conversation")
        return RawPrompt(_text("prompt", prompt))
    head = (("system", _text("system", system)),) if system is not None else ()
    if isinstance(prompt, str):
        return ChatPrompt((*head, ("user", _text("prompt", prompt))))
    if not prompt:
        raise _refuse("prompt", "is empty", "give a text or at least one message")
    if all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
        return _ids(prompt)
    return ChatPrompt((*head, *(_message(n, item) for n, item in enumerate(prompt))))


def _ids(prompt: Sequence[object]) -> IdsPrompt:
    ids = tuple(item for item in prompt if isinstance(item, int))
    if any(not 0 <= item < 2**32 for item in ids):
        raise _refuse("prompt", "holds an impossible token id", "ids lie in the model's vocabulary")
    return IdsPrompt(ids)


def _message(number: int, item: object) -> tuple[str, str]:
    if isinstance(item, Mapping):
        role, content = item.get("role"), item.get("content")
    elif isinstance(item, tuple) and len(item) == 2:
        role, content = item
    else:
        role = content = None
    if not isinstance(role, str) or not isinstance(content, str):
        raise _refuse(f"prompt[{number}]", "is no message", 'write {"role": "user", "content": "…"}')
    return role, _text(f"prompt[{number}].content", content)


def _text(field: str, value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _refuse(field, "holds a character that is no valid Unicode", "remove it") from None
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Generation options as users name them; `checked` turns them into the wire's config."""

    max_tokens: int = 50
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    fit: bool = False  # a shorter answer where the context has no room for max_tokens

    def checked(self) -> GenerationConfig:
        """Raises UsageError. Without a seed one is drawn: every request can be resumed and repeated."""
        _whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _number("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition", self.repetition, 0.01, 10.0)
        _number("presence", self.presence, -2.0, 2.0)
        _number("frequency", self.frequency, -2.0, 2.0)
        if self.top_k is not None:
            _whole("top_k", self.top_k, 1, 2**31 - 1)
        if self.seed is not None:
            _whole("seed", self.seed, 0, MAX_SEED)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, 20)
        return GenerationConfig(
            max_tokens=self.max_tokens,
            temperature=float(self.temperature),
            top_p=float(self.top_p),
            top_k=self.top_k,
            seed=secrets.randbits(64) if self.seed is None else self.seed,
            stop=self._stops(),
            ignore_eos=self.ignore_eos,
            logprobs=self.logprobs,
            min_p=float(self.min_p),
            repetition=float(self.repetition),
            presence=float(self.presence),
            frequency=float(self.frequency),
            logit_bias=tuple(self.logit_bias.items()),
            fit=self.fit,
        )

    def _stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if len(stops) > MAX_STOP_STRINGS:
            raise _refuse("stop", f"has more than {MAX_STOP_STRINGS} strings", "give fewer")
        return tuple(_text("stop", text) for text in stops if text)


def _whole(field: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _refuse(
            field, f"must be a whole number from {least} to {most}, not {value!r}", f"change {field}"
        )


def _number(field: str, value: object, least: float, most: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(float(str(value))) or not least <= float(str(value)) <= most:
        raise _refuse(field, f"must be a number from {least:g} to {most:g}, not {value!r}", f"change {field}")


def worker_id(worker: str | bytes | None) -> NodeId | None:
    """Raises UsageError unless it is a node id: 64 hex characters or 32 bytes."""
    if worker is None:
        return None
    try:
        raw = bytes.fromhex(worker) if isinstance(worker, str) else bytes(worker)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise _refuse(
            "worker", "is no node id", "64 hex characters, as `llama-gossip peers --json` shows them"
        )
    return NodeId(raw)


def resume_class(word: str) -> ResumeClass:
    """Raises UsageError."""
    found = next((known for known in ResumeClass if known.word == word), None)
    if found is None:
        raise _refuse("resume", f"must be exact, ids or text, not {word!r}", "change resume")
    return found


def delivery_of(word: str) -> Delivery:
    """Raises UsageError."""
    if word not in tuple(Delivery):
        raise _refuse("delivery", f"must be auto, direct or gossip, not {word!r}", "change delivery")
    return Delivery(word)


def visibility_of(word: str, delivery: str) -> Visibility:
    """Raises UsageError."""
    if word not in tuple(Visibility):
        raise _refuse("visibility", f"must be private or public, not {word!r}", "change visibility")
    if word == Visibility.PUBLIC and delivery == Delivery.DIRECT:
        raise _refuse("visibility", "public goes over the topic, not direct", "leave delivery out")
    return Visibility(word)


def submission(
    prompt: Prompt,
    sampling: Sampling,
    *,
    model: str | None,
    priority: int,
    deadline_s: float | None,
    worker: str | bytes | None,
    resume: str = DEFAULT_RESUME,
    delivery: str = "auto",
    visibility: str = "private",
) -> Submit:
    """One checked Submit with a fresh request id. Raises UsageError."""
    _whole("priority", priority, 0, MAX_PRIORITY)
    if deadline_s is not None:
        _number("deadline_s", deadline_s, 0.001, 1e7)
    return Submit(
        request_id=RequestId(secrets.token_bytes(16)),
        model=model or "",
        prompt=prompt,
        config=sampling.checked(),
        date=datetime.now(UTC).date().isoformat(),
        prompt_tokens=len(prompt.ids) if isinstance(prompt, IdsPrompt) else 0,
        priority=priority,
        deadline_ms=None if deadline_s is None else max(1, round(deadline_s * 1000)),
        worker=worker_id(worker),
        resume=resume_class(resume),
        delivery=delivery_of(delivery),
        visibility=visibility_of(visibility, delivery),
    )
