"""Engine bridge: one engine behind the core. Jobs go in, the engine's batches come out as core events.

The engine calls its sink from its own thread; the bridge hands each batch to the loop in one call, so a
step of many rows costs one wake-up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import assert_never

from llama_gossip.engine import base
from llama_gossip.histogram import Histogram
from llama_gossip.meters import Gaps
from llama_gossip.protocol import effects, events
from llama_gossip.protocol.messages import Capacity, ModelOffer, Phase, PromptFacts


class EngineBridge:
    """Owns the engine from `start` to `close`."""

    def __init__(
        self,
        engine: base.Engine,
        feed: Callable[[events.Event], None],
        *,
        trusted: bool,
        look: Callable[[], None],
        made: Histogram | None = None,
    ) -> None:
        """trusted: the members may share prefixes, whose speed tells that another has sent the same. look:
        called when the engine may take no jobs any more, before the core hears of those that it has lost.
        made: observes the times between the tokens of each job."""
        self.engine = engine
        self._feed = feed
        self._look = look
        self._trusted = trusted
        self._gaps = None if made is None else Gaps(made)
        self._loop = asyncio.get_running_loop()

    @property
    def model(self) -> str:
        return self.engine.info.model

    def start(self) -> None:
        self.engine.start(self._from_engine_thread)

    def submit(self, start: effects.StartJob) -> None:
        self.engine.submit(
            base.EngineJob(
                job_id=start.job,
                prompt=start.prompt,
                config=start.config,
                date=start.date,
                resume=start.resume,
                deadline_ms=start.deadline_ms,
                owner=None if self._trusted else start.requester,
            )
        )

    def cancel(self, job: int) -> None:
        self.engine.cancel(job)

    def park(self, job: int) -> None:
        self.engine.park(job)

    def unpark(self, job: int) -> None:
        self.engine.unpark(job)

    def capacity(self) -> Capacity:
        """What the node announces about this engine, measured now."""
        info, load = self.engine.info, self.engine.load()
        offer = ModelOffer(
            info.model,
            info.model_digest,
            info.context,
            info.quantisation,
            info.numerics_id,
            info.numerics_class,
        )
        return Capacity(
            backend=info.backend,
            device=info.device,
            models=(offer,),
            max_concurrent=info.max_concurrent,
            current_load=load.running,
            queue_depth=load.queued,
            queue_ms=0,
            tokens_per_s=load.tokens_per_s or info.tokens_per_s,
            memory_free=load.memory_free,
        )

    def state(self) -> base.EngineState:
        return self.engine.load().state

    def close(self) -> None:
        self.engine.close()

    def _from_engine_thread(self, batch: Sequence[base.EngineEvent]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_loop, tuple(batch))
        except RuntimeError:  # the loop has closed: nobody waits for these any more
            return

    def _on_loop(self, batch: tuple[base.EngineEvent, ...]) -> None:
        self._feed(events.EngineStepped())
        self._measure(batch)
        if any(isinstance(event, base.JobFailed) and event.code is base.FailureCode.LOST for event in batch):
            self._look()  # first: a freed slot must not be filled from the queue
        for event in batch:
            try:
                self._feed(self._translated(event))
            except Exception as error:  # noqa: BLE001  the rest of the batch ends other jobs
                message = "llama-gossip: an event of the engine could not be handled"
                self._loop.call_exception_handler({"message": message, "exception": error})

    def _measure(self, batch: tuple[base.EngineEvent, ...]) -> None:
        if (gaps := self._gaps) is None:
            return
        now_s = time.perf_counter()
        for event in batch:
            if isinstance(event, base.JobTokens):
                gaps.tokens(event.job_id, len(event.texts), now_s)
            elif isinstance(event, base.JobDone | base.JobFailed):
                gaps.over(event.job_id)

    def _translated(self, event: base.EngineEvent) -> events.Event:
        match event:
            case base.JobStarted():
                return events.EngineStarted(event.job_id, self._facts(event))
            case base.JobPrefill():
                return events.EngineProgress(event.job_id, Phase.PREFILL, event.percent)
            case base.JobTokens():
                return events.EngineTokens(
                    event.job_id, event.index, event.token_ids, event.texts, event.logprobs
                )
            case base.JobDone():
                return events.EngineDone(
                    event.job_id,
                    event.finish_reason,
                    event.total_tokens,
                    event.prompt_tokens,
                    event.text_digest,
                    self.engine.info.model_digest,
                )
            case base.JobFailed():
                return events.EngineFailed(event.job_id, str(event.code), event.message, event.retryable)
            case _:
                assert_never(event)

    def _facts(self, started: base.JobStarted) -> PromptFacts:
        info = self.engine.info
        return PromptFacts(
            started.prompt_tokens,
            started.prompt_digest,
            info.model_digest,
            info.numerics_id,
            info.numerics_class,
        )
