"""The committed corpus and a bounded run of mutants through the fuzz target."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzz_wire import CORPUS, TARGETS, TestOneInput, corpus, mutants

SEED, RUNS = 20_261_124, 100_000  # a few seconds; `python -m tests.fuzz.fuzz_wire` runs longer ones
MAX_FILES, MAX_CORPUS_BYTES = 300, 500_000


@pytest.mark.fuzz
@pytest.mark.parametrize("name", [name for name, _ in corpus()])
def test_no_file_of_the_corpus_raises_anything_but_a_protocol_error(name: str) -> None:
    TestOneInput((CORPUS / name).read_bytes())


@pytest.mark.fuzz
def test_no_mutant_of_the_corpus_raises_anything_but_a_protocol_error() -> None:
    print(f"seed {SEED}, {RUNS} mutants")  # to repeat a failure
    for run, data in enumerate(mutants(SEED, RUNS)):
        try:
            TestOneInput(data)
        except Exception as error:  # noqa: BLE001  # any at all is the finding
            pytest.fail(f"run {run} of seed {SEED}: {data.hex()}: {error!r}")


def test_the_corpus_reaches_every_target_and_stays_small() -> None:
    entries = corpus()
    assert {data[0] % len(TARGETS) for _, data in entries} == set(range(len(TARGETS)))
    assert len(entries) < MAX_FILES
    assert sum(len(data) for _, data in entries) < MAX_CORPUS_BYTES
