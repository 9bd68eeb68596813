"""Loading: from specs to engines that are ready. torch is imported only for specs that need it, and never
here for an engine that gets a process of its own.

The law: several models that cannot be together in memory are refused before the first of them is loaded, and
whoever asks for several gets all of them or none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from llama_gossip.engine.base import Engine
from llama_gossip.engine.budget import PoolBudget, check_fit
from llama_gossip.engine.progress import Progress
from llama_gossip.errors import UsageError

if TYPE_CHECKING:
    from llama_gossip.engine.device import Placement

NUMERICS: Final = ("auto", "exact", "fast")


def load_engine(
    spec: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_concurrent: int = 8,
    threads: int | None = None,
    numerics: str = "auto",
    progress: Progress | None = None,
    process: bool = False,
    pool_bytes: int | None = None,
) -> Engine:
    """The engine for a spec, loaded, checked and warm; it works once `start` is called.

    spec: `scripted[:option=value,…]`, `paced:MS`, a catalogue name, a `*.gguf` file, a folder or a hub id.
    device: cpu, cuda, cuda:N; None: the best there is. dtype: fp32, bf16, fp16 (on a GPU), q4, q8 (of a
    Llama, on a CPU); None, auto: what suits model and device. max_concurrent: jobs in the model at once.
    threads: of the CPU; None: as many as step fastest. numerics: exact (the same logits to the bit in any
    batch), fast (without), auto (exact where that can be had). process: in a process of its own, whose death
    costs its jobs and no more. pool_bytes: of memory, that keys and values may take; None: half of what is
    free.
    Raises ModelUnavailable, UsageError, ConfigError, EngineError.
    """
    if max_concurrent < 1:
        raise UsageError(f"max_concurrent is {max_concurrent}", hint="at least 1")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", hint="at least 1")
    if numerics not in NUMERICS:
        raise UsageError(f"unknown numerics {numerics!r}", hint="one of " + ", ".join(NUMERICS))
    if process:
        from llama_gossip.engine.process_engine import ProcessEngine
        from llama_gossip.engine.wire import Begin

        level = logging.getLogger("llama_gossip").getEffectiveLevel()
        begin = Begin(spec, device, dtype, max_concurrent, threads, numerics, pool_bytes, level)
        return ProcessEngine(begin, progress)
    from llama_gossip.engine import scripted

    script = scripted.parse_spec(spec)
    if script is not None:
        name = spec.partition(":")[0]
        return scripted.ScriptedEngine(script, name=name, max_concurrent=max_concurrent)
    from llama_gossip.engine.torch_engine import load_torch_engine

    return load_torch_engine(
        spec,
        device=device,
        dtype=dtype,
        max_concurrent=max_concurrent,
        threads=threads,
        numerics=numerics,
        progress=progress,
        pool_bytes=pool_bytes,
    )


def load_engines(
    specs: Sequence[str],
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_concurrent: int = 8,
    threads: int | None = None,
    numerics: str = "auto",
    progress: Progress | None = None,
    process: bool = False,
) -> tuple[Engine, ...]:
    """An engine for each spec, in their order, loaded one after the other, for one node to serve.

    All or none: what was loaded before one that fails is closed. Each model has room for max_concurrent jobs,
    as far as its part of the memory for keys and values goes. Options as for `load_engine`, the same for all;
    process: each in one of its own; what a GPU has free is then known to them alone. Raises what that raises;
    ModelUnavailable (code "memory") where the weights do not fit into the memory that is free, UsageError
    where two models have the same name.
    """
    names = _distinct_names(specs)
    real = [spec for spec in specs if not _is_script(spec)]
    budget = _budget(real, device, dtype, progress, process=process) if real else None
    engines: list[Engine] = []
    try:
        for spec, name in zip(specs, names, strict=True):
            engine = load_engine(
                spec,
                device=device,
                dtype=dtype,
                max_concurrent=max_concurrent,
                threads=threads,
                numerics=numerics,
                progress=_naming(name, progress) if len(specs) > 1 else progress,
                process=process,
                pool_bytes=budget.part() if budget is not None and spec in real else None,
            )
            engines.append(engine)
            if budget is not None and spec in real:
                budget.taken(engine.info.pool_bytes)
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return tuple(engines)


def check_specs(specs: Sequence[str], *, device: str | None = None, dtype: str | None = None) -> None:
    """Raises what `load_engines` would of specs that lead nowhere, of two models with one name and, where
    only the CPU can compute, of weights that do not fit; quick, and before anything is begun."""
    _distinct_names(specs)
    real = [spec for spec in specs if not _is_script(spec)]
    if real and _on_cpu(device):
        _check_fit(real, dtype)


def _on_cpu(device: str | None) -> bool:
    """Known without torch. False: torch must be asked."""
    from llama_gossip.engine.device import gpu_possible

    return device == "cpu" or not gpu_possible()


def _is_script(spec: str) -> bool:
    from llama_gossip.engine import scripted

    return scripted.parse_spec(spec) is not None


def _distinct_names(specs: Sequence[str]) -> list[str]:
    """What requests will call them."""
    from llama_gossip.engine import models

    first: dict[str, str] = {}
    for spec in specs:
        name = spec.partition(":")[0] if _is_script(spec) else models.glance(spec).name
        if name in first:
            raise UsageError(
                f"{first[name]} and {spec} would both be served as {name!r}",
                hint="requests choose by name: leave one out, or give its file or folder another name",
            )
        first[name] = spec
    return list(first)


def _check_fit(specs: Sequence[str], dtype: str | None, gpu: Placement | None = None) -> tuple[int, int]:
    """(bytes that are free, bytes of all weights)."""
    from llama_gossip.engine import memory
    from llama_gossip.engine.footprint import need_of

    free_bytes = memory.memory_available() if gpu is None else memory.cuda_memory_free(gpu.device)
    needs = [need_of(spec, device="cpu" if gpu is None else gpu.device, dtype=dtype) for spec in specs]
    check_fit(needs, free_bytes, "this machine" if gpu is None else gpu.label)
    return free_bytes, sum(need.weight_bytes for need in needs)


def _budget(
    specs: Sequence[str], device: str | None, dtype: str | None, progress: Progress | None, *, process: bool
) -> PoolBudget | None:
    """For the pools of these models, once it is sure that their weights fit. None: free memory is unknown."""
    from llama_gossip.engine import device as devices
    from llama_gossip.engine import models
    from llama_gossip.engine.pool import MEMORY_SHARE

    for spec in specs:
        found = models.glance(spec)
        if found.size and found.file is None:
            models.locate(spec, progress=progress)  # what it needs stands in its header
    gpu = None
    if not _on_cpu(device):
        if process:
            return None
        devices.prepare_environment()
        placement = devices.place(device)
        gpu = None if placement.device == "cpu" else placement
    free_bytes, weight_bytes = _check_fit(specs, dtype, gpu)
    return PoolBudget(free_bytes, weight_bytes, len(specs), share=MEMORY_SHARE) if free_bytes else None


def _naming(name: str, progress: Progress | None) -> Progress | None:
    """Tells whose stage it is."""
    if progress is None:
        return None
    return lambda stage, done, total: progress(f"{stage} {name}", done, total)
