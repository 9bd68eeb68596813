"""A requester that does not read, seen by its worker: parked, taken up again, or let go after 30 s."""

from __future__ import annotations

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol import tunnel
from llama_gossip.protocol.messages import Complete, Error, Progress, Token
from tests.protocol.gossip_hand import GossipHand
from tests.protocol.hand import (
    REQUEST_ID,
    Asked,
    HandClient,
    complete,
    done,
    ended,
    kinds,
    running,
    started,
    token,
    tokens,
)
from tests.protocol.scripted_model import ScriptedModel

UNREAD_MS = 30_000


def full(asked: Asked) -> list[ef.Effect]:
    return asked.worker.feed(ev.StreamFull(asked.stream))


def writable(asked: Asked) -> list[ef.Effect]:
    return asked.worker.feed(ev.StreamWritable(asked.stream))


def decoding(client: HandClient, **changes: object) -> Asked:
    asked = client.ask(**changes)
    client.worker.feed(tokens(asked.job, 0, "a"))
    asked.frames()
    return asked


def test_a_full_stream_parks_its_job_and_a_writable_one_takes_it_up_again() -> None:
    asked = decoding(HandClient())
    assert kinds(full(asked)) == [ef.ParkJob]
    assert kinds(full(asked)) == [], "once"
    assert kinds(writable(asked)) == [ef.UnparkJob]
    assert kinds(writable(asked)) == []
    assert kinds(full(asked)) == [ef.ParkJob]


def test_what_the_running_step_made_is_sent_and_nothing_beside_it() -> None:
    client = HandClient()
    asked = decoding(client)
    full(asked)
    client.worker.feed(tokens(asked.job, 1, "b"))
    client.worker.wait(UNREAD_MS - 1)
    assert [type(frame) for frame in asked.frames()] == [Token]
    writable(asked)
    client.worker.feed(ev.EngineStepped())
    client.worker.wait(500)
    assert [type(frame) for frame in asked.frames()] == [Progress]


def test_who_does_not_read_for_thirty_seconds_is_let_go_and_its_slot_is_free() -> None:
    client = HandClient(ScriptedModel(slots=1))
    asked = decoding(client, request_id=client.other(1))
    waits = client.ask(request_id=client.other(2))
    full(asked)
    client.worker.wait(UNREAD_MS - 1)
    assert not client.worker.all(ef.CancelJob)
    effects = client.worker.wait(1)
    assert ef.CancelJob(asked.job, "not_read") in effects
    (error,) = asked.frames()
    assert isinstance(error, Error)
    assert (error.code, error.retryable) == ("not_read", True)
    assert error.error == "the requester did not read for 30 s"
    assert ef.StartJob in kinds(client.worker.feed(ended(asked.job)))
    assert running(client) == 1
    client.worker.wait(2_000)
    assert client.worker.core.counters()["jobs_not_read"] == 1
    assert len(waits.frames()) > 0


def test_a_reader_that_reads_a_little_begins_anew() -> None:
    client = HandClient()
    asked = decoding(client)
    for _ in range(3):
        full(asked)
        client.worker.wait(UNREAD_MS - 1)
        writable(asked)
        client.worker.feed(ev.EngineStepped())
    assert not client.worker.all(ef.CancelJob)


def test_a_job_that_waits_for_a_slot_is_parked_when_it_gets_it() -> None:
    client = HandClient(ScriptedModel(slots=1))
    first, second = (client.ask(request_id=client.other(n)) for n in (1, 2))
    assert kinds(full(second)) == []
    effects = client.worker.feed(done(first.job, "", 0))
    assert [kind for kind in kinds(effects) if kind in (ef.StartJob, ef.ParkJob)] == [ef.StartJob, ef.ParkJob]
    assert kinds(writable(second)) == [ef.UnparkJob]


