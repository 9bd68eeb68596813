"""The requester against a worker played by hand: what is accepted, what is a fault, what follows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.frames import FrameWriter
from llama_gossip.protocol.messages import (
    FinishReason,
    Frame,
    Head,
    RawPrompt,
    Reject,
    RejectReason,
    Resume,
)
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.hand import (
    OWN_BOOT,
    REQUEST_ID,
    Hand,
    HandWorker,
    announce,
    complete,
    key,
    kinds,
    only,
    progress,
    started,
    token,
)


def test_a_whole_answer_is_delivered_and_ends_once() -> None:
    worker, hand = started()
    assert hand.assign.attempt == 1
    assert hand.assign.worker_boot == OWN_BOOT
    assert kinds(hand.send(progress())) == [ef.Accepted]
    assert kinds(hand.send(token(0, "a", "b"), token(2, "c"))) == [ef.DeliverTokens, ef.DeliverTokens]
    effects = hand.send(complete("abc", 3))
    assert kinds(effects) == [ef.FinishStream, ef.Finished]
    assert kinds(hand.client.feed(ev.StreamFinished(hand.stream))) == []
    assert worker.client.core.counters()["requests_done"] == 1
    assert len(worker.client.core._requester) == 0


def test_an_answer_without_any_token_is_an_answer() -> None:
    _, hand = started()
    assert kinds(hand.send(complete("", 0))) == [ef.Accepted, ef.FinishStream, ef.Finished]


def test_a_worker_that_never_ends_its_side_is_reset_two_seconds_after_the_answer() -> None:
    _, hand = started()
    hand.send(complete("", 0))
    assert only(hand.client.wait(2_000), ef.ResetStream) == ef.ResetStream(hand.stream, StreamCode.DONE)
    assert len(hand.client.core._requester) == 0


FAULTS: dict[str, list[Frame]] = {
    "a gap": [token(1, "a")],
    "a repetition": [token(0, "a"), token(0, "a")],
    "too many tokens": [token(0, *["a"] * 9)],
    "a token of more than 1 KiB": [token(0, "x" * 1_025)],
    "a Reject after acceptance": [progress(), Reject(0, RejectReason.FULL, 0, OWN_BOOT)],
    "fewer counted than sent": [token(0, "a", "b"), complete("ab", 1)],
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_worker_resets_its_stream_and_never_succeeds(name: str) -> None:
    worker, hand = started()
    effects = hand.send(*FAULTS[name])
    assert ef.ResetStream(hand.stream, StreamCode.PROTOCOL) in effects
    assert worker.client.core.counters()["attempts_fault"] == 1
    assert not worker.client.all(ef.Finished)


CANCELLED = complete("a", 1, finish_reason=FinishReason.CANCELLED)
SHORT: dict[str, list[Frame]] = {
    "more announced than received": [token(0, "a"), complete("ab", 2)],
    "cancelled what nobody cancelled": [
        token(0, "a"),
        complete("a", 1, finish_reason=FinishReason.CANCELLED),
    ],
}


@pytest.mark.parametrize("name", SHORT)
def test_a_truncated_answer_is_a_failure_that_is_continued(name: str) -> None:
    worker, hand = started()
    effects = hand.send(*SHORT[name])
    assert kinds(effects)[-4:] == [ef.WriteStream, ef.ResetStream, ef.Retried, ef.OpenStream]
    assert worker.connect().assign.resume == Resume(1, (0,), "a", None, "scripted-1")
    assert worker.client.core.counters()["attempts_short"] == 1, "no fault that costs a cooldown"
    assert not worker.client.all(ef.Finished)


def test_an_answer_whose_digest_is_wrong_fails_as_digest() -> None:
    _, hand = started()
    end = only(hand.send(token(0, "a"), complete("b", 1)), ef.Failed)
    assert isinstance(end, ef.Failed)
    assert end.code == "digest"


def test_an_answer_by_other_weights_than_asked_for_fails_as_digest() -> None:
    worker = HandWorker()
    wanted = worker.client.core._roster.items()[0][1].announce.capacity.models[0].digest
    worker.submit(model_digest=wanted)
    hand = worker.connect()
    end = only(hand.send(complete("", 0, model_digest=bytes(32))), ef.Failed)
    assert isinstance(end, ef.Failed)
    assert end.code == "digest"


def forged(hand: Hand) -> bytes:
    return FrameWriter(hand.context, key("somebody else")).encode(token(0, "a"))


def of_another_attempt(hand: Hand) -> bytes:
    return FrameWriter(bytes(32), key("hand worker")).encode(token(0, "a"))


def skips_n(hand: Hand) -> bytes:
    return FrameWriter(hand.context, key("hand worker"), start_n=1).encode(token(0, "a"))


def flipped(hand: Hand) -> bytes:
    data = bytearray(hand.writer.encode(token(0, "a")))
    data[-1] ^= 1
    return bytes(data)


def huge(hand: Hand) -> bytes:
    return (65_537).to_bytes(4, "big")


@pytest.mark.parametrize("bytes_of", [forged, of_another_attempt, skips_n, flipped, huge])
def test_foreign_bytes_deliver_nothing(bytes_of: Callable[[Hand], bytes]) -> None:
    worker, hand = started()
    effects = hand.raw(bytes_of(hand))
    assert ef.ResetStream(hand.stream, StreamCode.PROTOCOL) in effects
    assert not worker.client.all(ef.DeliverTokens)


def test_tokens_before_a_bad_length_are_delivered_and_the_stream_ends_at_once() -> None:
    _, hand = started()
    effects = hand.raw(hand.writer.encode(token(0, "a")) + huge(hand))
    assert ef.DeliverTokens in kinds(effects)
    assert ef.ResetStream(hand.stream, StreamCode.PROTOCOL) in effects


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (lambda s: ev.StreamFinished(s), "without the end"),
        (lambda s: ev.StreamReset(s, 5), "shutdown"),
        (lambda s: ev.StreamLost(s, "gone"), "gone"),
    ],
)
def test_a_stream_that_ends_after_tokens_without_complete_is_no_success_and_the_trail_says_why(
    event: Callable[[int], ev.Event], reason: str
) -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    assert kinds(hand.client.feed(event(hand.stream))) == [ef.ResetStream, ef.Retried]
    end = only(hand.client.wait(20_000), ef.Failed)  # it has not announced itself anew
    assert isinstance(end, ef.Failed)
    assert end.code == "peer_failed"
    assert end.trail[0][:2] == (worker.signer.node_id, 1)
    assert reason in end.trail[0][2]


def test_a_stop_of_our_side_does_not_hide_the_frames_behind_it() -> None:
    _, hand = started()
    assert kinds(hand.client.feed(ev.StreamStopped(hand.stream, 0))) == []
    assert ef.Finished in kinds(hand.send(complete("", 0)))


# --- dialling ---------------------------------------------------------------------------------------


def test_a_dial_that_neither_opens_nor_fails_is_abandoned_after_four_seconds() -> None:
    worker = HandWorker()
    worker.submit()
    assert ef.AbandonDial not in kinds(worker.client.wait(3_999))
    assert ef.AbandonDial(1) in worker.client.wait(1)
    assert worker.client.core.counters()["dials_failed"] == 1
    assert kinds(worker.client.feed(ev.DialFailed(1, "late"))) == []
    assert kinds(worker.client.feed(ev.StreamOpened(1, 5))) == [ef.ResetStream]


def test_a_worker_that_could_not_be_reached_is_dialled_again_after_its_next_announce() -> None:
    worker = HandWorker()
    worker.submit()
    assert ef.OpenStream not in kinds(worker.client.feed(ev.DialFailed(1, "refused")))
    assert ef.OpenStream not in kinds(worker.client.wait(10_000))
    worker.say()
    assert worker.connect().assign.attempt == 1, "no Assign was signed before"


def test_a_worker_that_stays_out_of_reach_fails_the_request_after_twenty_seconds() -> None:
    worker = HandWorker()
    worker.submit()
    worker.client.feed(ev.DialFailed(1, "refused"))
    worker.client.wait(19_999)
    assert not worker.client.all(ef.Failed)
    worker.client.wait(1)
    (end,) = worker.client.all(ef.Failed)
    assert (end.code, end.trail[0][1:]) == ("peer_failed", (0, "could not be reached: refused"))


def test_what_a_worker_announced_before_it_failed_does_not_bring_it_back() -> None:
    worker, hand = started()
    worker.say()
    assert ef.OpenStream not in kinds(hand.client.feed(ev.StreamLost(hand.stream, "gone")))
    worker.say()
    assert worker.connect().assign.attempt == 2


# --- the user's own reasons ------------------------------------------------------------


@pytest.mark.parametrize("reason", ["é" * 50_000, "half \ud800"], ids=["long", "no text"])
def test_no_reason_of_the_user_keeps_a_cancel_or_a_leave_from_the_wire(reason: str) -> None:
    worker, hand = started()
    effects = worker.client.feed(ev.CancelRequest(REQUEST_ID, reason))
    assert kinds(effects) == [ef.WriteStream, ef.ResetStream, ef.Failed]
    assert ef.ResetStream(hand.stream, StreamCode.CANCELLED) in effects
    (leave,) = [e for e in worker.client.feed(ev.Goodbye(reason)) if isinstance(e, ef.Broadcast)]
    assert len(leave.data) < 600


# --- what an Assign says, and to whom ------------------------------------------------------------


def test_the_assign_carries_what_remains_of_the_deadline_and_the_workers_own_time() -> None:
    worker = HandWorker()
    five_ahead = Head(OWN_BOOT, 9, WALL_MS + worker.client.now_ms + 5_000)
    worker.say(head=five_ahead)
    worker.submit(deadline_ms=60_000)
    worker.connect().send(Reject(0, RejectReason.FULL, 7_000, OWN_BOOT))
    worker.client.wait(7_000)
    worker.client.wait(300)
    assign = worker.connect().assign
    assert (assign.attempt, assign.deadline_ms) == (2, 52_700)
    assert assign.accept_by == WALL_MS + worker.client.now_ms + 5_000 + 4_000
    assert (assign.worker_boot, assign.date, assign.config.seed) == (OWN_BOOT, "2026-11-24", 1)


def test_only_the_first_of_two_that_connect_is_told_the_prompt() -> None:
    worker = HandWorker()
    other = key("another worker")
    message = announce(head=Head(OWN_BOOT, 1, WALL_MS + 1_000))
    worker.client.feed(ev.GossipReceived(other.node_id, sign_envelope(message, other, NET_ID)))
    worker.submit(prompt=RawPrompt("a secret thought"))
    worker.client.wait(500)
    first, second = worker.client.all(ef.OpenStream)
    assert {first.worker, second.worker} == {worker.signer.node_id, other.node_id}
    effects = worker.client.feed(ev.StreamOpened(second.dial, 7))
    assert [e.stream for e in effects if isinstance(e, ef.WriteStream)] == [7]
    assert ef.AbandonDial(first.dial) in effects
    assert kinds(worker.client.feed(ev.StreamOpened(first.dial, 8))) == [ef.ResetStream]
    written = [e for e in worker.client.told if isinstance(e, ef.WriteStream | ef.Broadcast)]
    assert [e for e in written if b"secret" in e.data] == [
        e for e in written if isinstance(e, ef.WriteStream) and e.stream == 7
    ]
