"""Log probabilities in the interface's two shapes: a list of items for chats, four columns for completions.

One item a token that has one; natural logarithms of the model itself, before penalties, bias and temperature.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llama_gossip.answer import Token
from llama_gossip.protocol.messages import TokenLogprob


def chat_logprobs_of(tokens: Iterable[Token]) -> dict[str, Any] | None:
    """None: no token has one."""
    items = [_item(token.text, token.logprob) for token in tokens if token.logprob is not None]
    return {"content": items, "refusal": None} if items else None


def _item(text: str, logprob: TokenLogprob) -> dict[str, Any]:
    return {**_entry(text, logprob.logprob), "top_logprobs": [_entry(*other) for other in logprob.top]}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8"))}


def completion_logprobs_of(tokens: Iterable[Token], *, offset: int = 0) -> dict[str, Any] | None:
    """offset: characters of the text in front of the first token. None: no token has one."""
    made: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        if token.logprob is not None:
            made["tokens"].append(token.text)
            made["token_logprobs"].append(token.logprob.logprob)
            made["top_logprobs"].append(_by_text(token.logprob.top))
            made["text_offset"].append(offset)
        offset += len(token.text)
    return dict(made) if made["tokens"] else None


def _by_text(top: tuple[tuple[str, float], ...]) -> dict[str, float]:
    """Two tokens may have one text (a part of a character has none): the likelier, which is first, stands."""
    return dict(reversed(top))
