"""Steady: whether memory stays flat while the engine answers 2 000 requests.

Prompts, lengths and sampling of all kinds on 16 slots, some cancelled, some refused. `rss_growth_mib`: the
resident memory after the last request over that after 200, when pools, caches and threads are there.
Runs without the native extension.

    benches/steady.py [--quick] [--json] [--model NAME] [--requests N]
"""

from __future__ import annotations

import argparse
import queue
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from llama_gossip.engine.base import Engine, EngineEvent, EngineJob, JobDone, JobFailed
from llama_gossip.engine.device import prepare_environment
from llama_gossip.engine.load import load_engine
from llama_gossip.protocol.messages import GenerationConfig, IdsPrompt
from reporting import Figures, tell

SLOTS: Final = 16
WARM: Final = 200  # requests
LOOKS: Final = 10  # at the memory, behind the warm ones
VOCABULARY: Final = 200  # of the prompts: what even the smallest model has
DATE: Final = "2026-11-28"
EVENT_S: Final = 120.0  # without an event an engine hangs
BARS: Final = {"rss_growth_mib": ("<=", 20.0)}


def rss_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def jobs(count: int) -> Iterator[EngineJob]:
    chance = random.Random(3)
    for number in range(count):
        length = chance.choice((3, 8, 15, 17, 40))
        ids = tuple(chance.randrange(3, VOCABULARY) for _ in range(length))
        config = GenerationConfig(
            max_tokens=chance.randrange(1, 13),
            temperature=chance.choice((0.0, 0.7, 1.0)),
            top_p=chance.choice((0.9, 1.0)),
            top_k=chance.choice((None, 40)),
            seed=number,
            ignore_eos=True,
            logprobs=chance.choice((None, None, 3)),
            repetition=chance.choice((1.0, 1.0, 1.2)),
        )
        if number % 50 == 7:  # refused
            ids = (*ids, 10**8)
        yield EngineJob(number, IdsPrompt(ids), config, DATE)


def answered(engine: Engine, count: int, looks: Sequence[int]) -> list[float]:
    """Resident memory, MiB, when so many requests had ended. At most twice SLOTS wait or run at once."""
    events: queue.SimpleQueue[Sequence[EngineEvent]] = queue.SimpleQueue()
    engine.start(events.put)
    waiting, ended, found = jobs(count), 0, []
    for _ in range(2 * SLOTS):
        engine.submit(next(waiting))
    while ended < count:
        for event in events.get(timeout=EVENT_S):
            if not isinstance(event, JobDone | JobFailed):
                continue
            ended += 1
            if ended in looks:
                found.append(rss_mib())
            if (job := next(waiting, None)) is not None:
                engine.submit(job)
                if job.job_id % 40 == 11:
                    engine.cancel(job.job_id)
    return found


def measure(model: str, requests: int) -> Figures:
    engine = load_engine(model, max_concurrent=SLOTS)
    every = (requests - WARM) // LOOKS
    looks = range(WARM, requests + 1, every)
    try:
        found = answered(engine, requests, looks)
    finally:
        engine.close()
    return {
        "model": model,
        "dtype": engine.info.dtype,
        "requests": requests,
        "rss_mib": [round(look, 1) for look in found],
        "rss_growth_mib": found[-1] - found[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the tests' model instead of the real one")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")
    parser.add_argument("--model", help="by name")
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    if options.requests < 2 * WARM:
        parser.error(f"--requests is at least {2 * WARM}")
    prepare_environment()
    figures = measure(options.model or ("tiny-random" if options.quick else "smollm2-135m"), options.requests)
    tell(figures, BARS, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
