"""Whole seeds: the same trace twice, every fault really struck, and nothing violated under all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.simulation import campaign
from llama_gossip.simulation.faults import ALL, FaultKind, draw
from llama_gossip.simulation.liar import Lie
from llama_gossip.simulation.scenario import PROFILES
from llama_gossip.simulation.world import World

FULL, QUIET = PROFILES["full"], PROFILES["quiet"]
CI_REQUESTS = 6_000


@pytest.fixture(scope="module")
def full() -> campaign.Results:
    results = campaign.run(20_000, CI_REQUESTS, FULL)
    print(results.table(1.0))
    return results


def test_thousands_of_requests_under_full_faults_violate_nothing(full: campaign.Results) -> None:
    told = [(outcome.seed, str(violation)) for outcome in full.failing for violation in outcome.violations]
    assert told == []
    assert full.requests >= CI_REQUESTS
    assert full.completed > 0.8 * full.requests


@pytest.mark.parametrize("kind", sorted(ALL), ids=str)
def test_every_kind_of_fault_strikes(full: campaign.Results, kind: FaultKind) -> None:
    assert full.faults[str(kind)] > 0


def test_hostile_messages_were_compared_and_streams_were_cut(full: campaign.Results) -> None:
    assert full.faults["state_compared"] > 100
    assert full.faults["streams_cut"] > 0
    assert sum(full.faults[f"lie_{lie.value}"] for lie in Lie) >= 10
    assert full.faults["lies_by_gossip"] > 0


def test_one_seed_has_one_trace_and_another_seed_has_another() -> None:
    first, again, other = (World(seed, FULL).run() for seed in (7, 7, 8))
    assert (first.trace, first.events) == (again.trace, again.events)
    assert first.trace != other.trace


def test_a_trace_does_not_depend_on_the_process() -> None:
    script = (
        "from llama_gossip.simulation.world import World;"
        "from llama_gossip.simulation.scenario import PROFILES;"
        "print(World(11, PROFILES['full']).run().trace)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == World(11, FULL).run().trace


def test_a_trace_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = iter((1, 2))
    run = World.run
    monkeypatch.setattr(World, "run", lambda world: replace(run(world), trace=next(traces)))
    seed = QUIET.repeat_every + 1
    outcome = campaign.run_seed(seed, replace(QUIET, requests=5))
    assert [violation.oracle for violation in outcome.violations] == ["I14"]


def test_without_faults_every_request_is_made_exactly_once() -> None:
    calm = replace(QUIET, cancel_share=0.0, hurried_share=0.0, unread_ms=30_000)  # longer than any pause
    results = campaign.run(1, 600, calm)
    assert results.violations == 0
    assert results.completed == results.requests == results.attempts
    assert results.tokens_made == results.tokens_needed


def test_a_seed_with_real_signatures_runs_as_well() -> None:
    scenario = replace(FULL, requests=40)
    outcome = World(FULL.ed25519_every * 4, scenario).run()
    assert outcome.violations == ()
    assert outcome.completed > 0


def test_dropping_a_kind_of_fault_leaves_the_others_as_they_were() -> None:
    def faults(kinds: frozenset[FaultKind]) -> list[object]:
        drawn = draw(3, kinds, start_ms=0, end_ms=10_000, share=1.0)
        return [fault for fault in drawn if fault.kind is not FaultKind.CRASH]

    assert faults(ALL) == faults(ALL - {FaultKind.CRASH})


def test_a_prompt_on_the_topic_is_told() -> None:
    world = World(1, QUIET)
    world.stage.perform(world.nodes[0], ef.Broadcast(b"\x95\x01\x02 canary:00"))
    assert [violation.oracle for violation in world.oracles.violations] == ["I13"]


def test_a_core_that_raises_is_told_and_is_dead() -> None:
    world = World(1, QUIET)
    node = world.nodes[0]
    node.start()
    world.stage.broken(node, node.event, KeyError("on purpose"))
    assert [violation.oracle for violation in world.oracles.violations] == ["I15"]
    assert not node.life


def test_an_oversize_broadcast_is_told_and_makes_its_node_mute() -> None:
    world = World(1, replace(QUIET, requests=0))
    world.topic.broadcast(0, bytes(70_000))
    outcome = world.run()
    assert "I8" in {violation.oracle for violation in outcome.violations}


def test_a_hostile_message_that_is_taken_is_told() -> None:
    world = World(1, QUIET)
    node = world.nodes[0]
    node.start()
    data = b"\x95\x01\x02\xc4\x20" + bytes(32) + b"\xc4\x04\x94\1\1\0" + b"\xc4\x40" + bytes(64)
    world.witness._after_evil(node, data, "forged", accepted=True)
    assert [violation.oracle for violation in world.oracles.violations] == ["I6"]


# --- the command ---------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llama_gossip.simulation", *arguments], capture_output=True, text=True
    )


def test_the_last_line_is_one_object_and_the_status_is_good() -> None:
    done = command("--profile", "quiet", "--requests", "100", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0
    assert told["violations"] == 0
    assert told["completed"] + told["cancelled"] + told["failed"] == told["requests"] >= 100
    assert {"requests_per_s", "generated_over_needed", "failovers"} <= told.keys()
    assert "violations" in done.stderr


def test_a_wrong_question_is_answered_with_what_is_right() -> None:
    done = command("--profile", "none")
    assert done.returncode == 2
    assert "quiet" in done.stderr


def test_a_scenario_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text('base = "quiet"\nrequests = 20\nworkers = [2, 2]\nfaults = ["crash"]\nshare = 1.0\n')
    done = command("--scenario", str(path), "--requests", "20", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0
    assert told["requests"] <= 20
    assert set(told["faults"]) == {"crash"}
