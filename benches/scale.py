"""How far one topic carries: networks of simulated nodes, real cores in virtual time.

Joining: everybody starts within one second. Presence: Announces of a network at rest. Selection: requests at
half of what all workers together can do. One node: what the Announces of N peers cost it, with ed25519.

    benches/scale.py [--nodes 10,100] [--seed N] [--json]    100 nodes take half a minute
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import KeySigner
from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.simulation import load
from llama_gossip.simulation.clock import WALL_ORIGIN_MS as WALL_MS
from llama_gossip.simulation.clock import Clock
from llama_gossip.simulation.machine import Machine
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.scenario import profile
from llama_gossip.simulation.world import NET_ID, World

JOIN_MS = 1_000
SETTLED_MS = 12_000  # after the joining: greetings are over
REST_MS = 30_000  # two periods of Announces
ASKING_MS = 10_000
ASKERS_SHARE = 0.1  # of the nodes; the others are workers
UTILISATION = 0.5
PREFILL_MS = 60


@dataclass(frozen=True, slots=True)
class Joining:
    announces: int  # of all nodes, until they have settled
    announces_per_node: float
    whole_after_ms: int  # when everybody knows every worker; 0: not by the end of the joining


@dataclass(frozen=True, slots=True)
class Presence:
    announces_per_s: float  # on the topic, all nodes
    announce_bytes: float
    received_bytes_per_s: float  # by one node, each message once


@dataclass(frozen=True, slots=True)
class Selection:
    requests: int
    first_token_ms_p50: float
    first_token_ms_p95: float
    queued_share: float  # of the requests that had to wait at their worker
    misplaced_share: float  # that had to wait while another worker had a free slot
    choose_us: float  # CPU of one Submit in its core: survey and choice


@dataclass(frozen=True, slots=True)
class OneNode:
    announce_us: float  # CPU of one Announce received, its ed25519 signature checked
    cpu_share: float  # of one core, for the Announces of a network at rest
    roster_bytes_per_peer: float


class Watch:
    """What the cores do, seen at the stage."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.announce_sizes: list[int] = []
        self.asked_ms: dict[RequestId, int] = {}
        self.first_token_ms: list[int] = []
        self.accepted: Counter[str] = Counter()
        self._perform = world.stage.perform
        world.stage.perform = self.perform  # type: ignore[method-assign]

    def perform(self, node: Process, effect: ef.Effect) -> None:
        match effect:
            case ef.Broadcast(data):
                self.announce_sizes.append(len(data))
            case ef.DeliverTokens(request_id) if (asked := self.asked_ms.pop(request_id, None)) is not None:
                self.first_token_ms.append(self.world.clock.now_ms - asked)
            case ef.JobAccepted():
                self._accepted(node)
            case _:
                pass
        self._perform(node, effect)

    def _accepted(self, node: Process) -> None:
        self.accepted["all"] += 1
        if _free(node.machine):
            return
        self.accepted["queued"] += 1
        self.accepted["misplaced"] += any(_free(worker.machine) for worker in self.world.workers)


def _free(machine: Machine | None) -> bool:
    return machine is not None and len(machine.runs) < machine.slots


def build(nodes: int, seed: int) -> World:
    askers = max(1, round(ASKERS_SHARE * nodes))
    quiet = profile("quiet")
    workers = nodes - askers
    scenario = replace(
        quiet,
        requesters=(askers, askers),
        workers=(workers, workers),
        hybrids=(0, 0),
        prefill_ms=(PREFILL_MS, PREFILL_MS),
        cancel_share=0.0,
        hurried_share=0.0,
        crowded_share=0.0,
        all_crowded_share=0.0,
        open_share=0.0,
        gossip_share=0.0,
        public_share=0.0,
        requests=0,
        ed25519_every=sys.maxsize,
    )
    return World(seed, scenario)


# --- the parts -------------------------------------------------------------------------------------


def joining(world: World, watch: Watch) -> Joining:
    rng = random.Random(f"{world.seed}/joining")
    for node in world.nodes:
        world.clock.at(rng.randrange(JOIN_MS), node.start)
    whole_ms = 0
    while world.clock.now_ms < JOIN_MS + SETTLED_MS:
        world.clock.run_until(world.clock.now_ms + 100)
        if not whole_ms and all(knows_the_workers(node, world) for node in world.nodes):
            whole_ms = world.clock.now_ms
    sent = len(watch.announce_sizes)
    return Joining(sent, round(sent / len(world.nodes), 2), whole_ms)


def knows_the_workers(node: Process, world: World) -> bool:
    """Clients announce themselves once a minute and greet nobody: not all know them, and nobody needs to."""
    if node.core is None:
        return False
    known = {peer.node_id for peer in node.core.peers(node.now())} | {node.node_id}
    return all(worker.node_id in known for worker in world.workers)


def presence(world: World, watch: Watch) -> Presence:
    watch.announce_sizes.clear()
    world.clock.run_until(world.clock.now_ms + REST_MS)
    sizes = watch.announce_sizes
    per_s = len(sizes) * 1_000 / REST_MS
    size = statistics.fmean(sizes)
    return Presence(round(per_s, 2), round(size, 1), round(per_s * size, 1))


