"""Answers over the topic, with real endpoints: whoever cannot be dialled is asked by sealed Packets."""

from __future__ import annotations

import asyncio

import pytest

from llama_gossip import InferenceNode, PeerFailed
from llama_gossip.protocol import effects, events
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Kind, Packet
from llama_gossip.protocol.transcript import verify_transcript

from .conftest import Spawn, eventually

pytestmark = pytest.mark.live

SECRET = "a prompt that only the worker may read"


def refuse_streams(node: InferenceNode) -> None:
    """From now on no direct stream of this node comes about; its gossip is as ever."""
    driver, transport = node._driver, node._transport
    assert transport is not None

    def refused(dial: int, node_id: bytes, timeout_ms: int) -> None:
        driver.loop.call_soon(driver.feed, events.DialFailed(dial, "refused by the test"))

    transport.open = refused  # type: ignore[method-assign]


def overhear(node: InferenceNode) -> list[bytes]:
    """All that the topic brings to this node."""
    heard: list[bytes] = []
    handle = node._core.handle

    def listening(event: events.Event, now: events.Now) -> list[effects.Effect]:
        if isinstance(event, events.GossipReceived):
            heard.append(event.data)
        return handle(event, now)

    node._core.handle = listening  # type: ignore[method-assign]
    return heard


async def three(spawn: Spawn) -> tuple[InferenceNode, InferenceNode, InferenceNode]:
    worker = await spawn("worker", engine="scripted:delay_ms=10")
    client = await spawn("client")
    other = await spawn("other")
    await eventually(lambda: len(client.peers()) == 2, "the client sees both")
    await eventually(lambda: len(other.peers()) == 2, "the third sees both")
    return worker, client, other


async def test_without_a_direct_connection_the_answer_comes_by_sealed_packets(spawn: Spawn) -> None:
    worker, client, other = await three(spawn)
    direct = await client.complete(SECRET, max_tokens=40, seed=3)
    heard = overhear(other)
    refuse_streams(client)
    answer = await client.complete(SECRET, max_tokens=40, seed=3)
    assert (direct.delivery, answer.delivery) == ("direct", "gossip")
    assert (answer.text, answer.worker) == (direct.text, worker.node_id.hex())
    assert answer.verified
    assert verify_transcript(answer.transcript).text == direct.text
    await eventually(lambda: sum(data[2] == Kind.PACKET for data in heard) > 2, "the third hears Packets")
    packets = [decode_envelope(split_envelope(d, MAX_TOPIC_BYTES)) for d in heard if d[2] == Kind.PACKET]
    assert all(isinstance(packet, Packet) and packet.seal is not None for packet in packets)
    assert not any(SECRET.encode() in data for data in heard)
    assert other.stats()["packets_of_others"] > 2


async def test_several_answers_by_gossip_at_once_are_not_mixed(spawn: Spawn) -> None:
    _, client, _ = await three(spawn)
    alone = [await client.complete(f"Prompt {n}", seed=n, delivery="direct") for n in range(4)]
    together = await asyncio.gather(
        *(client.complete(f"Prompt {n}", seed=n, delivery="gossip") for n in range(4))
    )
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert {answer.delivery for answer in together} == {"gossip"}


async def test_leaving_the_loop_stops_the_worker_by_gossip_too(spawn: Spawn) -> None:
    worker, client, _ = await three(spawn)
    generation = client.generate("Hello", max_tokens=2_000, delivery="gossip")
    async for token in generation:
        if token.index > 5:
            break
    await generation.aclose()
    await eventually(lambda: worker.stats().get("jobs_cancelled", 0) == 1, "the job is cancelled")
    assert worker.stats().get("leases_lapsed", 0) == 0


async def test_who_allows_direct_alone_gets_no_answer_by_gossip(spawn: Spawn) -> None:
    _, client, _ = await three(spawn)
    refuse_streams(client)
    with pytest.raises(PeerFailed):
        await client.complete("Hello", delivery="direct", deadline_s=6)
    assert client.stats().get("packets_sent", 0) == 0


async def test_a_public_question_and_its_answer_can_be_read_by_everybody(spawn: Spawn) -> None:
    _, client, other = await three(spawn)
    heard = overhear(other)
    answer = await client.complete(SECRET, max_tokens=20, seed=3, visibility="public")
    assert answer.delivery == "gossip"
    assert answer.verified
    await eventually(lambda: any(d[2] == Kind.PACKET for d in heard), "the third hears Packets")
    assert any(SECRET.encode() in data for data in heard if data[2] == Kind.REQUEST)
    packets = [decode_envelope(split_envelope(d, MAX_TOPIC_BYTES)) for d in heard if d[2] == Kind.PACKET]
    assert all(isinstance(packet, Packet) and packet.seal is None for packet in packets)
    direct = await client.complete(SECRET, max_tokens=20, seed=3)
    assert (direct.delivery, direct.text) == ("direct", answer.text)
