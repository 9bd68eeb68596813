"""Asked: a request of the OpenAI interface, checked and typed. Both kinds of body become one value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from llama_gossip.openai_api import fields as f
from llama_gossip.openai_api import parameters as p
from llama_gossip.openai_api.body import json_object
from llama_gossip.openai_api.errors import too_long, unknown_model
from llama_gossip.openai_api.messages import chat_prompt
from llama_gossip.openai_api.prompts import completion_prompts
from llama_gossip.protocol.admission import prompt_bytes
from llama_gossip.protocol.limits import MAX_NAME_BYTES
from llama_gossip.protocol.messages import ChatPrompt, IdsPrompt, RawPrompt

COMPLETION_TOKENS: Final = 16  # the interface's own default; a chat has none
MAX_PROMPT_BYTES: Final = 1024 * 1024  # UTF-8, stop strings counted: no request over the wire is larger


class Kind(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client wants. Ranges were checked; max_tokens None: as many as is usual."""

    kind: Kind
    model: str
    prompts: tuple[ChatPrompt | RawPrompt | IdsPrompt, ...]  # one a choice; a chat has one
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int | None
    min_p: float
    repetition: float
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool
    presence: float
    frequency: float
    logit_bias: tuple[tuple[int, float], ...]
    logprobs: int | None  # alternatives a token; None: not asked
    stream: bool
    include_usage: bool

    @property
    def prompt_field(self) -> str:
        """Where the prompt stands in the body."""
        return prompt_field(self.kind)


def prompt_field(kind: Kind) -> str:
    return "messages" if kind is Kind.CHAT else "prompt"


def chat_asked(body: bytes) -> Asked:
    """The body of POST /v1/chat/completions. Raises ApiError (400; 404 for a name that no model can have)."""
    fields = json_object(body)
    model = _model(fields)
    prompt = chat_prompt(fields)
    p.refuse_what_chats_have_not(fields)
    return _asked(Kind.CHAT, fields, model, (prompt,), p.chat_logprobs(fields), None)


def completion_asked(body: bytes) -> Asked:
    """The body of POST /v1/completions. Raises ApiError (400, 404)."""
    fields = json_object(body)
    model = _model(fields)
    prompts = completion_prompts(fields)
    p.refuse_what_completions_have_not(fields)
    return _asked(Kind.COMPLETION, fields, model, prompts, p.completion_logprobs(fields), COMPLETION_TOKENS)


def _asked(
    kind: Kind,
    fields: f.Fields,
    model: str,
    prompts: tuple[ChatPrompt | RawPrompt | IdsPrompt, ...],
    logprobs: int | None,
    usual_tokens: int | None,
) -> Asked:
    """The parameters that both kinds have, put to what they have not in common."""
    stop, stream, most = p.stops(fields), f.flag(fields, "stream"), p.most_tokens(fields)
    _check_size(prompt_field(kind), prompts, stop)
    return Asked(
        kind=kind,
        model=model,
        prompts=prompts,
        max_tokens=usual_tokens if most is None else most,
        temperature=_or(f.number(fields, "temperature", 0.0, 2.0), 1.0),
        top_p=_or(f.number(fields, "top_p", 0.0, 1.0), 1.0),
        top_k=p.top_k(fields),
        min_p=_or(f.number(fields, "min_p", 0.0, 1.0), 0.0),
        repetition=_or(f.number(fields, "repetition_penalty", 0.01, 10.0), 1.0),
        seed=f.whole(fields, "seed", 0, 2**64 - 1),
        stop=stop,
        ignore_eos=f.flag(fields, "ignore_eos"),
        presence=_or(f.number(fields, "presence_penalty", -2.0, 2.0), 0.0),
        frequency=_or(f.number(fields, "frequency_penalty", -2.0, 2.0), 0.0),
        logit_bias=p.biases(fields),
        logprobs=logprobs,
        stream=stream,
        include_usage=p.include_usage(fields, stream=stream),
    )


def _or(given: float | None, otherwise: float) -> float:
    return otherwise if given is None else given


def _model(fields: f.Fields) -> str:
    model = f.one_text("model", f.required(fields, "model"))
    if not model:
        raise f.wrong_value("model", "must not be empty")
    if len(model.encode("utf-8")) > MAX_NAME_BYTES:  # nobody could announce it
        raise unknown_model(f"no worker serves a model with a name of more than {MAX_NAME_BYTES} bytes")
    return model


def _check_size(
    param: str, prompts: tuple[ChatPrompt | RawPrompt | IdsPrompt, ...], stop: tuple[str, ...]
) -> None:
    """What no request over the wire could carry is known to be too long here."""
    stops = sum(len(text.encode("utf-8")) for text in stop)
    if any(prompt_bytes(prompt) + stops > MAX_PROMPT_BYTES for prompt in prompts):
        raise too_long(param, f"{param} and stop are more than {MAX_PROMPT_BYTES} bytes together")
