"""Gossip delivery between real cores on a fake wire: peers that cannot connect are answered all the same."""

from __future__ import annotations

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.jobqueue import Caps
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Kind, NumericsClass, Packet, RawPrompt
from llama_gossip.protocol.streams import Delivery, Plane
from llama_gossip.protocol.timers import Timers
from llama_gossip.protocol.transcript import verify_transcript
from tests.protocol.fakewire import FakeNet, FakeNode, check_promises, check_quiet, network
from tests.protocol.scripted_model import ScriptedModel, answer_of

SECRET_WORDS = "the prompt that nobody else may read"
LEASE_MS = Timers().lease_ms
QUIET_MS = 45_000


def apart(seed: int, *models: ScriptedModel) -> tuple[FakeNet, FakeNode, list[FakeNode]]:
    """A client that can dial none of its workers."""
    net, client, workers = network(seed, *models)
    net.unreachable.update(worker.node_id for worker in workers)
    return net, client, workers


def packets(net: FakeNet) -> list[Packet]:
    found = []
    for data in net.taps:
        if data[2] == Kind.PACKET:
            packet = decode_envelope(split_envelope(data, MAX_TOPIC_BYTES))
            assert isinstance(packet, Packet)
            found.append(packet)
    return found


def test_where_the_dial_fails_the_answer_comes_by_gossip_and_says_so() -> None:
    net, client, (worker,) = apart(1, ScriptedModel(token_ms=20))
    request_id = client.ask(max_tokens=60, seed=4, prompt=RawPrompt(SECRET_WORDS))
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert (end.delivery, end.attempt, end.worker) == (Plane.GOSSIP, 1, worker.node_id)
    assert client.text_of(request_id) == answer_of(4, 60)
    assert client.told(request_id, ef.Accepted)[0].delivery is Plane.GOSSIP
    verdict = verify_transcript(client.core.take_transcript(request_id))
    assert verdict.verified, verdict.reason
    assert not any(SECRET_WORDS.encode() in data for data in net.taps)
    assert not any(b" w27" in data for data in net.taps), "no token in the clear either"
    net.run_for(QUIET_MS)
    check_quiet(net)
    assert len(client.core._tunnel) == len(worker.core._tunnel) == 0


def test_what_can_be_dialled_is_not_sent_over_the_topic() -> None:
    net, client, _ = network(2, ScriptedModel())
    end = net.finish(client, client.ask())
    assert end.delivery is Plane.DIRECT
    assert packets(net) == []


def test_gossip_alone_dials_nobody() -> None:
    net, client, _ = network(3, ScriptedModel())
    request_id = client.ask(delivery=Delivery.GOSSIP)
    end = net.finish(client, request_id)
    assert end.delivery is Plane.GOSSIP
    assert client.effects(ef.OpenStream) == []


def test_over_gossip_the_answer_comes_to_its_end_whether_it_is_read_or_not() -> None:
    net, client, (worker,) = network(3, ScriptedModel(token_ms=50))
    request_id = client.ask(max_tokens=400, seed=4, delivery=Delivery.GOSSIP, deadline_ms=600_000)
    net.run_until(lambda: bool(client.told(request_id, ef.DeliverTokens)), 60_000)
    client.feed(ev.ReaderFull(request_id))
    end = net.finish(client, request_id)
    assert (end.delivery, end.attempt) == (Plane.GOSSIP, 1)
    assert client.text_of(request_id) == answer_of(4, 400)
    assert worker.core.counters().get("leases_lapsed", 0) == 0
    net.run_for(QUIET_MS)
    check_quiet(net)


def test_direct_alone_never_goes_by_gossip() -> None:
    net, client, _ = apart(4, ScriptedModel())
    end = net.finish(client, client.ask(delivery=Delivery.DIRECT))
    assert isinstance(end, ef.Failed)
    assert packets(net) == []


def test_a_node_asks_its_own_worker_in_process_whatever_is_unreachable() -> None:
    net = FakeNet(5)
    hybrid = net.add("hybrid", ScriptedModel())
    net.join(hybrid)
    assert net.finish(hybrid, hybrid.ask()).delivery is Plane.DIRECT


@pytest.mark.parametrize("seed", range(12))
def test_loss_repetition_and_disorder_change_nothing_of_the_answer(seed: int) -> None:
    net, client, _ = apart(100 + seed, ScriptedModel(token_ms=15), ScriptedModel(token_ms=15))
    net.gossip_loss, net.gossip_copies, net.delay_ms = 0.2, 1 + seed % 2, (1, 30 + 100 * seed)
    asked = [client.ask(max_tokens=40, seed=n) for n in range(3)]
    for request_id in asked:
        assert isinstance(net.finish(client, request_id), ef.Finished)
    net.run_for(QUIET_MS)
    check_quiet(net)


