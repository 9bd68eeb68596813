"""Small net: three cores, and everything between them waits until somebody says what comes next.

What is on its way stands in lists: gossip in any order, each direction of a stream in its own order, dials,
and the next word of each engine's job. A process may die and come back with a higher boot; it then knows
nothing, and what was on its way to it is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.frames import open_assign
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Kind, NodeId, Packet
from llama_gossip.simulation import guards
from llama_gossip.simulation.answers import WEIGHTS, WholeAnswer, answer_to
from llama_gossip.simulation.history import Work
from llama_gossip.simulation.oracles import Oracles
from llama_gossip.simulation.signing import HashSigner, verify_hash
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.machines.parts import Clocked, capacity, facts, key, new_core

USER = (ef.Accepted, ef.DeliverTokens, ef.Retried, ef.Finished, ef.Failed)


@dataclass
class Run:
    """A job of an engine."""

    answer: WholeAnswer
    index: int
    begun: bool = False
    cancelled: bool = False


@dataclass(eq=False)
class End:
    """One end of a stream; `waiting` is on its way to it."""

    number: int
    node: Node
    life: int
    twin: int
    opener: bool
    waiting: deque[ev.Event] = field(default_factory=deque)
    known: bool = True  # the accepting side learns of it with the first that comes
    ours_ended: bool = False
    deaf: bool = False
    wrote: bool = False


@dataclass(eq=False)
class Node:
    name: str
    signer: HashSigner
    slots: int
    life: int = 0
    boot: int = WALL_MS
    side: Clocked | None = None
    runs: dict[int, Run] = field(default_factory=dict)
    dials: dict[int, NodeId] = field(default_factory=dict)

    @property
    def node_id(self) -> NodeId:
        return self.signer.node_id


class SmallNet:
    def __init__(self, seed: int) -> None:
        self.oracles = Oracles(failover=True, disturbed=lambda work, story, since_ms: 10**9)  # time is free
        self.seed = seed
        self.now_ms = 1_000
        self.nodes = [Node("client", key("client"), 0), Node("hybrid", key("hybrid"), 1)]
        self.nodes.append(Node("worker", key("worker"), 2))
        self.gossip: list[tuple[Node, NodeId, bytes]] = []
        self.ends: dict[int, End] = {}
        for node in self.nodes:
            self.start(node)

    def node_of(self, node_id: NodeId) -> Node:
        return next(node for node in self.nodes if node.node_id == node_id)

    # --- lives ---

    def start(self, node: Node) -> None:
        node.life += 1
        node.boot += 1
        core = new_core(node.signer, node.name, node.boot, self.seed)
        node.side = Clocked(core, Oracles(failover=True), self.now_ms)
        if node.slots:
            self.feed(node, ev.EngineChanged(capacity(node.slots)))
        self.feed(node, ev.Joined(("127.0.0.1:1",)))

    def crash(self, node: Node) -> None:
        node.side = None
        node.runs.clear()
        node.dials.clear()
        self.gossip = [(to, by, data) for to, by, data in self.gossip if to is not node]
        self.oracles.process_gone(node.node_id, node.life, self.now_ms)
        for end in [end for end in self.ends.values() if end.node is node]:
            self.lose(self.ends[end.twin], "its process is gone")
            end.deaf = True
            end.waiting.clear()

    def lose(self, end: End, reason: str) -> None:
        """What was on its way may be lost with it."""
        if not end.deaf:
            end.deaf = True
            end.waiting.clear()
            if end.known and end.node.side is not None and end.node.life == end.life:
                end.waiting.append(ev.StreamLost(end.number, reason))

    # --- events and effects ---

    def feed(self, node: Node, event: ev.Event) -> None:
        side = node.side
        if side is None:
            return
        side.now_ms = self.now_ms
        for effect in side.handle(event):
            self.perform(node, effect)
        side.check()

    def perform(self, node: Node, effect: ef.Effect) -> None:
        match effect:
            case ef.Broadcast(data):
                if data[2] == Kind.PACKET:
                    self.packet(node, data)
                others = [other for other in self.nodes if other is not node and other.side is not None]
                self.gossip.extend((other, node.node_id, data) for other in others)
            case ef.OpenStream(dial, worker):
                node.dials[dial] = worker
            case ef.AbandonDial(dial):
                node.dials.pop(dial, None)
            case ef.WriteStream(stream, data):
                self.write(self.ends[stream], data)
            case ef.FinishStream(stream):
                self.send(self.ends[stream], ev.StreamFinished(self.ends[stream].twin))
                self.ends[stream].ours_ended = True
            case ef.ResetStream(stream, code):
                self.reset(self.ends[stream], code)
            case ef.StartJob():
                self.start_job(node, effect)
            case ef.CancelJob(job):
                node.runs[job].cancelled = True
                self.oracles.work_cancelled(node.node_id, node.life, job, self.now_ms)
            case _ if isinstance(effect, USER):
                self.oracles.told(node.node_id, effect, self.now_ms)
            case _:
                pass

    def packet(self, node: Node, data: bytes) -> None:
        """The first Packet of an attempt carries its Assign."""
        packet = decode_envelope(split_envelope(data, MAX_TOPIC_BYTES))
        assert isinstance(packet, Packet)
        story = self.oracles.stories.get((node.node_id, packet.request_id))
        if story is None or packet.requester != node.node_id or packet.attempt in story.assigns:
            return
        assert node.side is not None
        channel = node.side.core._tunnel.find(packet.to, packet)
        if channel is not None and channel.assign is not None:
            self.oracles.assigned(node.node_id, channel.assign, self.now_ms)

    def write(self, end: End, data: bytes) -> None:
        assert not end.ours_ended, "a write after the end of its own side"
        if end.opener and not end.wrote:
            end.wrote = True
            assign, sender, _, _ = open_assign(data[4:], NET_ID, verify_hash)
            self.oracles.assigned(sender, assign, self.now_ms)
        assert not (wrong := guards.reencodes(data[4:])), f"I15: {wrong}"
        self.send(end, ev.StreamData(end.twin, data))

    def send(self, end: End, event: ev.Event) -> None:
        twin = self.ends[end.twin]
        if not end.deaf and not twin.deaf:
            twin.waiting.append(event)

    def reset(self, end: End, code: int) -> None:
        twin = self.ends[end.twin]
        if not end.ours_ended:
            self.send(end, ev.StreamReset(twin.number, code))
        elif not twin.ours_ended:
            self.send(end, ev.StreamStopped(twin.number, code))
        end.ours_ended = end.deaf = True
        end.waiting.clear()

    def start_job(self, node: Node, start: ef.StartJob) -> None:
        assert start.job not in node.runs
        answer = answer_to(start.prompt, start.config.seed, start.config.max_tokens)
        node.runs[start.job] = Run(answer, 0 if start.resume is None else start.resume.from_index)
        work = Work(
            node.node_id,
            self.nodes.index(node),
            node.life,
            start.job,
            (start.requester, start.request_id),
            start.attempt,
            self.now_ms,
        )
        self.oracles.work_started(work, node.boot, self.now_ms, running=len(node.runs), slots=node.slots)

    # --- what may come next ---

    def deliver_gossip(self, at: int, *, keep: bool, drop: bool) -> None:
        node, neighbour, data = self.gossip[at] if keep else self.gossip.pop(at)
        if not drop:
            self.feed(node, ev.GossipReceived(neighbour, data))

    def connect(self, node: Node, dial: int, *, fails: bool) -> None:
        far = self.node_of(node.dials.pop(dial))
        if fails or far.side is None:
            self.feed(node, ev.DialFailed(dial, "nobody answers"))
            return
        number = len(self.ends) + 1
        self.ends[number] = End(number, node, node.life, number + 1, opener=True)
        self.ends[number + 1] = End(number + 1, far, far.life, number, opener=False, known=False)
        self.feed(node, ev.StreamOpened(dial, number))

    def ready(self) -> list[End]:
        return [end for end in self.ends.values() if end.waiting]

    def deliver(self, end: End) -> None:
        event = end.waiting.popleft()
        if end.node.life != end.life:
            return
        if not end.known:
            end.known = True
            self.feed(end.node, ev.StreamAccepted(end.number, self.ends[end.twin].node.node_id))
        self.feed(end.node, event)

    def cut(self, end: End) -> None:
        self.lose(self.ends[end.twin], "cut")
        self.lose(end, "cut")

    def engine_word(self, node: Node, job: int, *, tokens: int = 1, fails: bool = False) -> None:
        """The next that this job's engine says."""
        run, answer = node.runs[job], node.runs[job].answer
        if run.cancelled or fails:
            code = "cancelled" if run.cancelled else "engine_failed"
            self.job_ended(node, job, ev.EngineFailed(job, code, "by the net", retryable=not run.cancelled))
        elif not run.begun:
            run.begun = True
            self.feed(node, ev.EngineStarted(job, facts(answer)))
        elif run.index < len(answer.texts):
            start, run.index = run.index, min(run.index + tokens, len(answer.texts))
            texts = answer.texts[start : run.index]
            self.feed(node, ev.EngineTokens(job, start, answer.ids[start : run.index], texts))
        else:
            total, reason = len(answer.texts), answer.finish_reason
            done = ev.EngineDone(job, reason, total, answer.prompt_tokens, answer.text_digest, WEIGHTS)
            self.job_ended(node, job, done)

    def job_ended(self, node: Node, job: int, event: ev.EngineDone | ev.EngineFailed) -> None:
        del node.runs[job]
        self.oracles.work_ended(node.node_id, node.life, job, self.now_ms)
        self.feed(node, event)

    # --- time ---

    def next_wake(self) -> tuple[int, Node] | None:
        wakes = [
            (node.side.wake_at, n)
            for n, node in enumerate(self.nodes)
            if node.side is not None and node.side.wake_at is not None
        ]
        return (min(wakes)[0], self.nodes[min(wakes)[1]]) if wakes else None

    def advance(self, end_ms: int) -> None:
        while (wake := self.next_wake()) is not None and wake[0] <= end_ms:
            self.now_ms = max(self.now_ms, wake[0])
            assert wake[1].side is not None
            wake[1].side.wake_at = None
            self.feed(wake[1], ev.Tick())
        self.now_ms = max(self.now_ms, end_ms)

    def settle(self) -> None:
        """All that waits comes, in order, and every engine works; no time passes."""
        while True:
            if self.gossip:
                self.deliver_gossip(0, keep=False, drop=False)
            elif dialling := [(node, dial) for node in self.nodes for dial in node.dials]:
                self.connect(*dialling[0], fails=False)
            elif ready := self.ready():
                self.deliver(ready[0])
            elif running := [(node, job) for node in self.nodes for job in node.runs]:
                self.engine_word(*running[0], tokens=4)
            else:
                return
