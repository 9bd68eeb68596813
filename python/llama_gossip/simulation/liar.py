"""Liar: a worker whose core is honest and whose mouth is not. It signs its lies with its own good key.

The law: a liar knows everything that its node knows (key, contexts, frames) and nothing else, so whatever it
says is what a hostile worker could say.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from enum import Enum

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.codec import decode_payload
from llama_gossip.protocol.envelope import Signer, Verifier
from llama_gossip.protocol.frames import FrameWriter, ItemSplitter, open_assign
from llama_gossip.protocol.limits import MAX_FRAME_BYTES, MAX_TOKEN_ARRAY
from llama_gossip.protocol.messages import (
    Complete,
    FinishReason,
    Frame,
    Kind,
    Phase,
    Progress,
    RequestId,
    Token,
)
from llama_gossip.protocol.outer import OuterArray


class Lie(Enum):
    BLACK_HOLE = "black_hole"  # takes everything, says nothing
    STALL = "stall"  # is alive and makes no token
    DIGEST = "digest"  # another digest than the text's
    SHORT = "short"  # announces more than it sent
    CUT = "cut"  # ends the stream before its end
    INDEX = "index"  # skips a token
    REPEAT = "repeat"  # sends a token twice
    LONG = "long"  # more tokens than were asked for
    SIGNATURE = "signature"  # one bit off
    CANCELLED = "cancelled"  # says that it was cancelled
    FEWER = "fewer"  # announces fewer than it sent
    ORDER = "order"  # skips a number of its frames


ONE_LIE_SHARE = 0.5  # of the liars tell one lie only, the others any
STAYING = (Lie.BLACK_HOLE, Lie.STALL)  # a network must do with these for ever


_PASSING = tuple(lie for lie in Lie if lie not in STAYING)
Attempted = tuple[RequestId, int]


@dataclass(slots=True)
class Ear:
    """What is known of one stream, or of one attempt over gossip."""

    hears: ItemSplitter = field(default_factory=ItemSplitter)
    says: ItemSplitter = field(default_factory=lambda: ItemSplitter(MAX_FRAME_BYTES))
    writer: FrameWriter | None = None
    attempt: Attempted | None = None
    lied: bool = False
    lie: Lie = Lie.BLACK_HOLE
    beats: bool = False
    finish: bool = False


class Liar:
    def __init__(
        self, lie: Lie, rng: random.Random, *, signer: Signer, net_id: bytes, verify: Verifier, share: float
    ) -> None:
        self.lie = lie
        self.lies = 0
        self.mixed = lie not in STAYING and rng.random() >= ONE_LIE_SHARE
        self.spoilt: set[Attempted] = set()  # what came of these attempts is no answer
        self._rng = rng
        self._signer = signer
        self._net_id = net_id
        self._verify = verify
        self._share = share
        self._ears: dict[int, Ear] = {}

    def hear(self, stream: int, data: bytes) -> None:
        """What a requester sends it."""
        ear = self._ears.get(stream)
        if ear is None:
            ear = self._ears[stream] = Ear(lie=self._draw())
        if ear.writer is not None:
            return
        try:
            for item in ear.hears.feed(data):
                assign, _, context, _ = open_assign(item, self._net_id, self._verify)
                ear.attempt = (assign.request_id, assign.attempt)
                ear.writer = FrameWriter(context, self._signer)
                return
        except ProtocolError:
            return

    def ear(self, context: bytes, attempt: Attempted, start_n: int) -> Ear:
        """Of an attempt that it knows to the last key; start_n: of its own next frame."""
        writer = FrameWriter(context, self._signer, start_n)
        return Ear(writer=writer, attempt=attempt, lie=self._draw())

    def _draw(self) -> Lie:
        return self._rng.choice(_PASSING) if self.mixed else self.lie

    def say(self, stream: int, data: bytes) -> tuple[list[bytes], bool]:
        """What goes out in the place of `data`, and whether the stream is finished after it."""
        ear = self._ears.get(stream)
        if ear is None or ear.writer is None:
            return [data], False
        return [said for item in ear.says.feed(data) for said in self.instead(ear, item)], ear.finish

    def instead(self, ear: Ear, item: bytes) -> list[bytes]:
        """What it says in the place of one frame, with prefixes."""
        if ear.finish or ear.lie is Lie.BLACK_HOLE or ear.writer is None:
            self.lies += 1
            return []
        outer = OuterArray(item, elements=3)
        kind, payload = Kind(outer.uint8()), outer.binary()
        frame = decode_payload(kind, payload)
        out: list[bytes] = []
        for said in self._twist(ear, frame):  # type: ignore[arg-type]  # an attempt carries frames
            encoded = ear.writer.encode(said)
            if ear.lie is Lie.SIGNATURE and not ear.lied and isinstance(said, Token):
                self._spoil(ear)
                encoded = encoded[:-1] + bytes((encoded[-1] ^ 1,))
            out.append(encoded)
        return out

    def keeps(self, stream: int) -> bool:
        """It says nothing more there, not even that this is the end."""
        ear = self._ears.get(stream)
        return ear is not None and (ear.lie is Lie.BLACK_HOLE or (ear.lied and ear.lie is Lie.STALL))

    def beats(self, stream: int) -> bool:
        """Whether its heartbeat begins now."""
        ear = self._ears.get(stream)
        if ear is None or ear.beats or not (ear.lied and ear.lie is Lie.STALL):
            return False
        ear.beats = True
        return True

    def beat(self, stream: int) -> bytes:
        writer = self._ears[stream].writer
        assert writer is not None
        return writer.encode(Progress(0, Phase.DECODE, 1, 0))

    def _twist(self, ear: Ear, frame: Frame) -> list[Frame]:
        twisted = self._lie(ear, frame) if not ear.lied and self._rng.random() < self._share else None
        if twisted is None:
            return (
                [frame] if not (ear.lied and ear.lie is Lie.STALL and not isinstance(frame, Progress)) else []
            )
        self._spoil(ear)
        return twisted

    def _spoil(self, ear: Ear) -> None:
        ear.lied = True
        self.lies += 1
        if ear.attempt is not None:
            self.spoilt.add(ear.attempt)

    def _lie(self, ear: Ear, frame: Frame) -> list[Frame] | None:
        """None: nothing to lie about yet."""
        match ear.lie, frame:
            case Lie.STALL, Token():
                return []
            case Lie.DIGEST, Complete():
                return [replace(frame, text_digest=bytes(32))]
            case Lie.SHORT, Complete():
                more = frame.total_tokens + 2
                return [replace(frame, total_tokens=more, completion_tokens=more)]
            case Lie.CANCELLED, Complete():
                return [replace(frame, finish_reason=FinishReason.CANCELLED)]
            case Lie.CUT, Token():
                ear.finish = True
                return [frame]
            case Lie.INDEX, Token():
                return [replace(frame, index=frame.index + 1)]
            case Lie.REPEAT, Token():
                return [frame, frame]
            case Lie.FEWER, Complete() if frame.total_tokens > 1:
                fewer = frame.total_tokens - 1
                return [replace(frame, total_tokens=fewer, completion_tokens=fewer)]
            case Lie.ORDER, Token() if ear.writer is not None:
                ear.writer.next_n += 1
                return [frame]
            case Lie.LONG, Complete():
                starts = range(frame.total_tokens, frame.total_tokens + 1_024, MAX_TOKEN_ARRAY)
                return [Token(0, n, (1,) * MAX_TOKEN_ARRAY, ("x",) * MAX_TOKEN_ARRAY) for n in starts]
            case _:
                return None
