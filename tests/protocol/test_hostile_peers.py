"""Hostile peers: what members may sign and still neither fill our memory, nor hold us up, nor break us."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol import fences
from llama_gossip.protocol.agenda import Agenda
from llama_gossip.protocol.envelope import sign_envelope, verify_signature
from llama_gossip.protocol.fences import Fences
from llama_gossip.protocol.frames import encode_assign, frame_signed_bytes, prefixed
from llama_gossip.protocol.limits import (
    KNOWN_SIGNERS_RESERVE,
    MAX_SIGNERS,
    MAX_SKEW_SAMPLES,
    NEW_SIGNERS_PER_NEIGHBOUR,
)
from llama_gossip.protocol.messages import (
    Announce,
    Claim,
    GenerationConfig,
    Head,
    NodeId,
    NodeState,
    NumericsClass,
    Phase,
    RawPrompt,
    Reject,
    RejectReason,
    RequestId,
)
from llama_gossip.protocol.receive import Received, Receiver
from llama_gossip.protocol.request import MAX_TRAIL
from llama_gossip.protocol.roster import MAX_PEERS, RESERVED_PEERS
from llama_gossip.protocol.streams import StreamCode
from llama_gossip.protocol.structure import pack
from llama_gossip.protocol.timers import Timers
from llama_gossip.protocol.transcript import MAX_ATTEMPTS_KEPT, verify_transcript
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.hand import (
    OWN_BOOT,
    REQUEST_ID,
    Hand,
    HandClient,
    HandWorker,
    announce,
    complete,
    ended,
    key,
    kinds,
    progress,
    rejected,
    started,
    token,
)
from tests.protocol.scripted_model import ScriptedModel

MIB = 1024 * 1024


def kept_bytes(worker: HandWorker) -> int:
    return len(worker.client.core.transcript(REQUEST_ID))


# --- a worker that says much --------------------------------------------------------------------


def unknown_frame(hand: Hand, size: int) -> bytes:
    """A well-signed frame of a kind that a later version may have."""
    payload = pack((hand.writer.next_n, bytes(size)))
    hand.writer.next_n += 1
    signer = hand.writer._signer
    signed = frame_signed_bytes(hand.context, signer.node_id, 20, payload)
    return prefixed(pack((20, payload, signer.sign(signed))))


def test_a_worker_that_fills_the_record_with_frames_of_no_use_is_at_fault() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    for _ in range(40):
        hand.raw(unknown_frame(hand, 60_000))
    assert ef.ResetStream(hand.stream, StreamCode.PROTOCOL) in worker.client.told
    assert kept_bytes(worker) < MIB + 128 * 1024
    (retried,) = worker.client.all(ef.Retried)
    assert "far more than its tokens need" in retried.reason


def test_an_hour_of_heartbeats_is_no_fault() -> None:
    worker, hand = started(deadline_ms=3_600_000)
    for n in range(7_200):
        hand.send(progress(Phase.DECODE, n, est_ms=10_000))
    assert not worker.client.all(ef.ResetStream)
    assert not worker.client.all(ef.Failed)


def test_the_longest_tokens_are_no_fault() -> None:
    worker = HandWorker(model=ScriptedModel(context=4_096))
    worker.submit(max_tokens=2_000)
    hand = worker.connect()
    text = "x" * 1_024
    for n in range(2_000):
        hand.send(token(n, text))
    hand.send(complete(text * 2_000, 2_000))
    assert worker.client.all(ef.Finished)


def test_a_worker_that_is_full_for_ever_leaves_no_more_than_32_attempts_on_record() -> None:
    worker = HandWorker()
    worker.submit(prompt=RawPrompt("x" * 50_000), deadline_ms=3_600_000)
    for _ in range(100):
        worker.connect().send(Reject(0, RejectReason.FULL, 1_000, OWN_BOOT))
        worker.client.wait(1_000)
        worker.say()
    assert kept_bytes(worker) < (MAX_ATTEMPTS_KEPT + 1) * 51_000
    hand = worker.connect()
    hand.send(token(0, "a"), complete("a", 1))
    record = worker.client.core.take_transcript(REQUEST_ID)
    verdict = verify_transcript(record)
    assert verdict.verified, verdict.reason
    assert verdict.attempts == MAX_ATTEMPTS_KEPT


def test_no_worker_is_asked_more_than_five_times_a_second_however_often_it_wishes() -> None:
    worker, hand = started()
    hand.send(Reject(0, RejectReason.FULL, 1, OWN_BOOT))
    worker.client.wait(199)
    assert len(worker.client.all(ef.OpenStream)) == 1
    worker.client.wait(1)
    assert len(worker.client.all(ef.OpenStream)) == 2


# --- a worker that pretends to work ----------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_headway_that_ends_in_no_token_is_given_up(phase: Phase) -> None:
    """A percent has an end, and in decode only a token is an advance."""
    worker, hand = started(deadline_ms=3_600_000)
    since_ms = worker.client.now_ms
    hand.send(progress(Phase.PREFILL, 100))
    for n in range(101, 140):
        hand.send(progress(phase, n))
        worker.client.wait(500)
        if worker.client.all(ef.Retried):
            break
    (retried,) = worker.client.all(ef.Retried)
    assert "no headway" in retried.reason
    assert worker.client.now_ms <= since_ms + 10_500


def test_after_the_first_token_no_percent_counts_as_headway() -> None:
    worker, hand = started(deadline_ms=3_600_000)
    hand.send(progress(Phase.PREFILL, 1), token(0, "a"))
    for n in range(2, 70):
        worker.client.wait(500)
        hand.send(progress(Phase.PREFILL, n))
    (retried,) = worker.client.all(ef.Retried)
    assert "no token for too long" in retried.reason


# --- a worker whose numbers are absurd --------------------------------------------------------------


@pytest.mark.parametrize("tokens_per_s", [5e-324, -5e-324, 1e-300, -1e300, 1e308])
def test_an_absurd_speed_breaks_no_request(tokens_per_s: float) -> None:
    capacity = replace(ScriptedModel().capacity(), tokens_per_s=tokens_per_s)
    worker = HandWorker(capacity=capacity)
    worker.submit()
    worker.connect().send(token(0, "a"), complete("a", 1))
    assert worker.client.all(ef.Finished)


def test_a_negative_speed_is_no_way_to_be_chosen() -> None:
    worker = HandWorker(capacity=replace(ScriptedModel().capacity(), tokens_per_s=-1.0))
    honest = key("honest")
    for seq in range(1, 3):
        message = announce(head=Head(OWN_BOOT, seq, WALL_MS + worker.client.now_ms))
        worker.client.feed(ev.GossipReceived(honest.node_id, sign_envelope(message, honest, NET_ID)))
    picks = []
    for number in range(20):
        request_id = RequestId(number.to_bytes(16, "big"))
        submit = ev.Submit(request_id, "tiny", RawPrompt("hi"), GenerationConfig(max_tokens=8), "2026-11-24")
        effects = worker.client.feed(submit)
        picks.extend(e.worker for e in effects if isinstance(e, ef.OpenStream))
        worker.client.feed(ev.CancelRequest(request_id, "enough"))
    assert picks.count(honest.node_id) >= 18, "all but the explorations"


def test_a_crowd_that_cannot_serve_is_counted_and_its_reasons_are_no_book() -> None:
    worker = HandWorker(state=NodeState.CLIENT)
    for number in range(200):
        signer = key(f"client {number}")
        message = announce(head=Head(OWN_BOOT, 1, WALL_MS + worker.client.now_ms), state=NodeState.CLIENT)
        neighbour = key(f"neighbour {number // 50}").node_id
        worker.client.feed(ev.GossipReceived(neighbour, sign_envelope(message, signer, NET_ID)))
    worker.submit()
    worker.client.wait(5_000)
    (failed,) = worker.client.all(ef.Failed)
    assert "201 peers seen" in failed.message
    assert len(failed.trail) == MAX_TRAIL


# --- requesters that come and go -------------------------------------------------------------------


def test_timers_that_were_cancelled_are_swept_out() -> None:
    agenda = Agenda()
    agenda.set(("job", 0, "deadline"), 5)
    for number in range(1, 10_000):
        agenda.set(("job", number, "deadline"), 3_600_000)
        agenda.cancel(("job", number, "deadline"))
    assert len(agenda._heap) < 200
    assert len(agenda._queued_at) < 200
    assert agenda.pop_due(3_600_000) == ("job", 0, "deadline")
    assert agenda.earliest() is None


def test_a_timer_that_is_set_ever_earlier_does_not_grow_the_heap() -> None:
    agenda = Agenda()
    for at in range(10_000, 0, -1):
        agenda.set(("request", 1, "retry"), at)
    assert len(agenda._heap) < 100
    assert agenda.pop_due(10_000) == ("request", 1, "retry")
    assert agenda.pop_due(10_000) is None


def test_a_requester_that_assigns_and_cancels_leaves_no_timer_behind() -> None:
    client = HandClient()
    for number in range(500):
        asked = client.ask(request_id=client.other(number), deadline_ms=3_600_000)
        client.worker.feed(ev.StreamReset(asked.stream, StreamCode.CANCELLED))
        client.worker.feed(ended(asked.job))
    assert len(client.worker.core._desk.agenda._heap) < 200
    assert len(client.worker.core._worker.jobs._fences) == 256


def test_a_full_table_of_fences_refuses_newcomers_and_forgets_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fences, "MAX_FENCES", 3)
    client = HandClient(ScriptedModel(slots=8))
    signers = [key(f"minted {number}") for number in range(4)]
    for signer in signers[:3]:
        asked = client.ask(signer)
        client.worker.feed(ev.StreamReset(asked.stream, StreamCode.CANCELLED))
        client.worker.feed(ended(asked.job))
    reject = rejected(client.ask(signers[3]))
    assert (reject.reason, reject.retry_after_ms > 0) == (RejectReason.FULL, True)
    assert client.worker.core.counters()["assigns_rejected_full"] == 1
    assert client.ask(signers[0]).resets() == [StreamCode.SUPERSEDED], "nothing was forgotten"
    again = client.ask(signers[0], attempt=2)
    assert ef.StartJob in kinds(again.effects), "a known request goes on"
    client.worker.feed(ended(again.job))
    client.worker.wait(120_001)
    assert ef.StartJob in kinds(client.ask(signers[3]).effects)


def test_the_table_of_fences_has_a_cap_of_65_536() -> None:
    assert fences.MAX_FENCES == 65_536
    table = Fences(Timers())
    assert table.has_room((NodeId(bytes(32)), REQUEST_ID), 0, known=False)


# --- the topic -----------------------------------------------------------------------------------


def test_a_claim_that_answers_nothing_and_a_bare_assign_are_harmless_and_counted() -> None:
    client = HandClient()
    stranger = key("claimer")
    claim = Claim(
        Head(OWN_BOOT, 1, WALL_MS + 1_000), client.worker.node_id, REQUEST_ID, stranger.node_id, 0, 1, 9.0,
        None, None, NumericsClass.FAST, bytes(32), ("127.0.0.1:1",),
    )  # fmt: skip
    effects = client.worker.feed(ev.GossipReceived(stranger.node_id, sign_envelope(claim, stranger, NET_ID)))
    assert kinds(effects) == []
    data, _ = encode_assign(client.assign(), stranger, NET_ID)
    effects = client.worker.feed(ev.GossipReceived(stranger.node_id, data[4:]))
    assert kinds(effects) == []
    assert not client.worker.core.peers(ev.Now(client.worker.now_ms, 0))
    counters = client.worker.core.counters()
    assert (counters["claims_for_others"], counters["dropped_kind"]) == (1, 1)


def test_allow_listed_signers_are_known_before_they_are_in_the_roster() -> None:
    """A first neighbour may bring a whole allow-listed network at once."""
    signers = [key(f"friend {number}") for number in range(NEW_SIGNERS_PER_NEIGHBOUR + 5)]
    allowlist = frozenset(signer.node_id for signer in signers)
    receiver = Receiver(NET_ID, NodeId(bytes(32)), verify_signature, allowlist=allowlist)
    message: Announce = announce(head=Head(OWN_BOOT, 1, WALL_MS))
    for signer in signers:
        data = sign_envelope(message, signer, NET_ID)
        outcome = receiver.receive(data, signers[0].node_id, ev.Now(0, WALL_MS), lambda _: False)
        assert isinstance(outcome, Received)


def test_a_flood_of_minted_keys_fills_no_table_over_its_cap_and_leaves_the_node_at_work() -> None:
    """Any member can mint keys: each says one Announce, brought by neighbours within their quota."""
    client = HandClient()
    worker, core = client.worker, client.worker.core
    friend_said = announce(head=Head(OWN_BOOT, 1, WALL_MS + worker.now_ms))
    friend = key("friend")
    worker.feed(ev.GossipReceived(friend.node_id, sign_envelope(friend_said, friend, NET_ID)))
    for number in range(3_500):
        minted = key(f"minted {number}")
        message = announce(head=Head(OWN_BOOT, 1, WALL_MS + worker.now_ms), ttl_ms=2**64 - 1)
        worker.now_ms += 1  # what all neighbours together may cost
        neighbour = key(f"neighbour {number // NEW_SIGNERS_PER_NEIGHBOUR}").node_id
        worker.feed(ev.GossipReceived(neighbour, sign_envelope(message, minted, NET_ID)))
    receiver, strangers = core._receiver, MAX_SIGNERS - KNOWN_SIGNERS_RESERVE
    assert len(receiver._windows) == strangers
    assert core.counters()["dropped_table_full"] == 3_501 - strangers
    assert len(core._roster) == MAX_PEERS - RESERVED_PEERS
    assert receiver.skew_samples == MAX_SKEW_SAMPLES
    assert len(core._desk.agenda._heap) < 200
    assert friend.node_id in core._roster
    renewed = announce(head=Head(OWN_BOOT, 2, WALL_MS + worker.now_ms))
    worker.feed(ev.GossipReceived(friend.node_id, sign_envelope(renewed, friend, NET_ID)))
    known = core._roster.get(friend.node_id)
    assert known is not None
    assert known.announce.head.seq == 2, "who was there before is heard all the same"
    assert ef.StartJob in kinds(client.ask().effects)
    worker.wait(181_000 + 120_000)
    assert len(core._roster) == 0
    assert len(core._roster._gone) == 0
