"""Soliciting, by its requester: what the topic is asked, when again, and what becomes of Claims."""

from __future__ import annotations

from itertools import pairwise

import pytest

from llama_gossip.protocol import call
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.messages import (
    ChatPrompt,
    Head,
    IdsPrompt,
    Leave,
    NodeState,
    Reject,
    RejectReason,
    RequestId,
)
from llama_gossip.protocol.request import BYTES_PER_TOKEN
from llama_gossip.protocol.states import RequestState
from llama_gossip.protocol.streams import Delivery
from tests.protocol.asking import Asking
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.hand import OWN_BOOT, Hand, key
from tests.protocol.scripted_model import ScriptedModel


def test_whom_the_roster_does_not_name_the_topic_is_asked_for_and_the_prompt_stays_here() -> None:
    asking = Asking()
    request_id = asking.submit(prompt=ChatPrompt((("user", "a secret" * 100),)), max_tokens=7, priority=3)
    [asked] = asking.asked()
    assert (asked.request_id, asked.model, asked.max_tokens) == (request_id, "rare", 7)
    assert (asked.requester, asked.priority) == (asking.client.node_id, 3)
    assert (asked.prompt, asked.config) == (None, None)
    assert not any(b"secret" in effect.data for effect in asking.client.all(ef.Broadcast))
    assert asked.prompt_tokens == 128, "804 bytes make 100 tokens at least: the next power of two"
    assert 0 < asked.deadline_ms <= 300_000
    [request] = asking.client.core._requester._requests.values()
    assert request.state is RequestState.SOLICITING


@pytest.mark.parametrize(("ids", "told"), [(1, 1), (2, 2), (3, 4), (1_000, 1_024), (1_025, 2_048)])
def test_the_length_of_a_prompt_is_told_as_the_next_power_of_two(ids: int, told: int) -> None:
    asking = Asking()
    asking.submit(prompt=IdsPrompt(tuple(range(ids))))
    assert asking.asked()[0].prompt_tokens == told
    assert BYTES_PER_TOKEN > 4, "the estimate for text is a lower bound"


def test_the_best_claim_is_assigned_150_ms_after_the_first() -> None:
    asking = Asking()
    asking.submit()
    asking.client.wait(400)
    asking.claim(key("slow"), 90)
    asking.client.wait(100)
    asking.claim(key("fast"), 30)
    asking.claim(key("middle"), 60)
    asking.client.wait(49)
    assert asking.dialled() == []
    asking.client.wait(1)
    assert asking.dialled() == [key("fast").node_id]
    dial = asking.client.all(ef.OpenStream)[0].dial
    asking.client.feed(ev.DialFailed(dial, "gone"))
    assert asking.dialled() == [key("fast").node_id, key("middle").node_id], "the next best at once"


def test_a_claim_makes_an_assign_for_its_boot_and_an_address_hint() -> None:
    asking = Asking()
    asking.submit()
    worker = key("worker")
    effects = asking.claim(worker, addresses=("127.0.0.1:9",))
    assert ef.AddressHint(worker.node_id, ("127.0.0.1:9",)) in effects
    asking.client.wait(150)
    [opened] = asking.client.all(ef.OpenStream)
    [request] = asking.client.core._requester._requests.values()
    [candidate] = request.dials.values()
    assert candidate.prekey == bytes(range(32))
    written = asking.client.feed(ev.StreamOpened(opened.dial, 5))
    hand = Hand(asking.client, worker, 5, b"".join(e.data for e in written if isinstance(e, ef.WriteStream)))
    assert (hand.assign.worker_boot, hand.assign.model) == (OWN_BOOT, "rare")


def test_a_claim_that_comes_late_is_taken_up_at_once() -> None:
    asking = Asking()
    full = key("full")
    asking.hear(full, model=ScriptedModel(name="rare"))
    asking.submit()
    refuse(asking, full, 60_000)
    asking.client.wait(2_100)
    asking.claim(key("late"))
    assert asking.dialled() == [full.node_id, key("late").node_id]


def refuse(
    asking: Asking, signer: object, retry_after_ms: int, reason: RejectReason = RejectReason.FULL
) -> None:
    """The newest dial succeeds and its Assign is rejected."""
    stream = 100 + len(asking.dialled())
    effects = asking.client.feed(ev.StreamOpened(asking.client.all(ef.OpenStream)[-1].dial, stream))
    written = b"".join(effect.data for effect in effects if isinstance(effect, ef.WriteStream))
    Hand(asking.client, signer, stream, written).send(Reject(0, reason, retry_after_ms, OWN_BOOT))  # type: ignore[arg-type]


