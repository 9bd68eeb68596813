"""Worker hand: the workers of the requester machine, honest and not, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from llama_gossip.protocol.frames import FrameReader, FrameWriter
from llama_gossip.protocol.messages import (
    Assign,
    Cancel,
    Complete,
    Error,
    FinishReason,
    Phase,
    Progress,
    Reject,
    RejectReason,
    Token,
)
from llama_gossip.simulation.answers import WEIGHTS, WholeAnswer, answer_to
from llama_gossip.simulation.signing import HashSigner
from tests.protocol.fakewire import WALL_MS

LIES = st.sampled_from(
    (
        "index",
        "again",
        "signature",
        "order",
        "beyond",
        "more",
        "fewer",
        "digest",
        "cancelled",
        "junk",
        "kind",
        "huge",
    )
)
REFUSALS = st.builds(
    Reject,
    st.just(0),
    st.sampled_from(RejectReason),
    st.sampled_from([0, 1, 500, 20_000]),
    st.just(0),
)
FAILURES = st.builds(
    Error,
    st.just(0),
    st.just("by the machine"),
    st.sampled_from(["engine_failed"] * 4 + ["draining", "too_long", "bad_request", "deadline"]),
    st.sampled_from([True, True, True, False]),
)


@dataclass
class Peer:
    signer: HashSigner
    boot: int = WALL_MS
    seq: int = 0


@dataclass
class Line:
    """A stream that the core has opened, seen from its worker."""

    peer: Peer
    spoke_ms: int  # when last something was said, by either side
    assign: Assign | None = None
    writer: FrameWriter | None = None
    reader: FrameReader | None = None
    index: int = 0  # of the next token
    ours_ended: bool = False  # the core has finished its side
    theirs_ended: bool = False  # the worker says no more
    theirs_finished: bool = False  # and has finished its side

    @property
    def answer(self) -> WholeAnswer:
        assert self.assign is not None
        config = self.assign.config
        return answer_to(self.assign.prompt, config.seed, config.max_tokens)

    def tokens(self, count: int) -> Token | None:
        answer, start = self.answer, self.index
        end = min(start + count, len(answer.texts))
        self.index = end
        return Token(0, start, answer.ids[start:end], answer.texts[start:end]) if end > start else None

    def complete(self) -> Complete:
        answer, total = self.answer, len(self.answer.texts)
        return Complete(
            0, total, 0.1, answer.finish_reason, answer.prompt_tokens, total, answer.text_digest, WEIGHTS
        )

    def lie(self, lie: str) -> bytes:
        """No requester bears it."""
        assert self.assign is not None
        assert self.writer is not None
        writer, rest = self.writer, b""
        if lie in ("digest", "cancelled", "more") and (token := self.tokens(10**6)) is not None:
            rest = writer.encode(token)
        extra = Token(0, self.index, (), ("x",))
        match lie:
            case "index":
                return writer.encode(replace(extra, index=self.index + 1))
            case "again":
                return writer.encode(replace(extra, index=max(0, self.index - 1))) if self.index else b""
            case "signature":
                data = bytearray(writer.encode(Progress(0, Phase.PREFILL, 1, 1)))
                data[-1] ^= 1
                return bytes(data)
            case "order":
                writer.next_n += 1
                return writer.encode(Progress(0, Phase.PREFILL, 1, 1))
            case "beyond":
                return writer.encode(replace(extra, texts=("x",) * (self.assign.config.max_tokens + 1)))
            case "more":
                told = self.index + 1
            case "fewer":
                told = max(0, self.index - 1)
            case "digest":
                return rest + writer.encode(replace(self.complete(), text_digest=bytes(32)))
            case "cancelled":
                return rest + writer.encode(replace(self.complete(), finish_reason=FinishReason.CANCELLED))
            case "junk":
                return b"\0\0\0\5hello"
            case "kind":
                return writer.encode(Cancel(0, "from the wrong side"))
            case _:
                return b"\xff\xff\xff\xff"  # an item of 4 GiB
        return rest + writer.encode(replace(self.complete(), total_tokens=told, completion_tokens=told))
