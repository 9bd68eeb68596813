"""Campaign: many seeds, one verdict; and a failing seed shrunk to the faults that it needs.

The law: seeds run from the first on, one after the other, until enough requests were made. What fails is
named with the command that shows it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count

from llama_gossip.simulation.faults import FaultKind
from llama_gossip.simulation.history import Violation
from llama_gossip.simulation.parallel import in_order
from llama_gossip.simulation.results import Results
from llama_gossip.simulation.scenario import Scenario
from llama_gossip.simulation.world import Outcome, World

SHRINK_RUNS = 60  # as many kinds twice over, and a few


def run_seed(seed: int, scenario: Scenario) -> Outcome:
    """One seed; now and then twice, for I14. Raises RuntimeError where the simulation itself breaks."""
    outcome = _run(seed, scenario)
    if scenario.repeat_every and seed % scenario.repeat_every == 1:
        again = _run(seed, scenario)
        if again.trace != outcome.trace:
            what = f"two runs of seed {seed} have different traces"
            outcome = replace(
                outcome, violations=(*outcome.violations, Violation("I14", outcome.virtual_ms, what))
            )
    return outcome


def _run(seed: int, scenario: Scenario) -> Outcome:
    try:
        return World(seed, scenario).run()
    except Exception as error:  # of the world, not of a core: what a core raises is a violation
        raise RuntimeError(f"the simulation has a bug that seed {seed} shows") from error


def outcomes(first_seed: int, requests: int, scenario: Scenario, *, jobs: int = 1) -> Iterator[Outcome]:
    made = 0
    results = in_order(partial(run_seed, scenario=scenario), count(first_seed), jobs=jobs)
    with closing(results):
        while made < requests:
            outcome = next(results)
            made += max(1, outcome.requests)
            yield outcome


def run(
    first_seed: int,
    requests: int,
    scenario: Scenario,
    *,
    each: Callable[[Results], None] = lambda results: None,
    stop_at_first: bool = False,
    jobs: int = 1,
) -> Results:
    """jobs: processes. The results do not depend on it."""
    results = Results()
    for outcome in outcomes(first_seed, requests, scenario, jobs=jobs):
        results.add(outcome)
        each(results)
        if stop_at_first and outcome.violations:
            break
    return results


def shrink(seed: int, scenario: Scenario, oracle: str) -> Scenario:
    """The fewest fault kinds (one dropped at a time) with which this seed still violates the same oracle."""

    def fails(kinds: frozenset[FaultKind]) -> bool:
        outcome = World(seed, replace(scenario, faults=kinds)).run()
        return any(violation.oracle == oracle for violation in outcome.violations)

    kinds, runs = scenario.faults, 0
    changed = True
    while changed and runs < SHRINK_RUNS:
        changed = False
        for kind in sorted(kinds):
            runs += 1
            if fails(kinds - {kind}):
                kinds, changed = kinds - {kind}, True
    return replace(scenario, faults=kinds)


def command(seed: int, scenario: Scenario, profile: str) -> str:
    """What shows this seed again."""
    faults = ",".join(sorted(scenario.faults)) or "none"
    failover = "" if scenario.failover else " --no-failover"
    chosen = f"--profile {profile} --seed {seed} --requests 1 --faults {faults}{failover}"
    return f"python -m llama_gossip.simulation {chosen}"