def test_who_could_not_be_dialled_is_asked_by_gossip_at_once_the_next_time() -> None:
    net, client, _ = apart(7, ScriptedModel())
    net.finish(client, client.ask())
    dials, asked_at = len(client.effects(ef.OpenStream)), net.now_ms
    assert net.finish(client, client.ask()).delivery is Plane.GOSSIP
    assert len(client.effects(ef.OpenStream)) == dials
    assert net.now_ms - asked_at < 2_000


def test_after_a_while_dialling_is_tried_again() -> None:
    net, client, _ = apart(8, ScriptedModel())
    assert net.finish(client, client.ask()).delivery is Plane.GOSSIP
    net.unreachable.clear()
    net.run_for(Timers().far_ms)
    assert net.finish(client, client.ask()).delivery is Plane.DIRECT


def test_a_worker_computes_no_longer_than_the_lease_for_a_requester_that_is_gone() -> None:
    net, client, (worker,) = apart(9, ScriptedModel(token_ms=100, slots=1))
    request_id = client.ask(max_tokens=400)
    net.run_until(lambda: len(client.told(request_id, ef.DeliverTokens)) > 3)
    net.kill(client)
    took_ms = net.run_until(lambda: worker.core._worker.jobs.queue.running == 0)
    assert took_ms <= LEASE_MS + 1_000
    assert worker.core.counters()["leases_lapsed"] == 1
    assert [end.reason for end in worker.effects(ef.JobEnded)] == ["requester_lost"]


def test_acks_keep_the_lease_of_a_slow_answer() -> None:
    net, client, (worker,) = apart(10, ScriptedModel(prefill_ms=9_000, token_ms=9_000))
    request_id = client.ask(max_tokens=6)
    assert isinstance(net.finish(client, request_id), ef.Finished)
    assert worker.core.counters().get("leases_lapsed", 0) == 0


def test_a_cancel_travels_by_gossip_until_the_worker_has_it() -> None:
    net, client, (worker,) = apart(11, ScriptedModel(token_ms=50))
    request_id = client.ask(max_tokens=400)
    net.run_until(lambda: len(client.told(request_id, ef.DeliverTokens)) > 3)
    net.gossip_loss = 1.0
    client.feed(ev.CancelRequest(request_id, "by the test"))
    net.run_for(500)
    assert worker.core._worker.jobs.queue.running == 1
    net.gossip_loss = 0.0
    took_ms = net.run_until(lambda: worker.core._worker.jobs.queue.running == 0)
    assert took_ms < 2_000, "the repair of the Cancel, not the lease"
    net.run_for(QUIET_MS)
    check_quiet(net)


def test_an_answer_goes_on_by_gossip_when_its_direct_worker_dies() -> None:
    net, client, (first, second) = network(12, ScriptedModel(token_ms=30), ScriptedModel(token_ms=30))
    net.unreachable.add(second.node_id)
    request_id = client.ask(max_tokens=80, seed=6)
    net.run_until(lambda: len(client.told(request_id, ef.DeliverTokens)) > 10)
    if client.told(request_id, ef.Accepted)[-1].worker == second.node_id:
        first, second = second, first
    assert client.told(request_id, ef.Accepted)[-1].delivery is Plane.DIRECT
    net.kill(first)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert (end.delivery, end.worker) == (Plane.GOSSIP, second.node_id)
    (seam,) = client.told(request_id, ef.FailedOver)
    assert (seam.from_worker, seam.resume.word) == (first.node_id, "exact")
    check_promises(net)


def test_an_answer_goes_on_directly_when_its_gossip_worker_dies() -> None:
    net, client, (first,) = apart(13, ScriptedModel(token_ms=30))
    request_id = client.ask(max_tokens=400, seed=6)
    net.run_until(lambda: len(client.told(request_id, ef.DeliverTokens)) > 10)
    assert client.told(request_id, ef.Accepted)[-1].delivery is Plane.GOSSIP
    second = net.add("another", ScriptedModel(token_ms=30))
    net.join(second)
    net.kill(first)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert (end.delivery, end.worker) == (Plane.DIRECT, second.node_id)
    (seam,) = client.told(request_id, ef.FailedOver)
    assert (seam.from_worker, seam.resume.word) == (first.node_id, "exact")
    check_promises(net)


