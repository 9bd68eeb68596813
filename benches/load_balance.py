"""How evenly the work is shared: one requester, four worker processes with the paced engine, 200 requests.

(a) four equal workers: requests of the busiest / of the idlest.
(b) three equal workers and one that is four times faster: what it gets, against the mean of the others.
(c) time to the first Claim, and to the first token, of a model that no Announce names.

    benches/load_balance.py [--quick] [--json]      about two minutes
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

from llama_gossip import InferenceNode
from llama_gossip.engine.scripted import ScriptedEngine
from llama_gossip.protocol.limits import MAX_ANNOUNCED_MODELS
from reporting import Bars, Figures, main
from workers import Worker, start_worker, until_ready

WORKERS = 4
PACE_MS = 20  # one token every 8 ms a worker: no CPU to speak of, so that workers do not disturb each other
FASTER = 4
IN_FLIGHT = 2 * WORKERS  # a closed loop: every worker could have two at a time
TOKENS = 24
LATEST_MS = 5_000
RARE = "rare"  # the model that no Announce names

BARS: Bars = {
    "equal_busiest_over_idlest": ("<=", 1.3),
    "faster_over_others": (">=", 2.5),
}


@dataclass(frozen=True)
class Plan:
    requests: int = 200
    first_claims: int = 40


QUICK = Plan(requests=80, first_claims=10)


async def shares(node: InferenceNode, workers: list[Worker], requests: int) -> Counter[str]:
    """How many of the requests each worker has answered."""
    answered = Counter({worker.node_id: 0 for worker in workers})
    left = iter(range(requests))

    async def one_client() -> None:
        for number in left:
            answer = await node.complete(f"question {number}", max_tokens=TOKENS, ignore_eos=True)
            answered[answer.worker] += 1

    await asyncio.gather(*(one_client() for _ in range(IN_FLIGHT)))
    return answered


async def with_workers(paces_ms: list[int], requests: int) -> Counter[str]:
    """The share of each worker, in the order of their paces."""
    with ExitStack() as stack:
        workers: list[Worker] = []
        for pace_ms in paces_ms:
            workers.append(start_worker(f"paced:{pace_ms}"))
            stack.callback(workers[-1].stop)
        async with InferenceNode.open() as node:
            await until_ready(node, [worker.node_id for worker in workers])
            return await shares(node, workers, requests)


async def equal(plan: Plan) -> Figures:
    counts = (await with_workers([PACE_MS] * WORKERS, plan.requests)).values()
    return {"equal_busiest_over_idlest": max(counts) / max(1, min(counts)), "equal_shares": sorted(counts)}


async def one_faster(plan: Plan) -> Figures:
    paces_ms = [PACE_MS // FASTER, *[PACE_MS] * (WORKERS - 1)]
    fast, *others = (await with_workers(paces_ms, plan.requests)).values()
    return {"faster_over_others": fast / statistics.mean(others), "faster_shares": [fast, *sorted(others)]}


# --- what only Claims tell ---------------------------------------------------------------------------------


def crowd() -> list[ScriptedEngine]:
    """More models than an Announce holds; RARE is the last of them."""
    names = [f"other-{number}" for number in range(MAX_ANNOUNCED_MODELS)] + [RARE]
    return [ScriptedEngine(name=name) for name in names]


async def first_claims(plan: Plan) -> Figures:
    """Nodes of one process on loopback: real gossip, real streams. Each question is a new one."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(WORKERS):
            scope = InferenceNode.open(name=f"worker-{number}", engine=crowd())
            node = await stack.enter_async_context(scope)
            nodes.append(node)
        asker = await stack.enter_async_context(InferenceNode.open(name="asker"))
        await until_ready(asker, [node.node_id.hex() for node in nodes])
        claimed_ms, token_ms = [], []
        for number in range(plan.first_claims):
            asked_s, before = time.perf_counter(), asker.stats().get("claims_taken", 0)
            asking = asyncio.ensure_future(asker.complete("hello", model=RARE, max_tokens=number + 2))
            for _ in range(LATEST_MS):
                if asker.stats().get("claims_taken", 0) > before:
                    break
                await asyncio.sleep(0.001)
            claimed_ms.append((time.perf_counter() - asked_s) * 1_000)
            token_ms.append((await asking).timings.first_token_ms)
            await asyncio.sleep(0.6)  # two Requests a second is what receivers take
    return {
        "first_claim_ms_p50": statistics.median(claimed_ms),
        "first_claim_ms_max": max(claimed_ms),
        "claimed_first_token_ms_p50": statistics.median(token_ms),
    }


async def measure(plan: Plan) -> Figures:
    return {**await equal(plan), **await one_faster(plan), **await first_claims(plan)}


if __name__ == "__main__":
    sys.exit(main(__doc__, BARS, measure, Plan(), QUICK))
