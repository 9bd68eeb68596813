"""Gossip delivery against a worker core: only the two parties change anything, and only by what is whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.frames import encode_assign
from llama_gossip.protocol.limits import MAX_CHANNELS_PER_PEER
from llama_gossip.protocol.messages import (
    Ack,
    Cancel,
    Error,
    Kind,
    Packet,
    Progress,
    Reject,
    RejectReason,
    RequestId,
    Seal,
    Token,
)
from llama_gossip.protocol.timers import Timers
from llama_gossip.protocol.tunnel import PACKETS_EACH
from llama_gossip.protocol.tunnel_body import pack_items
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.gossip_hand import GossipHand
from tests.protocol.hand import FACTS, OWN_BOOT, HandClient, done, key, tokens
from tests.protocol.scripted_model import ScriptedModel

TIMERS = Timers()


def gossip(name: str = "gossip hand", hand: HandClient | None = None, **assign: object) -> GossipHand:
    return GossipHand(hand or HandClient(ScriptedModel(slots=4)), name, **assign)


def counted(hand: GossipHand, code: str) -> int:
    return hand.worker.core.counters().get(f"packets_{code}", 0)


def asked() -> GossipHand:
    hand = gossip()
    hand.ask()
    assert hand.running == 1
    return hand


def test_an_assign_in_a_packet_starts_work_and_its_frames_come_back_in_packets() -> None:
    hand = gossip()
    (start,) = [e for e in hand.ask() if isinstance(e, ef.StartJob)]
    assert [type(frame) for frame in hand.frames()] == [Progress]
    hand.worker.feed(ev.EngineStarted(start.job, FACTS))
    hand.worker.feed(tokens(start.job, 0, "a", "b"))
    hand.worker.wait(400)
    hand.worker.feed(done(start.job, "ab", 2))
    hand.worker.wait(400)
    kinds = [type(frame).__name__ for frame in hand.frames()]
    assert kinds == ["Progress", "Token", "Complete"]


def test_the_assign_repeated_starts_nothing_twice() -> None:
    hand = asked()
    hand.ask()
    hand.ask()
    assert hand.running == 1
    assert len(hand.worker.all(ef.StartJob)) == 1


def test_what_is_not_acked_comes_again_and_what_is_acked_does_not() -> None:
    hand = asked()
    sent = len(hand.packets())
    hand.worker.wait(1_100)
    assert len(hand.packets()) == sent + 1
    hand.ack(1)
    sent = len(hand.packets())
    hand.worker.wait(800)
    assert len(hand.packets()) == sent, "nothing is open, and the next heartbeat has not come"


def test_an_ack_of_what_was_never_sent_or_lower_than_before_keeps_no_lease() -> None:
    hand = asked()
    hand.worker.wait(3_000)
    hand.ack(2)
    for _ in range(4):
        hand.worker.wait(4_000)
        hand.ack(99)
        hand.ack(1)
    assert hand.running == 1, "the engine has been told and has not answered"
    assert hand.worker.all(ef.CancelJob) != []
    assert hand.worker.core.counters()["leases_lapsed"] == 1


def test_acks_that_count_keep_the_lease() -> None:
    hand = asked()
    for _ in range(10):
        hand.worker.wait(4_000)
        hand.worker.feed(ev.EngineStepped())
        hand.ack(hand.worker.core._tunnel.find(hand.signer.node_id, hand.packet(b"x")).outbox.next_n)
    assert hand.worker.all(ef.CancelJob) == []


def test_a_cancel_frees_the_slot_and_is_acked_however_often_it_comes() -> None:
    hand = asked()
    cancel = hand.frame(Cancel(0, "enough"))
    hand.send(hand.packet(cancel))
    assert len(hand.worker.all(ef.CancelJob)) == 1
    hand.worker.wait(600)
    before = len(hand.packets())
    hand.send(hand.packet(cancel))
    hand.worker.wait(600)
    assert len(hand.packets()) == before + 1
    assert len(hand.worker.all(ef.CancelJob)) == 1


# --- when it comes -----------------------------------------------------------------------------------


def test_an_assign_that_was_held_back_is_refused_as_late() -> None:
    hand = gossip(accept_by=WALL_MS + 1)
    hand.ask()
    (frame,) = hand.frames()
    assert isinstance(frame, Reject)
    assert frame.reason is RejectReason.LATE
    assert hand.worker.all(ef.StartJob) == []


def test_an_assign_for_an_earlier_boot_is_told_the_new_one() -> None:
    hand = gossip(worker_boot=OWN_BOOT - 1)
    hand.ask()
    (frame,) = hand.frames()
    assert isinstance(frame, Reject)
    assert (frame.reason, frame.boot) == (RejectReason.STALE_BOOT, OWN_BOOT)


def test_a_refusal_is_repeated_until_it_is_acked_and_not_for_ever() -> None:
    hand = gossip(accept_by=WALL_MS + 1)
    hand.ask()
    hand.worker.wait(TIMERS.linger_ms + 1_000)
    repeated = len(hand.packets())
    assert 5 <= repeated <= 15
    hand.worker.wait(60_000)
    assert len(hand.packets()) == repeated
    assert len(hand.worker.core._tunnel) == 0


def test_an_ended_attempt_that_comes_again_after_all_is_forgotten_starts_nothing() -> None:
    hand = asked()
    job = hand.worker.all(ef.StartJob)[0].job
    hand.send(hand.packet(hand.frame(Cancel(0, "enough"))))
    hand.worker.feed(ev.EngineFailed(job, "cancelled", "cancelled", retryable=False))
    hand.worker.wait(TIMERS.linger_ms + 1_000)
    assert len(hand.worker.core._tunnel) == 0
    hand.ask()
    assert len(hand.worker.all(ef.StartJob)) == 1


# --- who sends it --------------------------------------------------------------------------------------


def test_a_packet_of_a_third_party_is_no_part_of_the_attempt() -> None:
    hand, stranger = asked(), key("a third party")
    frame = hand.frame(Cancel(0, "by nobody"))
    hand.send(hand.packet(frame, head=replace(hand.head(), boot=9)), stranger)
    assert hand.worker.core.counters()["dropped_author"] == 1
    assert hand.worker.all(ef.CancelJob) == []


def test_a_packet_copied_into_an_envelope_of_its_own_does_not_open() -> None:
    """The copier has the same boot and seq, hence the same nonce, and names itself as the requester."""
    hand, copier = gossip(), key("a copier")
    packet = hand.packet(hand.assign_item)
    hand.send(replace(packet, requester=copier.node_id), copier)
    assert counted(hand, "seal") == 1
    assert hand.worker.all(ef.StartJob) == []
    hand.send(packet)
    assert hand.running == 1


def test_the_assign_of_another_in_a_packet_of_ones_own_starts_nothing() -> None:
    base = HandClient(ScriptedModel(slots=4))
    hand, thief = gossip(hand=base), gossip("a thief", base)
    thief.send(thief.packet(hand.assign_item))
    assert hand.worker.all(ef.StartJob) == []
    assert counted(hand, "assign") == 1


def test_the_same_packet_twice_counts_once() -> None:
    hand = gossip()
    data = sign_envelope(hand.packet(hand.assign_item), hand.signer, NET_ID)
    hand.raw(data)
    hand.raw(data)
    assert hand.worker.core.counters()["dropped_seen"] == 1
    assert hand.running == 1


def test_a_packet_to_somebody_else_is_not_even_opened() -> None:
    hand = gossip()
    hand.send(hand.packet(hand.assign_item, to=key("somebody else").node_id))
    assert counted(hand, "of_others") == 1
    assert counted(hand, "opened") == 0


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_workers_packet_for_an_attempt_that_nobody_knows_is_dropped(attempt: int) -> None:
    hand = gossip()
    hand.send(hand.packet(hand.assign_item, requester=hand.worker.node_id, attempt=attempt))
    assert counted(hand, "unknown") == 1


# --- what is in it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 15, 16, 40])
def test_a_body_that_is_no_sealed_one_is_dropped(size: int) -> None:
    hand = gossip()
    hand.send(replace(hand.packet(hand.assign_item), body=bytes(size)))
    assert counted(hand, "seal") == 1
    assert hand.worker.all(ef.StartJob) == []


@pytest.mark.parametrize("epk", [bytes(32), b"\1" + bytes(31)])
def test_a_key_of_low_order_opens_nothing(epk: bytes) -> None:
    hand = gossip()
    hand.send(hand.packet(hand.assign_item, seal=Seal(hand.prekey[:8], epk)))
    assert counted(hand, "seal") == 1


def test_what_does_not_open_is_answered_by_an_announce_at_most_every_two_seconds() -> None:
    hand = gossip()
    hand.worker.wait(3_000)
    before = hand.worker.core.counters()["announces_sent"]
    for _ in range(8):
        hand.send(hand.packet(hand.assign_item, seal=Seal(b"nobody's", hand.epk)))
    assert hand.worker.core.counters()["announces_sent"] == before + 1
    hand.worker.wait(2_100)
    assert hand.worker.core.counters()["announces_sent"] <= before + 2


def test_padding_that_is_not_the_fewest_zeros_is_dropped() -> None:
    hand = gossip()
    plain = pack_items([hand.assign_item])
    for body in (plain + bytes(256), plain[:-1] + b"\1", plain[:-1]):
        hand.send(hand.packet(body=body))
    assert counted(hand, "body") == 3
    assert hand.worker.all(ef.StartJob) == []


def test_another_seal_in_the_middle_is_dropped_and_none_at_all_too() -> None:
    hand = asked()
    cancel = hand.frame(Cancel(0, "enough"))
    hand.send(hand.packet(cancel, seal=Seal(hand.prekey[:8], bytes(range(32)))))
    hand.send(hand.packet(seal=None, body=pack_items([cancel])))
    hand.send(replace(hand.packet(cancel), seal=None, body=pack_items([cancel])))
    assert counted(hand, "other_seal") == 3
    assert hand.worker.all(ef.CancelJob) == []


def test_one_frame_with_a_bad_signature_spoils_its_whole_packet() -> None:
    hand = asked()
    cancel = hand.frame(Cancel(0, "enough"))
    spoilt = cancel[:-1] + bytes((cancel[-1] ^ 1,))
    hand.send(hand.packet(cancel, spoilt))
    assert counted(hand, "signature") == 1
    assert hand.worker.all(ef.CancelJob) == []
    hand.send(hand.packet(cancel))
    assert len(hand.worker.all(ef.CancelJob)) == 1


def test_a_frame_of_the_other_side_spoils_its_packet() -> None:
    hand = asked()
    for frame in (Token(0, 0, (), ("x",)), Error(0, "e", "c", False)):
        hand.send(hand.packet(hand.frame(frame)))
    assert counted(hand, "kind") == 2


def test_another_assign_for_the_same_attempt_is_dropped() -> None:
    hand = asked()
    stream, _ = encode_assign(replace(hand.assign, priority=9), hand.signer, NET_ID)
    hand.send(hand.packet(stream[4:]))
    assert counted(hand, "assign") == 1
    assert hand.running == 1


@pytest.mark.parametrize("changed", ["worker", "request_id", "attempt"])
def test_an_assign_that_says_something_else_than_its_packet_starts_nothing(changed: str) -> None:
    hand = gossip()
    values = {"worker": key("x").node_id, "request_id": RequestId(b"y" * 16), "attempt": 7}
    stream, _ = encode_assign(replace(hand.assign, **{changed: values[changed]}), hand.signer, NET_ID)
    hand.send(hand.packet(stream[4:]))
    assert counted(hand, "assign") == 1
    assert hand.worker.all(ef.StartJob) == []


def test_frames_without_an_assign_open_nothing() -> None:
    hand = gossip()
    hand.send(hand.packet(hand.frame(Ack(0, 0))))
    assert len(hand.worker.core._tunnel) == 0
    assert hand.worker.all(ef.StartJob) == []


# --- how much of it ------------------------------------------------------------------------------------


def test_more_packets_than_an_attempt_may_bring_are_dropped() -> None:
    hand = asked()
    for _ in range(3 * PACKETS_EACH.burst):
        hand.ack(0)
    assert counted(hand, "rate") >= PACKETS_EACH.burst


def test_one_requester_holds_so_many_channels_and_no_more_and_live_ones_stay() -> None:
    base = HandClient(ScriptedModel(slots=2))
    first = gossip("crowd", base)
    first.ask()
    for number in range(MAX_CHANNELS_PER_PEER + 20):
        hand = gossip("crowd", base, request_id=base.other(number))
        hand.seq = 1_000 * (number + 1)
        base.worker.wait(200)
        hand.accept_by += 200
        hand.ask()
    tunnel = base.worker.core._tunnel
    assert len(tunnel) <= MAX_CHANNELS_PER_PEER
    assert first.running == 2


def test_an_unsealed_attempt_stays_unsealed() -> None:
    hand = gossip()
    hand.seal = None
    hand.ask()
    assert hand.running == 1
    assert [type(frame) for frame in hand.frames()] == [Progress]
    assert all(packet.seal is None for packet in hand.packets())


def test_packets_are_envelopes_of_their_own_kind() -> None:
    hand = asked()
    kinds = {e.data[2] for e in hand.worker.all(ef.Broadcast)}
    assert kinds == {Kind.ANNOUNCE, Kind.PACKET}
    assert all(isinstance(packet, Packet) for packet in hand.packets())
