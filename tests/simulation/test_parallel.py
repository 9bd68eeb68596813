"""Work in several processes gives what one process gives."""

from __future__ import annotations

from itertools import count, islice

import pytest

from llama_gossip.simulation import campaign
from llama_gossip.simulation.__main__ import main
from llama_gossip.simulation.parallel import in_order
from llama_gossip.simulation.scenario import PROFILES


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
