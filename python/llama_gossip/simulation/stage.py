"""Stage: performs what the cores ask for, on wires, topic and machines, as the driver does live.

The law: effects are performed in order and at once; every one goes into the trace, and whatever an oracle may
want to see of it goes to the oracles or to the witness.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from zlib import crc32

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.limits import LENGTH_PREFIX_BYTES, MAX_ASSIGN_BYTES
from llama_gossip.protocol.messages import Assign, Kind, NodeId
from llama_gossip.protocol.streams import Plane
from llama_gossip.simulation import guards, load
from llama_gossip.simulation.chatter import Chatter
from llama_gossip.simulation.conversations import Conversations
from llama_gossip.simulation.history import Story, Work
from llama_gossip.simulation.liar import Liar
from llama_gossip.simulation.liar_packets import LiarPackets
from llama_gossip.simulation.offers import Offers
from llama_gossip.simulation.packets import PacketWatch
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.shunning import Shunning
from llama_gossip.simulation.wires import End
from llama_gossip.simulation.witness import Witness

if TYPE_CHECKING:
    from llama_gossip.simulation.world import World

BEAT_MS = 500  # of a staller
REBUILT_MS = 1_000  # until the neighbours are dialled anew, as measured
CODEC_EVERY = 64  # of the items that cross, one is checked for I15
CANARY_BYTES = load.CANARY.encode()


class Stage:
    def __init__(self, world: World) -> None:
        self.trace = 0
        self._world = world
        self._witness: Witness = world.witness
        self._chatter = Chatter(self._blame, world.clock)
        self._shunning = Shunning(world)
        self.conversations = Conversations(world)
        self.offers = Offers(world)
        self.packets = PacketWatch(world)
        self._liar_packets = LiarPackets(world)
        self._items = 0
        self._dials: dict[tuple[int, int, int], NodeId] = {}

    def perform(self, node: Process, effect: ef.Effect) -> None:
        """The most frequent kinds stand first."""
        now_ms = self._world.clock.now_ms
        self.trace = crc32(b"%d %d %s" % (now_ms, node.place, type(effect).__name__.encode()), self.trace)
        match effect:
            case ef.WriteStream(stream, data):
                self.trace = crc32(data, self.trace)
                self._write(node, stream, data)
            case ef.Wake(at_ms):
                node.wake(at_ms)
            case ef.DeliverTokens() | ef.Accepted():
                self._world.oracles.told(node.node_id, effect, now_ms)
            case ef.Broadcast(data):
                self.trace = crc32(data, self.trace)
                self._broadcast(node, data)
            case ef.FinishStream(stream):
                if (end := self._own_end(node, stream)) is not None:
                    self._world.wires.finish(end)
            case ef.Finished():
                self._witness.must_be_let_go(node, effect.request_id, effect.attempt)
                self._witness.finished(effect)
                self.conversations.answered(node, effect)
                self.packets.answers += effect.delivery is Plane.GOSSIP
                self._world.oracles.told(node.node_id, effect, now_ms)
            case ef.Retried():
                self._witness.retried(node, effect)
                self._world.oracles.told(node.node_id, effect, now_ms)
            case ef.Failed():
                self._witness.failed(node, effect)
                self._world.oracles.told(node.node_id, effect, now_ms)
            case ef.OpenStream(dial, worker, timeout_ms):
                self._dial(node, dial, worker, timeout_ms)
            case ef.AbandonDial(dial):
                self._dials.pop((node.place, node.life, dial), None)
            case ef.ResetStream(stream, code):
                if (end := self._own_end(node, stream)) is not None:
                    self._shunning.was_reset(end, code)
                    self._world.wires.reset(end, code)
            case ef.PauseStream(stream):
                if (end := self._end_of(node, stream)) is not None:
                    self._world.wires.pause(end)
            case ef.ResumeStream(stream):
                if (end := self._end_of(node, stream)) is not None:
                    self._world.wires.resume(end)
            case ef.JobAccepted():
                self._witness.job_accepted(node, effect)
                self._world.turns.accepted(
                    (node.node_id, node.life), effect.requester, effect.job, self._class_of(effect), now_ms
                )
                self.packets.job_accepted(node, effect)
            case ef.StartJob():
                self._start_job(node, effect)
            case ef.CancelJob(job):
                self._world.oracles.work_cancelled(node.node_id, node.life, job, now_ms)
                self._world.parked.cancelled((node.node_id, node.life, job), now_ms, node.stopped_ms)
                if node.machine is not None:
                    node.machine.cancel(job)
            case ef.ParkJob(job):
                self._world.parked.parked((node.node_id, node.life, job), now_ms, node.stopped_ms)
                if node.machine is not None:
                    node.machine.park(job)
            case ef.UnparkJob(job):
                self._world.parked.unparked((node.node_id, node.life, job), now_ms, node.stopped_ms)
                if node.machine is not None:
                    node.machine.unpark(job)
            case ef.RebuildGossip():
                self._world.clock.after(REBUILT_MS, self._world.topic.dead_outbound.discard, node.place)
            case _:
                pass  # news for logs

    def _blame(self, oracle: str, what: str) -> None:
        self._world.oracles.blame(oracle, self._world.clock.now_ms, what)

    def _end_of(self, node: Process, stream: int) -> End | None:
        end = self._world.wires.ends.get(stream)
        return end if end is not None and end.owner is node and end.life == node.life else None

    def _broadcast(self, node: Process, data: bytes) -> None:
        if CANARY_BYTES in data and not self.packets.may_show(data):
            self._blame("I13", f"{node.name} has broadcast a prompt")
        if data[2] == Kind.ANNOUNCE:  # version and kind are one byte each
            self._world.oracles.announced(node.node_id, node.life, self._world.clock.now_ms)
        elif data[2] == Kind.PACKET:
            self.packets.sees(node, data)
            if node.liar is not None:
                said = self._liar_packets.say(node, node.liar, data)
                if said is None:
                    return
                data = said
        else:
            self._chatter.said(node, data)
            self.offers.said(node, data)
        self._world.topic.broadcast(node.place, data)

    def _write(self, node: Process, stream: int, data: bytes) -> None:
        end = self._end_of(node, stream)
        if end is None:
            return
        if end.opener and not end.wrote:
            self._assigned(node, end, data)
        if data[5] == Kind.PROGRESS and not end.opener:
            self._witness.progressed(node)
        self._items += 1
        if self._items % CODEC_EVERY == 0 and (wrong := guards.reencodes(data[LENGTH_PREFIX_BYTES:])):
            self._blame("I15", wrong)
        if node.liar is not None and not end.opener:
            self._write_lies(node, node.liar, end, data)
        else:
            self._world.wires.write(end, data)

    def _write_lies(self, node: Process, liar: Liar, end: End, data: bytes) -> None:
        said, finish = liar.say(end.number, data)
        for item in said if not end.ended else ():
            self._world.wires.write(end, item)
        if finish and not end.ended:
            self._world.wires.finish(end)
        elif liar.beats(end.number):
            self._world.clock.after(BEAT_MS, self._beat, node, liar, end)

    def _beat(self, node: Process, liar: Liar, end: End) -> None:
        """A staller is alive, for ever."""
        if node.life == end.life and node.liar is liar and not end.ended and not end.deaf:
            self._world.wires.write(end, liar.beat(end.number))
            self._world.clock.after(BEAT_MS, self._beat, node, liar, end)

    def _own_end(self, node: Process, stream: int) -> End | None:
        """None too for one that its liar keeps open."""
        end = self._end_of(node, stream)
        kept = end is not None and node.liar is not None and not end.opener and node.liar.keeps(stream)
        return None if kept else end

    def _assigned(self, node: Process, end: End, data: bytes) -> None:
        assign = decode_envelope(split_envelope(data[LENGTH_PREFIX_BYTES:], MAX_ASSIGN_BYTES))
        assert isinstance(assign, Assign)
        self.offers.assigned(node, assign)
        self._world.oracles.assigned(node.node_id, assign, self._world.clock.now_ms)
        self._witness.attempt_ends[node.node_id, assign.request_id, assign.attempt] = end
        worker = self._world.by_id.get(assign.worker)
        if worker is not None:
            for stranger in self._world.strangers:
                stranger.overhear(worker, data)

    def _dial(self, node: Process, dial: int, worker: NodeId, timeout_ms: int) -> None:
        key = (node.place, node.life, dial)
        self._shunning.dialled(node, worker, self._dials)
        self.offers.dialled(node, worker)
        self.conversations.dialled(node, worker)
        self._dials[key] = worker

        def done(end: End | None, reason: str) -> None:
            if self._dials.pop(key, None) is None or node.life != key[1]:
                if end is not None:
                    self._world.wires.reset(end, 0)
            elif end is not None:
                node.feed(ev.StreamOpened(dial, end.number))
            else:
                self._witness.bad_news(node, worker)
                node.feed(ev.DialFailed(dial, reason))

        target = self._world.by_id.get(worker) or self._world.strangers_by_id.get(worker)
        self._world.wires.dial(node, target, timeout_ms, done)

    def _start_job(self, node: Process, start: ef.StartJob) -> None:
        machine = node.machine
        if machine is None:
            self._blame("I10", f"{node.name} has no engine and starts a job")
            return
        story = self._world.oracles.stories.get((start.requester, start.request_id))
        self._witness.turn_taken(node, start)
        machine.start(start, made=self._made_by(node, story, start.attempt))
        requester = self._world.by_id.get(start.requester)
        work = Work(
            worker=node.node_id,
            place=node.place,
            life=node.life,
            job=start.job,
            key=(start.requester, start.request_id),
            attempt=start.attempt,
            start_ms=self._world.clock.now_ms,
            worker_paused_ms=node.paused_ms,
            requester_paused_ms=0 if requester is None else requester.paused_ms,
            worker_set_back_ms=node.set_back_ms,
        )
        self._world.oracles.work_started(
            work, node.boot, self._world.clock.now_ms, running=len(machine.runs), slots=machine.slots
        )

    def _made_by(self, node: Process, story: Story | None, attempt: int) -> Callable[[int, int], None]:
        """What a liar makes, or what is made for a stranger, is nobody's waste."""
        if story is None or self._witness.lied(node.node_id):
            return lambda start, end: None
        return partial(self._world.oracles.waste.made_for, story, attempt)

    def _class_of(self, job: ef.JobAccepted) -> int:
        """That it asks for."""
        oracles, key = self._world.oracles, (job.requester, job.request_id)
        story = oracles.stories.get(key)
        if story is not None:
            return story.submit.priority
        assigns = (oracles.foreign.get((key, attempt)) for attempt in (1, 2))
        return next((assign.priority for assign in assigns if assign is not None), 0)

    # --- what processes tell ---

    def slot_given_back(self, process: Process, job: int) -> None:
        self._world.turns.ended((process.node_id, process.life), job)

    def heard(self, process: Process, event: ev.GossipReceived, evil: str, accepted: bool) -> None:
        self._witness.heard(process, event, evil, accepted)
        if accepted:
            kind = event.data[2]
            if kind == Kind.PACKET:
                self.packets.heard(process, event.data)
            elif kind != Kind.ANNOUNCE:
                self._chatter.heard(process, event.data)
                self.offers.heard(process, event.data)

    def before_evil(self, process: Process, event: ev.GossipReceived, evil: str) -> None:
        self._witness.before_evil(process, event, evil)

    def opened(self, process: Process, before: tuple[int, int], evil: str) -> None:
        self.packets.opened(process, before, evil)

    def stream_over(self, process: Process, stream: int) -> None:
        self._witness.stream_over(process, stream)

    def stream_pressed(self, process: Process, stream: int, *, full: bool) -> None:
        self._witness.stream_pressed(process, stream, full=full)

    def broken(self, process: Process, event: ev.Event, error: Exception) -> None:
        self._witness.broken(process, event, error)
