"""Answers in the interface's shapes: events of a stream as bytes, and the whole object.

The law: id, created and model are the same in every chunk of an answer; every chunk but the usage one has
exactly one choice, and that has `finish_reason`. `Shaper.piece` runs once a token: what does not change was
encoded before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from json.encoder import encode_basestring
from typing import Any, Final

from llama_gossip.answer import Token
from llama_gossip.openai_api.asked import Asked, Kind
from llama_gossip.openai_api.errors import ApiError
from llama_gossip.openai_api.logprobs import chat_logprobs_of, completion_logprobs_of
from llama_gossip.version import __version__

FINGERPRINT: Final = f"llama-gossip-{__version__}"
DONE: Final = b"data: [DONE]\n\n"
_LINE_ENDS: Final = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"})
WAITING: Final = b": waiting\n\n"  # a comment: keeps proxies and clients patient
WHOLE_OBJECT: Final = {Kind.CHAT: "chat.completion", Kind.COMPLETION: "text_completion"}
CHUNK_OBJECT: Final = {Kind.CHAT: "chat.completion.chunk", Kind.COMPLETION: "text_completion"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one choice ended. All but the counts stands in the `llama_gossip` object of the reply."""

    finish_reason: str  # stop | length
    prompt_tokens: int
    completion_tokens: int
    worker: str  # node id, of the one that made the last token
    attempts: int
    request_id: str
    delivery: str
    resume: str | None
    verified: bool

    def told(self) -> dict[str, Any]:
        """The `llama_gossip` object."""
        facts = asdict(self)
        for standard in ("finish_reason", "prompt_tokens", "completion_tokens"):
            del facts[standard]
        return facts


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a whole answer. tokens: read for their log probabilities."""

    text: str
    tokens: Sequence[Token]
    ended: Ended


class Shaper:
    """One answer's events and its whole. Makes no id and reads no clock: both are given."""

    def __init__(self, asked: Asked, *, answer_id: str, created: int) -> None:
        """created: seconds since the epoch."""
        self._asked = asked
        self._is_chat = asked.kind is Kind.CHAT
        self._head = {
            "id": answer_id,
            "object": CHUNK_OBJECT[asked.kind],
            "created": created,
            "model": asked.model,
            "system_fingerprint": FINGERPRINT,
        }
        self._usage = {"usage": None} if asked.include_usage else {}
        self._frames = [self._frame(index) for index in range(len(asked.prompts))]
        self._offsets = [0] * len(asked.prompts)  # characters told so far, a choice

    # --- a stream: every result is whole events, or b"" ---

    def begin(self, index: int) -> bytes:
        """What tells a choice's role; completions have none."""
        if not self._is_chat:
            return b""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})

    def piece(self, index: int, token: Token) -> bytes:
        before, behind, end = self._frames[index]
        text = _on_one_line(encode_basestring(token.text))
        if token.logprob is None:
            return f"{before}{text}{behind}null{end}".encode()
        return f"{before}{text}{behind}{_compact(self._logprobs(index, token))}{end}".encode()

    def finish(self, index: int, ended: Ended) -> bytes:
        body: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
        choice = {"index": index, **body, "logprobs": None, "finish_reason": ended.finish_reason}
        return self._chunk(choice, {"llama_gossip": ended.told()})

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        """Of all choices together; only for who asked for it."""
        return _event({**self._head, "choices": [], "usage": _usage(prompt_tokens, completion_tokens)})

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that broke: nothing follows."""
        return _event(error.body())

    def _chunk(self, choice: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
        return _event({**self._head, "choices": [choice], **self._usage, **(more or {})})

    def _frame(self, index: int) -> tuple[str, str, str]:
        """What stands before a token's text, between it and its log probabilities, and behind those."""
        text, logprobs = "\x00text", "\x00logprobs"
        body: dict[str, Any] = {"delta": {"content": text}} if self._is_chat else {"text": text}
        choice = {"index": index, **body, "logprobs": logprobs, "finish_reason": None}
        event = self._chunk(choice).decode()
        head, _, rest = event.rpartition(encode_basestring(text))
        middle, _, tail = rest.partition(encode_basestring(logprobs))
        return head, middle, tail

    def _logprobs(self, index: int, token: Token) -> dict[str, Any] | None:
        if self._is_chat:
            return chat_logprobs_of((token,))
        offset = self._offsets[index]
        self._offsets[index] += len(token.text)
        return completion_logprobs_of((token,), offset=offset)

    # --- the whole ---

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        return {
            **self._head,
            "object": WHOLE_OBJECT[self._asked.kind],
            "choices": [self._whole_choice(index, choice) for index, choice in enumerate(choices)],
            "usage": _usage(
                sum(choice.ended.prompt_tokens for choice in choices),
                sum(choice.ended.completion_tokens for choice in choices),
            ),
            "llama_gossip": _told_together([choice.ended for choice in choices]),
        }

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        body: dict[str, Any] = {"message": message} if self._is_chat else {"text": choice.text}
        asked = self._asked.logprobs is not None
        shape = chat_logprobs_of if self._is_chat else completion_logprobs_of
        return {
            "index": index,
            **body,
            "logprobs": shape(choice.tokens) if asked else None,
            "finish_reason": choice.ended.finish_reason,
        }


def _told_together(ends: Sequence[Ended]) -> dict[str, Any]:
    """Of the first choice; with several, `choices` has one object each."""
    first = ends[0].told()
    return first if len(ends) == 1 else {**first, "choices": [end.told() for end in ends]}


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _compact(value: object) -> str:
    return _on_one_line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _on_one_line(text: str) -> str:
    """JSON without what some clients take for the end of a line, and of the event's data."""
    return text if text.isascii() else text.translate(_LINE_ENDS)


def _event(value: object) -> bytes:
    return f"data: {_compact(value)}\n\n".encode()
