"""Trouble: performs the faults of a plan on a world, and takes all of them back at the heal.

The law: whatever was done is undone at the heal (strangers and liars are gone for good), so that what goes
wrong after it has no excuse.
"""

from __future__ import annotations

import random
from itertools import combinations
from typing import TYPE_CHECKING

from llama_gossip.protocol import events as ev
from llama_gossip.simulation.faults import STANDING, Fault, FaultKind
from llama_gossip.simulation.liar import STAYING, Liar, Lie
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.wires import IDLE_MS

if TYPE_CHECKING:
    from llama_gossip.simulation.world import World

MAX_LOSS = 0.35  # of gossip
MAX_DUPLICATES = 0.5
MAX_REORDER_MS = 1_500
MAX_CLOG_MS = 1_500
MAX_APART = 1.0  # share of the pairs
MAX_SKEW_MS = 20_000  # of most clocks; some are minutes off
FAR_SKEW_MS = 300_000
FAR_SHARE = 0.2
MAX_STEP_MS = 40_000
MAX_SLOWNESS = 60
MAX_FAILING = 0.4  # share of an engine's jobs
REPLAY_LONGER_MS = 80_000  # after the heal
LEAVE_GRACE_MS = 3_000  # from Drain to Goodbye


class Trouble:
    def __init__(self, world: World) -> None:
        self._world = world
        self._healed = False
        self._honest = 1  # workers that are never made liars

    def strike(self, fault: Fault) -> None:
        self._world.struck[str(fault.kind)] += 1
        if fault.kind in STANDING:
            self._stand(fault)
        else:
            self._strike_node(fault)

    # --- for the whole time ---

    def _stand(self, fault: Fault) -> None:
        topic, wires = self._world.topic, self._world.wires
        match fault.kind:
            case FaultKind.LOSS:
                topic.loss = MAX_LOSS * fault.amount
            case FaultKind.DUPLICATES:
                topic.duplicates = MAX_DUPLICATES * fault.amount
            case FaultKind.REORDER:
                topic.reorder_ms = round(MAX_REORDER_MS * fault.amount)
            case FaultKind.CHUNKS:
                wires.cut_chunks = True
            case FaultKind.SKEW:
                self._skew(fault)
            case FaultKind.APART:
                self._set_apart(fault)
            case FaultKind.ENGINE_FAILURE:
                machine = self._worker(fault.target).machine
                if machine is not None:
                    machine.failing = MAX_FAILING * fault.amount
            case FaultKind.LIAR:
                self._make_liar(fault)
            case (
                FaultKind.REPLAY
                | FaultKind.FORGE
                | FaultKind.REENCODE
                | FaultKind.FLOOD
                | FaultKind.CLAIM
                | FaultKind.COPY
                | FaultKind.DOUBLE
                | FaultKind.GREEDY
                | FaultKind.CROWD
            ):
                for stranger in self._world.strangers:
                    if stranger.kind is fault.kind:
                        # A replay is at its best when everybody has forgotten.
                        longer_ms = REPLAY_LONGER_MS if fault.kind is FaultKind.REPLAY else 0
                        stranger.act(self._world.clock.now_ms + fault.for_ms + longer_ms)
            case _:
                raise AssertionError(f"{fault.kind} has its moment")

    def _set_apart(self, fault: Fault) -> None:
        rng, world = random.Random(fault.amount), self._world
        for low, high in combinations(range(len(world.nodes)), 2):
            if rng.random() < MAX_APART * fault.target:
                world.wires.apart.add((low, high))
                world.wires.disturb(low, high, world.clock.now_ms + fault.for_ms)

    def _skew(self, fault: Fault) -> None:
        rng = random.Random(fault.amount)
        for node in self._world.nodes:  # whose first Announces have told another time
            far = rng.random() < FAR_SHARE
            node.set_clock(
                rng.randint(-FAR_SKEW_MS, FAR_SKEW_MS) if far else rng.randint(-MAX_SKEW_MS, MAX_SKEW_MS)
            )

    def _make_liar(self, fault: Fault) -> None:
        """The last worker never lies: somebody has to be there."""
        world = self._world
        if len(world.workers) < 2:
            return
        worker = world.workers[int(fault.target * (len(world.workers) - 1))]
        lie = list(Lie)[int(fault.other * len(Lie))]
        world.liars.add(worker.node_id)
        worker.liar = Liar(
            lie,
            random.Random(fault.amount),
            signer=worker.signer,
            net_id=world.net_id,
            verify=world.verify,
            share=0.2 + 0.8 * fault.amount,
        )
        world.struck[f"lie_{lie.value}"] += 1

    # --- at a moment ---

    def _strike_node(self, fault: Fault) -> None:
        node = self._node(fault.target)
        match fault.kind:
            case FaultKind.LAG | FaultKind.SPLIT | FaultKind.MUTE:
                self._strike_gossip(fault, node)
            case (
                FaultKind.CLOG | FaultKind.ONE_WAY | FaultKind.TWO_WAY | FaultKind.CUT | FaultKind.UNREACHABLE
            ):
                self._strike_path(fault, node)
            case FaultKind.CRASH:
                self._crash(node, fault)
            case FaultKind.PAUSE:
                self._pause(node, fault)
            case FaultKind.LEAVE:
                self._leave(node, fault)
            case FaultKind.CLOCK_STEP:
                node.healthy_since_ms = self._world.clock.now_ms
                node.set_clock(node.skew_ms + round(MAX_STEP_MS * (2 * fault.amount - 1)))
            case FaultKind.SLOW | FaultKind.HANG | FaultKind.RELOAD:
                self._strike_engine(fault, self._worker(fault.target))
            case _:
                raise AssertionError(f"{fault.kind} stands for the whole time")

    def _strike_gossip(self, fault: Fault, node: Process) -> None:
        world, topic = self._world, self._world.topic
        match fault.kind:
            case FaultKind.LAG:
                topic.lagging[node.place] = world.clock.now_ms + fault.for_ms
            case FaultKind.MUTE:
                topic.dead_outbound.add(node.place)
                world.clock.after(fault.for_ms, topic.dead_outbound.discard, node.place)
            case FaultKind.SPLIT:
                count = 1 + int(fault.amount * (len(world.nodes) - 1))
                topic.split([n.place for n in world.nodes[:count]])
                world.clock.after(fault.for_ms, topic.merge)
            case _:
                raise AssertionError(fault.kind)

    def _strike_path(self, fault: Fault, node: Process) -> None:
        world, wires = self._world, self._world.wires
        other = self._node(fault.other)
        a, b = node.place, other.place
        if fault.kind is FaultKind.UNREACHABLE:
            wires.unreachable[a] = world.clock.now_ms + fault.for_ms
            for peer in world.nodes:
                wires.disturb(a, peer.place, world.clock.now_ms + fault.for_ms)
            return
        if a == b:
            return
        match fault.kind:
            case FaultKind.CLOG:
                wires.clog(a, b, fault.for_ms, round(MAX_CLOG_MS * fault.amount))
                wires.clog(b, a, fault.for_ms, round(MAX_CLOG_MS * fault.amount))
            case FaultKind.ONE_WAY:
                wires.block(a, b, fault.for_ms)
            case FaultKind.TWO_WAY:
                wires.block(a, b, fault.for_ms)
                wires.block(b, a, fault.for_ms)
            case FaultKind.CUT:
                wires.disturb(a, b, world.clock.now_ms)
                world.struck["streams_cut"] += wires.cut(a, b)
            case _:
                raise AssertionError(fault.kind)

    def _strike_engine(self, fault: Fault, worker: Process) -> None:
        machine, now_ms = worker.machine, self._world.clock.now_ms
        if machine is None or not worker.life:
            return
        worker.healthy_since_ms = now_ms + fault.for_ms
        match fault.kind:
            case FaultKind.SLOW:
                machine.slowness = 2 + round(MAX_SLOWNESS * fault.amount)
                self._world.clock.after(fault.for_ms, self._mend, worker, worker.life)
            case FaultKind.HANG:
                machine.hang()
                self._world.clock.after(fault.for_ms, self._mend, worker, worker.life)
            case FaultKind.RELOAD:
                machine.lose_all()
                worker.feed(ev.EngineChanged(None, loading=True))
                self._world.clock.after(fault.for_ms, self._loaded, worker, worker.life)
            case _:
                raise AssertionError(fault.kind)

    def _mend(self, worker: Process, life: int) -> None:
        machine = worker.machine
        if machine is None or worker.life != life:
            return
        worker.healthy_since_ms = self._world.clock.now_ms
        if machine.hung:
            machine.lose_all()
        machine.slowness = 1

    def _loaded(self, worker: Process, life: int) -> None:
        if worker.machine is not None and worker.life == life:
            worker.healthy_since_ms = self._world.clock.now_ms
            worker.feed(ev.EngineChanged(worker.machine.capacity()))

    # --- processes ---

    def _crash(self, node: Process, fault: Fault) -> None:
        self.kill(node, silently=fault.other < 0.5)
        self._world.clock.after(fault.for_ms, self._restart, node)

    def kill(self, node: Process, *, silently: bool) -> None:
        world = self._world
        if node.life:
            world.oracles.process_gone(node.node_id, node.life, world.clock.now_ms)
            self._disturb_all(node, world.clock.now_ms + IDLE_MS if silently else world.clock.now_ms)
            world.wires.gone(node, silently=silently)
            node.die()

    def _restart(self, node: Process) -> None:
        if not node.life:
            if node.machine is not None:
                node.machine.hung = False
                node.machine.slowness = 1
            node.start()

    def _pause(self, node: Process, fault: Fault) -> None:
        if node.life and not node.paused:
            node.pause()
            self._world.clock.after(IDLE_MS, self._is_it_still_stopped, node, node.life, node.paused_ms)
            self._world.clock.after(fault.for_ms, node.resume)

    def _is_it_still_stopped(self, node: Process, life: int, paused_ms: int) -> None:
        if node.life == life and node.paused and node.paused_ms == paused_ms:
            self._world.wires.forgotten(node)

    def _leave(self, node: Process, fault: Fault) -> None:
        if node.life and not node.paused and not node.leaving:
            node.healthy_since_ms = self._world.clock.now_ms
            node.leaving = True
            node.feed(ev.Drain("by the simulation"))
            self._world.clock.after(LEAVE_GRACE_MS, self._goodbye, node, node.life, fault.for_ms)

    def _goodbye(self, node: Process, life: int, away_ms: int) -> None:
        if node.life == life and node.paused:
            self._world.clock.after(LEAVE_GRACE_MS, self._goodbye, node, life, away_ms)
        elif node.life == life:
            self._world.oracles.left(node.node_id)
            node.feed(ev.Goodbye("by the simulation"))
            self._world.clock.after(200, self._gone, node, life, away_ms)

    def _gone(self, node: Process, life: int, away_ms: int) -> None:
        if node.life == life:
            node.resume()
            self.kill(node, silently=False)
            self._world.clock.after(away_ms, self._restart, node)

    def _disturb_all(self, node: Process, until_ms: int) -> None:
        for peer in self._world.nodes:
            self._world.wires.disturb(node.place, peer.place, until_ms)

    # --- the end of it ---

    def heal(self) -> None:
        world = self._world
        self._healed = True
        world.wires.heal()
        world.topic.heal()
        for node in world.nodes:
            node.resume()
            if node.skew_ms:
                node.set_clock(0)
                node.healthy_since_ms = world.clock.now_ms
            if node.liar is not None and node.liar.lie not in STAYING:
                self.kill(node, silently=True)
                node.liar = None  # its next life is honest
                world.clock.after(IDLE_MS, self._restart, node)
            elif not node.life:
                self._restart(node)
            if node.machine is not None:
                node.machine.failing = 0.0
                self._mend(node, node.life)

    # --- who ---

    def _node(self, target: float) -> Process:
        return self._world.nodes[int(target * len(self._world.nodes))]

    def _worker(self, target: float) -> Process:
        return self._world.workers[int(target * len(self._world.workers))]