def test_requests_that_ask_the_same_share_one_request_and_all_are_served_by_its_claims() -> None:
    asking = Asking()
    for number in range(1, 101):
        asking.submit(number)
    assert len(asking.asked()) == 1
    asking.claim(key("worker"))
    asking.client.wait(150)
    assert len(asking.dialled()) == 100
    assert len(asking.asked()) == 1


def test_rounds_back_off_from_half_a_second_to_four_while_a_full_worker_is_waited_for() -> None:
    asking = Asking()
    full = key("full")
    asking.hear(full, model=ScriptedModel(name="rare"))
    asking.submit()
    refuse(asking, full, 300_000)
    at = []
    for _ in range(30):
        asking.client.wait(1_000)
        asking.hear(full, model=ScriptedModel(name="rare"))
        at = [message.head.ts for message in asking.asked()]
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert gaps[:5] == [2_500, 3_000, 4_000, 6_000, 6_000], "2 s of listening, and the gap"
    assert asking.dialled() == [full.node_id], "its retry_after holds"
    heads = [(message.head.boot, message.head.seq) for message in asking.asked()]
    assert len(set(heads)) == len(heads), "each envelope is a new round"


def test_a_claim_of_a_held_worker_does_not_shorten_its_retry_after() -> None:
    asking = Asking()
    full = key("full")
    asking.hear(full, model=ScriptedModel(name="rare"))
    asking.submit()
    refuse(asking, full, 10_000)
    asking.claim(full)
    asking.client.wait(9_000)
    assert len(asking.dialled()) == 1
    asking.client.wait(1_100)
    assert len(asking.dialled()) == 2


def test_nobody_is_asked_again_once_the_request_is_assigned() -> None:
    asking = Asking()
    asking.submit()
    asking.claim(key("worker"))
    asking.client.wait(150)
    asking.client.feed(ev.StreamOpened(asking.client.all(ef.OpenStream)[0].dial, 5))
    asking.client.wait(2_500)
    assert len(asking.asked()) == 1


# --- what cannot be served -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("announced", "options", "code", "reason"),
    [
        ({}, {}, "model", "serves 'tiny'"),
        ({"model": ScriptedModel(name="rare")}, {"max_tokens": 600}, "too_long", "512 tokens"),
        ({"state": NodeState.CLIENT}, {}, "no_workers", "is a client"),
    ],
)
def test_what_nobody_can_serve_fails_after_one_round_without_a_claim(
    announced: dict[str, object], options: dict[str, object], code: str, reason: str
) -> None:
    asking = Asking()
    peer = key("peer")
    asking.hear(peer, **announced)
    asking.submit(**options)
    asking.client.wait(1_999)
    assert asking.failed() == []
    asking.client.wait(1)
    [end] = asking.failed()
    assert (end.code, bool(end.hint)) == (code, True)
    [(told, attempt, why)] = end.trail
    assert (told, attempt) == (peer.node_id, 0)
    assert reason in why


def test_a_second_hopeless_request_waits_for_a_round_of_its_own() -> None:
    asking = Asking()
    asking.submit(1)
    asking.client.wait(2_000)
    asking.submit(2)
    asking.client.wait(499)
    assert len(asking.asked()) == 1
    asking.client.wait(2_001)
    assert len(asking.asked()) == 2
    assert len(asking.failed()) == 2


def test_a_node_that_has_just_joined_waits_for_its_roster_too() -> None:
    asking = Asking(joined_for_ms=0)
    asking.submit()
    asking.client.wait(2_999)
    assert asking.failed() == []
    asking.client.wait(1)
    assert len(asking.failed()) == 1


def test_who_wants_gossip_and_knows_only_its_own_worker_asks_the_topic_before_it_gives_up() -> None:
    asking = Asking()
    asking.client.feed(ev.EngineChanged(ScriptedModel(name="rare").capacity()))
    asking.submit(delivery=Delivery.GOSSIP)
    assert (len(asking.asked()), asking.failed()) == (1, [])
    asking.client.wait(2_000)
    assert len(asking.failed()) == 1


def test_a_claim_for_other_weights_serves_nobody_and_is_named_in_the_failure() -> None:
    asking = Asking()
    asking.submit(model_digest=bytes(32))
    asking.claim(key("other"))
    asking.client.wait(2_500)
    assert asking.dialled() == []
    [end] = asking.failed()
    assert end.code == "model"
    assert end.trail == ((key("other").node_id, 0, "serves other weights under this name"),)


def test_a_claimer_that_finds_it_too_long_after_all_is_not_asked_again() -> None:
    asking = Asking()
    asking.submit()
    asking.claim(key("small"))
    asking.client.wait(150)
    refuse(asking, key("small"), 0, RejectReason.TOO_LONG)
    asking.client.wait(5_000)
    assert len(asking.dialled()) == 1
    assert [end.code for end in asking.failed()] == ["too_long"]


