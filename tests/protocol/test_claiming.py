"""Claiming, by a worker: which Requests it answers, when, and when it keeps silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llama_gossip.protocol import claimer
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.jobqueue import Caps
from llama_gossip.protocol.messages import Claim, Head, NumericsClass, Request, RequestId
from tests.protocol.asking import decoded
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.hand import OWN_BOOT, HandClient, key
from tests.protocol.scripted_model import DIGEST, ScriptedModel

ASKER = key("asker")


class Asked:
    """A real worker that is asked over the topic."""

    def __init__(self, **options: Any) -> None:
        self.hand = HandClient(**options)
        self.worker = self.hand.worker
        self.worker.wait(1_000)
        self._seq = 0

    def request(self, number: int = 1, **changes: Any) -> None:
        self._seq += 1
        head = Head(OWN_BOOT, self._seq, WALL_MS + self.worker.now_ms)
        request_id = RequestId(number.to_bytes(16, "big"))
        base = Request(head, request_id, "tiny", 8, 50, 5, 60_000, ASKER.node_id)
        data = sign_envelope(replace(base, **changes), ASKER, NET_ID)
        self.worker.feed(ev.GossipReceived(ASKER.node_id, data))

    def overhear(self, name: str, est_ttft_ms: int, number: int = 1) -> None:
        signer = key(name)
        self._seq += 1
        claim = Claim(
            Head(OWN_BOOT, self._seq, WALL_MS + self.worker.now_ms), ASKER.node_id,
            RequestId(number.to_bytes(16, "big")), signer.node_id, 0, est_ttft_ms, 9.0,
            None, None, NumericsClass.FAST, bytes(32), (),
        )  # fmt: skip
        self.worker.feed(ev.GossipReceived(signer.node_id, sign_envelope(claim, signer, NET_ID)))

    def claims(self) -> list[Claim]:
        said = [decoded(effect) for effect in self.worker.all(ef.Broadcast)]
        return [message for message in said if isinstance(message, Claim)]

    def busy(self, jobs: int) -> None:
        """So many jobs of others, none of which ends."""
        for number in range(jobs):
            self.hand.ask(key(f"other {number}"), request_id=self.hand.other(1_000 + number))


def test_an_idle_worker_claims_within_100_ms_what_it_could_serve() -> None:
    asked = Asked()
    asked.request()
    asked.worker.wait(100)
    [claim] = asked.claims()
    assert (claim.requester, claim.request_id) == (ASKER.node_id, (1).to_bytes(16, "big"))
    assert (claim.worker, claim.queue_position) == (asked.worker.node_id, 0)
    assert (claim.digest, claim.numerics_id, claim.numerics_class) == (DIGEST, "scripted-1", 0)
    assert claim.tokens_per_s == 200.0
    asked.worker.wait(5_000)
    assert len(asked.claims()) == 1


@pytest.mark.parametrize(("jobs", "least_ms"), [(1, 50), (2, 100), (8, 400), (40, 1_000)])
def test_the_busier_a_worker_the_later_it_claims(jobs: int, least_ms: int) -> None:
    asked = Asked(model=ScriptedModel(slots=2))
    asked.busy(jobs)
    asked.request()
    asked.worker.wait(least_ms - 1)
    assert asked.claims() == []
    asked.worker.wait(101)
    [claim] = asked.claims()
    assert claim.queue_position == (0 if jobs < 2 else jobs - 1)


def learnt(asked: Asked, ttft_ms: float = 80.0) -> None:
    """It has served before and knows how long that takes."""
    asked.worker.core._worker.jobs.pace._first_token_ms = ttft_ms


def test_three_faster_claims_make_a_fourth_needless() -> None:
    asked = Asked()
    learnt(asked)
    asked.request(1)
    for name in ("a", "b", "c"):
        asked.overhear(name, 79)
    asked.worker.wait(1_000)
    assert asked.claims() == []
    asked.request(2)
    asked.overhear("a", 79, number=2)
    asked.overhear("b", 79, number=2)
    asked.overhear("c", 80, number=2)
    asked.worker.wait(1_000)
    assert [claim.est_ttft_ms for claim in asked.claims()] == [80], "the third was not faster"


def test_one_worker_that_claims_three_times_silences_nobody() -> None:
    asked = Asked()
    learnt(asked)
    asked.request()
    for est_ttft_ms in (1, 2, 3):
        asked.overhear("equivocator", est_ttft_ms)
    asked.worker.wait(1_000)
    assert len(asked.claims()) == 1


UNSERVED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another model": ({}, {"model": "huge"}),
    "too long": ({}, {"prompt_tokens": 1_024}),
    "too long with its answer": ({}, {"max_tokens": 512}),
    "more tokens than its policy": ({"policy": Policy(max_tokens=49)}, {}),
}


@pytest.mark.parametrize("name", UNSERVED)
def test_what_it_could_not_serve_a_worker_does_not_claim(name: str) -> None:
    options, changes = UNSERVED[name]
    asked = Asked(**options)
    asked.request(**changes)
    asked.worker.wait(2_000)
    assert asked.claims() == []


def test_a_rounded_prompt_that_may_fit_is_claimed() -> None:
    asked = Asked()
    asked.request(prompt_tokens=512, max_tokens=255)  # 257 tokens at least, and 512 is the context
    asked.worker.wait(100)
    assert len(asked.claims()) == 1


@pytest.mark.parametrize(
    "event",
    [ev.EngineChanged(None, loading=True), ev.EngineChanged(None), ev.Drain("bye")],
    ids=["loading", "a client", "draining"],
)
def test_who_is_not_ready_when_its_moment_comes_does_not_claim(event: ev.Event) -> None:
    asked = Asked()
    asked.request()
    asked.worker.feed(event)
    asked.worker.wait(2_000)
    assert asked.claims() == []


def test_a_worker_without_a_place_in_its_queue_does_not_claim() -> None:
    asked = Asked(model=ScriptedModel(slots=1), policy=Policy(caps=Caps(max_queued=1)))
    asked.busy(2)
    asked.request()
    asked.worker.wait(2_000)
    assert asked.claims() == []


def test_any_model_is_claimed_by_whoever_serves_one() -> None:
    asked = Asked()
    asked.request(model="")
    asked.worker.wait(100)
    assert len(asked.claims()) == 1


def test_each_round_is_answered_anew_and_a_repeated_request_but_once() -> None:
    asked = Asked()
    asked.request()
    asked.request()
    asked.worker.wait(1_000)
    assert len(asked.claims()) == 1
    asked.request()
    asked.worker.wait(100)
    assert len(asked.claims()) == 2


def ask_many(asked: Asked, count: int) -> None:
    """Many signers, one Request each."""
    for number in range(count):
        signer = key(f"asker {number}")
        head = Head(OWN_BOOT, 1, WALL_MS + asked.worker.now_ms)
        request = Request(head, RequestId(bytes(16)), "tiny", 8, 50, 5, 60_000, signer.node_id)
        neighbour = key(f"neighbour {number // 50}").node_id
        asked.worker.feed(ev.GossipReceived(neighbour, sign_envelope(request, signer, NET_ID)))


def test_a_worker_claims_no_faster_than_receivers_take_it() -> None:
    asked = Asked()
    ask_many(asked, 120)
    asked.worker.wait(1_000)
    assert 50 <= len(asked.claims()) <= 56
    assert asked.worker.core.counters()["claims_over_rate"] >= 64


def test_the_claims_that_wait_are_bounded() -> None:
    asked = Asked()
    ask_many(asked, claimer.MAX_PENDING + 10)
    assert len(asked.worker.core._claimer) == claimer.MAX_PENDING
    counters = asked.worker.core.counters()
    assert counters["claims_crowded_out"] + counters.get("claims_sent", 0) == 10
    asked.worker.wait(2_000)
    assert len(asked.worker.core._claimer) == 0
