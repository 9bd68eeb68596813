"""World: one seed. Nodes join, questions come, faults strike, all heals, and everything must come to rest.

The law: the seed and the scenario decide everything. What happens is told to the oracles as it happens; the
trace is a checksum over every effect of every core in order, so two runs of one seed are equal or it shows.
"""

from __future__ import annotations

import random
import traceback
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from zlib import crc32

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.limits import (
    LENGTH_PREFIX_BYTES,
    MAX_AGE_MS,
    MAX_AHEAD_MS,
    MAX_ASSIGN_BYTES,
    MAX_TOPIC_BYTES,
)
from llama_gossip.protocol.messages import Assign, Kind, NodeId, RequestId
from llama_gossip.protocol.network import net_id
from llama_gossip.simulation import faults as fault_draw
from llama_gossip.simulation import guards, load
from llama_gossip.simulation.clock import Clock
from llama_gossip.simulation.faults import FaultKind
from llama_gossip.simulation.history import Story, Violation, Work
from llama_gossip.simulation.machine import Machine
from llama_gossip.simulation.oracles import AFTER_HEAL_MS, LIVE_MS, Oracles
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.scenario import Scenario
from llama_gossip.simulation.signing import signer_of, verifier
from llama_gossip.simulation.stranger import Stranger
from llama_gossip.simulation.topic import Topic
from llama_gossip.simulation.trouble import Trouble
from llama_gossip.simulation.wires import End, Wires

NET_ID = net_id(blake2b(b"the network of the simulation", digest_size=32).digest())
START_MS = 2_000  # nodes have joined
LATE_MS = 50_000  # after the heal, until the last questions: a roster is whole again
QUIET_MS = 15_000  # after the last answer: what hangs on a connection is over
STRANGER_KINDS = (FaultKind.REPLAY, FaultKind.FORGE, FaultKind.REENCODE, FaultKind.FLOOD, FaultKind.CLAIM, FaultKind.DOUBLE)
CODEC_EVERY = 64  # of the items that cross, one is checked for I15
CANARY_BYTES = load.CANARY.encode()
OWN_WORDS = ("flood", "claim", "replay")  # may be good: its own, or what was lost on its first way
FLOOD_BURST, FLOOD_PER_S = 7, 1.05  # Announces of one signer that a node may take
HUNG_MS = 32_000  # a heartbeat later a hung engine is known to be one
MAX_BROADCASTS_PER_S = 2.0  # of one node, whatever happens around it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed has shown."""

    seed: int
    requests: int
    completed: int
    failed: int
    cancelled: int
    void: int  # their requester's process was gone
    violations: tuple[Violation, ...]
    trace: int
    tokens_made: int
    tokens_needed: int
    failovers: int
    attempts: int
    broadcasts: int
    events: int
    virtual_ms: int
    faults: Counter[str] = field(default_factory=Counter)  # that have struck
    codes: Counter[str] = field(default_factory=Counter)  # of the failures


