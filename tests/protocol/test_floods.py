"""Hostile floods in virtual time: how much of them is taken; those who were there before are still heard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol import fences
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.envelope import Signer, sign_envelope
from llama_gossip.protocol.limits import NEWCOMER_MS
from llama_gossip.protocol.messages import (
    Announce,
    Capacity,
    EnvelopeMessage,
    Head,
    Kind,
    NodeId,
    NodeState,
    RejectReason,
    Request,
    RequestId,
)
from llama_gossip.protocol.ratelimit import NEWCOMER_RATES, SIGNER_RATES, VERIFY_UNKNOWN_RATE
from llama_gossip.protocol.receive import Dropped, DropReason, Received, Receiver
from llama_gossip.protocol.replay import ReplayWindows
from llama_gossip.simulation.signing import signer_of, verifier
from tests.protocol.fakewire import NET_ID, WALL_MS, FakeNet
from tests.protocol.hand import Clocked, HandClient, ended, key, rejected
from tests.protocol.scripted_model import ScriptedModel

OWN = NodeId(b"o" * 32)
NOTHING = Capacity("", "", (), 0, 0, 0, 0, 0.0, 0)
NEIGHBOURS = [NodeId(bytes([number]) * 32) for number in range(1, 11)]
VERIFY = verifier(ed25519=False)


def minted(number: int) -> Signer:
    return signer_of(number.to_bytes(32, "big"), ed25519=False)


def announce(seq: int, now_ms: int) -> Announce:
    head = Head(WALL_MS, seq, WALL_MS + now_ms)
    return Announce(head, "crowd", NOTHING, NodeState.CLIENT, (), bytes(32), (), 180_000, ())


def question(signer: Signer, seq: int, now_ms: int) -> Request:
    head = Head(WALL_MS, seq, WALL_MS + now_ms)
    return Request(head, RequestId(seq.to_bytes(16, "big")), "m", 1, 1, 5, 1_000, signer.node_id)


class Hearing:
    """One receiver, its roster as a set, and the time."""

    def __init__(self, *, open_network: bool, windows: ReplayWindows | None = None) -> None:
        self.roster: set[NodeId] = set()
        self.verified = 0
        self.receiver = Receiver(NET_ID, OWN, self._verify, windows=windows, open_network=open_network)

    def _verify(self, node_id: NodeId, message: bytes, signature: bytes) -> bool:
        self.verified += 1
        return VERIFY(node_id, message, signature)

    def say(
        self, message: EnvelopeMessage, signer: Signer, now_ms: int, via: NodeId = NEIGHBOURS[0]
    ) -> DropReason | None:
        return self.take(sign_envelope(message, signer, NET_ID), now_ms, via)

    def take(self, data: bytes, now_ms: int, via: NodeId) -> DropReason | None:
        outcome = self.receiver.receive(data, via, ev.Now(now_ms, WALL_MS + now_ms), self.roster.__contains__)
        if isinstance(outcome, Received):
            self.roster.add(outcome.sender)
        return outcome.reason if isinstance(outcome, Dropped) else None


def crowd(seconds: int, per_s: int) -> Iterator[tuple[int, int]]:
    """(when, number): so many minted keys speak once in each second."""
    for number in range(seconds * per_s):
        yield number * 1_000 // per_s, number


# --- newcomers -----------------------------------------------------------------------------------


def test_a_crowd_of_minted_keys_gets_no_more_than_the_newcomers_bucket() -> None:
    hearing, old = Hearing(open_network=True), minted(10**6)
    assert hearing.say(announce(1, 0), old, 0) is None
    taken, heard_of_old = 0, 0
    for at_ms, number in crowd(40, 60):
        now_ms = NEWCOMER_MS + at_ms
        via = NEIGHBOURS[number % len(NEIGHBOURS)]
        taken += hearing.say(announce(1, now_ms), minted(number), now_ms, via) is None
        if at_ms % 15_000 == 0:
            heard_of_old += hearing.say(announce(2 + number, now_ms), old, now_ms, via) is None
    rate = NEWCOMER_RATES[Kind.ANNOUNCE]
    assert rate.burst < taken <= rate.burst + rate.per_s * 40
    assert hearing.receiver.dropped[DropReason.NEWCOMERS] > 0
    assert heard_of_old == 3, "who was there before is heard as ever"


def test_in_a_closed_network_every_signer_has_a_bucket_of_its_own() -> None:
    hearing = Hearing(open_network=False)
    outcomes = Counter(
        hearing.say(announce(1, 0), minted(number), 0, NEIGHBOURS[number % 10]) for number in range(600)
    )
    assert outcomes == {None: 600}


def test_with_an_allowlist_nobody_is_a_newcomer() -> None:
    allowed = frozenset(minted(number).node_id for number in range(300))
    receiver = Receiver(NET_ID, OWN, VERIFY, allowlist=allowed, open_network=True)
    for number in range(300):
        data = sign_envelope(announce(1, 0), minted(number), NET_ID)
        assert isinstance(receiver.receive(data, NEIGHBOURS[0], ev.Now(0, WALL_MS), bool), Received)


def test_a_newcomer_that_stays_has_its_own_bucket_after_a_minute() -> None:
    hearing, honest = Hearing(open_network=True), minted(1)
    assert hearing.say(announce(1, 0), honest, 0) is None
    number = 10
    for now_ms, expected in [(NEWCOMER_MS - 1, DropReason.NEWCOMERS), (NEWCOMER_MS, None)]:
        while hearing.say(announce(1, now_ms), minted(number), now_ms, NEIGHBOURS[number % 10]) is None:
            number += 1
        assert hearing.say(announce(now_ms, now_ms), honest, now_ms) is expected


def test_a_crowds_questions_are_few_whoever_asks() -> None:
    hearing = Hearing(open_network=True)
    asked = [minted(number) for number in range(400)]
    taken = sum(
        hearing.say(question(signer, 1, 25 * n), signer, 25 * n, NEIGHBOURS[n % 10]) is None
        for n, signer in enumerate(asked)
    )
    rate = NEWCOMER_RATES[Kind.REQUEST]
    assert taken == rate.burst + rate.per_s * 10 - 1


def test_one_newcomer_cannot_use_up_what_all_newcomers_share() -> None:
    hearing, loud = Hearing(open_network=True), minted(1)
    for seq in range(1, 400):
        hearing.say(announce(seq, 0), loud, 0)
    assert hearing.receiver.dropped[DropReason.RATE] == 399 - SIGNER_RATES[Kind.ANNOUNCE].burst
    assert hearing.say(announce(1, 0), minted(2), 0) is None


# --- signatures ------------------------------------------------------------------------------------


def test_junk_in_unknown_names_costs_a_bounded_number_of_verifications_and_known_names_are_heard() -> None:
    hearing, friend = Hearing(open_network=False), minted(10**6)
    assert hearing.say(announce(1, 0), friend, 0) is None
    hearing.verified = 0
    heard = sent = 0
    crowded = [NodeId(number.to_bytes(32, "little")) for number in range(60)]  # neighbours
    junk = bytearray(sign_envelope(announce(1, 0), minted(1), NET_ID))
    for number in range(20_000):
        now_ms = number // 10
        junk[5:37] = number.to_bytes(32, "big")  # the name it carries
        hearing.take(bytes(junk), now_ms, crowded[number % 60])
        if number % 10_000 == 0:
            sent += 1
            heard += hearing.say(announce(2 + number, now_ms), friend, now_ms, NodeId(b"q" * 32)) is None
    budget = VERIFY_UNKNOWN_RATE.burst + VERIFY_UNKNOWN_RATE.per_s * 2
    assert budget * 0.9 < hearing.verified <= budget + sent
    assert heard == sent == 2


# --- tables ----------------------------------------------------------------------------------------


def test_a_flood_of_signers_leaves_a_quarter_to_the_roster_and_pushes_nobody_out() -> None:
    hearing = Hearing(open_network=False, windows=ReplayWindows(max_signers=400, known_reserve=100))
    first = sign_envelope(announce(1, 0), minted(0), NET_ID)
    assert hearing.take(first, 0, NEIGHBOURS[0]) is None
    outcomes = Counter(
        hearing.say(announce(1, number), minted(number), number, NodeId(bytes([number % 200]) * 32))
        for number in range(1, 1_000)
    )
    assert outcomes == {None: 299, DropReason.TABLE_FULL: 700}
    assert hearing.take(first, 119_999, NEIGHBOURS[0]) in (DropReason.SEEN, DropReason.STALE)
    returning = minted(5_000)
    hearing.roster.add(returning.node_id)
    assert hearing.say(announce(1, 2_000), returning, 2_000) is None


def test_a_quarter_of_the_request_ids_is_kept_for_known_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fences, "MAX_FENCES", 8)
    client = HandClient(ScriptedModel(slots=16))
    for number in range(6):
        asked = client.ask(key(f"minted {number}"))
        client.worker.feed(ev.StreamReset(asked.stream, 1))
        client.worker.feed(ended(asked.job))
    assert rejected(client.ask(key("minted 6"))).reason is RejectReason.FULL
    member = key("member")
    data = sign_envelope(announce(1, client.worker.now_ms), member, NET_ID)
    client.worker.feed(ev.GossipReceived(member.node_id, data))
    assert any(isinstance(effect, ef.StartJob) for effect in client.ask(member).effects)


# --- the whole node ----------------------------------------------------------------------------------


def test_a_node_of_an_open_network_says_little_and_keeps_little_while_a_crowd_shouts() -> None:
    net = FakeNet()
    node = Clocked(net.add("node", ScriptedModel(), policy=Policy(open_network=True), verify=VERIFY).core)
    node.feed(ev.Joined(()))
    begin_ms = node.now_ms
    for at_ms, number in crowd(20, 100):
        node.wait(begin_ms + at_ms - node.now_ms)
        signer = minted(number)
        message = announce(1, node.now_ms) if number % 2 else question(signer, 1, node.now_ms)
        data = sign_envelope(message, signer, NET_ID)
        node.feed(ev.GossipReceived(NEIGHBOURS[number % 10], data))
    counters = node.core.counters()
    assert counters["dropped_newcomers"] > 0
    assert len(node.core.peers(ev.Now(node.now_ms, WALL_MS + node.now_ms))) <= 200 + 20 * 20
    assert len(node.all(ef.Broadcast)) <= 2 + 20_000 // 500, "newcomers are greeted together"
