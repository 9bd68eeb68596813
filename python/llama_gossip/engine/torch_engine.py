"""The torch engine: which forward serves a checkpoint, checked at load, under the batch.

The law: on a CPU the lean step where it computes the model, else packed rows where our attention computes
what the model's own does, one cache a row where it does not, a refusal where none holds. `exact` is said only
where it was seen.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llama_gossip.engine import device as devices
from llama_gossip.engine import models
from llama_gossip.engine.batching import Batch, BatchRow, Opened
from llama_gossip.engine.catalogue import CATALOGUE, InMemory
from llama_gossip.engine.memory import out_of_memory
from llama_gossip.engine.progress import Progress
from llama_gossip.engine.stepped import SteppedEngine
from llama_gossip.errors import EngineError, UsageError

if TYPE_CHECKING:
    from llama_gossip.engine.checkpoint import Checkpoint
    from llama_gossip.engine.forward import CopySpan, Forward
    from llama_gossip.engine.llama_load import LlamaCheckpoint
    from llama_gossip.engine.packed import PackedForward
    from llama_gossip.engine.selfcheck import Reference

SERIAL_NOTE: Final = "this architecture's requests cannot share a step: they run one after another"

log = logging.getLogger(__name__)


def open_checkpoint(checkpoint: Checkpoint, device: str, numerics: str) -> Opened:
    """The best forward that this checkpoint passes the check with. Raises EngineError where none does."""
    from llama_gossip.engine import selfcheck
    from llama_gossip.engine.serial import SerialForward

    module = checkpoint.module
    vocabulary = int(module.get_input_embeddings().weight.shape[0])
    plain = selfcheck.reference(module, vocabulary, device)
    packed = _packed(checkpoint, device, plain, exact=numerics != "fast" and devices.pinned_kernels(device))
    if numerics == "exact" and (packed is None or not packed.exact):
        raise _not_exact(checkpoint.name)
    if packed is not None:
        notes = () if device == "cpu" else _accelerated(packed, checkpoint)
        exact = packed.numerics if packed.exact else ""
        return _opened(checkpoint, device, packed, exact, *notes, copy=packed.copy, kind=packed.kind)
    serial = SerialForward(module, device=device)
    try:
        off = selfcheck.deviation(serial, plain)
    except Exception as error:  # as in _packed
        if out_of_memory(error):
            raise
        log.info("%s cannot be stepped", checkpoint.name, exc_info=True)
        raise _refused(checkpoint, "does not step with a cache") from error
    if not off <= selfcheck.LIMITS[checkpoint.dtype]:
        raise _refused(
            checkpoint, f"steps wrongly with a cache: its logits are off by {off:.3g} of their spread"
        )
    return _opened(checkpoint, device, serial, "", SERIAL_NOTE, copy=None)


def open_lean(checkpoint: LlamaCheckpoint, numerics: str) -> Opened:
    """The lean step of a plain Llama. Raises EngineError where it computes something else."""
    from llama_gossip.engine.llama_load import open_llama

    forward = open_llama(checkpoint, exact=numerics != "fast" and devices.pinned_kernels("cpu"))
    if numerics == "exact" and forward.mode != "exact":
        raise _not_exact(checkpoint.name)
    word = forward.numerics if forward.mode == "exact" else ""
    numerics_id, numerics_class = devices.numerics(checkpoint.dtype, "cpu", checkpoint.quantisation, word)
    return Opened(
        forward=forward,
        dtype=checkpoint.dtype,
        numerics_id=numerics_id,
        numerics_class=numerics_class,
        weight_bytes=forward.weights.nbytes,
        copy=forward.copy,
    )


def _not_exact(name: str) -> EngineError:
    return EngineError(
        f"{name} cannot be served exactly on this machine",
        hint="leave --numerics out: what holds is announced",
    )


def _refused(checkpoint: Checkpoint, what: str) -> EngineError:
    return EngineError(
        f"{checkpoint.name} {what}", hint="its architecture is not served; choose another model"
    )


def _packed(checkpoint: Checkpoint, device: str, plain: Reference, *, exact: bool) -> PackedForward | None:
    """A packed forward that computes what the model does; exact if asked and seen. None: it cannot."""
    from llama_gossip.engine import selfcheck
    from llama_gossip.engine.packed import PackedForward

    try:
        forward = PackedForward(checkpoint.module, device=device, exact=exact)
        off = selfcheck.deviation(forward, plain)
        if off <= selfcheck.LIMITS[checkpoint.dtype]:
            if exact and selfcheck.rows_needed(forward) is None:
                forward.relax()
            return forward
        log.info("%s cannot be packed: logits are off by %.3g of their spread", checkpoint.name, off)
    except Exception as error:  # models differ: whatever one raises, it cannot be packed
        if out_of_memory(error):
            raise
        log.info("%s cannot be packed", checkpoint.name, exc_info=True)
    return None


def _accelerated(packed: PackedForward, checkpoint: Checkpoint) -> tuple[str, ...]:
    from llama_gossip.engine import selfcheck
    from llama_gossip.engine.acceleration import accelerate

    return accelerate(packed, selfcheck.LIMITS[checkpoint.dtype], checkpoint.context)


def _opened(
    checkpoint: Checkpoint,
    device: str,
    forward: Forward,
    exact: str,
    *notes: str,
    copy: CopySpan | None,
    kind: str = "",
) -> Opened:
    numerics_id, numerics_class = devices.numerics(
        checkpoint.dtype, device, checkpoint.quantisation, exact, kind
    )
    return Opened(
        forward=forward,
        dtype=checkpoint.dtype,
        numerics_id=numerics_id,
        numerics_class=numerics_class,
        weight_bytes=sum(weight.nbytes for weight in checkpoint.module.parameters()),
        copy=copy,
        notes=notes,
    )


def _open(checkpoint: Checkpoint | LlamaCheckpoint, device: str, numerics: str) -> Opened:
    from llama_gossip.engine.checkpoint import Checkpoint

    if not isinstance(checkpoint, Checkpoint):
        return open_lean(checkpoint, numerics)
    try:
        return open_checkpoint(checkpoint, device, numerics)
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise EngineError(
            f"{checkpoint.name} leaves no memory for a step on {device}",
            hint="end what else uses it, or serve a smaller model",
        ) from None


class TorchEngine(SteppedEngine[BatchRow]):
    """An Engine over a checkpoint; the constructor returns when it is checked, warm and measured."""

    def __init__(
        self,
        checkpoint: Checkpoint | LlamaCheckpoint,
        placement: devices.Placement | None = None,
        *,
        max_concurrent: int = 8,
        threads: int | None = None,
        numerics: str = "auto",
        pool_bytes: int | None = None,
    ) -> None:
        placement = placement or devices.place(checkpoint.device)
        self.batch = Batch(
            checkpoint,
            lambda: _open(checkpoint, placement.device, numerics),
            placement,
            max_concurrent=max_concurrent,
            threads=threads,
            pool_bytes=pool_bytes,
        )
        super().__init__(self.batch, checkpoint.name)


def load_torch_engine(
    spec: str,
    *,
    device: str | None,
    dtype: str | None,
    max_concurrent: int,
    threads: int | None,
    progress: Progress | None,
    numerics: str = "auto",
    pool_bytes: int | None = None,
) -> TorchEngine:
    devices.prepare_environment()
    in_memory = spec in CATALOGUE and isinstance(CATALOGUE[spec].source, InMemory)
    if not in_memory:
        models.locate(spec, progress=progress)  # a wrong name is told before torch takes its seconds to load
    from llama_gossip.engine.checkpoint import load_checkpoint
    from llama_gossip.engine.llama_weights import QUANTISED

    dtype = None if dtype == "auto" else dtype
    placement = devices.place(device)
    quantised = dtype in QUANTISED
    if quantised and placement.device != "cpu":
        raise UsageError(f"{dtype} is computed on CPUs only", hint="--device cpu, or --dtype bf16")
    options = _Options(placement, max_concurrent, threads, numerics, pool_bytes)
    if placement.device == "cpu" and (quantised or not in_memory):  # tiny-random tests the other way
        lean = _lean(spec, dtype, options, progress, needed=quantised)
        if lean is not None:
            return lean
    return options.engine(load_checkpoint(spec, device=placement.device, dtype=dtype, progress=progress))


@dataclass(frozen=True, slots=True)
class _Options:
    placement: devices.Placement
    max_concurrent: int
    threads: int | None
    numerics: str
    pool_bytes: int | None = None

    def engine(self, checkpoint: Checkpoint | LlamaCheckpoint) -> TorchEngine:
        return TorchEngine(
            checkpoint,
            self.placement,
            max_concurrent=self.max_concurrent,
            threads=self.threads,
            numerics=self.numerics,
            pool_bytes=self.pool_bytes,
        )


def _lean(
    spec: str, dtype: str | None, options: _Options, progress: Progress | None, *, needed: bool
) -> TorchEngine | None:
    """None where transformers' way must be taken; an error where there is none for this dtype."""
    from llama_gossip.engine.llama_config import Unsuitable
    from llama_gossip.engine.llama_load import load_llama

    try:
        return options.engine(load_llama(spec, dtype=dtype, progress=progress))
    except Unsuitable as error:
        if needed:
            raise UsageError(
                f"{spec} cannot be served in {dtype}: {error}", hint="--dtype bf16 or fp32"
            ) from error
        log.info("%s is no plain Llama: %s", spec, error)
    except EngineError as error:
        if needed:
            raise
        log.warning("%s is served by transformers' own modules: %s", spec, error.message)
    return None
