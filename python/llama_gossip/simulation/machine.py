"""Machine: the engine of one simulated worker, driven by the core's effects as the real one is.

The law is the engine's own: after a start exactly one EngineDone or EngineFailed follows, also after a
cancel; nothing follows it. A hung machine breaks it on purpose and says nothing until it is mended.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.limits import MAX_ANNOUNCED_MODELS
from llama_gossip.protocol.messages import Capacity, ModelOffer, NumericsClass, Phase, PromptFacts
from llama_gossip.simulation.answers import WEIGHTS, WholeAnswer, answer_to
from llama_gossip.simulation.clock import Clock

MODEL = "tiny"
CONTEXT = 4_096
NUMERICS = "simulation-1"
START_MS = 2  # tokenising
CANCEL_MS = 3  # one step of a fast model
PLANNED = "as the simulation has planned"  # what it says of a failure
STEPPED_MS = 500  # how often a machine in a long step says that it steps at all


@dataclass(slots=True)
class Run:
    job: int
    answer: WholeAnswer
    index: int  # of the next token
    made: Callable[[int, int], None]  # told which tokens: from, and up to
    fail_at: int | None = None
    parked: bool = False
    waiting: Callable[[Run], None] | None = None  # the step that it would take, were it not parked
    ended: bool = False


class Machine:
    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        tell: Callable[[ev.Event], None],
        *,
        slots: int,
        step_ms: int,
        step_tokens: int,
        prefill_ms: int,
    ) -> None:
        self.crowded = False  # it has more models than an Announce holds, and the one that is asked for last
        self.slots = slots
        self.step_ms = step_ms
        self.step_tokens = step_tokens
        self.prefill_ms = prefill_ms
        self.slowness = 1  # times slower than it says
        self.hung = False
        self._hung_at_ms = 0
        self._work_since_ms = 0
        self.failing = 0.0  # share of the jobs that fail
        self.runs: dict[int, Run] = {}
        self.on_end: Callable[[int], None] = lambda job: None
        self._clock = clock
        self._rng = rng
        self._tell = tell
        self._stepping = False
        self._stopped = False  # its process is
        self._held: list[tuple[Callable[[Run], None], Run]] = []

    def capacity(self) -> Capacity:
        others = [f"other-{number}" for number in range(MAX_ANNOUNCED_MODELS)] if self.crowded else []
        models = tuple(
            ModelOffer(name, WEIGHTS, CONTEXT, "none", NUMERICS, NumericsClass.EXACT)
            for name in (*others, MODEL)
        )
        speed = self.step_tokens * 1_000 / self.step_ms
        return Capacity("simulation", "cpu", models, self.slots, 0, 0, 0, speed, 1 << 30)

    def start(self, job: ef.StartJob, *, made: Callable[[int, int], None]) -> None:
        answer = answer_to(job.prompt, job.config.seed, job.config.max_tokens)
        resume = job.resume
        run = Run(job.job, answer, 0 if resume is None else resume.from_index, made)
        if all(other.parked for other in self.runs.values()):
            self._work_since_ms = self._clock.now_ms
        self.runs[job.job] = run
        if resume is not None and not answer.continues(resume):
            self._clock.after(START_MS, self._fail, run, "bad_request", False)
            return
        if self._rng.random() < self.failing:
            run.fail_at = self._rng.randint(run.index, len(answer.texts))
        self._clock.after(START_MS, self._begin, run)
        if not self._stepping:
            self._stepping = True
            self._clock.after(STEPPED_MS, self._step_sign)

    def hang(self) -> None:
        if not self.hung:
            self.hung, self._hung_at_ms = True, self._clock.now_ms

    def hung_for_ms(self) -> int:
        """For how long it has had work and done nothing."""
        since_ms = max(self._hung_at_ms, self._work_since_ms)
        works = any(not run.parked for run in self.runs.values())
        return self._clock.now_ms - since_ms if self.hung and works else 0

    def cancel(self, job: int) -> None:
        run = self.runs.get(job)
        if run is not None:
            self._clock.after(CANCEL_MS, self._fail, run, "cancelled", False)

    def park(self, job: int) -> None:
        if (run := self.runs.get(job)) is not None:
            run.parked = True

    def unpark(self, job: int) -> None:
        run = self.runs.get(job)
        if run is None or not run.parked:
            return
        if all(other.parked for other in self.runs.values()):
            self._work_since_ms = self._clock.now_ms
        run.parked = False
        step, run.waiting = run.waiting, None
        if step is not None:
            self._clock.after(0, step, run)

    def lose_all(self) -> None:
        """The engine is replaced: what it had is lost."""
        self.hung = False
        self.slowness = 1
        for run in list(self.runs.values()):
            self._fail(run, "engine_lost", True)

    def pause(self) -> None:
        self._stopped = True

    def resume(self) -> None:
        self._stopped = False
        held, self._held = self._held, []
        for step, run in held:
            step(run)

    def vanish(self) -> None:
        """The process is gone, and nobody is told."""
        for run in self.runs.values():
            run.ended = True
        self.runs.clear()
        self._stopped = False
        self._held.clear()

    # --- steps ---

    def _begin(self, run: Run) -> None:
        if run.ended or self.hung:
            return
        if self._stopped:
            self._held.append((self._begin, run))
            return
        answer = run.answer
        facts = PromptFacts(
            answer.prompt_tokens, answer.prompt_digest, WEIGHTS, NUMERICS, NumericsClass.EXACT
        )
        self._tell(ev.EngineStarted(run.job, facts))
        prefill_ms = self.prefill_ms * self.slowness
        if prefill_ms >= 2 * STEPPED_MS:
            self._clock.after(prefill_ms // 2, self._half_prefilled, run)
        self._clock.after(prefill_ms, self._step, run)

    def _half_prefilled(self, run: Run) -> None:
        if not run.ended and not self.hung:
            self._tell(ev.EngineProgress(run.job, Phase.PREFILL, 50))

    def _step(self, run: Run) -> None:
        if run.ended or self.hung:
            return
        if self._stopped:
            self._held.append((self._step, run))
            return
        if run.parked:
            run.waiting = self._step
            return
        answer, index = run.answer, run.index
        if run.fail_at is not None and index >= run.fail_at:
            self._fail(run, "engine_failed", True)
            return
        if index >= len(answer.texts):
            self._done(run)
            return
        run.index = end = min(index + self.step_tokens, len(answer.texts))
        run.made(index, end)
        self._tell(ev.EngineTokens(run.job, index, answer.ids[index:end], answer.texts[index:end]))
        if end >= len(answer.texts) and run.fail_at is None:
            self._done(run)
        else:
            self._clock.after(self.step_ms * self.slowness, self._step, run)

    def _step_sign(self) -> None:
        self._stepping = bool(self.runs)
        if self._stepping:
            if not self.hung and not self._stopped:
                self._tell(ev.EngineStepped())
            self._clock.after(STEPPED_MS, self._step_sign)

    def _done(self, run: Run) -> None:
        if run.ended:
            return
        self._over(run)
        answer = run.answer
        total = max(run.index, len(answer.texts))
        self._tell(
            ev.EngineDone(
                run.job, answer.finish_reason, total, answer.prompt_tokens, answer.text_digest, WEIGHTS
            )
        )

    def _fail(self, run: Run, code: str, retryable: bool) -> None:
        if not run.ended and not (self.hung and code == "cancelled"):
            self._over(run)
            self._tell(ev.EngineFailed(run.job, code, PLANNED, retryable))

    def _over(self, run: Run) -> None:
        run.ended = True
        del self.runs[run.job]
        self.on_end(run.job)
