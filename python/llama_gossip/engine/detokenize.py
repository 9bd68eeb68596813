"""Detokenising: from token ids to text that never has to be taken back.

The law (PROTOCOL.md §3, Texts): a token travels only with its final text. A half character or a possible stop
string holds its tokens back, the last flush rides on the last token, and after a resume exactly
`decode(all ids)[len(resume.text):]` follows. Every decision is a pure function of the ids, so a continuation
on another worker cuts its texts at the same places.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ExtraT = TypeVar("ExtraT")

PROBE: Final = "Zürich, 東京 and 👩‍💻: it's 7 o'clock.\n\tfoo  bar"  # accents, CJK, a joined emoji, spaces


class Decoder(Protocol):
    """Text of one answer, token by token."""

    @property
    def pending(self) -> bool:
        """True while bytes of a half character wait."""

    def feed(self, token_id: int) -> str: ...

    def flush(self) -> str:
        """What a half character at the end becomes."""


class TokenBytes:
    """The bytes of each token of a vocabulary, or None for tokens that have no text (special or unknown)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items() if not token.special}
        self._special = {token_id for token_id, token in added.items() if token.special}
        self._known: dict[int, bytes | None] = {}
        kinds = _decoder_kinds(tokenizer)
        self.strip = bool(kinds & {"Strip", "Metaspace"})  # one space at the very start is not text
        self._bytes_of = _byte_level_bytes if "ByteLevel" in kinds else _sentencepiece_bytes
        self.exact = self._agrees(kinds)

    def __getitem__(self, token_id: int) -> bytes | None:
        try:
            return self._known[token_id]
        except KeyError:
            return self._known.setdefault(token_id, self._look_up(token_id))

    def text(self, token_id: int) -> str:
        """One token alone, for lists of alternatives."""
        return (self[token_id] or b"").decode("utf-8", "replace")

    def decoder(self) -> Decoder:
        return ByteDecoder(self) if self.exact else WindowDecoder(self._tokenizer)

    def _look_up(self, token_id: int) -> bytes | None:
        if token_id in self._special:
            return None
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id)
        return None if token is None else self._bytes_of(token)

    def _agrees(self, kinds: set[str]) -> bool:
        """Whether joining bytes is this tokenizer's way of decoding: tried, not trusted."""
        if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
            return False
        ids = self._tokenizer.encode(PROBE, add_special_tokens=False).ids
        return decode(ByteDecoder(self), ids) == self._tokenizer.decode(ids, skip_special_tokens=True)


