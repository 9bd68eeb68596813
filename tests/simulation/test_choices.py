"""I17 in whole worlds: it judges, it is silent where the rules hold, and it falls where one is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_gossip.protocol.call import Call
from llama_gossip.protocol.request import Request
from llama_gossip.protocol.selection import Chooser
from llama_gossip.protocol.solicitor import Solicitor
from llama_gossip.simulation.scenario import PROFILES, Scenario
from llama_gossip.simulation.world import World

CALM = replace(PROFILES["quiet"], cancel_share=0.0, hurried_share=0.0)


def fallen(world: World) -> set[str]:
    return {violation.oracle for violation in world.run().violations}


# --- a conversation goes home ---------------------------------------------------------------------------

TALKATIVE = replace(CALM, turn_share=0.4, requesters=(1, 1), workers=(4, 4), hybrids=(0, 0), requests=80)


def test_many_turns_are_judged_and_all_go_home() -> None:
    world = World(1, TALKATIVE)
    assert fallen(world) == set()
    assert world.stage.conversations.judged >= 10


def test_a_turn_that_goes_elsewhere_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chooser, "_kept", lambda *asked: None)
    assert fallen(World(1, TALKATIVE)) == {"I17"}


@pytest.mark.parametrize(
    "excused",
    [
        pytest.param(replace(TALKATIVE, gossip_share=1.0), id="none is dialled"),
        pytest.param(replace(TALKATIVE, requesters=(0, 0), hybrids=(1, 1)), id="the node serves itself too"),
    ],
)
def test_a_turn_with_an_excuse_is_not_judged(excused: Scenario) -> None:
    world = World(1, excused)
    assert fallen(world) == set()
    assert world.stage.conversations.judged == 0


# --- the offer window -----------------------------------------------------------------------------------

CROWDED = replace(CALM, all_crowded_share=1.0, requesters=(1, 1), workers=(4, 4), hybrids=(0, 0), requests=40)
PUBLIC = replace(CALM, public_share=1.0, requesters=(1, 1), hybrids=(0, 0), requests=40)


@pytest.mark.parametrize(
    "asking", [pytest.param(CROWDED, id="found by claims alone"), pytest.param(PUBLIC, id="public")]
)
def test_many_offer_windows_are_judged_and_all_are_waited_for(asking: Scenario) -> None:
    world = World(1, asking)
    assert fallen(world) == set()
    assert world.stage.offers.judged >= 10


@pytest.mark.parametrize(
    "asking", [pytest.param(CROWDED, id="found by claims alone"), pytest.param(PUBLIC, id="public")]
)
def test_a_choice_at_the_first_claim_is_blamed(monkeypatch: pytest.MonkeyPatch, asking: Scenario) -> None:
    def close_now(solicitor: Solicitor, call: Call) -> None:
        solicitor._desk.agenda.set(("call", call.number, "close"), solicitor._desk.now.mono_ms)

    monkeypatch.setattr(Solicitor, "_close_soon", close_now)
    assert "I17" in fallen(World(1, asking))


def test_a_public_request_that_the_topic_was_not_asked_for_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Request, "answered", property(lambda request: True, lambda request, value: None))
    world = World(1, PUBLIC)
    assert any("has not asked the topic" in violation.what for violation in world.run().violations)
