"""Loading: from a spec to an engine that is ready. torch is imported only for specs that need it, and never
here for an engine that gets a process of its own."""

from __future__ import annotations

import logging
from typing import Final

from llama_gossip.engine.base import Engine
from llama_gossip.engine.progress import Progress
from llama_gossip.errors import UsageError

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
) -> Engine:
    """The engine for a spec, loaded, checked and warm; it works once `start` is called.

    spec: `scripted[:option=value,…]`, `paced:MS`, a catalogue name, a `*.gguf` file, a folder or a hub id.
    device: cpu, cuda, cuda:N; None: the best there is. dtype: fp32, bf16, fp16 (on a GPU), q4, q8 (of a
    Llama, on a CPU); None, auto: what suits model and device. max_concurrent: jobs in the model at once.
    threads: of the CPU; None: as many as step fastest. numerics: exact (the same logits to the bit in any
    batch), fast (without), auto (exact where that can be had). process: in a process of its own, whose death
    costs its jobs and no more.
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
        begin = Begin(spec, device, dtype, max_concurrent, threads, numerics, level)
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
    )


def check_spec(spec: str) -> None:
    """Raises what `load_engine` would of a spec that leads nowhere; quick, and before anything is begun."""
    from llama_gossip.engine import models, scripted

    if scripted.parse_spec(spec) is None:
        models.check(spec)