class ByteDecoder:
    """Joins the bytes of tokens as UTF-8; malformed bytes become U+FFFD as everywhere in the web."""

    def __init__(self, table: TokenBytes) -> None:
        self._table = table
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = table.strip

    @property
    def pending(self) -> bool:
        return bool(self._utf8.getstate()[0])

    def feed(self, token_id: int) -> str:
        data = self._table[token_id]
        if data is None:  # a token without text ends a half character, or endless ones would hold it for ever
            return self.flush()
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def flush(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


class WindowDecoder:
    """For tokenizers whose text is not the join of their tokens' bytes: decodes a short window again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._shown = 0  # tokens of the window whose text is out
        self.pending = False

    def feed(self, token_id: int) -> str:
        self._window.append(token_id)
        before, now = self._decode(self._window[: self._shown]), self._decode(self._window)
        self.pending = now.endswith("\ufffd")
        if self.pending or len(now) <= len(before):
            return ""
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return now[len(before) :]

    def flush(self) -> str:
        before, now = self._decode(self._window[: self._shown]), self._decode(self._window)
        self._shown, self.pending = len(self._window), False
        return now[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def decode(decoder: Decoder, ids: Iterable[int]) -> str:
    """The whole text of these ids."""
    return "".join(decoder.feed(token_id) for token_id in ids) + decoder.flush()


@dataclass(slots=True)
class _Held(Generic[ExtraT]):
    token_id: int
    end: int  # in characters of the whole answer
    whole: bool  # no half character waits behind it
    extra: ExtraT | None
    delivered: bool = False  # by an earlier attempt


@dataclass(frozen=True, slots=True)
class Settled(Generic[ExtraT]):
    """A token whose text is final."""

    token_id: int
    text: str
    extra: ExtraT | None


@dataclass(slots=True)
class TextStream(Generic[ExtraT]):
    """One answer's text. `delivered_chars`: length of what an earlier attempt has shown."""

    decoder: Decoder
    stop: tuple[str, ...] = ()
    delivered_chars: int = 0
    stopped: bool = False  # a stop string was met: the answer ends here
    _tail: str = ""  # the text from _tail_start on: that of the held tokens
    _tail_start: int = 0
    _held: deque[_Held[ExtraT]] = field(default_factory=deque)

    def replay(self, ids: Iterable[int]) -> None:
        """Takes in what an earlier attempt delivered; nothing of it is emitted again."""
        for token_id in ids:
            self._take(token_id, None, delivered=True)
            if self.stopped:
                return

    def push(self, token_id: int, extra: ExtraT | None = None) -> list[Settled[ExtraT]]:
        """The tokens that became final."""
        return self._take(token_id, extra, delivered=False)

    def finish(self) -> list[Settled[ExtraT]]:
        """All that is held, with the last flush on the last token."""
        self._tail += self.decoder.flush()
        if self._held:
            self._held[-1].end = self._tail_start + len(self._tail)
        return self._release(len(self._held))

    def _take(self, token_id: int, extra: ExtraT | None, *, delivered: bool) -> list[Settled[ExtraT]]:
        self._tail += self.decoder.feed(token_id)
        end = self._tail_start + len(self._tail)
        self._held.append(_Held(token_id, end, not self.decoder.pending, extra, delivered))
        cut = self._match()
        if cut is not None:
            self.stopped = True
            self._tail = self._tail[:cut]
            for held in self._held:
                held.end = min(held.end, self._tail_start + cut)
            return self._release(len(self._held))
        final_end = end - self._possible_stop()
        count = 0
        for number, held in enumerate(self._held, 1):
            if held.end > final_end:
                break
            if held.whole:
                count = number
        return self._release(count)

    def _match(self) -> int | None:
        found = [at for text in self.stop if (at := self._tail.find(text)) >= 0]
        return min(found, default=None)

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that a stop string may begin with."""
        if not self.stop:
            return 0
        longest = min(len(self._tail), max(map(len, self.stop)) - 1)
        for length in range(longest, 0, -1):
            if any(text.startswith(self._tail[-length:]) for text in self.stop):
                return length
        return 0

    def _release(self, count: int) -> list[Settled[ExtraT]]:
        settled: list[Settled[ExtraT]] = []
        for _ in range(count):
            held = self._held.popleft()
            length = max(0, held.end - self._tail_start)
            start = max(self._tail_start, self.delivered_chars)
            if held.delivered:
                if (
                    held.end > self.delivered_chars
                ):  # an earlier attempt cut it short: the next token brings it
                    continue
            else:
                text = self._tail[max(0, start - self._tail_start) : length]
                settled.append(Settled(held.token_id, text, held.extra))
            self._tail = self._tail[length:]
            self._tail_start += length
        return settled


def _decoder_kinds(tokenizer: Tokenizer) -> set[str]:
    described = json.loads(tokenizer.to_str())["decoder"] or {}
    parts = described.get("decoders", [described])
    return {str(part.get("type")) for part in parts}


def _byte_level_bytes(token: str) -> bytes:
    table = _byte_values()
    try:
        return bytes(table[char] for char in token)
    except KeyError:  # a token outside the byte alphabet is its own text
        return token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


@functools.cache
def _byte_values() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return {chr(byte) if byte in printable else chr(next(spare)): byte for byte in range(256)}
