"""World: one seed. Nodes join, questions come, faults strike, all heals, and everything must come to rest.

The law: the seed and the scenario decide everything. What happens is told to the oracles as it happens; the
trace is a checksum over every effect of every core in order, so two runs of one seed are equal or it shows.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.network import net_id
from llama_gossip.protocol.timers import Timers
from llama_gossip.simulation import faults as fault_draw
from llama_gossip.simulation import guards, load
from llama_gossip.simulation.clock import Clock
from llama_gossip.simulation.faults import STRANGERS, FaultKind
from llama_gossip.simulation.history import Story, Violation
from llama_gossip.simulation.machine import Machine
from llama_gossip.simulation.oracles import AFTER_HEAL_MS, Oracles
from llama_gossip.simulation.parked import Parked
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.reading import SharedReader
from llama_gossip.simulation.scenario import Scenario
from llama_gossip.simulation.signing import signer_of, verifier
from llama_gossip.simulation.stage import Stage
from llama_gossip.simulation.stranger import Stranger
from llama_gossip.simulation.topic import Topic
from llama_gossip.simulation.trouble import Trouble
from llama_gossip.simulation.turns import Turns
from llama_gossip.simulation.wires import Wires
from llama_gossip.simulation.witness import Witness

NET_ID = net_id(blake2b(b"the network of the simulation", digest_size=32).digest())
START_MS = 2_000  # nodes have joined
LATE_MS = 50_000  # after the heal, until the last questions: a roster is whole again
QUIET_MS = 15_000  # after the last answer: what hangs on a connection is over
SLOW_FROM_MS, SLOW_FOR_MS = 700, 12_000  # a reader stops, and reads on: longer than any stall
MAX_BROADCASTS_PER_S = 2.0  # of one node, whatever happens around it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed has shown."""

    seed: int
    requests: int
    completed: int
    by_gossip: int
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
        self.witness = Witness(self, scenario.evil_checks)
        self.stage = Stage(self)
        self.rng = rng = random.Random(f"{seed}/world")
        self._readers = random.Random(f"{seed}/readers")
        ed25519 = seed % scenario.ed25519_every == 0
        self.verify = verifier(ed25519=ed25519)
        self.reader = SharedReader(NET_ID, self.verify)
        self.asks, self.heal_ms = load.draw(
            random.Random(f"{seed}/load"), scenario, start_ms=START_MS, late_ms=LATE_MS
        )
        requesters, workers = rng.randint(*scenario.requesters), rng.randint(*scenario.workers)
        hybrids = min(workers, rng.randint(*scenario.hybrids))
        places = requesters + workers
        strangers = len(STRANGERS)
        self.wires = Wires(self.clock, rng, places + strangers, base_ms=scenario.base_delay_ms)
        is_open = random.Random(f"{seed}/open").random() < scenario.open_share
        self.policy = Policy(open_network=is_open)
        self.nodes = [self._node(place, ed25519) for place in range(places)]
        self.workers = self.nodes[requesters:]
        crowds = random.Random(f"{seed}/crowded")
        share = 1.0 if crowds.random() < scenario.all_crowded_share else scenario.crowded_share
        for worker in self.workers:
            worker.machine = self._machine(worker)
            worker.machine.crowded = crowds.random() < share
        self.askers = [*self.nodes[:requesters], *self.workers[:hybrids]]
        self.by_id = {node.node_id: node for node in self.nodes}
        self.topic = Topic(self.clock, rng, self.nodes)
        self.oracles = Oracles(
            failover=scenario.failover,
            capable=self.witness.capable,
            disturbed=self.witness.disturbed,
            lied=self.witness.lied,
            late_ms=self.witness.late_ms,
        )
        self.parked = Parked(self.oracles.works, self.oracles.blame, unread_ms=scenario.unread_ms)
        self.turns = Turns(self.oracles.blame, open_network=is_open, ageing_ms=scenario.ageing_ms)
        self.strangers = [self._stranger(kind, places + n, ed25519) for n, kind in enumerate(STRANGERS)]
        self.strangers_by_id = {stranger.node_id: stranger for stranger in self.strangers}
        self.liars: set[NodeId] = set()
        self.struck: Counter[str] = Counter()
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
            reader=self.reader,
            net_id=NET_ID,
            around=self.stage,
            policy=self.policy,
            timers=Timers(ageing_ms=self.scenario.ageing_ms, unread_ms=self.scenario.unread_ms),
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
            open_network=self.policy.open_network,
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
        sent = self.topic.sent - self.topic.packets  # which have bounds of their own
        if sent > most:
            self.oracles.blame("I12", self.clock.now_ms, f"{sent} broadcasts, at most {most:.0f}")
        if self.topic.oversize:
            self.oracles.blame(
                "I8", self.clock.now_ms, f"{self.topic.oversize} broadcasts over the topic's size"
            )
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
            by_gossip=self.stage.packets.answers,
            failed=len(failed) - cancelled,
            cancelled=cancelled,
            void=sum(story.void for story in stories),
            violations=tuple(self.oracles.violations),
            trace=self.stage.trace,
            tokens_made=self.oracles.waste.made,
            tokens_needed=self.oracles.waste.needed,
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
        story.calm = ask.calm
        if ask.cancel_after_ms is not None:
            self.clock.after(ask.cancel_after_ms, self._cancel, node, node.life, story)
        if not ask.calm and self._readers.random() < self.scenario.slow_reader_share:
            stops_ms = self._readers.randrange(SLOW_FROM_MS)
            for_ms = self._readers.randrange(SLOW_FOR_MS)
            request_id = ask.submit.request_id
            self.clock.after(stops_ms, self._read, node, node.life, ev.ReaderFull(request_id))
            self.clock.after(stops_ms + for_ms, self._read, node, node.life, ev.ReaderReady(request_id))
        self.stage.conversations.asked(node, ask.submit)
        node.feed(ask.submit)

    def _read(self, node: Process, life: int, event: ev.ReaderFull | ev.ReaderReady) -> None:
        if node.life == life:
            self.stage.offers.reads(node, event.request_id)
            node.feed(event)

    def _cancel(self, node: Process, life: int, story: Story) -> None:
        if node.life == life and not node.paused and not story.over:
            self.oracles.cancelled(story.key)
            node.feed(ev.CancelRequest(story.submit.request_id, "by the simulation"))

    def _work_ended(self, node: Process, job: int) -> None:
        self.oracles.work_ended(node.node_id, node.life, job, self.clock.now_ms)
