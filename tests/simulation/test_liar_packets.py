"""Liars over gossip: they lie there too, nothing falls for it, and a core that believes them is found out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_gossip.simulation import mutation
from llama_gossip.simulation.faults import FaultKind
from llama_gossip.simulation.mutants import MUTANTS
from llama_gossip.simulation.scenario import PROFILES
from llama_gossip.simulation.world import World

BY_GOSSIP = replace(
    PROFILES["full"],
    faults=frozenset({FaultKind.LIAR}),
    share=1.0,
    gossip_share=1.0,
    public_share=0.1,
    crowded_share=0.0,
    all_crowded_share=0.0,
    requests=60,
)


def test_liars_lie_over_gossip_and_every_request_is_answered_all_the_same() -> None:
    lies = 0
    for seed in range(1, 5):
        world = World(seed, BY_GOSSIP)
        outcome = world.run()
        assert outcome.violations == ()
        assert outcome.completed > 0.8 * outcome.requests
        lies += world.struck["lies_by_gossip"]
    assert lies >= 20


@pytest.mark.parametrize("name", ["contiguous", "digest"])
def test_a_core_that_believes_a_lie_over_gossip_is_found_out(name: str) -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    with mutation.mutated(mutant) as broken:
        results = broken.run(1, 1_500, BY_GOSSIP, stop_at_first=True)
    fallen = {violation.oracle for outcome in results.failing for violation in outcome.violations}
    assert mutant.oracle in fallen
