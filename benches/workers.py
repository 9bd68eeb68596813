"""Worker processes for the benches: started by the public command, ended with the bench."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_gossip import InferenceNode

STOP_S = 15


@contextmanager
def bench_home() -> Iterator[Path]:
    """A LLAMA_GOSSIP_HOME of its own for this bench; models come from where the user keeps them."""
    from llama_gossip.directories import Directories

    models = Directories.find().models
    before = {name: os.environ.get(name) for name in ("LLAMA_GOSSIP_HOME", "LLAMA_GOSSIP_MODELS")}
    with tempfile.TemporaryDirectory(prefix="llama-gossip-bench-") as home:
        os.environ.update(LLAMA_GOSSIP_HOME=home, LLAMA_GOSSIP_MODELS=str(models))
        try:
            yield Path(home)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class Worker:
    """One worker process and its `ready` event."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self.ready = self.read("ready")

    @property
    def node_id(self) -> str:
        return str(self.ready["node_id"])

    def read(self, event: str) -> dict[str, Any]:
        """The next event of that name on the worker's stdout; others are passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return found
            if found["event"] == "error":
                raise RuntimeError(f"a worker failed: {found['message']}")
        raise RuntimeError(f"a worker ended with exit code {self.process.wait()} before its {event} event")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def start_worker(model: str, **environment: str) -> Worker:
    """One more, ready; whoever starts it stops it."""
    return Worker([sys.executable, "-m", "llama_gossip", "worker", "--json", "--model", model], environment)


@contextmanager
def cli_workers(model: str, count: int, **environment: str) -> Iterator[list[Worker]]:
    """`count` workers serving `model`, started by `llama-gossip worker`."""
    with ExitStack() as stack:
        workers = []
        for _ in range(count):
            worker = start_worker(model, **environment)
            stack.callback(worker.stop)
            workers.append(worker)
        yield workers


@contextmanager
def timed_worker(model: str) -> Iterator[Worker]:
    """One worker that also reports each job's timings on the engine's own clock (benches/timed_worker.py)."""
    script = Path(__file__).with_name("timed_worker.py")
    worker = Worker([sys.executable, str(script), model], {})
    try:
        yield worker
    finally:
        worker.stop()


async def until_ready(node: InferenceNode, workers: Collection[str]) -> None:
    """Until `node` has seen these workers ready."""
    for _ in range(200):
        ready = {peer.node_id for peer in node.peers() if peer.state == "ready"}
        if ready.issuperset(workers):
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{len(workers)} workers were started, but only {node.peers()} were seen within 10 s")
