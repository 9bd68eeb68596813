"""What holds for every test. The law: a run's result depends on the code alone, not on the machine's load.

Hypothesis draws the same examples in every run: a failure is there for whoever runs the same code. New ones
are sought with `--hypothesis-profile=explore`, which keeps what it finds.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from llama_gossip.engine.device import NVIDIA_SIGNS, prepare_environment

prepare_environment()  # as every start of a worker does, before torch is there

LOADED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}

settings.register_profile("steady", derandomize=True, **LOADED)  # type: ignore[arg-type]
settings.register_profile("explore", derandomize=False, **LOADED)  # type: ignore[arg-type]
settings.load_profile("steady")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `long` takes hours: only `-m long` runs it. What is marked `gpu` needs one."""
    left_out = [item for item in items if item.get_closest_marker("gpu") and not _cuda()]
    if "long" not in str(config.option.markexpr):
        left_out += [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI nothing may be missing: there a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and under CI no test may be: {report.longrepr}"
    return report


@lru_cache
def _cuda() -> bool:
    """torch is asked only where there is a GPU's driver: its import takes seconds."""
    if not any(Path(sign).exists() for sign in NVIDIA_SIGNS):
        return False
    import torch

    return torch.cuda.is_available()