def test_an_assign_that_is_too_big_for_a_packet_rules_gossip_out() -> None:
    net, client, _ = network(14, ScriptedModel(context=100_000))
    request_id = client.ask(prompt=RawPrompt("x" * 70_000), delivery=Delivery.GOSSIP)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Failed)
    assert end.code == "too_long"
    assert "gossip" in end.message
    assert packets(net) == []
    request_id = client.ask(prompt=RawPrompt("x" * 70_000))
    assert net.finish(client, request_id).delivery is Plane.DIRECT


def test_a_long_prompt_just_fits_and_its_packets_keep_to_the_caps() -> None:
    net, client, _ = apart(15, ScriptedModel(context=100_000))
    end = net.finish(client, client.ask(prompt=RawPrompt("x" * 59_000)))
    assert isinstance(end, ef.Finished)
    assert max(map(len, net.taps)) <= MAX_TOPIC_BYTES


def test_an_attempt_keeps_well_below_the_rates_that_a_receiver_takes() -> None:
    net, client, workers = apart(16, ScriptedModel(token_ms=2, slots=8))
    asked = [client.ask(max_tokens=400, seed=n) for n in range(4)]
    for request_id in asked:
        assert isinstance(net.finish(client, request_id), ef.Finished)
    assert client.core.counters().get("packets_rate", 0) == 0
    assert workers[0].core.counters().get("packets_rate", 0) == 0
    sent = len(packets(net))
    assert sent < 4 * 60, f"{sent} Packets for 1 600 tokens"


def test_a_worker_whose_announce_is_old_is_not_asked_by_gossip() -> None:
    net, client, (worker,) = apart(17, ScriptedModel())
    net.gossip_loss = 1.0
    net.run_for(21_000)
    request_id = client.ask(delivery=Delivery.GOSSIP)
    net.run_for(2_000)
    assert packets(net) == []
    net.gossip_loss = 0.0
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert end.worker == worker.node_id


def test_a_restarted_worker_cannot_open_the_old_seal_announces_itself_and_is_asked_anew() -> None:
    net, client, (worker,) = apart(18, ScriptedModel())
    assert isinstance(net.finish(client, client.ask()), ef.Finished)
    net.kill(worker)
    net.gossip_loss = 1.0
    again = net.add("worker 0", ScriptedModel())
    net.join(again)  # nobody hears its first Announce
    net.run_for(3_000)
    net.gossip_loss = 0.0
    announced = len(again.effects(ef.Broadcast))
    request_id = client.ask()
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert again.core.counters()["packets_seal"] >= 1
    assert len(again.effects(ef.Broadcast)) > announced


def test_the_prekey_changes_every_hour_and_the_one_before_still_opens_for_a_while() -> None:
    net, client, (worker,) = apart(19, ScriptedModel())
    before = worker.core._prekeys.announced
    net.run_until(lambda: worker.core._prekeys.announced != before, limit_ms=4_000_000)
    prekeys = worker.core._prekeys
    assert prekeys.find(before[:8]) is not None
    assert isinstance(net.finish(client, client.ask()), ef.Finished)
    net.run_for(Timers().prekey_kept_ms)
    assert prekeys.find(before[:8]) is None
    assert prekeys.find(prekeys.announced[:8]) is not None


def test_a_worker_that_is_full_says_so_by_gossip_and_is_asked_again() -> None:
    net = FakeNet(20)
    client = net.add("client")
    policy = Policy(caps=Caps(max_queued=0, max_queued_per_key=0))
    worker = net.add("worker", ScriptedModel(slots=1, token_ms=30), policy=policy)
    net.join(client, worker)
    net.unreachable.add(worker.node_id)
    net.run_for(1_500)
    asked = [client.ask(max_tokens=20, delivery=Delivery.GOSSIP) for _ in range(3)]
    for request_id in asked:
        assert isinstance(net.finish(client, request_id), ef.Finished)
    assert worker.core.counters()["assigns_rejected_full"] >= 1
    net.run_for(QUIET_MS)
    check_quiet(net)


def test_both_planes_give_the_same_answer() -> None:
    net, client, _ = network(21, ScriptedModel(numerics_class=NumericsClass.EXACT))
    texts = []
    for delivery in (Delivery.DIRECT, Delivery.GOSSIP):
        request_id = client.ask(max_tokens=30, seed=9, delivery=delivery)
        net.finish(client, request_id)
        texts.append(client.text_of(request_id))
    assert texts[0] == texts[1] == answer_of(9, 30)
