"""python -m llama_gossip.simulation: many requests under faults, checked by every oracle.

The law: the last line on stdout is one JSON object with --json, everything for people is on stderr; the exit
status is 1 on any violation (with --mutants: when too few are killed), 2 for a wrong question.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from llama_gossip.errors import UsageError
from llama_gossip.simulation import campaign, mutation, scenario
from llama_gossip.simulation.results import Results
from llama_gossip.simulation.scenario import Scenario
from llama_gossip.simulation.world import Outcome

SHOWN = 5  # failing seeds that are told in full
PROGRESS_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.jobs < 1:
            raise UsageError("--jobs counts processes", hint="give 1 or more")
        return _mutants(options) if options.mutants else _simulate(options)
    except UsageError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llama_gossip.simulation", description=__doc__)
    add = parser.add_argument
    add("--requests", type=int, default=10_000, help="how many, in seeds of one network each")
    add("--seed", type=int, default=1, help="the first one")
    add("--profile", default="full", help=", ".join(scenario.PROFILES))
    add("--scenario", type=Path, help="a TOML or JSON file: a profile with some fields changed")
    add("--faults", help="only these kinds, all of them on where the profile draws them; none: no fault")
    add("--no-failover", action="store_true", help="an answer that has begun may fail")
    add("--no-shrink", action="store_true", help="tell a failing seed as it is")
    add("--jobs", type=int, default=1, help="processes; the results do not depend on it")
    add("--json", action="store_true", help="the last line on stdout is one object")
    add("--mutants", action="store_true", help="break the core one line at a time: the oracles must see it")
    add("--least", type=float, default=1.0, help="with --mutants: the share that must be killed")
    add("--only", help="with --mutants: these, by name, with commas between")
    return parser


def _scenario_of(options: argparse.Namespace) -> Scenario:
    if options.scenario is not None:
        try:
            text = options.scenario.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{options.scenario}: {error.strerror}", hint="name a file") from None
        chosen = scenario.read(text, toml=options.scenario.suffix == ".toml")
    else:
        chosen = scenario.profile(options.profile)
    if options.faults is not None:
        names = [] if options.faults == "none" else options.faults.split(",")
        chosen = replace(chosen, faults=scenario.kinds_of(names))
    return replace(chosen, failover=False) if options.no_failover else chosen


def _simulate(options: argparse.Namespace) -> int:
    chosen = _scenario_of(options)
    started_s = time.perf_counter()
    told_s, failing = started_s, 0

    def progress(results: Results) -> None:
        nonlocal told_s, failing
        if len(results.failing) > failing:
            failing = len(results.failing)
            _tell_at_once(results.failing[-1])
        now_s = time.perf_counter()
        if now_s - told_s >= PROGRESS_S:
            told_s = now_s
            _bar(results, options.requests, now_s - started_s)

    results = campaign.run(options.seed, options.requests, chosen, each=progress, jobs=options.jobs)
    elapsed_s = time.perf_counter() - started_s
    sys.stderr.write("\r" + " " * 78 + "\r" if sys.stderr.isatty() else "")
    sys.stderr.write(results.table(elapsed_s) + "\n")
    _tell_failing(results, chosen, options)
    if options.json:
        sys.stdout.write(json.dumps(results.as_object(elapsed_s)) + "\n")
    return int(results.violations > 0)


def _tell_at_once(outcome: Outcome) -> None:
    """A long run is worth stopping early."""
    clear = "\r" + " " * 78 + "\r" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{clear}seed {outcome.seed} fails: {outcome.violations[0]}\n")
    sys.stderr.flush()


def _bar(results: Results, requests: int, elapsed_s: float) -> None:
    share = min(1.0, results.requests / requests)
    bar = "█" * round(30 * share)
    line = f"{bar:<30} {share:4.0%}  {results.requests / elapsed_s:,.0f}/s  {results.violations} violations"
    sys.stderr.write(f"\r{line}" if sys.stderr.isatty() else "")
    sys.stderr.flush()


def _tell_failing(results: Results, chosen: Scenario, options: argparse.Namespace) -> None:
    for outcome in results.failing[:SHOWN]:
        sys.stderr.write(f"\nseed {outcome.seed}:\n")
        for violation in outcome.violations[:SHOWN]:
            sys.stderr.write(f"  {violation}\n")
        if len(outcome.violations) > SHOWN:
            sys.stderr.write(f"  and {len(outcome.violations) - SHOWN} more\n")
        small = chosen
        if not options.no_shrink:
            small = campaign.shrink(outcome.seed, chosen, outcome.violations[0].oracle)
        sys.stderr.write(f"  {campaign.command(outcome.seed, small, options.profile)}\n")
    if len(results.failing) > SHOWN:
        rest = ", ".join(str(outcome.seed) for outcome in results.failing[SHOWN:][:50])
        sys.stderr.write(f"\nother failing seeds: {rest}\n")


def _mutants(options: argparse.Namespace) -> int:
    chosen = _scenario_of(options)
    names = options.only.split(",") if options.only else None
    verdicts = []
    verdicts_of = mutation.run(
        chosen, first_seed=options.seed, requests=options.requests, names=names, jobs=options.jobs
    )
    for verdict in verdicts_of:
        verdicts.append(verdict)
        sys.stderr.write(f"{verdict.line}\n")
    survivors = [verdict.name for verdict in verdicts if not verdict.killed]
    killed = len(verdicts) - len(survivors)
    sys.stderr.write(f"{killed} of {len(verdicts)} killed\n")
    if options.json:
        counts = {"killed": killed, "total": len(verdicts), "survivors": survivors}
        sys.stdout.write(json.dumps(counts) + "\n")
    return int(killed < options.least * len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
