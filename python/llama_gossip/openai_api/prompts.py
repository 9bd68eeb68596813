"""Prompts of a completion: a text, token ids, or up to sixteen of either, one choice each. Always raw."""

from __future__ import annotations

from typing import Final

from llama_gossip.openai_api import fields as f
from llama_gossip.protocol.limits import MAX_U32
from llama_gossip.protocol.messages import IdsPrompt, RawPrompt

MAX_PROMPTS: Final = 16  # of one request: each is a generation of its own
PARAM: Final = "prompt"


def completion_prompts(fields: f.Fields) -> tuple[RawPrompt | IdsPrompt, ...]:
    """Raises ApiError (400)."""
    value = f.required(fields, PARAM)
    if isinstance(value, str):
        return (RawPrompt(value),)
    if not isinstance(value, list):
        raise f.wrong_type(PARAM, "a string, an array of strings, or token ids", value)
    if not value:
        raise f.wrong_value(PARAM, "must not be empty")
    if isinstance(value[0], str | list):
        return _several(value)
    return (_ids(PARAM, value),)


def _several(values: list[object]) -> tuple[RawPrompt | IdsPrompt, ...]:
    if len(values) > MAX_PROMPTS:
        raise f.wrong_value(PARAM, f"must hold at most {MAX_PROMPTS} prompts")
    if isinstance(values[0], str):
        return tuple(RawPrompt(f.one_text(f"{PARAM}[{n}]", value)) for n, value in enumerate(values))
    return tuple(_ids(f"{PARAM}[{n}]", value) for n, value in enumerate(values))


def _ids(param: str, value: object) -> IdsPrompt:
    """Checked in bulk where all is well: a prompt may have hundreds of thousands."""
    ids = f.items(param, value)
    if not ids:
        raise f.wrong_value(param, "must not be empty")
    whole = [item for item in ids if type(item) is int]
    if len(whole) != len(ids):
        n, wrong = next((n, item) for n, item in enumerate(ids) if type(item) is not int)
        raise f.wrong_type(f"{param}[{n}]", "a token id", wrong)
    if min(whole) < 0 or max(whole) > MAX_U32:
        n = next(n for n, item in enumerate(whole) if not 0 <= item <= MAX_U32)
        raise f.wrong_value(f"{param}[{n}]", f"must be a token id, 0 to {MAX_U32}")
    return IdsPrompt(tuple(whole))
