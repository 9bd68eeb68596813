"""Mutation: breaks the core one line at a time, in memory, and runs the simulation over what is left of it.

The law: no file is touched. The modules of the protocol and of the simulation are loaded afresh with one line
of one of them replaced, and what was loaded before comes back afterwards.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType

from llama_gossip.errors import UsageError
from llama_gossip.simulation.mutant import Mutant
from llama_gossip.simulation.mutants import MUTANTS
from llama_gossip.simulation.parallel import in_order
from llama_gossip.simulation.scenario import Scenario, kinds_of, profile

_PACKAGES = ("llama_gossip.protocol", "llama_gossip.simulation")
_LISTS = tuple(f"mutants_of_{part}" for part in ("delivery", "gossip", "requesters", "soliciting", "workers"))
_KEPT = frozenset(
    {
        f"llama_gossip.simulation.{name}"
        for name in ("mutant", "mutants", *_LISTS, "mutation", "parallel", "scenario", "faults", "__main__")
    }
)
# Shares that are none where nothing at all goes wrong, and each question is as plain as the next.
_NOT_CALM = (
    "cancel_share",
    "hurried_share",
    "slow_reader_share",
    "open_share",
    "gossip_share",
    "public_share",
    "turn_share",
)
HEALTHY_REQUESTS = 100  # without faults: a mutant that fails these shows nothing about faults


@dataclass(frozen=True, slots=True)
class Verdict:
    name: str
    killed: bool
    requests: int  # until it was killed, or in all
    oracles: tuple[str, ...]  # that fell
    expected: str
    counts: bool  # it passes without faults

    @property
    def line(self) -> str:
        fell = ",".join(self.oracles) or "-"
        state = "killed  " if self.killed else "SURVIVES"
        note = "" if self.counts else "  (fails without faults too)"
        fall = f"{fell:<12} expected {self.expected:<4}"
        return f"{state} {self.name:<28} {fall} {self.requests:>7} requests{note}"


def run(
    scenario: Scenario,
    *,
    first_seed: int,
    requests: int,
    names: Sequence[str] | None = None,
    jobs: int = 1,
) -> Iterator[Verdict]:
    """One verdict a mutant. requests: the most that one may cost. jobs: processes."""
    chosen = [mutant for mutant in MUTANTS if names is None or mutant.name in names]
    if names is not None and len(chosen) != len(set(names)):
        known = ", ".join(mutant.name for mutant in MUTANTS)
        raise UsageError("there is no such mutant", hint=f"known: {known}")
    work = partial(judge, scenario=scenario, first_seed=first_seed, requests=requests)
    yield from in_order(work, chosen, jobs=jobs)


def judge(mutant: Mutant, scenario: Scenario, *, first_seed: int, requests: int) -> Verdict:
    with mutated(mutant) as campaign:
        quiet = replace(profile("quiet"), **dict.fromkeys(_NOT_CALM, 0.0))  # type: ignore[arg-type]  # shares
        healthy = campaign.run(first_seed, HEALTHY_REQUESTS, quiet, stop_at_first=True)
        results = campaign.run(first_seed, requests, scenario, stop_at_first=True)
        if mutant.focus and not results.failing:
            results = campaign.run(first_seed, requests, _focused(scenario, mutant), stop_at_first=True)
    fell = {violation.oracle for outcome in results.failing for violation in outcome.violations}
    return Verdict(
        name=mutant.name,
        killed=bool(fell),
        requests=results.requests,
        oracles=tuple(sorted(fell)),
        expected=mutant.oracle,
        counts=not healthy.failing and healthy.failed == 0,
    )


def _focused(scenario: Scenario, mutant: Mutant) -> Scenario:
    """Only the faults under which its lack shows, all of them on, and time for it."""
    return replace(scenario, faults=kinds_of(list(mutant.focus)), share=1.0, patient_share=0.5)


@contextmanager
def mutated(mutant: Mutant) -> Iterator[ModuleType]:
    """The module `campaign` over the mutated core."""
    before = {name: module for name, module in sys.modules.items() if _is_afresh(name)}
    finder = _Finder(mutant)
    for name in before:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module("llama_gossip.simulation.campaign")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _is_afresh(name)]:
            del sys.modules[name]
        sys.modules.update(before)
        for name in _PACKAGES:
            if name in before:
                setattr(sys.modules["llama_gossip"], name.rpartition(".")[2], before[name])


def _is_afresh(name: str) -> bool:
    """A package of its own too: it holds its modules as attributes, and those would be the old ones."""
    return (name in _PACKAGES or name.startswith(tuple(f"{package}." for package in _PACKAGES))) and (
        name not in _KEPT
    )


class _Finder(MetaPathFinder):
    """Finds the one module that is mutated; the others are found as ever."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is None or spec.origin is None:
            return None
        loader: Loader = _MutantLoader(fullname, spec.origin, self._mutant)
        return ModuleSpec(fullname, loader, origin=spec.origin)


class _MutantLoader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, mutant: Mutant) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> object:  # type: ignore[override]  # typeshed names types.CodeType | None
        source = self.get_data(self.path).decode()
        return compile(self._mutant.applied(source), self.path, "exec", dont_inherit=True)
