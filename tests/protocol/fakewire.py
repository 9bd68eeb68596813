"""Fake wire: cores on a virtual network with a virtual clock. One seed, one trace.

Streams keep their order, chunks are cut anywhere, a reset may overtake what was written before it, gossip is
lost and repeated; nodes die and links break when a test says so. It never waits: time is the next event's.
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import KeySigner
from llama_gossip.protocol.messages import ChatPrompt, GenerationConfig, NodeId, RequestId
from llama_gossip.protocol.network import net_id
from tests.protocol.scripted_model import ScriptedModel, answer_of

NET_ID = net_id(blake2b(b"test network", digest_size=32).digest())
WALL_MS = 1_790_000_000_000  # the virtual clocks' origin
USER_EFFECTS = (ef.Accepted, ef.DeliverTokens, ef.Retried, ef.FailedOver, ef.Finished, ef.Failed)
TERMINAL = (ef.Finished, ef.Failed)


@dataclass
class FakeNode:
    net: FakeNet
    name: str
    core: Core
    node_id: NodeId
    model: ScriptedModel | None
    alive: bool = True
    frozen: list[ev.Event] | None = None  # what waits while the process is stopped; None: it runs
    wake_at: int | None = None
    user: dict[RequestId, list[Any]] = field(default_factory=dict)
    log: list[ef.Effect] = field(default_factory=list)
    submitted: dict[RequestId, ev.Submit] = field(default_factory=dict)

    def feed(self, event: ev.Event) -> list[ef.Effect]:
        """Hands one event to the core and performs what it asks."""
        if not self.alive:
            return []
        if self.frozen is not None:
            self.frozen.append(event)
            return []
        if self.model is not None and not self.model.takes(event):
            return []
        effects = self.core.handle(event, self.net.clock())
        for effect in effects:
            self.log.append(effect)
            self.net.perform(self, effect)
        return effects

    def ask(self, *, max_tokens: int = 10, seed: int = 1, **options: Any) -> RequestId:
        request_id = RequestId(self.net.rng.randbytes(16))
        submit = ev.Submit(
            request_id=request_id,
            model=options.pop("model", "tiny"),
            prompt=options.pop("prompt", ChatPrompt((("user", "hello"),))),
            config=GenerationConfig(max_tokens=max_tokens, seed=seed),
            date="2026-11-24",
            **options,
        )
        self.submitted[request_id] = submit
        self.user[request_id] = []
        self.feed(submit)
        return request_id

    def told(self, request_id: RequestId, kind: type) -> list[Any]:
        return [effect for effect in self.user[request_id] if isinstance(effect, kind)]

    def end_of(self, request_id: RequestId) -> Any:
        ends = [effect for effect in self.user[request_id] if isinstance(effect, TERMINAL)]
        return ends[0] if ends else None

    def text_of(self, request_id: RequestId) -> str:
        return "".join(text for tokens in self.told(request_id, ef.DeliverTokens) for text in tokens.texts)

    def effects(self, kind: type) -> list[Any]:
        return [effect for effect in self.log if isinstance(effect, kind)]


@dataclass
class _End:
    """One end of a stream."""

    number: int
    owner: FakeNode
    twin: int
    announced: bool = True  # the owner knows of it (the accepting side learns with the first write)
    ours_ended: bool = False
    deaf: bool = False  # reset or lost: nothing is delivered to the owner any more
    last_ms: int = 0  # order of what this end sends


class FakeNet:
    def __init__(
        self, seed: int = 0, *, delay_ms: tuple[int, int] = (1, 3), gossip_loss: float = 0.0
    ) -> None:
        sys.stdout.write(f"fake wire seed {seed}\n")  # shown when a test fails
        self.rng = random.Random(seed)
        self.now_ms = 1_000
        self.delay_ms = delay_ms
        self.gossip_loss = gossip_loss
        self.gossip_copies = 1
        self.cut_chunks = False
        self.nodes: list[FakeNode] = []
        self.unreachable: set[NodeId] = set()  # dials to them time out
        self.refusing: set[NodeId] = set()  # dials to them fail at once
        self.taps: list[bytes] = []  # all that was broadcast
        self.ends: dict[int, _End] = {}
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._serial = itertools.count()
        self._streams = itertools.count(1)
        self._dials: dict[tuple[int, int], bool] = {}

    # --- nodes ---

    def add(
        self, name: str, model: ScriptedModel | None = None, *, boot: int = 0, **options: Any
    ) -> FakeNode:
        seed = blake2b(name.encode(), digest_size=32).digest()
        signer = KeySigner(seed)
        core = Core(
            signer=signer,
            net_id=options.pop("net_id", NET_ID),
            boot=boot or WALL_MS + self.now_ms,
            node_name=name,
            rng=random.Random(self.rng.random()),
            version="0.1.0",
            **options,
        )
        node = FakeNode(self, name, core, signer.node_id, model)
        self.nodes = [n for n in self.nodes if n.node_id != signer.node_id] + [node]
        return node

    def join(self, *nodes: FakeNode) -> None:
        for node in nodes:
            if node.model is not None:
                node.feed(ev.EngineChanged(node.model.capacity()))
            node.feed(ev.Joined((f"127.0.0.1:{5_000 + self.nodes.index(node)}",)))

    def freeze(self, node: FakeNode) -> None:
        """The process is stopped: it takes nothing in and sends nothing, but its connections stand."""
        node.frozen = []

    def thaw(self, node: FakeNode) -> None:
        waiting, node.frozen = node.frozen or [], None
        for event in waiting:
            node.feed(event)

    def kill(self, node: FakeNode) -> None:
        """The process is gone without a word."""
        node.alive = False
        for end in list(self.ends.values()):
            if end.owner is node:
                self._lose(self.ends[end.twin], "connection lost")

    def cut(self, stream: int) -> None:
        """The connection below this stream breaks: both ends lose it."""
        end = self.ends[stream]
        self._lose(end, "cut")
        self._lose(self.ends[end.twin], "cut")

    def _lose(self, end: _End, reason: str) -> None:
        if end.deaf or not end.announced:
            end.deaf = True
            return
        end.deaf = True
        self.at(self._delay(), lambda: end.owner.feed(ev.StreamLost(end.number, reason)))

    def node_of(self, node_id: NodeId) -> FakeNode | None:
        return next((node for node in self.nodes if node.node_id == node_id), None)

    # --- time ---

    def clock(self) -> ev.Now:
        return ev.Now(self.now_ms, WALL_MS + self.now_ms)

    def at(self, delay_ms: int, action: Callable[[], object]) -> None:
        heapq.heappush(self._queue, (self.now_ms + delay_ms, next(self._serial), action))

    def step(self) -> bool:
        if not self._queue:
            return False
        at, _, action = heapq.heappop(self._queue)
        self.now_ms = max(self.now_ms, at)
        action()
        return True

    def run_for(self, span_ms: int) -> None:
        end_ms = self.now_ms + span_ms
        while self._queue and self._queue[0][0] <= end_ms:
            self.step()
        self.now_ms = end_ms

    def run_until(self, condition: Callable[[], bool], limit_ms: int = 600_000) -> int:
        """Milliseconds that it took; fails when the limit passes first."""
        start_ms = self.now_ms
        while not condition():
            assert self.now_ms - start_ms <= limit_ms, "the condition did not come true in time"
            assert self.step(), "nothing is left to happen"
        return self.now_ms - start_ms

    def finish(self, node: FakeNode, request_id: RequestId, limit_ms: int = 600_000) -> Any:
        self.run_until(lambda: node.end_of(request_id) is not None, limit_ms)
        return node.end_of(request_id)

    def _delay(self) -> int:
        return self.rng.randint(*self.delay_ms)

    # --- effects ---

    def perform(self, node: FakeNode, effect: ef.Effect) -> None:
        match effect:
            case ef.Broadcast(data):
                self._broadcast(node, data)
            case ef.OpenStream(dial, worker, timeout_ms):
                self._dial(node, dial, worker, timeout_ms)
            case ef.AbandonDial(dial):
                self._dials.pop((id(node), dial), None)
            case ef.WriteStream(stream, data):
                self._write(stream, data)
            case ef.FinishStream(stream):
                self._finish(stream)
            case ef.ResetStream(stream, code):
                self._reset(stream, code)
            case ef.StartJob():
                assert node.model is not None
                node.model.start(effect, lambda ms, event: self.at(ms, lambda: node.feed(event)))
            case ef.CancelJob(job):
                assert node.model is not None
                node.model.cancel(job, lambda ms, event: self.at(ms, lambda: node.feed(event)))
            case ef.Wake(at):
                self._wake(node, at)
            case _ if isinstance(effect, USER_EFFECTS):
                node.user[effect.request_id].append(effect)
            case _:
                pass

    def _wake(self, node: FakeNode, at: int | None) -> None:
        node.wake_at = at
        if at is not None:
            self.at(max(0, at - self.now_ms), lambda: node.feed(ev.Tick()) if node.wake_at == at else None)

    def _broadcast(self, node: FakeNode, data: bytes) -> None:
        self.taps.append(data)
        for other in self.nodes:
            for _ in range(self.gossip_copies):
                if other is not node and self.rng.random() >= self.gossip_loss:
                    event = ev.GossipReceived(node.node_id, data)
                    self.at(self._delay(), lambda other=other, event=event: other.feed(event))

    def _dial(self, node: FakeNode, dial: int, worker: NodeId, timeout_ms: int) -> None:
        self._dials[id(node), dial] = True
        target = self.node_of(worker)
        if worker in self.refusing:
            self.at(self._delay(), lambda: self._dial_ends(node, dial, ev.DialFailed(dial, "refused")))
        elif target is None or not target.alive or worker in self.unreachable:
            self.at(timeout_ms, lambda: self._dial_ends(node, dial, ev.DialFailed(dial, "timeout")))
        else:
            self.at(2 * self._delay(), lambda: self._connected(node, dial, target))

    def _dial_ends(self, node: FakeNode, dial: int, event: ev.Event) -> None:
        if self._dials.pop((id(node), dial), None):
            node.feed(event)

    def _connected(self, node: FakeNode, dial: int, target: FakeNode) -> None:
        near, far = next(self._streams), next(self._streams)
        self.ends[near] = _End(near, node, far)
        self.ends[far] = _End(far, target, near, announced=False)
        self._dial_ends(node, dial, ev.StreamOpened(dial, near))

    def _send(self, end: _End, event_for: Callable[[int], ev.Event]) -> None:
        """In the order of sending, to the other end, if it still listens."""
        twin = self.ends[end.twin]
        end.last_ms = max(end.last_ms, self.now_ms + self._delay())

        def deliver() -> None:
            if twin.deaf:
                return
            if not twin.announced:
                twin.announced = True
                twin.owner.feed(ev.StreamAccepted(twin.number, end.owner.node_id))
            twin.owner.feed(event_for(twin.number))

        self.at(end.last_ms - self.now_ms, deliver)

    def _write(self, stream: int, data: bytes) -> None:
        end = self.ends[stream]
        assert not end.ours_ended, "a write after the end of our side"
        if end.deaf:
            return
        cuts = sorted(self.rng.randrange(len(data) + 1) for _ in range(2)) if self.cut_chunks else []
        for start, stop in itertools.pairwise([0, *cuts, len(data)]):
            if start < stop:
                chunk = data[start:stop]
                self._send(end, lambda number, chunk=chunk: ev.StreamData(number, chunk))

    def _finish(self, stream: int) -> None:
        end = self.ends[stream]
        if not end.ours_ended:
            end.ours_ended = True
            self._send(end, ev.StreamFinished)

    def _reset(self, stream: int, code: int) -> None:
        end, twin = self.ends[stream], self.ends[self.ends[stream].twin]
        first, second = self.rng.sample(["reset", "stop"], 2)
        lossy = self.rng.random() < 0.5 and not end.ours_ended
        end.deaf = True
        for what in (first, second):
            if what == "reset" and not end.ours_ended:
                self._send(end, lambda number: ev.StreamReset(number, code))
            elif what == "stop" and not twin.ours_ended:
                self._send(end, lambda number: ev.StreamStopped(number, code))
        if lossy and twin.announced:  # a reset overtakes what was written
            twin.deaf = True
            self.at(self._delay(), lambda: twin.owner.feed(ev.StreamReset(twin.number, code)))
        end.ours_ended = True


def check_promises(net: FakeNet) -> None:
    """What holds of every request at any time (PROTOCOL section 10, I1-I4 and I7)."""
    for node in net.nodes:
        for request_id, told in node.user.items():
            tokens = node.told(request_id, ef.DeliverTokens)
            indices = [batch.index + i for batch in tokens for i in range(len(batch.texts))]
            assert indices == list(range(len(indices))), "delivered indices are 0, 1, 2 …"
            ends = [n for n, effect in enumerate(told) if isinstance(effect, TERMINAL)]
            assert len(ends) <= 1, "at most one terminal event"
            assert not ends or ends[0] == len(told) - 1, "nothing follows the terminal event"
            end = node.end_of(request_id)
            if isinstance(end, ef.Finished):
                config = node.submitted[request_id].config
                assert end.total_tokens == len(indices)
                assert node.text_of(request_id) == answer_of(config.seed, end.total_tokens)
                digest = blake2b(node.text_of(request_id).encode(), digest_size=32).digest()
                assert end.text_digest == digest
        if node.model is not None:
            assert len(node.model.running) <= node.model.slots
            assert node.model.most_running <= node.model.slots


def check_quiet(net: FakeNet) -> None:
    """After quiescence: every request has ended, every slot is free, no stream is held."""
    check_promises(net)
    for node in net.nodes:
        if not node.alive:
            continue
        for request_id in node.user:
            assert node.end_of(request_id) is not None, "a request without its terminal event"
        core = node.core
        assert len(core._requester) == 0, "a request is still held"
        assert not core._requester.connector._spares, "a stream still stands ready"
        assert len(core._worker.jobs) == 0, "a job is still held"
        assert core._worker.jobs.queue.running == 0
        assert not core._worker._inbound, "a stream is still held"
        if node.model is not None:
            assert not node.model.running, "a slot is not free"


def network(seed: int, *models: ScriptedModel) -> tuple[FakeNet, FakeNode, list[FakeNode]]:
    net = FakeNet(seed)
    client = net.add("client")
    workers = [net.add(f"worker {number}", model) for number, model in enumerate(models)]
    net.join(client, *workers)
    net.run_for(1_500)
    return net, client, workers
