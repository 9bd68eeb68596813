"""What I9 counts as needed and what as waste, and that a simulated network is told the same."""

from __future__ import annotations

from dataclasses import replace

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import ChatPrompt, GenerationConfig, NodeId, RequestId
from llama_gossip.simulation import campaign
from llama_gossip.simulation.faults import FaultKind
from llama_gossip.simulation.history import Story
from llama_gossip.simulation.results import JUDGED_TOKENS, Results
from llama_gossip.simulation.scenario import PROFILES
from llama_gossip.simulation.waste import WASTE_SEED, Waste
from llama_gossip.simulation.world import World

SUBMIT = ev.Submit(
    request_id=RequestId(b"r" * 16),
    model="tiny",
    prompt=ChatPrompt((("user", "hello"),)),
    config=GenerationConfig(max_tokens=8, seed=1),
    date="2026-11-24",
)


def asked() -> tuple[Waste, Story]:
    return Waste(), Story(NodeId(b"a" * 32), SUBMIT, 1_000)


def test_what_is_made_once_is_needed() -> None:
    waste, story = asked()
    waste.made_for(story, 1, 0, 4)
    waste.made_for(story, 1, 4, 6)
    assert (waste.made, waste.needed) == (6, 6)


def test_what_was_lost_and_is_made_again_is_waste() -> None:
    waste, story = asked()
    waste.made_for(story, 1, 0, 6)
    story.fenced[1] = 2_000
    waste.made_for(story, 2, 4, 8)
    assert (waste.made, waste.needed) == (10, 8)


def test_what_is_made_for_an_attempt_that_has_ended_is_waste() -> None:
    waste, story = asked()
    waste.made_for(story, 1, 0, 4)
    story.fenced[1] = 2_000
    waste.made_for(story, 1, 4, 6)
    assert (waste.made, waste.needed) == (6, 4)
    waste.made_for(story, 2, 4, 6)
    assert (waste.made, waste.needed) == (8, 6), "the next attempt needs them all the same"


def test_an_answer_that_its_user_cancels_was_needed_until_then() -> None:
    waste, story = asked()
    waste.made_for(story, 1, 0, 4)
    story.assigns[1] = None  # type: ignore[assignment]  # which it was does not matter here
    story.fence_all(2_000)
    waste.made_for(story, 1, 4, 5)
    assert (waste.made, waste.needed) == (5, 4)


def test_what_is_made_for_a_process_that_was_killed_is_the_leases_business() -> None:
    waste, story = asked()
    waste.made_for(story, 1, 0, 4)
    story.void = True
    waste.made_for(story, 1, 4, 8)
    assert (waste.made, waste.needed) == (4, 4)


def test_a_seed_of_few_tokens_may_waste_as_many_as_the_smallest_that_counts() -> None:
    waste, story = asked()
    waste.made_for(story, 1, 0, 1)
    story.fenced[1] = 2_000
    waste.made_for(story, 1, 1, 701)
    assert not waste.too_high
    waste.made_for(story, 1, 701, 702)
    assert waste.too_high


def test_the_worst_seed_of_a_campaign_has_more_than_a_few_tokens() -> None:
    results = Results()
    outcome = replace(World(1, replace(PROFILES["quiet"], requests=2)).run(), tokens_made=2 * JUDGED_TOKENS)
    results.add(replace(outcome, tokens_needed=JUDGED_TOKENS - 1))
    assert results.worst_waste == 0.0
    results.add(replace(outcome, tokens_needed=JUDGED_TOKENS))
    assert results.worst_waste == 2.0


def test_faults_cost_tokens_and_less_than_is_allowed() -> None:
    scenario = replace(PROFILES["full"], faults=frozenset({FaultKind.CUT}), share=1.0)
    results = campaign.run(1, 300, scenario)
    assert results.violations == 0
    assert 1.0 < results.waste < WASTE_SEED
