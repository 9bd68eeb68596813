"""Requester hand: the requesters of the worker machine, and how their workers' frames are read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol.frames import WORKER_KINDS, FrameReader, FrameWriter, ItemSplitter, encode_assign
from llama_gossip.protocol.messages import (
    Assign,
    ChatPrompt,
    Complete,
    Error,
    Frame,
    GenerationConfig,
    Head,
    NodeId,
    Progress,
    Reject,
    RequestId,
    Resume,
    Token,
)
from llama_gossip.simulation.answers import WholeAnswer, answer_to
from llama_gossip.simulation.machine import MODEL
from llama_gossip.simulation.signing import HashSigner, verify_hash
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.machines.parts import DATE

FLAWS = ("boot", "worker", "signature", "author", "model", "digest", "too_long", "junk")
UNBORNE = ("worker", "signature", "author", "junk")  # wrong bytes: the stream ends, nothing is told


def request_id_of(number: int) -> RequestId:
    return RequestId(number.to_bytes(16, "big"))


def assign_to(
    worker: NodeId, boot: int, *, number: int, attempt: int, tokens: int, resumed: int, priority: int = 5
) -> Assign:
    """Request `number`; it asks for an answer of at most `tokens`, of which `resumed` are there already."""
    prompt = ChatPrompt((("user", f"question {number}"),))
    config = GenerationConfig(max_tokens=tokens, seed=number)
    answer = answer_to(prompt, config.seed, tokens)
    start = min(resumed, len(answer.texts))
    resume = Resume(start, answer.ids[:start], "".join(answer.texts[:start]), None, None) if start else None
    return Assign(
        head=Head(5, 1, WALL_MS),
        request_id=request_id_of(number),
        attempt=attempt,
        worker=worker,
        worker_boot=boot,
        accept_by=0,
        prompt=prompt,
        config=config,
        resume=resume,
        priority=priority,
        deadline_ms=300_000,
        model=MODEL,
        model_digest=None,
        date=DATE,
    )


def flawed(assign: Assign, flaw: str) -> Assign:
    match flaw:
        case "boot":
            return replace(assign, worker_boot=assign.worker_boot - 1)
        case "worker":
            return replace(assign, worker=NodeId(bytes(32)))
        case "model":
            return replace(assign, model="another")
        case "digest":
            return replace(assign, model_digest=bytes(32))
        case "too_long":
            return replace(assign, config=replace(assign.config, max_tokens=30_000))
        case _:
            return assign


@dataclass
class Line:
    """A stream to the worker, seen from its requester. It checks what the worker writes as it comes."""

    remote: HashSigner
    worker: NodeId
    assign: Assign
    assigned: bool = False
    writer: FrameWriter | None = None
    job: int | None = None
    index: int = 0  # of the next token
    text: str = ""  # of the whole answer so far
    last: Frame | None = None  # Reject, Complete or Error
    ended: bool = False  # the worker has finished its side
    reset: int | None = None  # the code
    over: bool = False  # nothing comes of it any more, from either side
    frames: list[Frame] = field(default_factory=list)
    _reader: FrameReader | None = None
    _splitter: ItemSplitter = field(default_factory=ItemSplitter)

    @property
    def answer(self) -> WholeAnswer:
        config = self.assign.config
        return answer_to(self.assign.prompt, config.seed, config.max_tokens)

    def first_item(self, flaw: str) -> bytes:
        """The Assign, with its flaw."""
        assign = flawed(self.assign, flaw)
        signer = HashSigner(b"another") if flaw == "author" else self.remote
        data, context = encode_assign(assign, signer, NET_ID)
        if flaw == "signature":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if flaw == "junk":
            data = b"\0\0\0\3abc"
        self.assigned, self.assign = True, assign
        self.writer = FrameWriter(context, signer)
        self._reader = FrameReader(context, self.worker, verify_hash, WORKER_KINDS)
        if assign.resume is not None:
            self.index, self.text = assign.resume.from_index, assign.resume.text
        return data

    def wrote(self, effect: ef.WriteStream) -> None:
        assert not self.ended, "a write after the end of its own side"
        assert not self.over, "a write to a stream that is over"
        assert self._reader is not None
        for item in self._splitter.feed(effect.data):
            frame = self._reader.decode(item)
            assert frame is not None
            self._read(frame)

    def _read(self, frame: Frame) -> None:
        self.frames.append(frame)
        match frame:
            case Token():
                assert frame.index == self.index, "I1: tokens follow each other"
                self.index += len(frame.texts)
                self.text += "".join(frame.texts)
                assert "".join(self.answer.texts[: self.index]) == self.text, "I16"
            case Complete():
                self.last = frame
                assert frame.total_tokens == self.index == len(self.answer.texts), "I4"
                assert frame.text_digest == self.answer.text_digest, "I4"
            case Error() | Reject():
                self.last = frame
            case Progress():
                pass
            case _:
                raise AssertionError(f"a worker sends {frame}")