class World:
    def __init__(self, seed: int, scenario: Scenario) -> None:
        self.seed = seed
        self.scenario = scenario
        self.net_id = NET_ID
        self.clock = Clock()
        self.rng = rng = random.Random(f"{seed}/world")
        ed25519 = seed % scenario.ed25519_every == 0
        self.verify = verifier(ed25519=ed25519)
        self.asks, self.heal_ms = load.draw(
            random.Random(f"{seed}/load"), scenario, start_ms=START_MS, late_ms=LATE_MS
        )
        requesters, workers = rng.randint(*scenario.requesters), rng.randint(*scenario.workers)
        hybrids = min(workers, rng.randint(*scenario.hybrids))
        places = requesters + workers
        strangers = len(STRANGER_KINDS)
        self.wires = Wires(self.clock, rng, places + strangers, base_ms=scenario.base_delay_ms)
        self.nodes = [self._node(place, ed25519) for place in range(places)]
        self.workers = self.nodes[requesters:]
        for worker in self.workers:
            worker.machine = self._machine(worker)
        self.askers = [*self.nodes[:requesters], *self.workers[:hybrids]]
        self.by_id = {node.node_id: node for node in self.nodes}
        self.topic = Topic(self.clock, rng, self.nodes)
        self.oracles = Oracles(
            failover=scenario.failover,
            capable=self.capable,
            disturbed=self.disturbed,
            lied=self.lied,
            late_ms=self.late_ms,
        )
        self.strangers = [
            self._stranger(kind, places + n, ed25519) for n, kind in enumerate(STRANGER_KINDS)
        ]
        self.liars: set[NodeId] = set()
        self.heard_at: dict[tuple[int, int, int], int] = {}  # (hearer, life, signer's place) → when
        self.failed_at: dict[tuple[int, int], int] = {}  # (requester, worker) → the last bad news
        self.struck: Counter[str] = Counter()
        self.trace = 0
        self._evil_left = scenario.evil_checks
        self._evil_before: int | None = None
        self._items = 0
        self._dials: dict[tuple[int, int, int], NodeId] = {}
        self._jobs: dict[tuple[int, int, int], int] = {}  # (place, life, stream) → job
        self._attempt_ends: dict[tuple[NodeId, RequestId, int], End] = {}
        self._flood_taken: Counter[tuple[int, int, int]] = Counter()
        self._newest: dict[tuple[int, int, int], tuple[int, int]] = {}  # of an Announce
        self.trouble = Trouble(self)

    def _node(self, place: int, ed25519: bool) -> Process:
        secret = blake2b(f"{self.seed}/{place}".encode(), digest_size=32).digest()
        return Process(
            place,
            f"node-{place}",
            clock=self.clock,
            rng=random.Random(f"{self.seed}/node/{place}"),
            signer=signer_of(secret, ed25519=ed25519),
            verify=self.verify,
            net_id=NET_ID,
            around=self,
        )

    def _machine(self, worker: Process) -> Machine:
        scenario, rng = self.scenario, self.rng
        machine = Machine(
            self.clock,
            random.Random(f"{self.seed}/machine/{worker.place}"),
            worker.tell,
            slots=rng.randint(*scenario.slots),
            step_ms=rng.randint(*scenario.step_ms),
            step_tokens=rng.choice((1, 1, 2, 4)),
            prefill_ms=rng.randint(*scenario.prefill_ms),
        )
        machine.on_end = lambda job: self._work_ended(worker, job)
        return machine

    def _stranger(self, kind: FaultKind, place: int, ed25519: bool) -> Stranger:
        secret = blake2b(f"{self.seed}/stranger/{kind}".encode(), digest_size=32).digest()
        return Stranger(
            kind,
            place,
            clock=self.clock,
            rng=random.Random(f"{self.seed}/stranger/{kind}"),
            signer=signer_of(secret, ed25519=ed25519),
            net_id=NET_ID,
            topic=self.topic,
            wires=self.wires,
            victims=lambda: [node for node in self.nodes if node.life],
            assigned=self.oracles.foreign_assign,
        )

    # --- one seed ---

    def run(self) -> Outcome:
        clock, scenario = self.clock, self.scenario
        plan = fault_draw.draw(
            self.seed, scenario.faults, start_ms=START_MS, end_ms=self.heal_ms, share=scenario.share
        )
        for fault in plan:
            clock.at(fault.at_ms, self.trouble.strike, fault)
        for node in self.nodes:
            clock.at(self.rng.randrange(START_MS // 2), self._join, node)
        for ask in self.asks:
            clock.at(ask.at_ms, self._ask, ask)
        clock.at(self.heal_ms, self.trouble.heal)
        clock.run_until(self.heal_ms)
        self._look_into_cores(guards.overfull, "I8")
        self._come_to_rest()
        self._look_into_cores(guards.overfull, "I8")
        self._look_into_cores(guards.unfinished, "I7")
        self.oracles.tokens_made = sum(
            node.machine.tokens_made
            for node in self.nodes
            if node.machine is not None and node.node_id not in self.liars
        )
        self.oracles.finish(clock.now_ms, healed_ms=self.heal_ms)
        self._count_messages()
        return self._outcome()

    def _join(self, node: Process) -> None:
        if not node.life:
            node.start()

    def _come_to_rest(self) -> None:
        last_ms = max((ask.at_ms for ask in self.asks), default=self.heal_ms)
        limit_ms = max(last_ms, self.heal_ms) + AFTER_HEAL_MS
        self.clock.run_until(last_ms)
        while self.clock.now_ms < limit_ms and not self._all_over():
            self.clock.run_until(self.clock.now_ms + 1_000)
        self.clock.run_until(self.clock.now_ms + QUIET_MS)

    def _all_over(self) -> bool:
        return all(story.over for story in self.oracles.stories.values())

    def _look_into_cores(self, guard: guards.Guard, oracle: str) -> None:
        for node in self.nodes:
            if node.core is not None and (found := guard(node.core)):
                self.oracles.blame(oracle, self.clock.now_ms, f"{node.name}: {found}")

    def _count_messages(self) -> None:
        most = len(self.nodes) * (10 + MAX_BROADCASTS_PER_S * self.clock.now_ms / 1_000)
        if self.topic.sent > most:
            self.oracles.blame("I12", self.clock.now_ms, f"{self.topic.sent} broadcasts, at most {most:.0f}")
        if self.topic.oversize:
            self.oracles.blame("I8", self.clock.now_ms, f"{self.topic.oversize} broadcasts over the topic's size")
        if self.wires.late_writes:
            self.oracles.blame("I3", self.clock.now_ms, f"{self.wires.late_writes} writes after the own end")

    def _outcome(self) -> Outcome:
        stories = self.oracles.stories.values()
        failed = [story.end for story in stories if isinstance(story.end, ef.Failed)]
        cancelled = sum(end.code == "cancelled" for end in failed)
        return Outcome(
            seed=self.seed,
            requests=len(stories),
            completed=sum(isinstance(story.end, ef.Finished) for story in stories),
            failed=len(failed) - cancelled,
            cancelled=cancelled,
            void=sum(story.void for story in stories),
            violations=tuple(self.oracles.violations),
            trace=self.trace,
            tokens_made=max(0, self.oracles.tokens_made - self.oracles.foreign_tokens),
            tokens_needed=self.oracles.tokens_needed,
            failovers=self.oracles.failovers,
            attempts=self.oracles.attempts,
            broadcasts=self.topic.sent,
            events=self.clock.events,
            virtual_ms=self.clock.now_ms,
            faults=self.struck,
            codes=Counter(end.code for end in failed),
        )

    # --- users ---

    def _ask(self, ask: load.Ask) -> None:
        alive = [node for node in self.askers if node.life and not node.paused and not node.leaving]
        if not alive:
            return
        node = alive[int(ask.who * len(alive))]
        story = self.oracles.submitted(node.node_id, ask.submit, self.clock.now_ms)
        if ask.cancel_after_ms is not None:
            self.clock.after(ask.cancel_after_ms, self._cancel, node, node.life, story)
        node.feed(ask.submit)

    def _cancel(self, node: Process, life: int, story: Story) -> None:
        if node.life == life and not node.paused and not story.over:
            self.oracles.cancelled(story.key)
            node.feed(ev.CancelRequest(story.submit.request_id, "by the simulation"))

    # --- what cores ask for ---

    def perform(self, node: Process, effect: ef.Effect) -> None:
        now_ms = self.clock.now_ms
        self.trace = crc32(b"%d %d %s" % (now_ms, node.place, type(effect).__name__.encode()), self.trace)
        match effect:
            case ef.WriteStream(stream, data):
                self.trace = crc32(data, self.trace)
                self._write(node, stream, data)
            case ef.Wake(at_ms):
                node.wake(at_ms)
            case ef.DeliverTokens() | ef.Accepted():
                self.oracles.told(node.node_id, effect, now_ms)
            case ef.Finished():
                self._must_be_let_go(node, effect.request_id, effect.attempt)
                liar = self.by_id[effect.worker].liar
                if liar is not None and (effect.request_id, effect.attempt) in liar.spoilt:
                    self.oracles.blame("I4", now_ms, f"an answer with a lie in it ({liar.lie.value}) was taken")
                self.oracles.told(node.node_id, effect, now_ms)
            case ef.Retried():
                self._bad_news(node, effect.worker)
                self._must_be_let_go(node, effect.request_id, effect.attempt)
                self.oracles.told(node.node_id, effect, now_ms)
            case ef.Failed():
                for key in [key for key in self._attempt_ends if key[1] == effect.request_id]:
                    self._must_be_let_go(node, effect.request_id, key[2])
                self.oracles.told(node.node_id, effect, now_ms)
            case ef.Broadcast(data):
                self.trace = crc32(data, self.trace)
                self._broadcast(node, data)
            case ef.OpenStream(dial, worker, timeout_ms):
                self._dial(node, dial, worker, timeout_ms)
            case ef.AbandonDial(dial):
                self._dials.pop((node.place, node.life, dial), None)
            case ef.FinishStream(stream):
                if (end := self._end_of(node, stream)) is not None:
                    self.wires.finish(end)
            case ef.ResetStream(stream, code):
                if (end := self._end_of(node, stream)) is not None:
                    self.wires.reset(end, code)
            case ef.JobAccepted():
                self._job_accepted(node, effect)
            case ef.StartJob():
                self._start_job(node, effect)
            case ef.CancelJob(job):
                self.oracles.work_cancelled(node.node_id, node.life, job, now_ms)
                if node.machine is not None:
                    node.machine.cancel(job)
            case _:
                pass  # news for logs

    def _end_of(self, node: Process, stream: int) -> End | None:
        end = self.wires.ends.get(stream)
        return end if end is not None and end.owner is node and end.life == node.life else None

    def _broadcast(self, node: Process, data: bytes) -> None:
        if CANARY_BYTES in data:
            self.oracles.blame("I13", self.clock.now_ms, f"{node.name} has broadcast a prompt")
        if data[2] == 1:  # an Announce: version and kind are one byte each
            self.oracles.announced(node.node_id, node.life, self.clock.now_ms)
        self.topic.broadcast(node.place, data)

    def _write(self, node: Process, stream: int, data: bytes) -> None:
        end = self._end_of(node, stream)
        if end is None:
            return
        if end.opener and not end.wrote:
            self._assigned(node, end, data)
        if data[5] == Kind.PROGRESS and not end.opener:
            self._check_progress(node, stream, data)
        self._items += 1
        if self._items % CODEC_EVERY == 0 and (wrong := guards.reencodes(data[LENGTH_PREFIX_BYTES:])):
            self.oracles.blame("I15", self.clock.now_ms, wrong)
        if node.liar is not None and not end.opener:
            said, finish = node.liar.say(stream, data)
            for item in said if not end.ended else ():
                self.wires.write(end, item)
            if finish and not end.ended:
                self.wires.finish(end)
        else:
            self.wires.write(end, data)

    def _check_progress(self, node: Process, stream: int, data: bytes) -> None:
        """I5: what runs in an engine that hangs is not kept alive by its event loop."""
        hung_ms = node.machine.hung_for_ms() if node.machine is not None else 0
        if hung_ms <= HUNG_MS:
            return
        work = self.oracles.works.get((node.node_id, node.life, self._jobs[node.place, node.life, stream]))
        if work is not None and self.clock.now_ms - work.start_ms > HUNG_MS:
            self.oracles.blame("I5", self.clock.now_ms, f"progress of an engine that hangs for {hung_ms} ms")

    def _assigned(self, node: Process, end: End, data: bytes) -> None:
        assign = decode_envelope(split_envelope(data[LENGTH_PREFIX_BYTES:], MAX_ASSIGN_BYTES))
        assert isinstance(assign, Assign)
        self.oracles.assigned(node.node_id, assign, self.clock.now_ms)
        self._attempt_ends[node.node_id, assign.request_id, assign.attempt] = end
        worker = self.by_id[assign.worker]
        for stranger in self.strangers:
            stranger.overhear(worker, data)

    def _dial(self, node: Process, dial: int, worker: NodeId, timeout_ms: int) -> None:
        key = (node.place, node.life, dial)
        self._dials[key] = worker

        def done(end: End | None, reason: str) -> None:
            if self._dials.pop(key, None) is None or node.life != key[1]:
                if end is not None:
                    self.wires.reset(end, 0)
            elif end is not None:
                node.feed(ev.StreamOpened(dial, end.number))
            else:
                self._bad_news(node, worker)
                node.feed(ev.DialFailed(dial, reason))

        self.wires.dial(node, self.by_id.get(worker), timeout_ms, done)

    def _must_be_let_go(self, node: Process, request_id: RequestId, attempt: int) -> None:
        """I5: the worker of an attempt that is over hears of it in the same event."""
        end = self._attempt_ends.pop((node.node_id, request_id, attempt), None)
        if end is not None and end.number in self.wires.ends and not end.ended and not end.deaf:
            self.oracles.blame("I5", self.clock.now_ms, f"attempt {attempt} is over and its stream still open")

    def _bad_news(self, node: Process, worker: NodeId) -> None:
        target = self.by_id.get(worker)
        if target is not None:
            self.failed_at[node.place, target.place] = self.clock.now_ms

    # --- work ---

    def _job_accepted(self, node: Process, job: ef.JobAccepted) -> None:
        event = node.event
        if isinstance(event, ev.StreamData) and (end := self.wires.ends.get(event.stream)) is not None:
            at_the_other_end = end.twin.owner.node_id
            self._jobs[node.place, node.life, event.stream] = job.job
            if at_the_other_end != job.requester:
                self.oracles.blame("I10", self.clock.now_ms, "a job for one who is not at the other end")

    def stream_over(self, node: Process, stream: int) -> None:
        """The other side is gone or has ended its part: nothing is computed for it from this event on."""
        job = self._jobs.get((node.place, node.life, stream))
        if job is not None:
            self.oracles.work_let_go(node.node_id, node.life, job, self.clock.now_ms)

    def _start_job(self, node: Process, start: ef.StartJob) -> None:
        machine = node.machine
        if machine is None:
            self.oracles.blame("I10", self.clock.now_ms, f"{node.name} has no engine and starts a job")
            return
        machine.start(start)
        requester = self.by_id.get(start.requester)
        work = Work(
            worker=node.node_id,
            place=node.place,
            life=node.life,
            job=start.job,
            key=(start.requester, start.request_id),
            attempt=start.attempt,
            start_ms=self.clock.now_ms,
            worker_paused_ms=node.paused_ms,
            requester_paused_ms=0 if requester is None else requester.paused_ms,
        )
        self.oracles.work_started(
            work, node.boot, self.clock.now_ms, running=len(machine.runs), slots=machine.slots
        )

    def _work_ended(self, node: Process, job: int) -> None:
        self.oracles.work_ended(node.node_id, node.life, job, self.clock.now_ms)

    def disturbed(self, work: Work, story: Story | None, since_ms: int) -> int:
        """Whether anything was wrong between the two since a little before `since_ms`; extra ms for pauses."""
        worker = self.nodes[work.place]
        asker = self.by_id.get(work.key[0])
        extra_ms = worker.paused_ms - work.worker_paused_ms
        if asker is None:
            return extra_ms
        extra_ms += asker.paused_ms - work.requester_paused_ms
        calm = (
            self.wires.disturbed_until(asker.place, work.place) < since_ms - 1_000
            and max(asker.healthy_since_ms, worker.healthy_since_ms) < since_ms - 1_000
            and asker.life
            and extra_ms == 0
        )
        return -1 if calm else extra_ms

    # --- what was heard ---

    def heard(self, node: Process, event: ev.GossipReceived, evil: str, accepted: bool) -> None:
        data = event.data
        now_ms = self.clock.now_ms
        if accepted:
            self._check_time(node, data, evil)
        if evil:
            self._after_evil(node, data, evil, accepted)
        elif accepted:
            if data in node.accepted:
                self.oracles.blame("I6", now_ms, f"{node.name} has taken the same message twice")
            if data[2] == 1:
                signer = self.by_id.get(NodeId(data[5:37]))
                if signer is not None:
                    self.heard_at[node.place, node.life, signer.place] = now_ms
                    self._check_order(node, signer)
        if accepted:
            node.accepted.add(data)

    def _check_time(self, node: Process, data: bytes, evil: str) -> None:
        head = split_envelope(data, MAX_TOPIC_BYTES).head
        ahead_ms = head.ts - node.now().wall_ms
        if not -MAX_AGE_MS <= ahead_ms <= MAX_AHEAD_MS:
            what = f"{node.name} has taken a message {ahead_ms} ms from now"
            self.oracles.blame("I6", self.clock.now_ms, what)
        if evil == "flood" and data[2] == 1:
            key = (node.place, node.life, 0)
            self._flood_taken[key] += 1
            if self._flood_taken[key] > FLOOD_BURST + FLOOD_PER_S * self.clock.now_ms / 1_000:
                self.oracles.blame("I12", self.clock.now_ms, f"{node.name} takes all that a flooder says")

    def _check_order(self, node: Process, signer: Process) -> None:
        """I6: old news changes nothing, in whatever order it comes."""
        peer = node.core._roster.get(signer.node_id) if node.core is not None else None
        key = (node.place, node.life, signer.place)
        if peer is not None:
            if peer.order < self._newest.get(key, (0, 0)):
                self.oracles.blame("I6", self.clock.now_ms, f"{node.name} believes older news of {signer.name}")
            self._newest[key] = max(peer.order, self._newest.get(key, (0, 0)))

    def before_evil(self, node: Process, event: ev.GossipReceived, evil: str) -> None:
        self._evil_before = None
        own = evil in OWN_WORDS or evil == "misattributed"  # its own seq is used up by it
        harmless = own and event.data not in node.accepted
        if harmless or self._evil_left <= 0 or self.rng.random() < 0.5:
            return
        self._evil_left -= 1
        node.feed(ev.Tick())  # what is due now is due anyway
        if node.core is not None:
            self._evil_before = guards.fingerprint(node.core, self.clock.now_ms)

    def _after_evil(self, node: Process, data: bytes, evil: str, accepted: bool) -> None:
        now_ms = self.clock.now_ms
        if accepted and (evil not in OWN_WORDS or data in node.accepted):
            self.oracles.blame("I6", now_ms, f"{node.name} has taken a {evil} message")
        if self._evil_before is not None and node.core is not None:
            self.struck["state_compared"] += 1
            if guards.fingerprint(node.core, now_ms) != self._evil_before:
                self.oracles.blame("I6", now_ms, f"a {evil} message has changed {node.name}")

    def broken(self, node: Process, event: ev.Event, error: Exception) -> None:
        """The core has raised: no peer and no engine may bring that about."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(event).__name__} raised {error!r} in {where.name}, line {where.lineno}"
        self.oracles.blame("I15", self.clock.now_ms, f"{node.name}: {what}")
        self.trouble.kill(node, silently=False)

    # --- who could have served ---

    def late_ms(self, story: Story) -> int:
        return self.by_id[story.requester].paused_ms

    def lied(self, worker: NodeId) -> bool:
        return worker in self.liars

    def capable(self, story: Story, now_ms: int) -> str:
        asker = self.by_id[story.requester]
        if now_ms - asker.healthy_since_ms < LIVE_MS:
            return ""
        for worker in self.workers:
            if self._could_serve(asker, worker, now_ms):
                return worker.name
        return ""

    def _could_serve(self, asker: Process, worker: Process, now_ms: int) -> bool:
        machine = worker.machine
        if not worker.life or worker.paused or worker.leaving or worker.liar is not None or machine is None:
            return False
        if machine.hung or machine.failing or worker.node_id in self.liars:
            return False
        well_ms = max(worker.healthy_since_ms, self.wires.disturbed_until(asker.place, worker.place))
        heard_ms = self.heard_at.get((asker.place, asker.life, worker.place), -1)
        bad_ms = self.failed_at.get((asker.place, worker.place), -1)
        return now_ms - well_ms >= LIVE_MS and heard_ms > max(well_ms, bad_ms, now_ms - 40_000)
