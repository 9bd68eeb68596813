"""Engines for the tests of this folder: one of each kind, and one shared by the tests that leave it idle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llama_gossip.engine import load_engine
from llama_gossip.engine.base import Engine
from llama_gossip.engine.device import prepare_environment
from llama_gossip.engine.scripted import Script, ScriptedEngine
from tests.engine.driving import Collector, Subject, started

prepare_environment()  # before a test module imports torch: what is exact rests on it


def scripted_subject() -> Subject:
    script = Script(delay_ms=1.0, prefill_chunk=256, context=4096)  # slow enough to be caught at work
    return Subject("scripted", lambda rows: ScriptedEngine(script, max_concurrent=rows), 256)


def torch_subject() -> Subject:
    from llama_gossip.engine.checkpoint import load_checkpoint
    from llama_gossip.engine.torch_engine import TorchEngine

    checkpoint = load_checkpoint("tiny-random", device="cpu", dtype="fp32")
    return Subject("torch", lambda rows: TorchEngine(checkpoint, max_concurrent=rows, threads=1), 259)


def lean_subject() -> Subject:
    from llama_gossip.engine.llama_load import load_llama
    from llama_gossip.engine.torch_engine import TorchEngine

    checkpoint = load_llama("tiny-random", dtype="q4")
    return Subject("lean", lambda rows: TorchEngine(checkpoint, max_concurrent=rows, threads=1), 259)


def process_subject() -> Subject:
    spec = "scripted:delay_ms=1,prefill_chunk=256,context=4096"
    return Subject("process", lambda rows: load_engine(spec, max_concurrent=rows, process=True), 256)


SUBJECTS = {
    "scripted": scripted_subject,
    "process": process_subject,
    "torch": torch_subject,
    "lean": lean_subject,
}


@pytest.fixture(scope="session", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]()


@pytest.fixture(scope="session", params=[name for name in SUBJECTS if name != "process"])
def near_subject(request: pytest.FixtureRequest) -> Subject:
    """One whose sink is called between two steps: another process steps on while it is told something."""
    return SUBJECTS[request.param]()


@pytest.fixture(scope="module")
def shared(subject: Subject) -> Iterator[tuple[Engine, Collector]]:
    engine = subject.make(8)
    with started(engine) as collector:
        yield engine, collector


@pytest.fixture(scope="module")
def ids(subject: Subject) -> Iterator[int]:
    """Job ids for the shared engine."""
    return iter(range(1, 1_000_000))
