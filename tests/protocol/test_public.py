"""visibility = public: the question to everybody first, then Claims, an Assign, Packets without a seal."""

from __future__ import annotations

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Claim, EnvelopeMessage, Kind, Packet, RawPrompt, Request
from llama_gossip.protocol.streams import Delivery, Plane, Visibility
from llama_gossip.protocol.transcript import verify_transcript
from tests.protocol.fakewire import FakeNet, FakeNode, check_quiet, network
from tests.protocol.scripted_model import ScriptedModel, answer_of

PROMPT = RawPrompt("what everybody may read")
QUIET_MS = 45_000


def said(net: FakeNet, kind: Kind) -> list[EnvelopeMessage]:
    return [decode_envelope(split_envelope(d, MAX_TOPIC_BYTES)) for d in net.taps if d[2] == kind]


def asked_in_public(net: FakeNet, client: FakeNode, **options: object) -> ef.Finished:
    request_id = client.ask(prompt=PROMPT, visibility=Visibility.PUBLIC, seed=5, max_tokens=30, **options)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert client.text_of(request_id) == answer_of(5, 30)
    return end


def test_the_request_carries_the_prompt_is_claimed_and_then_answered_without_a_seal() -> None:
    net, client, (worker,) = network(1, ScriptedModel())
    end = asked_in_public(net, client)
    assert (end.delivery, end.worker) == (Plane.GOSSIP, worker.node_id)
    (request,) = said(net, Kind.REQUEST)
    assert isinstance(request, Request)
    assert (request.prompt, request.request_id) == (PROMPT, end.request_id)
    assert request.config is not None
    assert request.config.max_tokens == 30
    (claim,) = said(net, Kind.CLAIM)
    assert isinstance(claim, Claim)
    packets = said(net, Kind.PACKET)
    assert len(packets) > 2
    assert all(isinstance(packet, Packet) and packet.seal is None for packet in packets)
    kinds = [data[2] for data in net.taps if data[2] in (Kind.REQUEST, Kind.CLAIM, Kind.PACKET)]
    assert kinds[:3] == [Kind.REQUEST, Kind.CLAIM, Kind.PACKET]
    assert client.effects(ef.OpenStream) == []
    assert verify_transcript(client.core.take_transcript(end.request_id)).verified
    net.run_for(QUIET_MS)
    check_quiet(net)


def test_a_private_request_is_asked_of_the_topic_without_its_prompt() -> None:
    net, client, _ = network(2)
    worker = net.add("late worker", ScriptedModel())
    request_id = client.ask(prompt=PROMPT)
    net.run_for(1_000)
    net.join(worker)
    assert isinstance(net.finish(client, request_id), ef.Finished)
    requests = said(net, Kind.REQUEST)
    assert requests
    assert all(isinstance(r, Request) and r.prompt is None and r.config is None for r in requests)
    assert not any(PROMPT.text.encode() in data for data in net.taps)


def test_two_public_requests_are_two_questions() -> None:
    net, client, _ = network(3, ScriptedModel(slots=2))
    asked = [client.ask(prompt=RawPrompt(f"number {n}"), visibility=Visibility.PUBLIC) for n in range(2)]
    for request_id in asked:
        assert isinstance(net.finish(client, request_id), ef.Finished)
    prompts = {r.prompt for r in said(net, Kind.REQUEST) if isinstance(r, Request)}
    assert prompts == {RawPrompt("number 0"), RawPrompt("number 1")}


@pytest.mark.parametrize("seed", range(6))
def test_loss_and_disorder_change_nothing_of_a_public_answer(seed: int) -> None:
    net, client, _ = network(10 + seed, ScriptedModel(token_ms=15), ScriptedModel(token_ms=15))
    net.gossip_loss, net.gossip_copies, net.delay_ms = 0.2, 2, (1, 300)
    asked_in_public(net, client)


def test_a_public_answer_goes_on_with_another_worker_in_public() -> None:
    net, client, workers = network(20, ScriptedModel(token_ms=50), ScriptedModel(token_ms=50))
    request_id = client.ask(prompt=PROMPT, visibility=Visibility.PUBLIC, max_tokens=100, seed=7)
    net.run_until(lambda: len(client.told(request_id, ef.DeliverTokens)) > 5)
    first = client.told(request_id, ef.Accepted)[-1].worker
    net.kill(next(worker for worker in workers if worker.node_id == first))
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert client.text_of(request_id) == answer_of(7, 100)
    assert end.worker != first
    assert all(isinstance(p, Packet) and p.seal is None for p in said(net, Kind.PACKET))


def test_a_public_request_that_the_topic_cannot_carry_says_so_at_once() -> None:
    net, client, _ = network(21, ScriptedModel(context=100_000))
    request_id = client.ask(prompt=RawPrompt("x" * 60_000), visibility=Visibility.PUBLIC)
    end = client.end_of(request_id)
    assert isinstance(end, ef.Failed)
    assert end.code == "too_long"
    assert "topic" in end.message
    assert said(net, Kind.REQUEST) == []


def test_a_public_request_whose_assign_no_longer_fits_a_packet_fails_and_is_not_sent_otherwise() -> None:
    net, client, _ = network(22, ScriptedModel(context=100_000))
    request_id = client.ask(prompt=RawPrompt("x" * 59_600), visibility=Visibility.PUBLIC)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Failed)
    assert end.code == "too_long"
    assert client.effects(ef.OpenStream) == []


def test_nobody_to_claim_it_ends_with_the_reason() -> None:
    net, client, _ = network(23)
    end = net.finish(client, client.ask(prompt=PROMPT, visibility=Visibility.PUBLIC), limit_ms=10_000)
    assert isinstance(end, ef.Failed)
    assert end.code == "no_workers"


def test_delivery_has_no_say_in_what_is_public() -> None:
    net, client, _ = network(24, ScriptedModel())
    assert asked_in_public(net, client, delivery=Delivery.AUTO).delivery is Plane.GOSSIP


def test_a_private_request_never_goes_unsealed_to_a_worker_without_a_key() -> None:
    net, client, (worker,) = network(25, ScriptedModel())
    peer = client.core._roster.get(worker.node_id)
    assert peer is not None
    object.__setattr__(peer.announce, "prekey", bytes(32))
    request_id = client.ask(prompt=PROMPT, delivery=Delivery.GOSSIP)
    end = net.finish(client, request_id, limit_ms=10_000)
    assert isinstance(end, ef.Failed)
    assert (end.code, end.message) == ("no_workers", "no worker can be asked by gossip")
    assert said(net, Kind.PACKET) == []


def test_nobody_asks_oneself_by_gossip() -> None:
    net = FakeNet(26)
    hybrid = net.add("hybrid", ScriptedModel())
    net.join(hybrid)
    end = net.finish(hybrid, hybrid.ask(delivery=Delivery.GOSSIP), limit_ms=10_000)
    assert isinstance(end, ef.Failed)
    assert "gossip" in end.message