def test_a_job_that_waits_and_is_not_read_leaves_the_queue() -> None:
    client = HandClient(ScriptedModel(slots=1))
    first, second = (client.ask(request_id=client.other(n)) for n in (1, 2))
    full(second)
    for _ in range(3):
        client.worker.feed(ev.EngineStepped())
        client.worker.wait(UNREAD_MS // 3)
    last = second.frames()[-1]
    assert isinstance(last, Error)
    assert last.code == "not_read"
    assert ef.StartJob not in kinds(client.worker.feed(done(first.job, "", 0)))


def test_an_answer_that_was_made_by_then_is_no_longer_anybodys_business() -> None:
    client = HandClient()
    asked = decoding(client)
    full(asked)
    client.worker.feed(done(asked.job, "a", 1))
    assert isinstance(asked.frames()[-1], Complete)
    assert kinds(writable(asked)) == []
    assert kinds(full(asked)) == []
    client.worker.wait(UNREAD_MS)
    assert not client.worker.all(ef.CancelJob)
    assert not len(client.worker.core._worker.jobs.parking)


def test_an_engine_whose_jobs_are_all_parked_owes_no_step() -> None:
    client = HandClient(ScriptedModel(slots=2))
    asked = decoding(client, request_id=client.other(1))
    client.worker.wait(20_000)
    full(asked)
    client.worker.wait(25_000)
    assert client.ask(request_id=client.other(2)).job, "a new job is taken"
    client.worker.wait(29_000)
    assert client.worker.all(ef.CancelJob) == [ef.CancelJob(asked.job, "not_read")]


def test_an_engine_owes_steps_from_the_moment_that_a_job_is_taken_up_again() -> None:
    client = HandClient()
    asked = decoding(client)
    client.worker.wait(20_000)
    full(asked)
    client.worker.wait(25_000)
    writable(asked)
    client.worker.wait(29_000)
    assert not client.worker.all(ef.CancelJob)
    client.worker.wait(1_500)
    assert client.worker.all(ef.CancelJob) == [ef.CancelJob(asked.job, "engine_stalled")]


def test_an_engine_that_hangs_is_known_to_do_so_while_another_job_is_parked() -> None:
    client = HandClient(ScriptedModel(slots=2))
    parked = decoding(client, request_id=client.other(1))
    hung = decoding(client, request_id=client.other(2))
    client.worker.wait(20_000)
    full(parked)
    client.worker.wait(10_000)
    assert client.worker.all(ef.CancelJob) == [ef.CancelJob(hung.job, "engine_stalled")]


@pytest.mark.parametrize("end", [ev.StreamReset, ev.StreamStopped])
def test_the_end_of_the_requester_ends_a_parked_job_too(end: type) -> None:
    client = HandClient()
    asked = decoding(client)
    full(asked)
    assert ef.CancelJob in kinds(client.worker.feed(end(asked.stream, 1)))
    client.worker.feed(ended(asked.job))
    client.worker.wait(UNREAD_MS)
    assert len(client.worker.all(ef.CancelJob)) == 1
    assert not len(client.worker.core._worker.jobs.parking)


def test_a_nodes_pace_is_not_measured_by_who_does_not_read() -> None:
    client = HandClient(ScriptedModel(slots=1))
    asked = decoding(client)
    full(asked)
    client.worker.wait(20_000)
    writable(asked)
    client.worker.feed(done(asked.job, "a", 1))
    assert client.worker.core._worker.jobs.pace.wait_ms(0, 1) == 0


def test_a_large_assign_that_fills_its_stream_is_nobodys_business() -> None:
    worker, hand = started()
    for event in (ev.StreamFull(hand.stream), ev.StreamWritable(hand.stream)):
        assert kinds(worker.client.feed(event)) == []
    hand.send(token(0, "a"), complete("a", 1))
    assert worker.client.all(ef.Finished)


# --- over gossip -----------------------------------------------------------------------------------------


def test_over_gossip_what_is_not_acked_parks_the_job_and_acks_take_it_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnel, "MAX_UNWRITTEN_BYTES", 2_000)
    client = HandClient()
    hand = GossipHand(client)
    (start,) = [effect for effect in hand.ask() if isinstance(effect, ef.StartJob)]
    index = 0
    while not client.worker.all(ef.ParkJob):
        client.worker.feed(tokens(start.job, index, "x" * 100))
        client.worker.wait(200)
        index += 1
        assert index < 60
    made = len(hand.frames())
    assert kinds(hand.ack(made // 4)) == []
    effects = hand.ack(made)
    assert ef.UnparkJob(start.job) in effects


# --- its requester ---------------------------------------------------------------------------------------


def test_who_did_not_read_goes_on_where_it_was_with_nobodys_fault() -> None:
    worker, hand = started()
    hand.send(token(0, "a"))
    worker.client.feed(ev.ReaderFull(REQUEST_ID))
    worker.client.wait(40_000)
    worker.say()
    hand.send(Error(0, "the requester did not read for 30 s", "not_read", retryable=True))
    assert [effect.attempt for effect in worker.client.all(ef.Retried)] == [1]
    worker.client.feed(ev.ReaderReady(REQUEST_ID))
    second = worker.connect()
    assert worker.dialled == worker.signer.node_id
    assert second.assign.resume is not None
    assert second.assign.resume.from_index == 1
    record = worker.client.core._requester._ledger.peek(worker.signer.node_id)
    assert (record.faults, record.cooldown_until_ms) == (0, 0)
