"""Transcript: the signed record of one request, and its check offline (PROTOCOL section 8).

    per attempt: u32 BE length ‖ Assign envelope ‖ tag(32), then the frames of both directions, raw with their
    prefix, in the order their owner saw them; an item whose fifth byte is 0x95 opens the next attempt

The law: a verdict needs no network secret. It says that these keys signed these tokens in answer to this
Assign; without a Complete it is open, never success.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from typing import assert_never

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.envelope import (
    RawEnvelope,
    Verifier,
    check_author,
    decode_envelope,
    envelope_tag,
    signed_bytes_of_tag,
    split_envelope,
    verify_signature,
)
from llama_gossip.protocol.frames import REQUESTER_KINDS, WORKER_KINDS, FrameReader, assign_context
from llama_gossip.protocol.limits import DIGEST_BYTES, LENGTH_PREFIX_BYTES, MAX_ASSIGN_BYTES
from llama_gossip.protocol.messages import (
    Ack,
    Assign,
    Cancel,
    Complete,
    Error,
    FinishReason,
    Frame,
    Kind,
    NodeId,
    Progress,
    Reject,
    RequestId,
    Token,
)

OPENS_ATTEMPT = 0x95  # msgpack's array of five: an envelope; a frame is an array of three
MAX_KEPT = 256  # ended transcripts that nobody took: the oldest goes first
# Attempts of one request that are recorded: twice as many as may be accepted. A full worker may be asked
# hundreds of times, each time with the whole prompt: of attempts without a token the oldest go.
MAX_ATTEMPTS_KEPT = 32
_TOKEN_AT = LENGTH_PREFIX_BYTES + 1  # where a prefixed frame has its kind


class TranscriptBook:
    """Collects transcripts until the driver takes them."""

    def __init__(self, net_id: bytes) -> None:
        self._net_id = net_id
        self._pages: dict[RequestId, list[list[bytes]]] = {}  # items by attempt
        self._ended: dict[RequestId, None] = {}

    def open(self, request_id: RequestId) -> None:
        self._pages[request_id] = []

    def add(self, request_id: RequestId, prefixed_item: bytes) -> None:
        """A frame of the newest attempt."""
        attempts = self._pages.get(request_id)
        if attempts:
            attempts[-1].append(prefixed_item)

    def add_assign(self, request_id: RequestId, prefixed_envelope: bytes) -> None:
        attempts = self._pages.get(request_id)
        if attempts is None:
            return
        raw = split_envelope(prefixed_envelope[LENGTH_PREFIX_BYTES:], MAX_ASSIGN_BYTES)
        if len(attempts) >= MAX_ATTEMPTS_KEPT:
            without_tokens = (n for n, attempt in enumerate(attempts) if not _has_tokens(attempt))
            del attempts[next(without_tokens, 0)]
        tag = envelope_tag(raw.kind, raw.sender, raw.payload, self._net_id)
        attempts.append([prefixed_envelope + tag])

    def end(self, request_id: RequestId) -> None:
        """From now on it may be dropped when too many wait to be taken."""
        if request_id not in self._pages:
            return
        self._ended[request_id] = None
        while len(self._ended) > MAX_KEPT:
            self.take(next(iter(self._ended)))

    def read(self, request_id: RequestId) -> bytes:
        return b"".join(chain.from_iterable(self._pages.get(request_id, ())))

    def take(self, request_id: RequestId) -> bytes:
        """Reads it and forgets it."""
        self._ended.pop(request_id, None)
        return b"".join(chain.from_iterable(self._pages.pop(request_id, ())))


def _has_tokens(attempt: list[bytes]) -> bool:
    return any(item[_TOKEN_AT] == Kind.TOKEN for item in attempt[1:])


@dataclass(frozen=True, slots=True)
class Verdict:
    verified: bool
    reason: str  # why not, or what was shown
    text: str = ""
    tokens: int = 0
    attempts: int = 0
    requester: NodeId | None = None
    worker: NodeId | None = None  # of the last attempt
    request_id: RequestId | None = None


def verify_transcript(data: bytes, *, verify: Verifier = verify_signature) -> Verdict:
    """Never raises: whatever is wrong with `data` is the verdict's reason."""
    check = _Check(verify)
    try:
        for item, tag in _items(data):
            if tag is None:
                check.frame(item)
            else:
                check.assign(item, tag)
    except ProtocolError as error:
        return check.verdict(verified=False, reason=error.message)
    if check.complete is None:
        return check.verdict(verified=False, reason="open: it holds no Complete")
    return check.verdict(verified=True, reason="every signature holds, and the answer is whole")


