"""Fixtures of the model tests: the real model, once a checkout, and small models of every test's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_gossip.engine import models
from llama_gossip.engine.models import ModelFolder
from tests.support.gguf_files import byte_level, random_weights, write_gguf
from tests.support.models import real_model


@pytest.fixture(scope="session")
def smollm2() -> ModelFolder:
    """The default model, fetched and converted in the checkout's shared models directory."""
    return real_model()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A small Llama, from its GGUF file."""
    where = tmp_path_factory.mktemp("llama")
    vocabulary = byte_level("smollm")
    source = write_gguf(where / "my.model.gguf", random_weights(len(vocabulary.tokens), 1), vocabulary)
    return models.resolve(str(source), where)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Emptied at once: several tests convert the real model, and pytest would keep gigabytes of it."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)
