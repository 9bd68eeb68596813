"""Unread: the tokens of one answer that nobody has read yet, and the word to the core when they are too many.

The law: what waits here is bounded by MAX_UNREAD_BYTES and what was on its way when that was told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from llama_gossip.answer import Token
from llama_gossip.protocol.limits import MAX_UNREAD_BYTES, UNREAD_TOKEN_BYTES

READ_ON_BYTES = MAX_UNREAD_BYTES // 2  # below it: a pause and its end are not told token by token


class Unread:
    """Falsy when nothing waits."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        """tell: called with True when the reader is too far behind, with False when half of it is read."""
        self._tell = tell
        self._tokens: deque[Token] = deque()
        self._bytes = 0
        self._full = False

    def __len__(self) -> int:
        return len(self._tokens)

    def put(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            self._tokens.append(token)
            self._bytes += _price(token)
        if not self._full and self._bytes > MAX_UNREAD_BYTES:
            self._full = True
            self._tell(True)

    def take(self) -> Token:
        token = self._tokens.popleft()
        self._bytes -= _price(token)
        if self._full and self._bytes < READ_ON_BYTES:
            self._full = False
            self._tell(False)
        return token

    def take_all(self) -> list[Token]:
        return [self.take() for _ in range(len(self._tokens))]


def _price(token: Token) -> int:
    return UNREAD_TOKEN_BYTES + len(token.text.encode("utf-8"))
