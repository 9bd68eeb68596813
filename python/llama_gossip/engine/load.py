"""Loading: from a spec to an engine that is ready. torch is imported only for specs that need it."""

from __future__ import annotations

from llama_gossip.engine.base import Engine
from llama_gossip.engine.progress import Progress
from llama_gossip.errors import UsageError


def load_engine(
    spec: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_concurrent: int = 8,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Engine:
    """The engine for a spec, loaded, checked and warm; it works once `start` is called.

    spec: `scripted[:option=value,…]`, `paced:MS`, a catalogue name, a `*.gguf` file, a folder or a hub id.
    device: cpu, cuda, cuda:N; None: the best there is. dtype: fp32, bf16, q8, q4, fp16 (GPU); None or auto:
    what suits model and device.
    max_concurrent: jobs in the model at once. threads: of the CPU; None: torch's choice.
    Raises ModelUnavailable, UsageError, ConfigError.
    """
    if max_concurrent < 1:
        raise UsageError(f"max_concurrent is {max_concurrent}", hint="at least 1")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", hint="at least 1")
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
        progress=progress,
    )


def check_spec(spec: str) -> None:
    """Raises what `load_engine` would of a spec that leads nowhere; quick, and before anything is begun."""
    from llama_gossip.engine import models, scripted

    if scripted.parse_spec(spec) is None:
        models.check(spec)
