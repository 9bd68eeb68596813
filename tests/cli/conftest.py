"""What the tests of the command line share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_gossip.cli.main import main


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A LLAMA_GOSSIP_HOME of the test's own."""
    return tmp_path / "home"


@pytest.fixture
def command(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs a command in this process; its exit code. For what needs no network and no signals."""
    monkeypatch.setenv("LLAMA_GOSSIP_HOME", str(home))
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level

    def run(*arguments: str) -> int:
        return main(list(arguments))

    yield run
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
