"""Attempt: one Assign on one stream, as its requester sees it. Turns the worker's bytes into news.

The law: tokens are released in order, each once, from where the earlier attempts ended. A stream that ends
without a Complete whose total and digest are those of the whole answer is a failure, however plausible the
text was. What continues less exactly than the user allows gives no token at all.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TypeAlias, assert_never

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.batch import MAX_TOKEN_TEXT_BYTES
from llama_gossip.protocol.codec import clip_text
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import PauseStream, ResumeStream
from llama_gossip.protocol.frames import WORKER_KINDS, FrameReader, FrameWriter, ItemSplitter, prefixed
from llama_gossip.protocol.limits import MAX_ERROR_BYTES, MAX_FRAME_BYTES
from llama_gossip.protocol.messages import (
    Ack,
    Assign,
    Cancel,
    Complete,
    Error,
    FinishReason,
    Frame,
    NodeId,
    Phase,
    Progress,
    PromptFacts,
    Reject,
    Token,
)
from llama_gossip.protocol.record import record
from llama_gossip.protocol.resumption import Continuation, Maker, Prefix, ResumeClass
from llama_gossip.protocol.selection import Candidate
from llama_gossip.protocol.streams import Plane, plane_of
from llama_gossip.protocol.transcript import TranscriptBook

# What an attempt may bring beside its tokens: an hour of heartbeats is 0.8 MB. All of it is kept on record.
MAX_IDLE_BYTES = 1024 * 1024
# A token alone in its frame; as much again for each alternative that was asked for.
MAX_BYTES_PER_TOKEN = 2 * MAX_TOKEN_TEXT_BYTES
UNEQUAL = "would continue the answer less exactly than is allowed"


class How(Enum):
    """How an attempt ended without success."""

    REJECTED = auto()
    LOST = auto()  # stream or connection gone
    REFUSED = auto()  # its allowlist does not name this node
    SILENT = auto()  # accept or stall timer, or no headway in a queue
    IDLE = auto()  # alive, with a slot for it, and no headway: a hung engine, or one that does not try
    FAULT = auto()  # wrong bytes: its own fault
    DIGEST = auto()  # the answer's digest is not that of its text
    ERROR = auto()  # it said Error
    SHORT = auto()  # more announced than received, or `cancelled` that nobody asked for
    UNEQUAL = auto()  # it would continue the answer less exactly than is allowed


@record(frozen=True, slots=True)
class Taken:
    """The worker has accepted."""


@record(frozen=True, slots=True)
class Got:
    token: Token


@record(frozen=True, slots=True)
class Slow:
    """Half a stall has passed in silence."""


@record(frozen=True, slots=True)
class Awake:
    """It was slow, and has spoken again."""


@record(frozen=True, slots=True)
class Completed:
    complete: Complete


@record(frozen=True, slots=True)
class Ended:
    how: How
    reason: str
    frame: Reject | Error | None = None


News: TypeAlias = Taken | Got | Slow | Awake | Completed | Ended


class Attempt:
    def __init__(
        self,
        desk: Desk,
        book: TranscriptBook,
        *,
        assign: Assign,
        candidate: Candidate,
        stream: int,
        context: bytes,
        sent_bytes: int,
        stall_ms: int,
        prefix: Prefix,
        continuation: Continuation | None,
    ) -> None:
        """prefix: what the earlier attempts released. continuation: how it may go on; None: it begins."""
        self.assign = assign
        self.worker: NodeId = assign.worker
        self.number = assign.attempt
        self.candidate = candidate  # what the choice stood on
        self.stream = stream
        self.plane = plane_of(stream)
        self.accepted = False
        self.facts: PromptFacts | None = None
        self.maker = Maker.offered(candidate.offer)  # what its tokens are made with, as far as it has told
        self.received = 0  # tokens of this attempt
        self.first_index = prefix.tokens
        self.seam: ResumeClass | None = None  # how it continues, known before its first token
        self._received_bytes = 0  # frames with their prefix
        self.sent_mono_ms = desk.now.mono_ms
        self.first_token_mono_ms: int | None = None
        self._desk = desk
        self._book = book
        self._stall_ms = desk.timers.stall_of(self.plane, stall_ms)
        self._digest = prefix.digest.copy()
        self._continuation = continuation
        self._slow = False
        self._advance: tuple[Phase, int] = (Phase.QUEUED, -(2**63))
        self._est_ms = 0
        self._splitter = ItemSplitter(MAX_FRAME_BYTES)
        self._writer = FrameWriter(context, desk.signer)
        self._reader = FrameReader(context, self.worker, desk.verify, WORKER_KINDS)
        self._paused = self._was_paused = False
        self._accept_ms = desk.timers.accept_timeout_ms(sent_bytes, self.plane)
        self._after("accept", self._accept_ms)

    def _key(self, name: str) -> tuple[str, object, str]:
        return ("attempt", self.stream, name)

    def _after(self, name: str, delay_ms: int) -> None:
        if not self._paused:
            self._desk.after(self._key(name), delay_ms)

    # --- a reader that has no room ---

    def pause(self) -> None:
        """Its stream is read no more and no silence counts, until `read_on`. What comes over gossip is taken
        all the same (ADR 013)."""
        if self._paused or self.plane is Plane.GOSSIP:
            return
        self.stop_timers()
        self._paused = self._was_paused = True
        self._desk.emit(PauseStream(self.stream))

    def read_on(self) -> None:
        """Its timers begin anew: the worker could not speak meanwhile."""
        if not self._paused:
            return
        self._paused = False
        self._desk.emit(ResumeStream(self.stream))
        if self.accepted:
            self._sign_of_life()
            self._renew_advance()
        else:
            self._after("accept", self._accept_ms)

    # --- what comes in ---

    def feed(self, data: bytes) -> list[News]:
        news: list[News] = []
        try:
            for item in self._splitter.feed(data):
                frame = self._reader.decode(item)
                told = self._apply(frame) if frame is not None else []  # None: of a later version
                written = prefixed(item)
                if not _is_untrue(told):
                    self._book.add(self.assign.request_id, written)
                news.extend(told)
                self._received_bytes += len(written)
                if self._received_bytes > self._most_bytes() and not _is_end(news):
                    news.append(Ended(How.FAULT, "sent far more than its tokens need"))
                if _is_end(news):
                    return news
            self._splitter.feed(b"")  # a bad length behind good items shows now
        except ProtocolError as error:
            news.append(Ended(How.FAULT, error.message))
        return news

    def _most_bytes(self) -> int:
        """What the frames so far may have together: what one worker can make this node keep."""
        per_token = MAX_BYTES_PER_TOKEN * (1 + (self.assign.config.logprobs or 0))
        return MAX_IDLE_BYTES + per_token * self.received

    def timer(self, name: str) -> Slow | Ended:
        match name:
            case "half":
                self._slow = True
                self._after("stall", self._stall_ms - self._stall_ms // 2)
                return Slow()
            case "accept":
                return Ended(How.SILENT, "did not answer the assignment")
            case "stall":
                return Ended(How.SILENT, f"was silent for {self._stall_ms} ms")
            case "advance" if self.received:
                return Ended(How.IDLE, "made no token for too long")
            case "advance":
                waits = self._advance[0] is Phase.QUEUED
                how = How.SILENT if waits else How.IDLE
                return Ended(how, "made no headway towards the first token")
            case _:
                raise AssertionError(f"no such timer: {name}")

    def cancel_frame(self, reason: str) -> bytes:
        data = self._writer.encode(Cancel(n=0, reason=clip_text(reason, MAX_ERROR_BYTES)))
        self._book.add(self.assign.request_id, data)
        return data

    def stop_timers(self) -> None:
        for name in ("accept", "half", "stall", "advance"):
            self._desk.agenda.cancel(self._key(name))

    def tokens_per_s(self) -> float | None:
        """Of the decode phase; None when too little was seen to say, or the reader was the slow one."""
        if self.first_token_mono_ms is None or self.received < 2 or self._was_paused:
            return None
        elapsed_ms = self._desk.now.mono_ms - self.first_token_mono_ms
        return (self.received - 1) * 1_000 / elapsed_ms if elapsed_ms > 0 else None

    # --- frames ---

    def _apply(self, frame: Frame) -> list[News]:
        match frame:
            case Reject():
                if self.accepted:
                    return [Ended(How.FAULT, "rejected what it had accepted")]
                return [Ended(How.REJECTED, frame.reason.name.lower(), frame)]
            case Progress():
                return self._progress(frame)
            case Token():
                return self._token(frame)
            case Complete():
                return [*self._accept(), self._complete(frame)]
            case Error():
                return [*self._accept(), Ended(How.ERROR, f"{frame.code}: {frame.error}", frame)]
            case Ack() | Cancel():
                return [Ended(How.FAULT, "sent a frame that only a requester sends")]
            case _:
                assert_never(frame)

    def _sign_of_life(self) -> list[News]:
        """A token or Progress: the stall's clock starts anew."""
        self._after("half", self._stall_ms // 2)
        if not self._slow:
            return []
        self._slow = False
        self._desk.agenda.cancel(self._key("stall"))
        return [Awake()]

    def _continues(self) -> bool:
        """False: less exactly than is allowed. Asked when its facts come, or at a first token without."""
        if self._continuation is None or self.seam is not None:
            return True
        promised = self._continuation.promised(self.candidate.offer)
        self.seam = self._continuation.held(promised, self.maker)
        return self.seam is not None

    def _accept(self) -> list[News]:
        if self.accepted:
            return []
        self.accepted = True
        self._desk.agenda.cancel(self._key("accept"))
        return [Taken()]

    def _progress(self, frame: Progress) -> list[News]:
        first = self._accept()
        if frame.facts is not None and self.facts is None:
            self.facts, self.maker = frame.facts, Maker.said(frame.facts)
            if not self._continues():
                return [*first, Ended(How.UNEQUAL, UNEQUAL)]
        mark = _mark(frame)
        if first or (mark > self._advance and not self.received):
            self._advance = max(self._advance, mark)
            self._est_ms = frame.est_ms
            self._renew_advance()
        return first + self._sign_of_life()

    def _renew_advance(self) -> None:
        timers = self._desk.timers
        if self.received:
            limit_ms = timers.no_token_ms
        elif self._advance[0] is Phase.QUEUED:
            limit_ms = timers.no_advance_timeout_ms(self._est_ms)
        else:
            limit_ms = timers.first_token_timeout_ms(self._est_ms)
        self._after("advance", limit_ms)

    def _token(self, frame: Token) -> list[News]:
        first = self._accept()
        wrong = self._wrong_with(frame)
        if wrong:
            return [*first, Ended(How.FAULT, wrong)]
        if not self._continues():
            return [*first, Ended(How.UNEQUAL, UNEQUAL)]
        if self.first_token_mono_ms is None:
            self.first_token_mono_ms = self._desk.now.mono_ms
        self.received += len(frame.texts)
        for text in frame.texts:
            self._digest.update(text.encode("utf-8"))
        self._renew_advance()
        return [*first, *self._sign_of_life(), Got(frame)]

    @property
    def _next_index(self) -> int:
        """Tokens of the whole answer so far."""
        return self.first_index + self.received

    def _wrong_with(self, frame: Token) -> str:
        if frame.index != self._next_index:
            return f"sent token {frame.index} where {self._next_index} was next"
        if frame.index + len(frame.texts) > self.assign.config.max_tokens:
            return "sent more tokens than were asked for"
        if any(len(text.encode("utf-8")) > MAX_TOKEN_TEXT_BYTES for text in frame.texts):
            return f"sent a token of more than {MAX_TOKEN_TEXT_BYTES} bytes"
        return ""

    def _complete(self, frame: Complete) -> Completed | Ended:
        if frame.finish_reason is FinishReason.CANCELLED:
            return Ended(How.SHORT, "cancelled what nobody had cancelled")
        tokens = self._next_index
        if frame.total_tokens > tokens:
            return Ended(How.SHORT, f"announced {frame.total_tokens} tokens, {tokens} came")
        if frame.total_tokens != tokens or frame.completion_tokens != tokens:
            return Ended(How.FAULT, f"counted {frame.total_tokens} tokens where {tokens} came")
        if not self._continues():
            return Ended(How.UNEQUAL, UNEQUAL)
        if frame.text_digest != self._digest.digest():
            return Ended(How.DIGEST, "the answer's digest is not that of the text received")
        wanted = self.assign.model_digest
        if wanted is not None and frame.model_digest != wanted:
            return Ended(How.DIGEST, "answered with other weights than were asked for")
        return Completed(frame)


def _is_untrue(told: list[News]) -> bool:
    """The frame was a lie or breaks a promise: it is no part of the answer's record."""
    return bool(told) and isinstance(told[-1], Ended) and told[-1].how in (How.FAULT, How.SHORT)


def _is_end(news: list[News]) -> bool:
    return bool(news) and isinstance(news[-1], Ended | Completed)


def _mark(frame: Progress) -> tuple[Phase, int]:
    """What may only rise: a later phase, a lower position, a higher percent. In decode nothing but a token is
    an advance, whatever count the worker gives of itself."""
    match frame.phase:
        case Phase.QUEUED:
            return frame.phase, -frame.value
        case Phase.PREFILL:
            return frame.phase, min(frame.value, 100)
        case Phase.DECODE:
            return frame.phase, 0
        case _:
            assert_never(frame.phase)
