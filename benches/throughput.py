"""What the network costs: a worker process asked through it, against the same engine called directly.

(a) `smollm2-135m`, one torch thread on both sides, interleaved pairs: share of the engine's token rate,
    added first-token time, bytes a token. (b) the paced engine: how tokens/s grow with 1, 2 and 4 workers.

    benches/throughput.py [--quick] [--json]      --quick takes at most five minutes
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: one thread against one thread

from llama_gossip import InferenceNode, load_engine
from llama_gossip.engine import base
from llama_gossip.protocol.envelope import KeySigner
from llama_gossip.protocol.frames import FrameWriter
from llama_gossip.protocol.messages import ChatPrompt, GenerationConfig, Token
from reporting import Bars, Figures, main
from workers import Worker, cli_workers, timed_worker, until_ready

MODEL = "smollm2-135m"
PROMPT = "Write a long story about a fox who learns to read."
PACE_MS = 20  # one token every 20 ms a worker: no CPU to speak of, so that workers do not disturb each other
IN_FLIGHT = 4  # requests a worker
BATCH = 8

BARS: Bars = {
    "first_token_overhead_ms_p50": ("<=", 5.0),
    "token_rate_share_batch1": (">=", 0.98),
    "wire_bytes_per_token_batch8": ("<=", 24.0),
    "scale_out4": (">=", 0.95),
}


@dataclass(frozen=True)
class Plan:
    pairs: int = 15
    tokens: int = 96
    first_tokens: int = 100
    closed_loop_s: float = 30.0


QUICK = Plan(pairs=9, tokens=48, first_tokens=50, closed_loop_s=15.0)


@dataclass
class DirectRun:
    """One job on an engine of this process: when each token's text came out."""

    engine: base.Engine
    done: threading.Event = field(default_factory=threading.Event)
    at_s: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def sink(self, batch: Sequence[base.EngineEvent]) -> None:
        for event in batch:
            match event:
                case base.JobTokens():
                    self.at_s += [time.perf_counter()] * len(event.texts)
                    self.ids += event.token_ids
                    self.texts += event.texts
                case base.JobDone():
                    self.done.set()
                case base.JobFailed():
                    raise RuntimeError(event.message)

    def run(self, number: int, tokens: int) -> float:
        """Tokens/s between the first and the last token."""
        self.at_s, self.ids, self.texts = [], [], []
        self.done.clear()
        config = GenerationConfig(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        self.engine.submit(base.EngineJob(number, ChatPrompt((("user", PROMPT),)), config, date="2026-01-01"))
        self.done.wait()
        return rate(self.at_s)


def rate(at_s: Sequence[float]) -> float:
    return (len(at_s) - 1) / (at_s[-1] - at_s[0])


async def ask(node: InferenceNode, tokens: int, worker: str | None = None) -> tuple[float, list[float]]:
    """(submission, arrival of each token), seconds on this process's clock."""
    submitted_s = time.perf_counter()
    arrived = [
        time.perf_counter()
        async for _ in node.generate(PROMPT, max_tokens=tokens, temperature=0, ignore_eos=True, worker=worker)
    ]
    return submitted_s, arrived


async def first_token_overhead(node: InferenceNode, worker: Worker, count: int) -> list[float]:
    """Milliseconds that the network adds to the engine's own submit-to-first-token, request by request."""
    overheads = []
    for _ in range(count):
        submitted_s, arrived = await ask(node, 2, worker.node_id)
        timings = await asyncio.to_thread(worker.read, "timings")
        overheads.append((arrived[0] - submitted_s) * 1000 - timings["first_token_ms"])
    return overheads


async def real_model(plan: Plan) -> dict[str, Any]:
    direct = DirectRun(load_engine(MODEL, threads=1))
    direct.engine.start(direct.sink)
    shares, through_rates = [], []
    try:
        with timed_worker(MODEL) as worker:
            async with InferenceNode.open() as node:
                await ask(node, 4, worker.node_id)  # warms the connection and both engines
                await asyncio.to_thread(worker.read, "timings")
                await asyncio.to_thread(direct.run, 0, 4)
                for number in range(1, plan.pairs + 1):
                    alone = await asyncio.to_thread(direct.run, number, plan.tokens)
                    _, arrived = await ask(node, plan.tokens, worker.node_id)
                    await asyncio.to_thread(worker.read, "timings")
                    through_rates.append(rate(arrived))
                    shares.append(through_rates[-1] / alone)
                overheads = await first_token_overhead(node, worker, plan.first_tokens)
        bytes_per_token = wire_bytes_per_token(direct.ids, direct.texts)
    finally:
        direct.engine.close()
    return {
        "token_rate_share_batch1": statistics.median(shares),
        "token_rate_batch1": statistics.median(through_rates),
        "first_token_overhead_ms_p50": statistics.median(overheads),
        "first_token_overhead_ms_p95": sorted(overheads)[int(len(overheads) * 0.95)],
        "wire_bytes_per_token_batch8": bytes_per_token,
    }


def wire_bytes_per_token(ids: Sequence[int], texts: Sequence[str]) -> float:
    """What the worker writes for this answer in batches of 8: prefix, signature and all."""
    writer = FrameWriter(b"\0" * 32, KeySigner(b"\1" * 32))
    whole = len(ids) - len(ids) % BATCH
    written = sum(
        len(writer.encode(Token(0, at, tuple(ids[at : at + BATCH]), tuple(texts[at : at + BATCH]))))
        for at in range(0, whole, BATCH)
    )
    return written / whole


async def closed_loop(workers: int, seconds: float) -> float:
    """Tokens/s over the middle 80 % of a run with IN_FLIGHT requests a worker; the node picks the workers."""
    with cli_workers(f"paced:{PACE_MS}", workers) as started:
        async with InferenceNode.open() as node:
            await until_ready(node, [worker.node_id for worker in started])
            arrived: list[float] = []
            start_s = time.perf_counter()

            async def one_client() -> None:
                while time.perf_counter() - start_s < seconds:
                    _, at = await ask(node, 40)
                    arrived.extend(at)

            await asyncio.gather(*(one_client() for _ in range(IN_FLIGHT * workers)))
    begin, end = start_s + 0.1 * seconds, start_s + 0.9 * seconds
    return sum(begin <= at < end for at in arrived) / (end - begin)


async def measure(plan: Plan) -> Figures:
    figures = await real_model(plan)
    speeds = {count: await closed_loop(count, plan.closed_loop_s) for count in (1, 2, 4)}
    figures |= {f"tokens_per_s{count}": speed for count, speed in speeds.items()}
    figures |= {f"scale_out{count}": speeds[count] / (count * speeds[1]) for count in (2, 4)}
    return figures


if __name__ == "__main__":
    sys.exit(main(__doc__, BARS, measure, Plan(), QUICK))
