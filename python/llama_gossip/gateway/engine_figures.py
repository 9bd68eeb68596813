"""Engine figures: how busy each engine of a node is, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llama_gossip.engine.base import EngineInfo, EngineLoad, EngineState
from llama_gossip.gateway import families
from llama_gossip.gateway.families import Labels, label_of

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode

Figure: TypeAlias = Callable[[EngineInfo, EngineLoad], float]

# By name: help and where it stands.
GAUGES: Final[Mapping[str, tuple[str, Figure]]] = {
    "up": ("1: it takes jobs.", lambda info, load: load.state is EngineState.READY),
    "batch_rows": ("Answers that are made at once now.", lambda info, load: load.running),
    "batch_slots": ("Answers that may be made at once.", lambda info, load: info.max_concurrent),
    "queued_jobs": ("Jobs that wait inside the engine.", lambda info, load: load.queued),
    "tokens_per_second": ("Of one answer, moving average.", lambda info, load: load.tokens_per_s),
    "step_age_seconds": ("Since the last step; 0 at rest.", lambda info, load: load.last_step_age_ms / 1000),
    "weights_bytes": ("Memory of the weights.", lambda info, load: info.memory_bytes),
    "kv_pool_bytes": ("Reserved for keys and values.", lambda info, load: load.pool_bytes),
    "kv_pool_used_bytes": ("Of the pool, by running answers.", lambda info, load: load.pool_used_bytes),
    "kv_pool_kept_bytes": (
        "Of the pool, by beginnings kept for what may follow.",
        lambda info, load: load.pool_kept_bytes,
    ),
    "memory_free_bytes": ("Free where the engine computes.", lambda info, load: load.memory_free),
}
COUNTERS: Final[Mapping[str, tuple[str, Figure]]] = {
    "fed_tokens": ("Prompt and resumed tokens that had to be fed.", lambda info, load: load.fed_tokens),
    "cached_tokens": ("Those that the prefix cache had.", lambda info, load: load.cached_tokens),
}
MODEL: Final = ("model",)


class EngineFigures(Collector):
    def __init__(self, node: InferenceNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        engines: dict[Labels, tuple[EngineInfo, EngineLoad]] = {
            (label_of(info.model),): (info, load) for info, load in self._node.engines()
        }
        for kind, figures in ((families.gauges, GAUGES), (families.counters, COUNTERS)):
            for name, (about, figure) in figures.items():
                values = {model: float(figure(*engine)) for model, engine in engines.items()}
                yield kind(f"engine_{name}", about, MODEL, values)
