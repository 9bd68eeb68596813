"""Worker processes for the failover tests: started by the public command, struck in mid-answer."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llama_gossip import Answer, InferenceNode, NoWorkers, PeerFailed
from llama_gossip.directories import Directories
from llama_gossip.generation import Generation
from tests.cli.cli_process import Running
from tests.support.models import shared_models_dir

from .conftest import eventually

LOAD_S = 240.0  # torch's import and the model, on a slow machine that is busy
CALM_TRIES = 3
MEMBER_S = 120.0  # several times the longest back-off of a rejoin
PROMPT = "Tell me about foxes."


@dataclass
class Stage:
    """One client node in this process, and workers in processes of their own; all of one user."""

    home: Path
    client: InferenceNode
    workers: dict[str, Running] = field(default_factory=dict)  # by node id
    struck: list[str] = field(default_factory=list)  # who got a signal, in this order
    _names: Iterator[int] = field(default_factory=itertools.count)

    async def start(
        self, model: str, count: int = 1, name: str | None = None, options: Sequence[str] = ()
    ) -> list[str]:
        """More workers; their node ids, once the client has seen them ready. name: the key of one alone."""
        command = ("worker", "--json", "--model", model, *options)
        models = str(shared_models_dir())
        started = [
            Running(
                self.home,
                *command,
                "--name",
                name or f"worker-{next(self._names)}",  # that of a killed worker is free again
                LLAMA_GOSSIP_MODELS=models,
                OMP_NUM_THREADS="1",
            )
            for _ in range(count)
        ]
        self.workers |= {f"process {running.process.pid}": running for running in started}
        ids = []
        for running in started:
            ready = await asyncio.to_thread(running.event, "ready", LOAD_S)
            del self.workers[f"process {running.process.pid}"]
            self.workers[ready["node_id"]] = running
            ids.append(str(ready["node_id"]))
        await eventually(lambda: set(ids) <= self.seen(), "the client sees the workers")
        return ids

    def engine_of(self, worker: str) -> int:
        """The process of a worker's engine, begun with --engine-process."""
        pid = self.workers[worker].process.pid
        (child,) = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        return child

    def seen(self) -> set[str]:
        return {peer.node_id for peer in self.client.peers() if peer.state == "ready"}

    def signal(self, worker: str, number: signal.Signals) -> None:
        self.struck.append(worker)
        self.workers[worker].signal(number)

    async def answer(self, generation: Generation, at: int, strike: Callable[[str], object]) -> Answer:
        """Reads to the end; `strike` is told the serving worker as soon as token `at` is there."""
        async for token in generation:
            if token.index == at:
                strike(generation.worker or "")
        assert generation.answer is not None
        return generation.answer

    async def calm(self, *involved: str, **options: object) -> Answer:
        """The same answer without a fault, from a worker that had no part in what happened."""
        bystander = next(
            worker
            for worker, running in self.workers.items()
            if worker not in involved and running.process.poll() is None
        )
        for _ in range(CALM_TRIES):  # a machine that stands still for seconds makes faults of its own
            answer = await self.client.complete(PROMPT, worker=bystander, **options)
            if answer.attempts == 1:
                assert answer.resume is None
                return answer
        pytest.fail(f"no answer without a fault in {CALM_TRIES}")

    async def served_again(self, worker: str, **options: object) -> Answer:
        """An answer of this worker, as soon as it is a member again."""
        began_s = time.monotonic()
        while True:
            try:
                answer = await self.client.complete(PROMPT, worker=worker, **options)
            except (PeerFailed, NoWorkers):  # not yet: it is told within seconds
                if time.monotonic() - began_s > MEMBER_S:
                    raise
                continue
            print(f"served again {time.monotonic() - began_s:.1f} s after it was let go on")
            return answer

    def close(self) -> None:
        for running in self.workers.values():
            running.signal(signal.SIGCONT)
            running.__exit__(None, None, None)


@asynccontextmanager
async def stage(home: Path) -> AsyncIterator[Stage]:
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(home)})
    async with InferenceNode.open(name="client", dirs=dirs) as client:
        setting = Stage(home, client)
        try:
            yield setting
        finally:
            await asyncio.to_thread(setting.close)
