"""Batch: the tokens of a job that wait to travel together.

The law: the first token goes at once; then a frame every 25 ms, 16 tokens or 1 KiB, whichever comes first.
A text is never split, an index never skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.codec import encode_payload
from llama_gossip.protocol.events import EngineTokens
from llama_gossip.protocol.limits import MAX_U32
from llama_gossip.protocol.messages import Token, TokenLogprob
from llama_gossip.protocol.timers import COALESCE_BYTES, COALESCE_TOKENS

MAX_TOKEN_TEXT_BYTES = 1_024  # no vocabulary has longer tokens: more is a fault


def is_sendable(event: EngineTokens) -> bool:
    """Whether a frame can carry each of these tokens. Asked before they wait: later nobody could be told."""
    ids, texts, logprobs = event.token_ids, event.texts, event.logprobs
    if len(ids) not in (0, len(texts)) or not all(0 <= token_id <= MAX_U32 for token_id in ids):
        return False
    try:
        return all(len(text.encode("utf-8")) <= MAX_TOKEN_TEXT_BYTES for text in texts) and (
            logprobs is None or _are_sendable(texts, logprobs)
        )
    except (ProtocolError, UnicodeEncodeError):  # a logprob that is no number; a text with a lone surrogate
        return False


def _are_sendable(texts: tuple[str, ...], logprobs: tuple[TokenLogprob, ...]) -> bool:
    if len(logprobs) != len(texts):
        return False
    for text, entry in zip(texts, logprobs, strict=True):
        encode_payload(Token(0, 0, (), (text,), (entry,)))
    return all(len(text.encode("utf-8")) <= MAX_TOKEN_TEXT_BYTES for e in logprobs for text, _ in e.top)


@dataclass(slots=True)
class Batch:
    next_index: int = 0  # of the answer: where the next token of the engine belongs
    _ids: list[int] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self._texts)

    def add(
        self,
        token_ids: tuple[int, ...],
        texts: tuple[str, ...],
        logprobs: tuple[TokenLogprob, ...] | None,
    ) -> list[Token]:
        """The frames that are full now."""
        full: list[Token] = []
        for place, text in enumerate(texts):
            size = len(text.encode("utf-8"))
            if logprobs is not None:
                size += sum(len(other.encode("utf-8")) for other, _ in logprobs[place].top)
            if self._texts and self._bytes + size > COALESCE_BYTES:
                full.extend(self.take())
            self._texts.append(text)
            self._bytes += size
            if token_ids:
                self._ids.append(token_ids[place])
            if logprobs is not None:
                self._logprobs.append(logprobs[place])
            self.next_index += 1
            if len(self._texts) >= COALESCE_TOKENS or self._bytes >= COALESCE_BYTES:
                full.extend(self.take())
        return full

    def take(self) -> list[Token]:
        """What waits, as one frame; [] when nothing does."""
        if not self._texts:
            return []
        token = Token(
            n=0,  # the frame writer numbers it
            index=self.next_index - len(self._texts),
            token_ids=tuple(self._ids),
            texts=tuple(self._texts),
            logprobs=tuple(self._logprobs) or None,
        )
        self._ids, self._texts, self._logprobs, self._bytes = [], [], [], 0
        return [token]
