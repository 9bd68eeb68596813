"""The torch engine: which forward serves a checkpoint, checked at load, under the batch.

The law: packed rows where our attention computes what the model's own does, one cache a row where it does
not, a refusal where neither holds. `exact` is said only where it was seen.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from llama_gossip.engine import device as devices
from llama_gossip.engine import models
from llama_gossip.engine.batching import Batch, BatchRow, Opened
from llama_gossip.engine.catalogue import CATALOGUE, InMemory
from llama_gossip.engine.progress import Progress
from llama_gossip.engine.stepped import SteppedEngine
from llama_gossip.errors import EngineError

if TYPE_CHECKING:
    from llama_gossip.engine.checkpoint import Checkpoint
    from llama_gossip.engine.forward import Forward
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
        raise EngineError(
            f"{checkpoint.name} cannot be served exactly on this machine",
            hint="leave --numerics out: what holds is announced",
        )
    if packed is not None:
        return _opened(checkpoint, device, packed, packed.numerics if packed.exact else "")
    serial = SerialForward(module, device=device)
    try:
        off = selfcheck.deviation(serial, plain)
    except Exception as error:  # as in _packed
        log.info("%s cannot be stepped", checkpoint.name, exc_info=True)
        raise _refused(checkpoint, "does not step with a cache") from error
    if not off <= selfcheck.LIMITS[checkpoint.dtype]:
        raise _refused(
            checkpoint, f"steps wrongly with a cache: its logits are off by {off:.3g} of their spread"
        )
    return _opened(checkpoint, device, serial, "", SERIAL_NOTE)


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
    except Exception:  # models differ: whatever one raises, it cannot be packed
        log.info("%s cannot be packed", checkpoint.name, exc_info=True)
    return None


def _opened(checkpoint: Checkpoint, device: str, forward: Forward, exact: str, *notes: str) -> Opened:
    from llama_gossip.engine.serial import SerialForward

    numerics_id, numerics_class = devices.numerics(checkpoint.dtype, device, checkpoint.quantisation, exact)
    return Opened(
        forward=forward,
        dtype=checkpoint.dtype,
        numerics_id=numerics_id,
        numerics_class=numerics_class,
        weight_bytes=sum(weight.nbytes for weight in checkpoint.module.parameters()),
        keeps_prefixes=not isinstance(forward, SerialForward),
        notes=notes,
    )


class TorchEngine(SteppedEngine[BatchRow]):
    """An Engine over a Checkpoint; the constructor returns when it is checked, warm and measured."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        placement: devices.Placement | None = None,
        *,
        max_concurrent: int = 8,
        threads: int | None = None,
        numerics: str = "auto",
    ) -> None:
        placement = placement or devices.place(checkpoint.device)
        self.batch = Batch(
            checkpoint,
            lambda: open_checkpoint(checkpoint, placement.device, numerics),
            placement,
            max_concurrent=max_concurrent,
            threads=threads,
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
) -> TorchEngine:
    devices.prepare_environment()
    if not (spec in CATALOGUE and isinstance(CATALOGUE[spec].source, InMemory)):
        models.resolve(spec, progress=progress)  # a wrong name is told before torch takes its seconds to load
    from llama_gossip.engine.checkpoint import load_checkpoint

    placement = devices.place(device)
    checkpoint = load_checkpoint(spec, device=placement.device, dtype=dtype, progress=progress)
    return TorchEngine(
        checkpoint, placement, max_concurrent=max_concurrent, threads=threads, numerics=numerics
    )
