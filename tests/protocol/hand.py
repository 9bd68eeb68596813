"""Hands: one side of a stream played by the test, frame by frame, against one real core."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import KeySigner, sign_envelope, verify_signature
from llama_gossip.protocol.frames import (
    WORKER_KINDS,
    FrameReader,
    FrameWriter,
    ItemSplitter,
    encode_assign,
    open_assign,
)
from llama_gossip.protocol.messages import (
    Announce,
    Assign,
    ChatPrompt,
    Complete,
    FinishReason,
    Frame,
    GenerationConfig,
    Head,
    NodeId,
    NodeState,
    NumericsClass,
    Phase,
    Progress,
    PromptFacts,
    Reject,
    RequestId,
    Token,
)
from tests.protocol.fakewire import NET_ID, WALL_MS, FakeNet, FakeNode
from tests.protocol.scripted_model import DIGEST, ScriptedModel

OWN_BOOT = WALL_MS + 1
REQUEST_ID = RequestId(bytes(range(16)))


def key(name: str) -> KeySigner:
    return KeySigner(blake2b(name.encode(), digest_size=32).digest())


def announce(
    *,
    seq: int = 1,
    boot: int = OWN_BOOT,
    state: NodeState = NodeState.READY,
    model: ScriptedModel | None = None,
    **changes: Any,
) -> Announce:
    capacity = (model or ScriptedModel()).capacity()
    base = Announce(
        Head(boot, seq, WALL_MS + 1_000), "hand", capacity, state, ("role/worker",), bytes(32),
        ("127.0.0.1:1",), 45_000, (),
    )  # fmt: skip
    return replace(base, **changes)


def progress(phase: Phase = Phase.PREFILL, value: int = 0, est_ms: int = 0) -> Progress:
    return Progress(0, phase, value, est_ms)


def token(index: int, *texts: str) -> Token:
    return Token(0, index, tuple(range(index, index + len(texts))), texts)


def complete(text: str, tokens: int, **changes: Any) -> Complete:
    digest = blake2b(text.encode(), digest_size=32).digest()
    return replace(Complete(0, tokens, 0.5, FinishReason.STOP, 7, tokens, digest, DIGEST), **changes)


class Clocked:
    """A real core and the time."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.node_id: NodeId = core._desk.own_id
        self.now_ms = 1_000
        self.told: list[ef.Effect] = []

    def feed(self, event: ev.Event) -> list[ef.Effect]:
        effects = self.core.handle(event, ev.Now(self.now_ms, WALL_MS + self.now_ms))
        self.told.extend(effects)
        return effects

    def wait(self, span_ms: int) -> list[ef.Effect]:
        """Time passes, each timer fires in its own moment."""
        end_ms, effects = self.now_ms + span_ms, []
        while (at := self.core._desk.agenda.earliest()) is not None and at <= end_ms:
            self.now_ms = max(self.now_ms, at)
            effects.extend(self.feed(ev.Tick()))
        self.now_ms = end_ms
        return effects

    def all(self, kind: type) -> list[Any]:
        return [effect for effect in self.told if isinstance(effect, kind)]


class HandWorker:
    """Answers one real client core by hand. Each open dial becomes a stream of its own."""

    def __init__(self, *, joined_for_ms: int = 3_000, **announced: Any) -> None:
        self.signer = key("hand worker")
        core = FakeNet().add("client").core
        self.client = Clocked(core)
        self.signers = {self.signer.node_id: self.signer}
        self.announced = announced
        self.client.feed(ev.Joined(()))
        self.client.wait(joined_for_ms)
        self.seq = 0
        self.say()
        self.streams = 100

    def say(self, **changes: Any) -> None:
        """A newer Announce of the worker's."""
        self.seq += 1
        head = Head(OWN_BOOT, self.seq, WALL_MS + self.client.now_ms)
        message = announce(**{**self.announced, "head": head, **changes})
        data = sign_envelope(message, self.signer, NET_ID)
        self.client.feed(ev.GossipReceived(self.signer.node_id, data))

    def another(self, name: str, **announced: Any) -> KeySigner:
        """One more worker announces itself; its dials are answered by `connect` too."""
        signer = key(name)
        self.signers[signer.node_id] = signer
        head = Head(OWN_BOOT, self.client.now_ms, WALL_MS + self.client.now_ms)
        data = sign_envelope(announce(head=head, **announced), signer, NET_ID)
        self.client.feed(ev.GossipReceived(signer.node_id, data))
        return signer

    def submit(self, **options: Any) -> list[ef.Effect]:
        config = GenerationConfig(
            max_tokens=options.pop("max_tokens", 8), seed=1, fit=options.pop("fit", False)
        )
        prompt = options.pop("prompt", ChatPrompt((("user", "hi"),)))
        return self.client.feed(ev.Submit(REQUEST_ID, "tiny", prompt, config, "2026-11-24", **options))

    def connect(self) -> Hand:
        """Answers the newest dial; the Assign is read."""
        return self.assigned(self.open())

    def open(self) -> list[ef.Effect]:
        """The newest dial becomes a stream."""
        self.dialled = self.client.all(ef.OpenStream)[-1].worker
        self.streams += 1
        return self.client.feed(ev.StreamOpened(self.client.all(ef.OpenStream)[-1].dial, self.streams))

    def assigned(self, effects: list[ef.Effect]) -> Hand:
        """Reads the Assign that was written to the newest stream."""
        written = [e.data for e in effects if isinstance(e, ef.WriteStream) and e.stream == self.streams]
        return Hand(self.client, self.signers[self.dialled], self.streams, b"".join(written))


