"""A worker that prints, for each job, what the engine's own clock says. For benches/throughput.py.

Usage: timed_worker.py MODEL. One NDJSON object a line: `ready`, then one `timings` a job, in job order.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence

from llama_gossip import InferenceNode, load_engine
from llama_gossip.engine.base import Engine, EngineEvent, EngineInfo, EngineJob, EngineLoad, JobDone, Sink

ONE_THREAD = 1  # the bench compares one torch thread with one torch thread


def tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class TimedEngine:
    """Passes everything through, and prints the timings of each job that is done."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def start(self, sink: Sink) -> None:
        def printing(batch: Sequence[EngineEvent]) -> None:
            sink(batch)
            for event in batch:
                if isinstance(event, JobDone):
                    tell(
                        "timings",
                        first_token_ms=event.timings.first_token_ms,
                        total_ms=event.timings.total_ms,
                    )

        self._engine.start(printing)

    def submit(self, job: EngineJob) -> None:
        self._engine.submit(job)

    def cancel(self, job_id: int) -> None:
        self._engine.cancel(job_id)

    def load(self) -> EngineLoad:
        return self._engine.load()

    def park(self, job_id: int) -> None:
        self._engine.park(job_id)

    def unpark(self, job_id: int) -> None:
        self._engine.unpark(job_id)

    def close(self, timeout_s: float = 2.0) -> None:
        self._engine.close(timeout_s)


async def main(model: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine = TimedEngine(load_engine(model, threads=ONE_THREAD))
    async with InferenceNode.open(engine=engine) as node:
        tell("ready", node_id=node.node_id.hex())
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
