"""Our engines as contenders, driven through the Engine interface as a node drives them."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from decoding import Meter, Prompts, Spent
from llama_gossip.engine.base import Engine, EngineEvent, EngineJob, JobDone, JobFailed, JobTokens
from llama_gossip.protocol.messages import GenerationConfig, IdsPrompt

EVENT_S: Final = 120.0  # without an event an engine hangs
DATE: Final = "2026-11-28"  # no template asks for it here
GREEDY: Final = GenerationConfig(temperature=0.0)


class OwnEngine:
    def __init__(self, engine: Engine, sampling: GenerationConfig = GREEDY) -> None:
        self._engine, self._sampling = engine, sampling
        self._events: queue.SimpleQueue[Sequence[EngineEvent]] = queue.SimpleQueue()
        self._ids = itertools.count()
        engine.start(self._events.put)

    def run(self, prompts: Prompts, new_tokens: int) -> Spent:
        rows = {next(self._ids): row for row in range(len(prompts))}
        meter = Meter(len(prompts))
        for job_id, row in rows.items():
            config = replace(self._sampling, max_tokens=new_tokens, seed=job_id, ignore_eos=True)
            self._engine.submit(EngineJob(job_id, IdsPrompt(tuple(prompts[row])), config, DATE))
        open_rows = len(rows)
        while open_rows:
            for event in self._events.get(timeout=EVENT_S):
                match event:
                    case JobTokens(job_id):
                        meter.tokens(rows[job_id], len(event.token_ids))
                    case JobDone():
                        open_rows -= 1
                    case JobFailed():
                        raise RuntimeError(f"the engine failed a job: {event.message}")
                    case _:
                        pass
        return meter.spent(len(prompts) * new_tokens)

    def close(self) -> None:
        self._engine.close()
