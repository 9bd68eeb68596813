"""Fixtures of the model tests: the real model, once a checkout, and small models of every test's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_gossip.engine.models import ModelFolder
from tests.support.models import real_model


@pytest.fixture(scope="session")
def smollm2() -> ModelFolder:
    """The default model, fetched and converted in the checkout's shared models directory."""
    return real_model()


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Emptied at once: several tests convert the real model, and pytest would keep gigabytes of it."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)
