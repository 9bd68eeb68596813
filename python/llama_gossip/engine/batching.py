"""The batch: all rows of an engine step together, each with its own sampling, over any Forward.

The law: a step feeds every row that decodes and at most PREFILL_TOKENS of prompts, the oldest first; a row
holds its room from admission to its end, so nothing is ever thrown out to make place; a bad row fails alone,
and a step that fails ends its rows retryable while the others are fed again. Model thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llama_gossip.engine.base import EngineInfo, EngineJob, FailureCode
from llama_gossip.engine.batch_sampling import pick_rows
from llama_gossip.engine.detokenize import TokenBytes
from llama_gossip.engine.device import enter
from llama_gossip.engine.forward import CopySpan, Draw, Forward, Segment, Span
from llama_gossip.engine.jobs import Answer, JobError
from llama_gossip.engine.memory import FreeMemory, out_of_memory
from llama_gossip.engine.pool import MEMORY_SHARE, Pool
from llama_gossip.engine.prefix_cache import KEPT_SPANS, PrefixCache, chain_root
from llama_gossip.engine.prompt import PromptReader
from llama_gossip.engine.rows import Ended, Outcome, PoolUse, Prefilled, Sampled
from llama_gossip.engine.sampling import NotFinite, Pick, Sampler, to_wire
from llama_gossip.engine.threads import Threads, chosen

if TYPE_CHECKING:
    from llama_gossip.engine.device import Placement
    from llama_gossip.engine.model_facts import ModelFacts
    from llama_gossip.protocol.messages import NumericsClass

PREFILL_TOKENS: Final = 256  # of prompts a step: what a cancel or another row's next token waits for

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A forward that has been checked, and what may be said of it."""

    forward: Forward
    dtype: str
    numerics_id: str
    numerics_class: NumericsClass
    weight_bytes: int
    copy: CopySpan | None  # None: its spans cannot be copied, so none is kept for another row
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that raised."""

    memory: bool  # for want of it: the next pool is a smaller one


@dataclass(slots=True, eq=False)
class BatchRow:
    """One request. `fed` counts ids whose keys and values are in the span."""

    answer: Answer
    ids: list[int]  # prompt, resumed part, and what has been made
    sampler: Sampler
    root: bytes  # of its prefix chain
    room: PrefixCache | None = None  # that its span is of
    span: Span | None = None
    fed: int = 0
    number: int = 0  # by admission
    sound: bool = True  # what the span holds may serve another row

    @property
    def longest(self) -> int:
        """Tokens at its end."""
        return len(self.ids) + max(0, self.answer.most - self.answer.made)


class Batch:
    """A SteppedModel. `opener` makes and checks the forward, in the model thread."""

    def __init__(
        self,
        facts: ModelFacts,
        opener: Callable[[], Opened],
        placement: Placement,
        *,
        max_concurrent: int,
        threads: int | None,
        pool_bytes: int | None = None,
    ) -> None:
        """pool_bytes: of memory, that keys and values may take; None: a share of what is free."""
        self._facts = facts
        self._opener = opener
        self._placement = placement
        self._max_concurrent = max_concurrent
        self._pool_bytes = pool_bytes
        self._asked_threads = threads
        self.threads: Threads
        self._eos = frozenset(facts.eos_ids)
        self._table = TokenBytes(facts.tokenizer)
        self._forward: Forward
        self._copy: CopySpan | None
        self._reader: PromptReader
        self._pool: Pool
        self._use = PoolUse()  # of the pool, told to other threads
        self._free = FreeMemory(placement.device)
        self._numerics_id = ""
        self._admitted = 0
        self._rows: dict[int, BatchRow] = {}  # from admission to release, by number

    # --- at load ---------------------------------------------------------------------------------

    def open(self) -> EngineInfo:
        import torch

        enter(self._placement.device, self._asked_threads)
        most = torch.get_num_threads()
        facts, opened = self._facts, self._opener()
        self._forward, self._copy, self._numerics_id = opened.forward, opened.copy, opened.numerics_id
        self._pool = Pool(
            self._forward,
            self._free,
            context=facts.context,
            rows=self._max_concurrent,
            kept=0 if opened.copy is None else KEPT_SPANS,
            share=MEMORY_SHARE,
            most_bytes=self._pool_bytes,
        )
        self._use = self._pool.use()
        context = self._pool.context
        notes = (*self._placement.notes, *facts.notes, *opened.notes)
        if context < facts.context:
            notes += (f"the context is {context} of {facts.context} tokens: memory allows no more",)
        self._reader = self._make_reader(context)
        free = self._placement.device == "cpu" and self._asked_threads is None
        self.threads, tokens_per_s = chosen(self._forward, self._pool.blocks, most, free=free)
        return EngineInfo(
            model=facts.name,
            model_digest=facts.model_digest,
            numerics_id=opened.numerics_id,
            numerics_class=opened.numerics_class,
            backend="torch",
            device=self._placement.label,
            dtype=opened.dtype,
            quantisation=facts.quantisation,
            context=context,
            max_concurrent=self._max_concurrent,
            notes=notes,
            tokens_per_s=tokens_per_s,
            memory_bytes=opened.weight_bytes,
            pool_bytes=self._pool.bytes,
        )

    def _make_reader(self, context: int) -> PromptReader:
        facts = self._facts
        return PromptReader(
            tokenizer=facts.tokenizer,
            table=self._table,
            chat_template=facts.chat_template,
            bos_id=facts.bos_id,
            add_bos=facts.add_bos,
            vocabulary=self._forward.vocabulary,
            context=context,
            specials={"bos_token": facts.bos_token, "eos_token": facts.eos_token},
        )

    # --- rows ------------------------------------------------------------------------------------

    def read(self, job: EngineJob) -> BatchRow:
        ids, answer = self._reader.read(job)
        root = chain_root(self._facts.model_digest, self._numerics_id, job.owner)
        return BatchRow(answer, [*ids, *answer.replayed], Sampler(job.config, ids, answer.replayed), root)

    def admit(self, row: BatchRow) -> bool:
        room = self._pool.room
        granted = room.take(row.root, row.ids, row.longest)
        if granted is None:
            return False
        row.room, row.span, row.fed = room, granted.span, granted.cached
        if granted.source is not None and self._copy is not None:
            try:
                self._copy(granted.source, granted.span, granted.cached)
            except Exception:  # a device may refuse anything; the row is fed instead
                log.exception("keys and values could not be copied")
                row.fed = 0
        self._admitted += 1
        row.number = self._admitted
        self._rows[row.number] = row
        row.answer.cached = row.fed
        self._use = self._pool.use()
        return True

    def release(self, row: BatchRow) -> None:
        span, row.span = row.span, None
        self._rows.pop(row.number, None)
        if span is not None and row.room is not None:
            row.room.give(span, row.root, row.ids[: row.fed] if row.sound else ())
            self._use = self._pool.use()

    def ready_at_s(self) -> float:
        return 0.0

    # --- a step ----------------------------------------------------------------------------------

    def step(self, rows: Sequence[BatchRow]) -> list[tuple[BatchRow, Outcome]]:
        lost = [row for row in rows if row.room is not self._pool.room]
        plan = _plan([row for row in rows if row not in lost])
        self.threads.use(sum(len(segment.ids) for _, segment in plan))
        outcomes: list[tuple[BatchRow, Outcome]] = [(row, _failed()) for row in lost]
        picks = self._run(plan)
        if not isinstance(picks, list):
            return outcomes + self._begin_anew(plan, picks)
        self._free.read()
        drawn = []
        for row, segment in plan:
            row.fed += len(segment.ids)
            if segment.draw is None:
                outcomes.append((row, Prefilled(100 * row.fed // len(row.ids))))
            else:
                drawn.append(row)
        outcomes += [(row, self._taken(row, pick)) for row, pick in zip(drawn, picks, strict=True)]
        return outcomes

    def _run(self, plan: Sequence[tuple[BatchRow, Segment]]) -> list[Pick | NotFinite] | Refusal:
        """The picks of the rows that draw. What fails is over when this returns: an error's frames hold
        memory."""
        drawn = [row for row, segment in plan if segment.draw is not None]
        try:
            logits = self._forward.run([segment for _, segment in plan])
            return pick_rows(logits, [row.sampler for row in drawn], [len(row.ids) for row in drawn])
        except Exception as error:  # an operator may raise anything, and the pool is then in no known state
            log.exception("a step of the model failed")
            return Refusal(memory=out_of_memory(error))

    def _taken(self, row: BatchRow, pick: Pick | NotFinite) -> Outcome:
        if isinstance(pick, NotFinite):
            row.sound = False
            return JobError(FailureCode.NOT_FINITE, "the model's logits are not finite")
        if pick.token_id in self._eos and not row.answer.job.config.ignore_eos:
            return Ended()
        row.ids.append(pick.token_id)
        row.sampler.seen(pick.token_id)
        return Sampled(pick.token_id, to_wire(pick, self._table.text))

    def _begin_anew(
        self, plan: Sequence[tuple[BatchRow, Segment]], refusal: Refusal
    ) -> list[tuple[BatchRow, Outcome]]:
        """A new pool: the rows of the step fail, those that waited for a later one are fed again."""
        for row in self._rows.values():
            row.fed = 0
        for row, _ in plan:
            row.sound = False
        self._pool.renew(smaller=refusal.memory)
        return [(row, _failed()) for row, _ in plan]

    # --- memory and ends -------------------------------------------------------------------------

    def memory_free(self) -> int:
        return self._free.bytes

    def pool_use(self) -> PoolUse:
        return self._use

    def interrupt(self) -> None:
        """A forward cannot be interrupted; the thread ends after it."""

    def close(self) -> None:
        self._forward.close()


def _failed() -> JobError:
    return JobError(FailureCode.ENGINE, "the model's step failed")


def _plan(rows: Sequence[BatchRow]) -> list[tuple[BatchRow, Segment]]:
    """What each row is fed in this step, rows by admission."""
    left = PREFILL_TOKENS
    plan = []
    for row in sorted(rows, key=lambda row: row.number):
        if row.span is None:
            raise RuntimeError("a row without room is stepped")
        count = len(row.ids) - row.fed
        if count > 1:
            count = min(count, left)
            left -= count
        if count:
            plan.append((row, _segment(row, row.span, count)))
    return plan


def _segment(row: BatchRow, span: Span, count: int) -> Segment:
    ids = row.ids[row.fed : row.fed + count]
    if row.fed + count < len(row.ids):
        return Segment(span, row.fed, ids, None)
    config = row.answer.job.config
    return Segment(span, row.fed, ids, Draw(config.temperature, config.seed, len(row.ids)))
