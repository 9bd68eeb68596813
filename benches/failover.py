"""What a reader sees when a worker ends in mid-answer: the gap between the tokens on its two sides.

Worker processes with the scripted engine (10 ms a token), several answers at once; one worker is struck:
seen closed  its engine fails, or SIGTERM (drained for 10 s, the rest handed over)
silent       SIGKILL, SIGSTOP: QUIC says nothing
and, in the long form, SIGKILL with a real model, where the new worker's prefill comes on top.

    benches/failover.py [--quick] [--json]      --quick takes about three minutes
"""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from llama_gossip import Answer, InferenceNode
from llama_gossip.generation import Generation
from reporting import Bars, Figures, main
from workers import Worker, start_worker, until_ready

PROMPT = "Write a long story about a fox who learns to read."
SCRIPTED = "scripted:delay_ms=10"
REAL_MODEL = "smollm2-135m"
TERM_TOKENS = 1_300  # longer than the ten seconds of a drain

BARS: Bars = {
    "closed_gap_ms_p95": ("<=", 500.0),
    "silent_gap_ms_p95": ("<=", 2_500.0),
    "text_equal": (">=", 1.0),
}


@dataclass(frozen=True)
class Plan:
    answers: int = 8  # at once, over two workers
    kills: int = 10
    stops: int = 5
    terms: int = 3
    fails: int = 20  # answers, each with four failures
    real_kills: int = 4


QUICK = Plan(kills=3, stops=2, terms=1, fails=8, real_kills=0)


@dataclass(frozen=True)
class Seam:
    gap_ms: float
    equal: bool  # the whole text is the fault-free one
    resume: str


class Reader:
    """Reads one answer and keeps when each token came."""

    def __init__(self, node: InferenceNode, seed: int, tokens: int, mark: int = 0) -> None:
        """mark: the number of tokens at which `marked` is set."""
        self.seed, self.tokens, self.mark = seed, tokens, mark
        self.marked = asyncio.Event()
        self.generation: Generation = node.generate(PROMPT, **self._options())
        self.at_s: list[float] = []

    def _options(self) -> dict[str, Any]:
        return {"max_tokens": self.tokens, "seed": self.seed, "ignore_eos": True, "temperature": 0.7}

    async def read(self) -> Answer:
        async for _ in self.generation:
            self.at_s.append(time.perf_counter())
            if len(self.at_s) == self.mark:
                self.marked.set()
        assert self.generation.answer is not None
        return self.generation.answer

    async def seams(self, node: InferenceNode) -> list[Seam]:
        """After the end. The fault-free text is made by the worker that ended it."""
        answer = self.generation.answer
        assert answer is not None
        if not self.generation.failovers:
            return []
        calm = await node.complete(PROMPT, worker=answer.worker, **self._options())
        equal = calm.text == answer.text and calm.attempts == 1 and answer.verified
        return [
            Seam((self.at_s[s.index] - self.at_s[s.index - 1]) * 1_000, equal, s.resume)
            for s in self.generation.failovers
            if 0 < s.index < len(self.at_s)
        ]


class Pair:
    """Two workers of one model, whoever is struck is replaced."""

    def __init__(self, node: InferenceNode, model: str) -> None:
        self.node, self.model = node, model
        self.workers: dict[str, Worker] = {}
        self.started = 0

    async def fill(self) -> None:
        while len(self.workers) < 2:
            self.started += 1  # a key of its own, also where the key of a killed one is free again
            name = {"LLAMA_GOSSIP_NAME": f"bench-{self.started}"}
            worker = await asyncio.to_thread(start_worker, self.model, **name)
            self.workers[worker.node_id] = worker
        await until_ready(self.node, self.workers)

    async def round(self, number: signal.Signals, answers: int, tokens: int, seed: int) -> list[Seam]:
        """One worker gets the signal while it answers; the seams of what it had."""
        await self.fill()
        mark = random.Random(seed).randrange(5, 40)
        readers = [Reader(self.node, seed + n, tokens, mark) for n in range(answers)]
        reading = asyncio.gather(*(reader.read() for reader in readers))
        await asyncio.gather(*(reader.marked.wait() for reader in readers))
        struck = readers[0].generation.worker
        assert struck is not None
        worker = self.workers.pop(struck)
        worker.process.send_signal(number)
        await reading
        worker.process.kill()
        worker.process.communicate()
        return [seam for reader in readers for seam in await reader.seams(self.node)]

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.stop()


@asynccontextmanager
async def pair(model: str) -> AsyncIterator[Pair]:
    async with InferenceNode.open() as node:
        both = Pair(node, model)
        try:
            yield both
        finally:
            await asyncio.to_thread(both.stop)


async def struck(number: signal.Signals, rounds: int, answers: int, tokens: int, model: str) -> list[Seam]:
    seams: list[Seam] = []
    async with pair(model) as both:
        for turn in range(rounds):
            seams += await both.round(number, answers, tokens, 100 * turn)
    return seams


async def failing(answers: int) -> list[Seam]:
    """Every attempt's engine fails after 25 tokens."""
    async with pair(f"{SCRIPTED},fail_after=25") as both:
        await both.fill()
        readers = [Reader(both.node, seed, 120) for seed in range(answers)]
        await asyncio.gather(*(reader.read() for reader in readers))
        gaps = [
            (reader.at_s[s.index] - reader.at_s[s.index - 1]) * 1_000
            for reader in readers
            for s in reader.generation.failovers
        ]
        texts = {r.seed: r.generation.answer.text for r in readers if r.generation.answer is not None}
    async with pair(SCRIPTED) as calm:
        await calm.fill()
        equal = [
            (await calm.node.complete(PROMPT, max_tokens=120, seed=s, ignore_eos=True)).text == text
            for s, text in texts.items()
        ]
    return [Seam(gap, all(equal), "exact") for gap in gaps]


async def measure(plan: Plan) -> Figures:
    failed = await failing(plan.fails)
    terminated = await struck(signal.SIGTERM, plan.terms, plan.answers, TERM_TOKENS, SCRIPTED)
    killed = await struck(signal.SIGKILL, plan.kills, plan.answers, 150, SCRIPTED)
    stopped = await struck(signal.SIGSTOP, plan.stops, plan.answers, 150, SCRIPTED)
    real = await struck(signal.SIGKILL, plan.real_kills, 2, 60, REAL_MODEL) if plan.real_kills else []
    kinds = {
        "engine_failed": failed,
        "sigterm": terminated,
        "sigkill": killed,
        "sigstop": stopped,
        "closed": [*failed, *terminated],
        "silent": [*killed, *stopped],
        "real_model_sigkill": real,
    }
    figures: dict[str, Any] = {}
    for kind, seams in kinds.items():
        figures |= spread(kind, [seam.gap_ms for seam in seams])
    every = [*failed, *terminated, *killed, *stopped, *real]
    figures["text_equal"] = sum(seam.equal for seam in every) / len(every)
    figures["resumed_exactly"] = sum(seam.resume == "exact" for seam in every) / len(every)
    return figures


def spread(kind: str, gaps_ms: Sequence[float]) -> dict[str, Any]:
    if not gaps_ms:
        return {}
    ordered = sorted(gaps_ms)
    return {
        f"{kind}_gap_ms_p50": statistics.median(ordered),
        f"{kind}_gap_ms_p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        f"{kind}_gap_ms_max": ordered[-1],
        f"{kind}_seams": len(ordered),
    }


if __name__ == "__main__":
    sys.exit(main(__doc__, BARS, measure, Plan(), QUICK))
