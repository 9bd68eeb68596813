"""The torch engine: a transformers model under our own decode loop, one cache a request, stepped in turn.

The law: a step is one forward of one row, a token or a chunk of a prompt, so that cancels, deadlines and
other rows wait for no more than that. Rows share nothing but the weights: each equals its solo run, and a
bad one fails alone. Only the model thread touches tensors once the engine runs.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llama_gossip.engine import device as devices
from llama_gossip.engine import models
from llama_gossip.engine.base import EngineInfo, EngineJob, FailureCode
from llama_gossip.engine.catalogue import CATALOGUE, InMemory
from llama_gossip.engine.detokenize import TokenBytes
from llama_gossip.engine.jobs import Answer, JobError
from llama_gossip.engine.memory import cuda_memory_free, memory_available
from llama_gossip.engine.progress import Progress
from llama_gossip.engine.prompt import PromptReader
from llama_gossip.engine.rows import Ended, Outcome, Prefilled, Sampled
from llama_gossip.engine.sampling import Float32, NotFinite, Sampler, to_wire
from llama_gossip.engine.stepped import SteppedEngine
from llama_gossip.errors import EngineError

if TYPE_CHECKING:
    from llama_gossip.engine.checkpoint import Checkpoint

PREFILL_CHUNK: Final = 256  # tokens a step: what a cancel or another row's next token waits for
CHECK_TOKENS: Final = 16  # of the self-check: chunked and cached against one plain forward
MEASURED_TOKENS: Final = 8  # of the warm-up that are timed
CHECK_TOLERANCE: Final = {"fp32": 1e-2, "bf16": 1.5, "fp16": 0.5}  # |Δ logit|; wrong state is off by far more
MEMORY_INTERVAL_S: Final = 1.0  # asking a GPU more often would cost steps
MEMORY_SHARE: Final = 0.5  # of free memory that keys and values may take; growing copies them for a moment

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class TorchRow:
    """One request. `fed` counts ids whose keys and values are in the cache."""

    answer: Answer
    ids: list[int]  # prompt, resumed part, and what has been made
    sampler: Sampler
    cache: Any = None  # a transformers DynamicCache, made by the first step
    fed: int = 0

    @property
    def reserved(self) -> int:
        """Tokens at its longest."""
        return self.answer.prompt_tokens + self.answer.job.config.max_tokens


class TorchModel:
    """A SteppedModel over a Checkpoint."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        placement: devices.Placement,
        *,
        max_concurrent: int,
        threads: int | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._placement = placement
        self._max_concurrent = max_concurrent
        self._threads = threads
        self._module: Any = checkpoint.module
        self._vocabulary = int(checkpoint.module.get_input_embeddings().weight.shape[0])
        self._table = TokenBytes(checkpoint.tokenizer)
        self._eos = frozenset(checkpoint.eos_ids)
        self._cache_word = cache_word(checkpoint.module)
        self._budget = 0  # tokens of all rows together, known once the model is open
        self._memory_free = 0
        self._memory_read_s = 0.0
        self._reader = self._make_reader(checkpoint.context)

    def _make_reader(self, context: int) -> PromptReader:
        checkpoint = self._checkpoint
        return PromptReader(
            tokenizer=checkpoint.tokenizer,
            table=self._table,
            chat_template=checkpoint.chat_template,
            bos_id=checkpoint.bos_id,
            add_bos=checkpoint.add_bos,
            vocabulary=self._vocabulary,
            context=context,
            specials={"bos_token": checkpoint.bos_token, "eos_token": checkpoint.eos_token},
        )

    def open(self) -> EngineInfo:
        import torch

        if self._threads is not None:
            torch.set_num_threads(self._threads)  # counts for the thread that calls it
        checkpoint, placement = self._checkpoint, self._placement
        tokens_per_s = self._check_and_measure()
        notes = (*placement.notes, *checkpoint.notes)
        self._budget = self._affordable_tokens()
        context = min(checkpoint.context, self._budget)
        if context < checkpoint.context:
            self._reader = self._make_reader(context)
            notes += (f"the context is {context} of {checkpoint.context} tokens: memory allows no more",)
        numerics_id, numerics_class = devices.numerics(
            checkpoint.dtype, placement.device, checkpoint.quantisation
        )
        return EngineInfo(
            model=checkpoint.name,
            model_digest=checkpoint.model_digest,
            numerics_id=numerics_id,
            numerics_class=numerics_class,
            backend="torch",
            device=placement.label,
            dtype=checkpoint.dtype,
            quantisation=checkpoint.quantisation,
            context=context,
            max_concurrent=self._max_concurrent,
            notes=notes,
            tokens_per_s=tokens_per_s,
            memory_bytes=sum(weight.nbytes for weight in self._module.parameters()),
        )

    def read(self, job: EngineJob) -> TorchRow:
        ids, answer = self._reader.read(job)
        return TorchRow(answer, [*ids, *answer.replayed], Sampler(job.config, ids, answer.replayed))

    def has_room(self, row: TorchRow, running: Sequence[TorchRow]) -> bool:
        return row.reserved + sum(other.reserved for other in running) <= self._budget

    def ready_at_s(self) -> float:
        return 0.0

    def step(self, rows: Sequence[TorchRow]) -> list[tuple[TorchRow, Outcome]]:
        """One forward of the row that has waited longest. Its failure is its own."""
        row = rows[0]
        try:
            outcome = self._step_row(row)
        except Exception:  # an operator may raise anything; the others have not been touched
            log.exception("a step of the model failed")
            outcome = JobError(FailureCode.ENGINE, "the model's step failed")
        self._read_memory()
        return [(row, outcome)]

    def _step_row(self, row: TorchRow) -> Outcome:
        chunk = row.ids[row.fed : row.fed + PREFILL_CHUNK]
        if row.cache is None:
            row.cache = self._new_cache()
        logits = self._forward(chunk, row.cache)
        row.fed += len(chunk)
        if row.fed < len(row.ids):
            return Prefilled(100 * row.fed // len(row.ids))
        return self._sample(row, logits)

    def _sample(self, row: TorchRow, logits: Float32) -> Outcome:
        config = row.answer.job.config
        try:
            pick = row.sampler.pick(logits, position=len(row.ids))
        except NotFinite:
            return JobError(FailureCode.NOT_FINITE, "the model's logits are not finite")
        if pick.token_id in self._eos and not config.ignore_eos:
            return Ended()
        row.ids.append(pick.token_id)
        row.sampler.seen(pick.token_id)
        return Sampled(pick.token_id, to_wire(pick, self._table.text))

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._module.config)

    def _forward(self, ids: Sequence[int], cache: Any | None) -> Float32:
        """fp32 logits after the last id; the cache grows by all of them."""
        import torch

        with torch.inference_mode():
            tokens = torch.tensor([ids], device=self._placement.device)
            out = self._module(
                input_ids=tokens,
                use_cache=cache is not None,
                logits_to_keep=1,
                **{self._cache_word: cache},
            )
            logits: Float32 = out.logits[0, -1].float().cpu().numpy()
        return logits

    def release(self, row: TorchRow) -> None:
        row.cache = None

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
        self._module = None
        if self._placement.device != "cpu":
            import torch

            torch.cuda.empty_cache()

    # --- at load ---------------------------------------------------------------------------------

    def _check_and_measure(self) -> float:
        """Refuses a model whose cached, chunked steps differ from one plain forward (a recurrent state, an
        attention that we do not serve). Returns tokens/s of one request, measured after that warm-up."""
        ids = [(7 + 31 * i) % self._vocabulary for i in range(CHECK_TOKENS)]
        plain = self._forward(ids, None)
        cache = self._new_cache()
        for part in (ids[: CHECK_TOKENS // 2], ids[CHECK_TOKENS // 2 : -1], ids[-1:]):
            cached = self._forward(part, cache)
        off = float(abs(plain - cached).max())
        if not off <= CHECK_TOLERANCE[self._checkpoint.dtype]:
            raise EngineError(
                f"{self._checkpoint.name} steps wrongly with a cache: logits differ by {off:.3g}",
                hint="its architecture is not served; choose another model",
            )
        started_s = time.perf_counter()
        for token_id in ids[:MEASURED_TOKENS]:
            self._forward([token_id], cache)
        return MEASURED_TOKENS / (time.perf_counter() - started_s)

    def _affordable_tokens(self) -> int:
        """Tokens whose keys and values fit, over all requests; a trained context may be far beyond memory."""
        cache = self._new_cache()
        self._forward([0], cache)
        bytes_per_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        self._read_memory()
        free = self.memory_free()
        if not free or not bytes_per_token:
            return self._checkpoint.context * self._max_concurrent
        return int(free * MEMORY_SHARE / bytes_per_token)


def cache_word(module: Any) -> str:
    """How this transformers names the cache of keys and values (`past_key_values` in older ones)."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


class TorchEngine(SteppedEngine[TorchRow]):
    """An Engine over a Checkpoint; the constructor returns when it is checked, warm and measured."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        placement: devices.Placement | None = None,
        *,
        max_concurrent: int = 8,
        threads: int | None = None,
    ) -> None:
        placement = placement or devices.place(checkpoint.device)
        model = TorchModel(checkpoint, placement, max_concurrent=max_concurrent, threads=threads)
        super().__init__(model, checkpoint.name)


def load_torch_engine(
    spec: str,
    *,
    device: str | None,
    dtype: str | None,
    max_concurrent: int,
    threads: int | None,
    progress: Progress | None,
) -> TorchEngine:
    devices.prepare_environment()
    if not (spec in CATALOGUE and isinstance(CATALOGUE[spec].source, InMemory)):
        models.resolve(spec, progress=progress)  # a wrong name is told before torch takes its seconds to load
    from llama_gossip.engine.checkpoint import load_checkpoint

    placement = devices.place(device)
    checkpoint = load_checkpoint(spec, device=placement.device, dtype=dtype, progress=progress)
    return TorchEngine(checkpoint, placement, max_concurrent=max_concurrent, threads=threads)
