"""What holds for every test. The law: a run's result depends on the code alone, not on the machine's load.

Hypothesis draws the same examples in every run: a failure is there for whoever runs the same code. New ones
are sought with `--hypothesis-profile=explore`, which keeps what it finds.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from llama_gossip.engine.device import prepare_environment

prepare_environment()  # as every start of a worker does, before torch is there

LOADED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}

settings.register_profile("steady", derandomize=True, **LOADED)  # type: ignore[arg-type]
settings.register_profile("explore", derandomize=False, **LOADED)  # type: ignore[arg-type]
settings.load_profile("steady")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `long` takes hours: only `-m long` runs it."""
    if "long" in str(config.option.markexpr):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
