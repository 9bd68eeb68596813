"""The topic is asked in whole worlds: crowded Announces are no limit, turns come home, storms are seen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.affinity import links_of
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.messages import (
    Claim,
    EnvelopeMessage,
    Head,
    NodeId,
    NumericsClass,
    Request,
    RequestId,
)
from llama_gossip.simulation.chatter import Chatter
from llama_gossip.simulation.clock import Clock
from llama_gossip.simulation.scenario import PROFILES
from llama_gossip.simulation.signing import HashSigner
from llama_gossip.simulation.world import NET_ID, World

CALM = replace(PROFILES["quiet"], cancel_share=0.0, hurried_share=0.0)


def test_where_no_announce_has_room_for_the_model_every_request_is_served_by_claims() -> None:
    world = World(1, replace(CALM, all_crowded_share=1.0, requests=60))
    outcome = world.run()
    assert outcome.violations == ()
    assert outcome.completed == outcome.requests > 0
    taken = sum(node.core.counters().get("claims_taken", 0) for node in world.nodes if node.core)
    named = sum(story.submit.model != "" for story in world.oracles.stories.values())
    assert named > 0
    assert taken > 0
    for node in world.nodes:
        assert node.core is not None
        announced = [peer.announce for _, peer in node.core._roster.items()]
        assert "tiny" not in {offer.name for announce in announced for offer in announce.capacity.models}


def test_turns_of_a_conversation_go_home_far_more_often_than_chance_would_have_it() -> None:
    home = away = 0
    for seed in range(1, 6):
        world = World(seed, replace(CALM, turn_share=0.3, workers=(4, 4), hybrids=(0, 0), requests=100))
        world.run()
        answered: dict[tuple[NodeId, bytes], NodeId] = {}
        for story in sorted(world.oracles.stories.values(), key=lambda story: story.at_ms):
            links = links_of(story.submit.model, story.submit.prompt)
            before = [answered[key] for link in links[:-1] if (key := (story.requester, link)) in answered]
            if before and story.assigns[1].worker == before[-1]:
                home += 1
            elif before:
                away += 1
            assert isinstance(story.end, ef.Finished)
            answered[story.requester, links[-1]] = story.end.worker
    assert home + away >= 50
    assert home >= 0.6 * (home + away), "a quarter would be chance"


# --- the oracle can fall --------------------------------------------------------------------------------


@dataclass
class Speaker:
    """As much of a process as the oracle looks at."""

    name: str = "node"
    place: int = 1
    life: int = 1
    event: ev.Event = field(default_factory=ev.Tick)


SIGNER = HashSigner(b"s" * 32)
ASKED = RequestId(b"r" * 16)


def request(prompt_tokens: int = 8, max_tokens: int = 8) -> Request:
    return Request(Head(1, 1, 1), ASKED, "tiny", prompt_tokens, max_tokens, 5, 1_000, SIGNER.node_id)


def claim(worker: bytes = b"w", est_ttft_ms: int = 10) -> Claim:
    return Claim(
        Head(1, 1, 1), SIGNER.node_id, ASKED, NodeId(worker * 32), 0, est_ttft_ms, 1.0,
        None, None, NumericsClass.EXACT, bytes(32), (),
    )  # fmt: skip


class Listening:
    def __init__(self) -> None:
        self.clock = Clock()
        self.blamed: list[str] = []
        self.chatter = Chatter(lambda oracle, what: self.blamed.append(oracle), self.clock)
        self.speaker = Speaker()

    def said(self, message: EnvelopeMessage) -> list[str]:
        self.chatter.said(self.speaker, sign_envelope(message, SIGNER, NET_ID))  # type: ignore[arg-type]
        return self.blamed

    def heard(self, message: EnvelopeMessage) -> None:
        self.chatter.heard(self.speaker, sign_envelope(message, SIGNER, NET_ID))  # type: ignore[arg-type]


def test_a_question_that_is_repeated_within_half_a_second_is_blamed() -> None:
    listening = Listening()
    assert listening.said(request()) == []
    listening.clock.run_until(500)
    assert listening.said(request()) == []
    listening.clock.run_until(999)
    assert listening.said(request()) == ["I12"]


def test_a_question_that_tells_the_exact_length_is_blamed() -> None:
    assert Listening().said(request(prompt_tokens=9)) == ["I13"]


def test_a_storm_of_different_questions_is_blamed() -> None:
    listening = Listening()
    for number in range(10):
        assert listening.said(request(max_tokens=number + 1)) == []
    assert listening.said(request(max_tokens=11)) == ["I12"]


def test_a_claim_without_a_request_and_a_second_one_are_blamed() -> None:
    listening = Listening()
    listening.heard(request())
    assert listening.said(claim()) == []
    assert listening.said(claim()) == ["I12"]


def test_a_claim_behind_three_faster_ones_is_blamed() -> None:
    listening = Listening()
    listening.heard(request())
    for worker in (b"a", b"b", b"c"):
        listening.heard(claim(worker, 9))
    assert listening.said(claim()) == ["I12"]
    patient = Listening()
    patient.heard(request())
    for worker in (b"a", b"b", b"c"):
        patient.heard(claim(worker, 10))
    assert patient.said(claim()) == [], "none of them is faster"


@pytest.mark.parametrize("event", [b"", b"\x95\x01", b"\x95\x01\x03"])
def test_a_claim_may_come_out_in_an_event_that_brings_whatever_bytes(event: bytes) -> None:
    listening = Listening()
    listening.speaker.event = ev.GossipReceived(NodeId(bytes(32)), event)
    brings_the_request = event.endswith(b"\x03")
    assert listening.said(claim()) == ([] if brings_the_request else ["I12"])
