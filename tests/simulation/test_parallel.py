"""Work in several processes gives what one process gives."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, islice

import pytest

from llama_gossip.simulation import campaign
from llama_gossip.simulation.__main__ import main
from llama_gossip.simulation.history import Violation
from llama_gossip.simulation.parallel import in_order
from llama_gossip.simulation.scenario import PROFILES, Scenario
from llama_gossip.simulation.world import Outcome


def slow_for_even(number: int) -> int:
    if number % 2 == 0:
        sum(range(200_000))
    return number * number


def failing(number: int) -> int:
    if number == 3:
        raise ValueError("the third")
    return number


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_of_endless_work_come_in_the_order_of_the_work(jobs: int) -> None:
    results = in_order(slow_for_even, count(), jobs=jobs)
    assert list(islice(results, 30)) == [number * number for number in range(30)]
    results.close()


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_in_a_process_fails_here_after_what_came_before_it(jobs: int) -> None:
    results = in_order(failing, range(6), jobs=jobs)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_a_campaign_does_not_depend_on_the_number_of_processes() -> None:
    alone, together = (campaign.run(5, 400, PROFILES["full"], jobs=jobs) for jobs in (1, 2))
    assert alone == together
    assert alone.requests >= 400


def test_no_process_at_all_is_a_wrong_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--jobs", "0"]) == 2
    assert "give 1 or more" in capsys.readouterr().err


def test_a_bug_of_the_simulation_itself_names_the_seed_that_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign.World, "run", lambda world: failing(world.seed))
    with pytest.raises(RuntimeError, match="seed 3 shows"):
        campaign.run_seed(3, PROFILES["quiet"])


def test_a_failing_seed_is_told_before_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_seed = campaign.run_seed

    def violated(seed: int, scenario: Scenario) -> Outcome:
        told = capsys.readouterr().err
        assert ("seed 7 fails: I3" in told) == (seed == 8)
        broken = (Violation("I3", 5, "broken on purpose"),)
        return replace(run_seed(seed, scenario), violations=broken if seed == 7 else ())

    monkeypatch.setattr(campaign, "run_seed", violated)
    calm = ["--profile", "quiet", "--jobs", "1", "--no-shrink"]
    assert main(["--requests", "400", "--seed", "6", *calm]) == 1
