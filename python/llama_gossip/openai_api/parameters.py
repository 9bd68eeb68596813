"""Parameters that are more than one number: how they are read, and those that are refused.

The law: nothing that would change an answer is ignored. What this gateway does not have is a 400 naming the
field as soon as it asks for anything; unknown fields, and the few that change nothing, are not looked at.
"""

from __future__ import annotations

import re
from typing import Final

from llama_gossip.openai_api import fields as f
from llama_gossip.openai_api.body import shown
from llama_gossip.protocol.limits import MAX_ARRAY

MAX_STOPS: Final = 4
MAX_TOP_LOGPROBS: Final = 20
MAX_COMPLETION_LOGPROBS: Final = 5
MAX_BIAS: Final = 100.0
MAX_BIASES: Final = MAX_ARRAY  # what a request carries over the wire
MAX_TOP_K: Final = 2**31 - 1
MAX_ANSWER_TOKENS: Final = 2**31 - 1  # more is the same: no context is as long

TOKEN_ID_KEY: Final = "0|[1-9][0-9]{0,8}"  # as an object's key: no vocabulary is larger

_TOKEN_ID = re.compile(TOKEN_ID_KEY)


def stops(fields: f.Fields) -> tuple[str, ...]:
    """The texts that end an answer, empty ones left out."""
    value = fields.get("stop")
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,) if value else ()
    listed = f.items("stop", value)
    if not 1 <= len(listed) <= MAX_STOPS:
        raise f.wrong_value("stop", f"must be a string or 1 to {MAX_STOPS} of them, not {len(listed)}")
    texts = [f.one_text(f"stop[{n}]", text) for n, text in enumerate(listed)]
    return tuple(text for text in texts if text)


def most_tokens(fields: f.Fields) -> int | None:
    """max_completion_tokens wins; both are checked."""
    older = f.whole(fields, "max_tokens", 1, None)
    newer = f.whole(fields, "max_completion_tokens", 1, None)
    asked = older if newer is None else newer
    return None if asked is None else min(asked, MAX_ANSWER_TOKENS)


def top_k(fields: f.Fields) -> int | None:
    """0 and -1 are ways to say: all of them."""
    value = f.whole(fields, "top_k", -1, MAX_TOP_K)
    return value if value is not None and value > 0 else None


def biases(fields: f.Fields) -> tuple[tuple[int, float], ...]:
    value = fields.get("logit_bias")
    if value is None:
        return ()
    given = f.members("logit_bias", value)
    if len(given) > MAX_BIASES:
        raise f.wrong_value("logit_bias", f"must have at most {MAX_BIASES} tokens")
    return tuple(_bias(key, bias) for key, bias in given.items())


def _bias(key: str, value: object) -> tuple[int, float]:
    if _TOKEN_ID.fullmatch(key) is None:
        raise f.wrong_value("logit_bias", f"has a key that is no token id: {shown(key)}")
    return int(key), f.one_number(f"logit_bias.{key}", value, -MAX_BIAS, MAX_BIAS)


def chat_logprobs(fields: f.Fields) -> int | None:
    """Alternatives a token; None: not asked."""
    alternatives = f.whole(fields, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if f.flag(fields, "logprobs"):
        return alternatives or 0
    if alternatives is not None:
        raise f.wrong_value("top_logprobs", "needs logprobs: true")
    return None


def completion_logprobs(fields: f.Fields) -> int | None:
    return f.whole(fields, "logprobs", 0, MAX_COMPLETION_LOGPROBS)


def include_usage(fields: f.Fields, *, stream: bool) -> bool:
    value = fields.get("stream_options")
    if value is None:
        return False
    options = f.members("stream_options", value)
    if not stream:
        raise f.wrong_value("stream_options", "needs stream: true")
    wanted = options.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        raise f.wrong_type("stream_options.include_usage", "a boolean", wanted)
    return bool(wanted)


# --- refused -----------------------------------------------------------------------------------


def refuse_what_chats_have_not(fields: f.Fields) -> None:
    _one_choice(fields)
    for name in ("tools", "functions"):
        value = fields.get(name)
        if value is not None and f.items(name, value):
            raise f.refused(name, "are not supported: leave them out")
    for name in ("tool_choice", "function_call"):
        if fields.get(name) not in (None, "none"):  # "none" asks for what happens anyway
            raise f.refused(name, "is not supported: there are no tools here")
    _only_text(fields)


def _only_text(fields: f.Fields) -> None:
    form = fields.get("response_format")
    if form is not None and f.members("response_format", form).get("type") != "text":
        raise f.refused("response_format", 'must be {"type": "text"}: answers are plain text here')
    modalities = fields.get("modalities")
    if modalities is not None and any(m != "text" for m in f.items("modalities", modalities)):
        raise f.refused("modalities", 'must be ["text"]')
    if fields.get("audio") is not None:
        raise f.refused("audio", "is not supported: answers are text here")


def refuse_what_completions_have_not(fields: f.Fields) -> None:
    _one_choice(fields)
    if f.flag(fields, "echo"):
        raise f.refused("echo", "is not supported: put the prompt in front yourself")
    if f.text(fields, "suffix"):
        raise f.refused("suffix", "is not supported: leave it out")
    if f.whole(fields, "best_of", 1, None) not in (None, 1):
        raise f.refused("best_of", "must be 1")


def _one_choice(fields: f.Fields) -> None:
    if f.whole(fields, "n", 1, None) not in (None, 1):
        raise f.refused("n", "must be 1: send the request several times for several answers")