# --- who may claim ---------------------------------------------------------------------------------------


def test_claims_that_nobody_asked_for_change_nothing() -> None:
    asking = Asking()
    request_id = asking.submit()
    asking.claim(key("a"), request_id=type(request_id)(bytes(16)))
    asking.claim(key("b"), requester=key("b").node_id)
    asking.client.wait(1_900)
    assert asking.dialled() == []
    assert asking.client.core.counters()["claims_for_others"] == 2
    asking.client.wait(200)
    assert [end.code for end in asking.failed()] == ["no_workers"]
    asking.claim(key("late"), request_id=request_id)
    assert asking.dialled() == []


def test_the_newest_claim_of_a_worker_counts() -> None:
    asking = Asking()
    asking.submit()
    asking.claim(key("a"), 10, head=Head(OWN_BOOT, 50, WALL_MS + asking.client.now_ms))
    asking.claim(key("b"), 20)
    asking.claim(key("a"), 90, head=Head(OWN_BOOT, 51, WALL_MS + asking.client.now_ms))
    asking.client.wait(150)
    assert asking.dialled() == [key("b").node_id]


def test_who_says_goodbye_after_its_claim_is_not_assigned() -> None:
    asking = Asking()
    asking.submit()
    worker = key("worker")
    asking.claim(worker)
    leave = Leave(Head(OWN_BOOT, 99, WALL_MS + asking.client.now_ms), "bye")
    asking.client.feed(ev.GossipReceived(worker.node_id, sign_envelope(leave, worker, NET_ID)))
    asking.client.wait(2_500)
    assert asking.dialled() == []


def test_who_announces_after_its_claim_that_it_is_draining_is_not_assigned() -> None:
    asking = Asking()
    asking.submit()
    asking.claim(key("worker"))
    asking.hear(key("worker"), state=NodeState.DRAINING, model=ScriptedModel(name="rare"))
    asking.client.wait(2_500)
    assert asking.dialled() == []


def test_a_claim_outlives_an_announce_that_had_no_room_for_the_model() -> None:
    asking = Asking()
    asking.submit()
    asking.claim(key("worker"))
    asking.hear(key("worker"))
    asking.client.wait(150)
    assert asking.dialled() == [key("worker").node_id]


def test_a_claimer_off_the_allowlist_is_not_assigned() -> None:
    asking = Asking(allowlist=frozenset({key("friend").node_id}))
    asking.submit()
    asking.claim(key("stranger"), 1)
    asking.claim(key("friend"), 50)
    asking.client.wait(150)
    assert asking.dialled() == [key("friend").node_id]


def test_a_claim_is_forgotten_after_15_s() -> None:
    asking = Asking()
    asking.submit(1)
    asking.claim(key("worker"))
    asking.client.wait(150)
    asking.submit(2)
    assert len(asking.dialled()) == 2, "what was claimed for one is a candidate for the next"
    for number in (1, 2):
        asking.client.feed(ev.CancelRequest(RequestId(number.to_bytes(16, "big")), "enough"))
    asking.client.wait(15_001)
    asking.submit(3)
    assert len(asking.dialled()) == 2
    assert asking.asked()[-1].request_id == (3).to_bytes(16, "big"), "the topic is asked anew"


# --- bounds ----------------------------------------------------------------------------------------------


def test_many_different_questions_are_asked_at_a_rate_that_receivers_take() -> None:
    asking = Asking()
    for number in range(1, 41):
        asking.submit(number, max_tokens=number)
    assert len(asking.asked()) == 10
    asking.client.wait(2_000)
    assert len(asking.asked()) <= 14


def test_the_tables_of_questions_and_claims_are_bounded() -> None:
    asking = Asking()
    for number in range(1, call.MAX_CALLS + 20):
        asking.submit(number, max_tokens=number)
    assert len(asking.client.core._requester._solicitor) == call.MAX_CALLS
    asking.client.wait(60_000)
    assert len(asking.failed()) == call.MAX_CALLS + 19, "those without a place end too"
    crowd = Asking()
    crowd.submit()
    for number in range(call.MAX_BIDS + 5):
        crowd.claim(key(f"claimer {number}"))
    assert crowd.client.core.counters()["claims_dropped"] == 5


def test_the_topic_is_asked_for_one_token_where_the_answer_may_fit() -> None:
    asking = Asking()
    asking.submit(max_tokens=600, fit=True)
    [request] = asking.asked()
    assert request.max_tokens == 1
