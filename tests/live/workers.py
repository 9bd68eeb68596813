"""Worker processes for the failover tests: started by the public command, struck in mid-answer."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llama_gossip import Answer, InferenceNode
from llama_gossip.directories import Directories
from llama_gossip.generation import Generation
from tests.cli.cli_process import Running
from tests.support.models import shared_models_dir

from .conftest import eventually

LOAD_S = 120.0  # torch's import and the model, on a busy machine
PROMPT = "Tell me about foxes."


@dataclass
class Stage:
    """One client node in this process, and workers in processes of their own; all of one user."""

    home: Path
    client: InferenceNode
    workers: dict[str, Running] = field(default_factory=dict)  # by node id
    _names: Iterator[int] = field(default_factory=itertools.count)

    async def start(self, model: str, count: int = 1) -> list[str]:
        """More workers; their node ids, once the client has seen them ready."""
        command = ("worker", "--json", "--model", model)
        models = str(shared_models_dir())
        started = [
            Running(
                self.home,
                *command,
                "--name",
                f"worker-{next(self._names)}",  # a key of its own: the one of a killed worker is free again
                LLAMA_GOSSIP_MODELS=models,
                OMP_NUM_THREADS="1",
            )
            for _ in range(count)
        ]
        ids = []
        for running in started:
            self.workers[f"starting {len(self.workers)}"] = running
            ready = await asyncio.to_thread(running.event, "ready", LOAD_S)
            self.workers = {name: one for name, one in self.workers.items() if one is not running}
            self.workers[ready["node_id"]] = running
            ids.append(str(ready["node_id"]))
        await eventually(lambda: set(ids) <= self.seen(), "the client sees the workers")
        return ids

    def seen(self) -> set[str]:
        return {peer.node_id for peer in self.client.peers() if peer.state == "ready"}

    def signal(self, worker: str, number: signal.Signals) -> None:
        self.workers[worker].signal(number)

    async def answer(self, generation: Generation, at: int, strike: Callable[[str], object]) -> Answer:
        """Reads to the end; `strike` is told the serving worker as soon as token `at` is there."""
        async for token in generation:
            if token.index == at:
                strike(generation.worker or "")
        assert generation.answer is not None
        return generation.answer

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
