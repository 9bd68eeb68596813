"""A broken core is seen: the mutants fit the source, and the simulation kills them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llama_gossip.errors import UsageError
from llama_gossip.protocol import fences
from llama_gossip.simulation import mutation
from llama_gossip.simulation.__main__ import main
from llama_gossip.simulation.campaign import command
from llama_gossip.simulation.faults import FaultKind
from llama_gossip.simulation.mutant import Mutant
from llama_gossip.simulation.mutants import MUTANTS
from llama_gossip.simulation.scenario import PROFILES, kinds_of

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
COMMAND = (sys.executable, "-m", "llama_gossip.simulation")
QUICK = ("fence", "lease", "replay_window", "slot_release", "boot_check", "digest")


def source_of(mutant: Mutant) -> str:
    spec = find_spec(mutant.module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_of_a_module_that_still_compiles(mutant: Mutant) -> None:
    source = source_of(mutant)
    changed = mutant.applied(source)
    assert changed != source
    compile(changed, mutant.module, "exec")
    kinds_of(list(mutant.focus))


def test_there_are_enough_mutants_and_no_two_are_alike() -> None:
    assert len(MUTANTS) >= 24
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.module, mutant.applied(source_of(mutant))) for mutant in MUTANTS}) == len(MUTANTS)


def test_a_mutant_whose_line_has_gone_says_so() -> None:
    with pytest.raises(UsageError, match="no longer fits"):
        BY_NAME["fence"].applied("nothing of it")


@pytest.mark.parametrize("name", QUICK)
def test_a_mutant_serves_without_faults_and_is_killed_under_them(name: str) -> None:
    verdict = mutation.judge(BY_NAME[name], PROFILES["full"], first_seed=1, requests=4_000)
    assert verdict.counts
    assert verdict.killed
    assert verdict.expected in verdict.oracles


def test_the_core_is_whole_again_after_a_mutant() -> None:
    mutation.judge(BY_NAME["fence"], PROFILES["quiet"], first_seed=1, requests=1)
    assert sys.modules["llama_gossip.protocol.fences"] is fences
    assert fences.Fences.__module__ == "llama_gossip.protocol.fences"


def test_a_failing_seed_shrinks_to_the_faults_that_it_needs() -> None:
    with mutation.mutated(BY_NAME["fence"]) as broken:
        results = broken.run(1, 4_000, PROFILES["full"], stop_at_first=True)
        (failing,) = results.failing
        small = broken.shrink(failing.seed, PROFILES["full"], failing.violations[0].oracle)
    assert small.faults == {FaultKind.DOUBLE}
    assert f"--seed {failing.seed}" in command(failing.seed, small, "full")
    assert "--faults double" in command(failing.seed, small, "full")


def test_the_command_counts_the_killed_and_names_the_survivors() -> None:
    done = subprocess.run(
        [
            *COMMAND,
            "--mutants",
            "--json",
            "--requests",
            "300",
            "--profile",
            "quiet",
            "--only",
            "digest,fence",
        ],
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["total"] == 2
    assert told["killed"] + len(told["survivors"]) == 2
    assert done.returncode == int(bool(told["survivors"]))


def test_fewer_killed_may_be_enough(capsys: pytest.CaptureFixture[str]) -> None:
    survives = ["--mutants", "--requests", "1", "--profile", "quiet", "--only", "digest"]
    assert main(survives) == 1
    assert main([*survives, "--least", "0"]) == 0
    assert "0 of 1 killed" in capsys.readouterr().err
