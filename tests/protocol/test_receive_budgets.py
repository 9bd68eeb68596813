"""Rates of signers, budgets of neighbours, samples of clocks: how much is taken of whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.protocol.envelope import KeySigner, sign_envelope, verify_signature
from llama_gossip.protocol.events import Now
from llama_gossip.protocol.limits import FORGET_SIGNER_MS, MAX_NEIGHBOURS, NEW_SIGNERS_PER_NEIGHBOUR
from llama_gossip.protocol.messages import Head, Kind, Leave, NodeId
from llama_gossip.protocol.ratelimit import (
    BAD_SIGNATURE_COST,
    SIGNER_RATES,
    VERIFY_RATE,
    Buckets,
    Rate,
    SignerRates,
    VerifyBudget,
)
from llama_gossip.protocol.receive import Dropped, DropReason, Received, Receiver
from llama_gossip.protocol.skew import ClockSkew
from tests.protocol.wire_samples import NET_ID, TS_MS

OWN = NodeId(b"o" * 32)


def node(i: int) -> NodeId:
    return NodeId(i.to_bytes(32, "big"))


# --- rates of a signer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "per_s", "burst"),
    [(Kind.ANNOUNCE, 1, 5), (Kind.REQUEST, 2, 10), (Kind.CLAIM, 5, 50), (Kind.LEAVE, 1, 5)],
)
def test_a_signer_has_its_burst_at_once_and_then_its_rate(kind: Kind, per_s: int, burst: int) -> None:
    rates = SignerRates()
    assert [rates.take(node(1), kind, 0) for _ in range(burst + 1)] == [True] * burst + [False]
    period = 1000 // per_s
    assert not rates.take(node(1), kind, period - 1)
    assert rates.take(node(1), kind, period)
    assert not rates.take(node(1), kind, period)
    assert [rates.take(node(1), kind, 10**6) for _ in range(burst + 1)] == [True] * burst + [False]


def test_signers_and_kinds_do_not_share_a_bucket() -> None:
    rates = SignerRates()
    while rates.take(node(1), Kind.ANNOUNCE, 0):
        pass
    assert rates.take(node(1), Kind.REQUEST, 0)
    assert rates.take(node(2), Kind.ANNOUNCE, 0)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 5)), max_size=60))
def test_a_bucket_never_gives_more_than_burst_and_rate_allow(steps: list[tuple[int, int]]) -> None:
    rate, buckets, now, given_out = Rate(2, 10), Buckets[int](4), 0, 0
    for wait_ms, cost in steps:
        now += wait_ms
        given_out += cost if buckets.take(1, rate, now, cost) else 0
        assert given_out <= rate.burst + now * rate.per_s / 1000
        assert 0 <= buckets.available(1, rate, now) <= rate.burst


def test_a_full_table_of_buckets_refuses_newcomers_until_old_ones_have_refilled() -> None:
    rate, buckets = Rate(1, 2), Buckets[int](2)
    assert buckets.take(1, rate, 0)
    assert buckets.take(2, rate, 0)
    assert not buckets.take(3, rate, 999)
    assert buckets.take(1, rate, 999)  # those inside go on
    assert buckets.take(3, rate, 1000)
    assert len(buckets) == 2


# --- budgets of a neighbour ----------------------------------------------------------------------


def test_a_neighbour_has_a_budget_of_verifications_and_junk_costs_five() -> None:
    budget = VerifyBudget()
    for _ in range(VERIFY_RATE.burst // BAD_SIGNATURE_COST):
        assert budget.take(node(1), 0, known=True)
        budget.charge_bad_signature(node(1), 0)
    assert not budget.take(node(1), 0, known=True)
    assert budget.take(node(2), 0, known=True)
    assert budget.take(node(1), 2, known=True)  # 500 a second: one each 2 ms


def test_a_neighbour_that_floods_junk_is_cut_off_before_the_signatures_and_others_are_not() -> None:
    checked: list[NodeId] = []

    def never(signer: NodeId, message: bytes, signature: bytes) -> bool:
        checked.append(signer)
        return False

    receiver = Receiver(NET_ID, OWN, never)
    author = KeySigner(b"a" * 32)
    now = Now(0, TS_MS)
    reasons = []
    for seq in range(VERIFY_RATE.burst // BAD_SIGNATURE_COST + 10):
        data = sign_envelope(Leave(Head(1, seq, TS_MS), ""), author, NET_ID)
        outcome = receiver.receive(data, node(1), now, lambda _: False)
        assert isinstance(outcome, Dropped)
        reasons.append(outcome.reason)
    assert reasons[-10:] == [DropReason.VERIFY_BUDGET] * 10
    assert len(checked) == VERIFY_RATE.burst // BAD_SIGNATURE_COST
    assert receiver.receive(data, node(2), now, lambda _: False) == Dropped(DropReason.SIGNATURE)
    assert receiver.bad_signatures == {node(1): len(checked) - 1, node(2): 1}


def test_the_list_of_charged_neighbours_is_bounded() -> None:
    receiver = Receiver(NET_ID, OWN, lambda *_: False)
    data = sign_envelope(Leave(Head(1, 1, TS_MS), ""), KeySigner(b"a" * 32), NET_ID)
    for i in range(MAX_NEIGHBOURS + 20):
        receiver.receive(data, node(i), Now(10_000 * i, TS_MS), lambda _: False)
    assert len(receiver.bad_signatures) == MAX_NEIGHBOURS


def test_one_neighbour_cannot_bring_a_crowd_of_new_signers_but_known_ones_pass() -> None:
    receiver = Receiver(NET_ID, OWN, verify_signature)
    outcomes = []
    for i in range(NEW_SIGNERS_PER_NEIGHBOUR + 2):
        data = sign_envelope(Leave(Head(1, 1, TS_MS), ""), KeySigner(i.to_bytes(32, "big")), NET_ID)
        outcomes.append(receiver.receive(data, node(1), Now(0, TS_MS), lambda _: False))
    assert all(isinstance(outcome, Received) for outcome in outcomes[:NEW_SIGNERS_PER_NEIGHBOUR])
    assert outcomes[NEW_SIGNERS_PER_NEIGHBOUR:] == [Dropped(DropReason.NEIGHBOUR_QUOTA)] * 2
    assert isinstance(receiver.receive(data, node(1), Now(0, TS_MS), lambda _: True), Received)


# --- clocks --------------------------------------------------------------------------------------


def test_the_skew_is_the_median_of_one_sample_a_signer_stale_and_future_ones_included() -> None:
    receiver = Receiver(NET_ID, OWN, verify_signature)
    assert receiver.skew_ms() == 0
    hour = 3_600_000
    for i, skew in enumerate((hour, hour + 2, hour + 4, -5, 7)):
        for seq in (1, 2):  # a second message of the same signer is no second vote
            data = sign_envelope(
                Leave(Head(1, seq, TS_MS + skew + seq), ""), KeySigner(i.to_bytes(32, "big")), NET_ID
            )
            receiver.receive(data, node(1), Now(0, TS_MS), lambda _: False)
    assert receiver.skew_samples == 5
    assert receiver.skew_ms() == hour + 2
    assert receiver.dropped[DropReason.FUTURE] == 6


def test_samples_are_over_after_120_s_and_newcomers_push_nobody_out() -> None:
    skew = ClockSkew(most=2)
    skew.add(node(1), 10, 0)
    skew.add(node(2), 20, 1)
    skew.add(node(3), 10**9, 2)
    assert (len(skew), skew.median_ms()) == (2, 10)
    skew.add(node(1), 30, 3)
    assert skew.median_ms() == 20
    skew.add(node(3), 40, 1 + FORGET_SIGNER_MS)  # node 2 is over
    assert (len(skew), skew.median_ms()) == (2, 30)


def test_every_kind_that_the_topic_carries_has_a_rate() -> None:
    assert set(SIGNER_RATES) == {Kind.ANNOUNCE, Kind.LEAVE, Kind.REQUEST, Kind.CLAIM, Kind.PACKET}
