"""The batch: all rows of an engine step together, each with its own sampling, over any Forward.

The law: a step feeds every row that decodes and at most PREFILL_TOKENS of prompts, the oldest first; a row
holds its room from admission to its end, so nothing is ever thrown out to make place; a bad row fails alone,
and a step that fails ends its rows retryable while the others are fed again. Model thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from llama_gossip.engine.base import EngineInfo, EngineJob, FailureCode
from llama_gossip.engine.batch_sampling import pick_rows
from llama_gossip.engine.detokenize import TokenBytes
from llama_gossip.engine.forward import BLOCK_TOKENS, Draw, Forward, Segment, Span
from llama_gossip.engine.jobs import Answer, JobError
from llama_gossip.engine.memory import cuda_memory_free, memory_available
from llama_gossip.engine.prefix_cache import KEPT_SPANS, PrefixCache, chain_root
from llama_gossip.engine.prompt import PromptReader
from llama_gossip.engine.rows import Ended, Outcome, Prefilled, Sampled
from llama_gossip.engine.sampling import NotFinite, Pick, Sampler, to_wire
from llama_gossip.engine.threads import Threads, chosen

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from llama_gossip.engine.device import Placement
    from llama_gossip.protocol.messages import NumericsClass

PREFILL_TOKENS: Final = 256  # of prompts a step: what a cancel or another row's next token waits for
MEMORY_INTERVAL_S: Final = 1.0  # asking a GPU more often would cost steps
MEMORY_SHARE: Final = 0.5  # of free memory that keys and values may take

log = logging.getLogger(__name__)


class ModelFacts(Protocol):
    """What a batch must know of a model beside its forward. A Checkpoint has it."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def bos_token(self) -> str: ...
    @property
    def eos_token(self) -> str: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    @property
    def add_bos(self) -> bool: ...
    @property
    def context(self) -> int: ...
    @property
    def model_digest(self) -> bytes: ...
    @property
    def quantisation(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A forward that has been checked, and what may be said of it."""

    forward: Forward
    dtype: str
    numerics_id: str
    numerics_class: NumericsClass
    weight_bytes: int
    keeps_prefixes: bool = True  # its spans can be copied and taken over
    notes: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class BatchRow:
    """One request. `fed` counts ids whose keys and values are in the span."""

    answer: Answer
    ids: list[int]  # prompt, resumed part, and what has been made
    sampler: Sampler
    root: bytes  # of its prefix chain
    span: Span | None = None
    fed: int = 0
    number: int = 0  # by admission
    sound: bool = True  # what the span holds may serve another row

    @property
    def longest(self) -> int:
        """Tokens at its end."""
        return len(self.ids) + max(0, self.answer.job.config.max_tokens - self.answer.made)


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
        self._reader: PromptReader
        self._room: PrefixCache
        self._blocks = 0
        self._numerics_id = ""
        self._admitted = 0
        self._memory_free = 0
        self._memory_read_s = 0.0

    # --- at load ---------------------------------------------------------------------------------

    def open(self) -> EngineInfo:
        import torch

        if self._asked_threads is not None:
            torch.set_num_threads(self._asked_threads)  # counts for the thread that calls it
        most = torch.get_num_threads()
        facts, opened = self._facts, self._opener()
        self._forward, self._numerics_id = opened.forward, opened.numerics_id
        self._blocks = self._reserve(facts.context)
        self._room = PrefixCache(self._blocks, KEPT_SPANS if opened.keeps_prefixes else 0)
        context = min(facts.context, self._blocks * BLOCK_TOKENS)
        notes = (*self._placement.notes, *facts.notes, *opened.notes)
        if context < facts.context:
            notes += (f"the context is {context} of {facts.context} tokens: memory allows no more",)
        self._reader = self._make_reader(context)
        free = self._placement.device == "cpu" and self._asked_threads is None
        self.threads, tokens_per_s = chosen(self._forward, self._blocks, most, free=free)
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
            pool_bytes=self._blocks * self._forward.bytes_per_token * BLOCK_TOKENS,
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

    def _reserve(self, context: int) -> int:
        """The pool: as many blocks as all rows can use, or as memory allows."""
        wanted = -(-context // BLOCK_TOKENS) * self._max_concurrent
        self._read_memory()
        per_block = self._forward.bytes_per_token * BLOCK_TOKENS
        if self.memory_free() and per_block:
            wanted = min(wanted, max(1, int(self.memory_free() * MEMORY_SHARE / per_block)))
        if self._pool_bytes is not None and per_block:
            wanted = min(wanted, max(1, self._pool_bytes // per_block))
        self._forward.reserve(wanted)
        return wanted

    # --- rows ------------------------------------------------------------------------------------

    def read(self, job: EngineJob) -> BatchRow:
        ids, answer = self._reader.read(job)
        root = chain_root(self._facts.model_digest, self._numerics_id, job.owner)
        return BatchRow(answer, [*ids, *answer.replayed], Sampler(job.config, ids, answer.replayed), root)

    def admit(self, row: BatchRow) -> bool:
        granted = self._room.take(row.root, row.ids, row.longest)
        if granted is None:
            return False
        row.span, row.fed = granted.span, granted.cached
        if granted.source is not None:
            try:
                self._forward.copy(granted.source, granted.span, granted.cached)
            except Exception:  # a device may refuse anything; the row is fed instead
                log.exception("keys and values could not be copied")
                row.fed = 0
        self._admitted += 1
        row.number = self._admitted
        row.answer.cached = row.fed
        return True

    def release(self, row: BatchRow) -> None:
        span, row.span = row.span, None
        if span is not None:
            self._room.give(span, row.root, row.ids[: row.fed] if row.sound else ())

    def ready_at_s(self) -> float:
        return 0.0

    # --- a step ----------------------------------------------------------------------------------

    def step(self, rows: Sequence[BatchRow]) -> list[tuple[BatchRow, Outcome]]:
        plan = _plan(rows)
        self.threads.use(sum(len(segment.ids) for _, segment in plan))
        try:
            logits = self._forward.run([segment for _, segment in plan])
        except Exception:  # an operator may raise anything, and the pool is then in no known state
            log.exception("a step of the model failed")
            return self._begin_anew(rows, plan)
        self._read_memory()
        drawn: list[BatchRow] = []
        outcomes: list[tuple[BatchRow, Outcome]] = []
        for row, segment in plan:
            row.fed += len(segment.ids)
            if segment.draw is None:
                outcomes.append((row, Prefilled(100 * row.fed // len(row.ids))))
            else:
                drawn.append(row)
        picks = pick_rows(logits, [row.sampler for row in drawn], [len(row.ids) for row in drawn])
        outcomes += [(row, self._taken(row, pick)) for row, pick in zip(drawn, picks, strict=True)]
        return outcomes

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
        self, rows: Sequence[BatchRow], plan: Sequence[tuple[BatchRow, Segment]]
    ) -> list[tuple[BatchRow, Outcome]]:
        """A new pool: the rows of the step fail, those that waited for a later one are fed again."""
        for row in rows:
            row.fed = 0
        failed: list[tuple[BatchRow, Outcome]] = []
        for row, _ in plan:
            row.sound = False
            failed.append((row, JobError(FailureCode.ENGINE, "the model's step failed")))
        self._room.forget()
        self._forward.reserve(self._blocks)
        return failed

    # --- memory and ends -------------------------------------------------------------------------

    def memory_free(self) -> int:
        return memory_available() if self._placement.device == "cpu" else self._memory_free

    def _read_memory(self) -> None:
        now_s = time.monotonic()
        if self._placement.device != "cpu" and now_s - self._memory_read_s > MEMORY_INTERVAL_S:
            self._memory_read_s = now_s
            self._memory_free = cuda_memory_free(self._placement.device)

    def interrupt(self) -> None:
        """A forward cannot be interrupted; the thread ends after it."""

    def close(self) -> None:
        self._forward.close()


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
