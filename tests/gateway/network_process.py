"""A network as users run one: workers and a gateway, each a process of its own, all of one user."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.cli.cli_process import READY_S, Running
from tests.support.models import shared_models_dir

KEPT = ("PATH", "LANG", "PYTHONDONTWRITEBYTECODE")  # of the environment, for foreign programs


@dataclass
class Network:
    """`url` is the gateway's; workers stand by their node id."""

    home: Path
    gateway: Running
    url: str
    http: httpx2.Client
    options: Sequence[str] = ()  # of the workers
    workers: dict[str, Running] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def base_url(self) -> str:
        """What OpenAI's clients are told."""
        return f"{self.url}/v1"

    def start(self, *models: str) -> list[str]:
        """One worker for each model, all at once; their node ids, once the gateway has seen them ready."""
        started = [
            Running(
                self.home,
                "worker",
                "--json",
                "--name",
                f"worker-{next(self._numbers)}",
                "--model",
                model,
                *self.options,
                LLAMA_GOSSIP_MODELS=str(shared_models_dir()),
                OMP_NUM_THREADS="1",
            )
            for model in models
        ]
        self.workers |= {f"process {running.process.pid}": running for running in started}
        for running in started:
            node_id = running.event("ready")["node_id"]
            del self.workers[f"process {running.process.pid}"]
            self.workers[node_id] = running
            self.gateway.event_so_far("peer_up", node_id=node_id)
        return list(self.workers)[-len(started) :]

    def open_requests(self) -> dict[str, set[str]]:
        """What each worker has accepted and not ended."""
        found = {}
        for worker, running in self.workers.items():
            events = running.events_now()
            ended = {event["request_id"] for event in events if event["event"] == "request_end"}
            accepted = {event["request_id"] for event in events if event["event"] == "request"}
            found[worker] = accepted - ended
        return found

    def kill(self, worker: str) -> None:
        """As the kernel does it: without a word."""
        self.workers.pop(worker).__exit__(None, None, None)

    def close(self) -> None:
        for running in (*self.workers.values(), self.gateway):
            running.__exit__(None, None, None)


@contextmanager
def network(home: Path, models: Sequence[str], options: Sequence[str] = ()) -> Iterator[Network]:
    """A gateway on a port of its own, and one worker for each model. options: the workers'."""
    gateway = Running(home, "gateway", "--json", "--name", "gateway", "--port", "0")
    with httpx2.Client(trust_env=False, timeout=READY_S) as http:
        one = Network(home, gateway, "", http, options)
        try:
            one.start(*models)
            one.url = gateway.event_so_far("ready")["url"]
            http.base_url = one.url
            yield one
        finally:
            one.close()


def program_environment(home: Path, **more: str) -> dict[str, str]:
    """For foreign programs: no key, proxy or settings of whoever runs the tests, and a home of their own."""
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "PYTHONDONTWRITEBYTECODE") if name in os.environ
    }
    return {**kept, "HOME": str(home), **more}
