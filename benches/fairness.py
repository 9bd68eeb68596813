"""One key that floods beside nine that ask one question after the other: what the nine wait for an answer.

Real nodes on loopback: one worker process (scripted engine, 10 ms a token, four slots), nine clients with
keys of their own in this process, and the flooder, a process that keeps 68 questions open, as many as one key
may run and queue. Rounds without and with it alternate; the bar is the ratio of the two p95.

    benches/fairness.py [--quick] [--json]      --quick takes a minute
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from llama_gossip import InferenceNode, LlamaGossipError
from reporting import Figures, main
from workers import Worker, start_worker, until_ready

HONEST = 9
SLOTS = 4
FLOOD = SLOTS + 64
TOKENS = 20
MODEL = "scripted:delay_ms=10"
PROMPT = "What does a fox read?"
FLOOD_FIRST_S = 3.0  # until its queue is full; nothing is measured meanwhile
GONE_S = 12.0  # until a killed flooder's jobs are gone: the idle timeout of its connection, and more

BARS = {"p95_ratio": ("<=", 1.5)}


@dataclass(frozen=True)
class Plan:
    rounds: int = 4  # of each kind
    questions: int = 12  # of one key in one round


async def answer_s(node: InferenceNode) -> float:
    began_s = time.perf_counter()
    try:
        await node.complete(PROMPT, max_tokens=TOKENS, ignore_eos=True)
    except LlamaGossipError as error:  # its time counts, and it is told
        print(f"a question has failed: {error}", file=sys.stderr)
    return time.perf_counter() - began_s


async def one_after_the_other(node: InferenceNode, questions: int) -> list[float]:
    return [await answer_s(node) for _ in range(questions)]


async def a_round(nodes: Sequence[InferenceNode], questions: int) -> list[float]:
    each = await asyncio.gather(*(one_after_the_other(node, questions) for node in nodes))
    return [seconds for of_one in each for seconds in of_one]


async def flooded(nodes: Sequence[InferenceNode], questions: int) -> list[float]:
    flooder = await asyncio.create_subprocess_exec(sys.executable, __file__, "flood")
    try:
        await asyncio.sleep(FLOOD_FIRST_S)
        times_s = await a_round(nodes, questions)
        if flooder.returncode is not None:
            raise RuntimeError("the flooder has ended before the round")
        return times_s
    finally:
        flooder.kill()
        await flooder.wait()
        await asyncio.sleep(GONE_S)


async def flood() -> None:
    """The other process: no pause, no end."""
    async with InferenceNode.open(name="flooder") as node:

        async def without_end() -> None:
            while True:
                await answer_s(node)

        await asyncio.gather(*(without_end() for _ in range(FLOOD)))


def read_on(worker: Worker) -> None:
    """Its events are not needed here, but a worker whose pipe is full stands still."""
    assert worker.process.stdout is not None
    for _ in worker.process.stdout:
        pass


async def measure(plan: Plan) -> Figures:
    worker = await asyncio.to_thread(start_worker, MODEL, LLAMA_GOSSIP_MAX_CONCURRENT=str(SLOTS))
    reader = asyncio.create_task(asyncio.to_thread(read_on, worker))
    calm_s: list[float] = []
    flooded_s: list[float] = []
    try:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(InferenceNode.open(name=f"honest-{n}")) for n in range(HONEST)
            ]
            for node in nodes:
                await until_ready(node, [worker.node_id])
            await a_round(nodes, 1)  # all have met
            for _ in range(plan.rounds):
                calm_s += await a_round(nodes, plan.questions)
                flooded_s += await flooded(nodes, plan.questions)
    finally:
        worker.process.terminate()
        await reader
        await asyncio.to_thread(worker.process.wait)
    calm, beside = spread("calm", calm_s), spread("flooded", flooded_s)
    ratios = {
        f"{name}_ratio": beside[f"flooded_ms_{name}"] / calm[f"calm_ms_{name}"] for name in ("p50", "p95")
    }
    return {**calm, **beside, **ratios, "answers": len(calm_s) + len(flooded_s)}


def spread(kind: str, times_s: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds * 1_000 for seconds in times_s)
    return {
        f"{kind}_ms_p50": statistics.median(ordered),
        f"{kind}_ms_p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        f"{kind}_ms_max": ordered[-1],
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["flood"]:
        asyncio.run(flood())
    sys.exit(main(__doc__, BARS, measure, Plan(), Plan(rounds=2, questions=6)))