class Hand:
    """The worker's end of one attempt."""

    def __init__(self, client: Clocked, signer: KeySigner, stream: int, written: bytes) -> None:
        (item,) = ItemSplitter().feed(written)
        self.assign, sender, self.context, _ = open_assign(item, NET_ID, verify_signature)
        assert sender == client.node_id
        self.stream = stream
        self.client = client
        self.writer = FrameWriter(self.context, signer)

    def send(self, *frames: Frame) -> list[ef.Effect]:
        return self.raw(b"".join(self.writer.encode(frame) for frame in frames))

    def raw(self, data: bytes) -> list[ef.Effect]:
        return self.client.feed(ev.StreamData(self.stream, data))


class HandClient:
    """Asks one real worker core by hand."""

    def __init__(self, model: ScriptedModel | None = None, **options: Any) -> None:
        self.signer = options.pop("signer", None) or key("hand client")
        self.net = FakeNet()
        node: FakeNode = self.net.add("worker", model or ScriptedModel(), boot=OWN_BOOT, **options)
        assert node.model is not None
        self.worker = Clocked(node.core)
        self.worker.feed(ev.EngineChanged(node.model.capacity()))
        self.worker.feed(ev.Joined(()))
        self.streams = 0

    def assign(self, **changes: Any) -> Assign:
        base = Assign(
            head=Head(5, 1, WALL_MS),
            request_id=REQUEST_ID,
            attempt=1,
            worker=self.worker.node_id,
            worker_boot=OWN_BOOT,
            accept_by=0,
            prompt=ChatPrompt((("user", "hi"),)),
            config=GenerationConfig(max_tokens=8, seed=1),
            resume=None,
            priority=5,
            deadline_ms=300_000,
            model="tiny",
            model_digest=None,
            date="2026-11-24",
        )
        return replace(base, **changes)

    def ask(self, signer: KeySigner | None = None, **changes: Any) -> Asked:
        """A stream with an Assign on it."""
        signer = signer or self.signer
        self.streams += 1
        data, context = encode_assign(self.assign(**changes), signer, NET_ID)
        asked = Asked(self, self.streams, signer, context)
        self.worker.feed(ev.StreamAccepted(self.streams, signer.node_id))
        asked.effects = self.worker.feed(ev.StreamData(self.streams, data))
        return asked

    def other(self, number: int) -> RequestId:
        return RequestId(number.to_bytes(16, "big"))


class Asked:
    """The requester's end of one attempt."""

    def __init__(self, hand: HandClient, stream: int, signer: KeySigner, context: bytes) -> None:
        self.worker = hand.worker
        self.stream = stream
        self.effects: list[ef.Effect] = []
        self.writer = FrameWriter(context, signer)
        self._splitter = ItemSplitter()
        self._reader = FrameReader(context, hand.worker.node_id, verify_signature, WORKER_KINDS)
        self._read = 0

    def frames(self) -> list[Frame]:
        """What the worker has written since the last look."""
        frames: list[Frame] = []
        written = [e for e in self.worker.all(ef.WriteStream) if e.stream == self.stream]
        for effect in written[self._read :]:
            for item in self._splitter.feed(effect.data):
                frame = self._reader.decode(item)
                assert frame is not None
                frames.append(frame)
        self._read = len(written)
        return frames

    @property
    def job(self) -> int:
        """Its number at the worker's engine."""
        started = [e for e in self.effects if isinstance(e, ef.StartJob)]
        return int(started[0].job)

    def resets(self) -> list[int]:
        return [e.code for e in self.worker.all(ef.ResetStream) if e.stream == self.stream]


# --- short hands for both sides --------------------------------------------------


FACTS = PromptFacts(7, DIGEST, DIGEST, "scripted-1", NumericsClass.EXACT)


def tokens(job: int, index: int, *texts: str) -> ev.EngineTokens:
    return ev.EngineTokens(job, index, tuple(range(len(texts))), texts)


def done(job: int, text: str, count: int) -> ev.EngineDone:
    digest = blake2b(text.encode(), digest_size=32).digest()
    return ev.EngineDone(job, FinishReason.STOP, count, 7, digest, DIGEST)


def ended(job: int) -> ev.EngineFailed:
    return ev.EngineFailed(job, "cancelled", "cancelled", retryable=False)


def running(client: HandClient) -> int:
    return client.worker.core._worker.jobs.queue.running


def started(**options: object) -> tuple[HandWorker, Hand]:
    """A submitted request whose Assign has arrived."""
    worker = HandWorker()
    worker.submit(**options)
    return worker, worker.connect()


def kinds(effects: list[ef.Effect]) -> list[type]:
    return [type(effect) for effect in effects if not isinstance(effect, ef.Wake | ef.Broadcast)]


def only(effects: list[ef.Effect], kind: type) -> ef.Effect:
    (found,) = [effect for effect in effects if isinstance(effect, kind)]
    return found


def rejected(asked: Asked) -> Reject:
    (frame,) = asked.frames()
    assert isinstance(frame, Reject)
    return frame


def progress_with(facts: PromptFacts) -> Frame:
    return replace(progress(Phase.PREFILL, 0), facts=facts)