def _items(data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """(item, tag of an Assign or None)."""
    position = 0
    while position < len(data):
        start = position + LENGTH_PREFIX_BYTES
        position = start + int.from_bytes(data[position:start], "big")
        item = data[start:position]
        if position > len(data) or not item:
            raise _broken("it is cut")
        if item[0] != OPENS_ATTEMPT:
            yield item, None
            continue
        tag = data[position : position + DIGEST_BYTES]
        position += DIGEST_BYTES
        if position > len(data):
            raise _broken("it is cut")
        yield item, tag


@dataclass(slots=True)
class _Check:
    verify: Verifier
    current: Assign | None = None
    requester: NodeId | None = None
    attempts: int = 0
    texts: list[str] = field(default_factory=list)
    complete: Complete | None = None
    from_worker: FrameReader | None = None
    from_requester: FrameReader | None = None

    @property
    def tokens(self) -> int:
        return len(self.texts)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def assign(self, item: bytes, tag: bytes) -> None:
        raw = split_envelope(item, MAX_ASSIGN_BYTES)
        signed = signed_bytes_of_tag(raw.kind, raw.sender, raw.payload, tag)
        if not self.verify(raw.sender, signed, raw.signature):
            raise _broken("the signature of an Assign does not hold")
        assign = _assign_of(raw)
        self._follows(assign, raw.sender)
        self._resume(assign)
        context = assign_context(signed)
        self.current, self.requester = assign, raw.sender
        self.attempts += 1
        self.from_worker = FrameReader(context, assign.worker, self.verify, WORKER_KINDS)
        self.from_requester = FrameReader(context, raw.sender, self.verify, REQUESTER_KINDS)

    def _follows(self, assign: Assign, sender: NodeId) -> None:
        if self.complete is not None:
            raise _broken("something follows the end")
        if self.current is None:
            return
        if sender != self.requester or assign.request_id != self.current.request_id:
            raise _broken("an attempt belongs to another request")
        if assign.attempt <= self.current.attempt:
            raise _broken("attempts do not rise")

    def _resume(self, assign: Assign) -> None:
        """A segment starts at its Assign's resume index; what was made beyond it is not in the answer."""
        if assign.resume is None:
            self.texts.clear()
            return
        if assign.resume.from_index > len(self.texts):
            raise _broken("an attempt resumes at a token that was not there")
        del self.texts[assign.resume.from_index :]
        if self.text != assign.resume.text:
            raise _broken("an attempt resumes from another text")

    def frame(self, item: bytes) -> None:
        if self.from_worker is None or self.from_requester is None:
            raise _broken("it does not begin with an Assign")
        if len(item) < 2:
            raise _broken("it is cut")
        if self.complete is not None and item[1] not in REQUESTER_KINDS:
            raise _broken("something follows the end")
        frame = self._read(item, self.from_worker, self.from_requester)
        if frame is not None:
            self._apply(frame)

    @staticmethod
    def _read(item: bytes, from_worker: FrameReader, from_requester: FrameReader) -> Frame | None:
        """The kind gives the direction; of a kind that is not known yet, the signature does."""
        if item[1] in REQUESTER_KINDS:
            return from_requester.decode(item)
        if item[1] <= max(Kind):
            return from_worker.decode(item)
        try:
            return from_worker.decode(item)
        except ProtocolError:
            return from_requester.decode(item)

    def _apply(self, frame: Frame) -> None:
        match frame:
            case Token():
                self._token(frame)
            case Complete():
                self._complete(frame)
            case Reject() | Progress() | Ack() | Error() | Cancel():
                pass
            case _:
                assert_never(frame)

    def _token(self, frame: Token) -> None:
        if frame.index != self.tokens:
            raise _broken(f"token {frame.index} stands where {self.tokens} was next")
        self.texts.extend(frame.texts)
        assert self.current is not None
        if self.tokens > self.current.config.max_tokens:
            raise _broken("it holds more tokens than were asked for")

    def _complete(self, frame: Complete) -> None:
        if frame.total_tokens != self.tokens:
            raise _broken(f"{frame.total_tokens} tokens are announced, {self.tokens} are there")
        if frame.text_digest != blake2b(self.text.encode("utf-8"), digest_size=32).digest():
            raise _broken("the digest is not that of the text")
        if frame.finish_reason is FinishReason.CANCELLED:
            raise _broken("the answer was cancelled before its end")
        self.complete = frame

    def verdict(self, *, verified: bool, reason: str) -> Verdict:
        return Verdict(
            verified=verified,
            reason=reason,
            text=self.text,
            tokens=self.tokens,
            attempts=self.attempts,
            requester=self.requester,
            worker=self.current.worker if self.current else None,
            request_id=self.current.request_id if self.current else None,
        )


def _assign_of(raw: RawEnvelope) -> Assign:
    message = decode_envelope(raw)
    check_author(message, raw.sender)
    if not isinstance(message, Assign):
        raise _broken(f"a {raw.kind.name} stands where an Assign belongs")
    return message


def _broken(what: str) -> ProtocolError:
    return ProtocolError(f"the transcript does not hold: {what}", code="transcript")