def selection(world: World, watch: Watch) -> Selection:
    rng = random.Random(f"{world.seed}/asking")
    scenario = replace(world.scenario, requests=1_000, late_share=0.0, early=0, turn_share=0.0)
    asks, _ = load.draw(random.Random(f"{world.seed}/asks"), scenario, start_ms=0, late_ms=0)
    mean_tokens = statistics.fmean(ask.submit.config.max_tokens for ask in asks)
    per_s = UTILISATION * sum(_requests_per_s(worker, mean_tokens) for worker in world.workers)
    spent: list[float] = []
    at_ms, number = float(world.clock.now_ms), 0
    end_ms = at_ms + ASKING_MS
    while (at_ms := at_ms + rng.expovariate(per_s / 1_000)) < end_ms:
        submit = replace(asks[number % len(asks)].submit, request_id=RequestId(rng.randbytes(16)))
        world.clock.at(round(at_ms), ask, world, watch, rng.choice(world.askers), submit, spent)
        number += 1
    world.clock.run_until(round(end_ms) + 60_000 // 4)
    times = sorted(watch.first_token_ms)
    count = watch.accepted["all"]
    return Selection(
        requests=number,
        first_token_ms_p50=times[len(times) // 2],
        first_token_ms_p95=times[int(0.95 * len(times))],
        queued_share=round(watch.accepted["queued"] / count, 4),
        misplaced_share=round(watch.accepted["misplaced"] / count, 4),
        choose_us=round(statistics.median(spent) * 1e6, 1),
    )


def ask(world: World, watch: Watch, node: Process, submit: ev.Submit, spent: list[float]) -> None:
    watch.asked_ms[submit.request_id] = world.clock.now_ms
    world.oracles.submitted(node.node_id, submit, world.clock.now_ms)
    started = time.process_time()
    node.feed(submit)
    spent.append(time.process_time() - started)


def _requests_per_s(worker: Process, tokens: float) -> float:
    machine = worker.machine
    assert machine is not None
    return machine.slots * 1_000 / (PREFILL_MS + tokens / machine.step_tokens * machine.step_ms)


def one_node(peers: int, announces_per_s: float) -> OneNode:
    """Feeds one core the real, signed Announces of `peers` others."""
    told = [announce_of(number) for number in range(peers)]
    tracemalloc.start()
    core = _hear(told)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    started = time.process_time()
    core = _hear(told)
    each_s = (time.process_time() - started) / peers
    known = len(core.peers(ev.Now(peers, WALL_MS + peers)))
    if known != peers:
        raise SystemExit(f"only {known} of {peers} Announces were taken")
    return OneNode(
        announce_us=round(each_s * 1e6, 1),
        cpu_share=round(each_s * announces_per_s, 5),
        roster_bytes_per_peer=round(held / peers, 1),
    )


def _hear(told: list[tuple[NodeId, bytes]]) -> Core:
    core = new_core(b"the one", len(told))
    core.handle(ev.Joined(()), ev.Now(0, WALL_MS))
    for number, (node_id, data) in enumerate(told):
        core.handle(ev.GossipReceived(node_id, data), ev.Now(number, WALL_MS + number))
    return core


def new_core(name: bytes, seed: int) -> Core:
    return Core(
        signer=KeySigner(blake2b(name, digest_size=32).digest()),
        net_id=NET_ID,
        boot=WALL_MS,
        node_name="node",
        rng=random.Random(seed),
        version="0.1.0",
    )


def announce_of(number: int) -> tuple[NodeId, bytes]:
    secret = b"peer %d" % number
    core = new_core(secret, number)
    machine = Machine(
        Clock(),
        random.Random(number),
        lambda event: None,
        slots=2,
        step_ms=20,
        step_tokens=1,
        prefill_ms=PREFILL_MS,
    )
    core.handle(ev.EngineChanged(machine.capacity()), ev.Now(0, WALL_MS))
    effects = core.handle(ev.Joined((f"127.0.0.1:{5_000 + number % 60_000}",)), ev.Now(0, WALL_MS))
    (data,) = [effect.data for effect in effects if isinstance(effect, ef.Broadcast)]
    return KeySigner(blake2b(secret, digest_size=32).digest()).node_id, data


# --- the whole -------------------------------------------------------------------------------------


def measure(nodes: int, seed: int) -> dict[str, object]:
    world = build(nodes, seed)
    watch = Watch(world)
    started = time.perf_counter()
    joined = joining(world, watch)
    rest = presence(world, watch)
    chosen = selection(world, watch)
    return {
        "nodes": nodes,
        "workers": len(world.workers),
        **asdict(joined),
        **asdict(rest),
        **asdict(chosen),
        **asdict(one_node(nodes - 1, rest.announces_per_s)),
        "simulated_in_s": round(time.perf_counter() - started, 1),
    }


def table(columns: list[dict[str, object]]) -> str:
    names = list(columns[0])
    width = max(map(len, names))
    return "\n".join(
        f"{name:<{width}}  " + "  ".join(f"{column[name]!s:>12}" for column in columns) for name in names
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="10,100", help="sizes of networks, with commas between")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    options = parser.parse_args()
    columns = [measure(int(nodes), options.seed) for nodes in options.nodes.split(",")]
    sys.stderr.write(table(columns) + "\n")
    if options.json:
        sys.stdout.write(json.dumps({"seed": options.seed, "networks": columns}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
