"""A chain over real endpoints: its ends have no connection and cannot have one, only a node between them.
What they say to each other crosses it sealed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from llama_gossip import InferenceNode, NoWorkers, load_engine
from llama_gossip.directories import Directories
from llama_gossip.protocol import effects, events
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Kind, NodeId, Packet

from .conftest import eventually

pytestmark = pytest.mark.live

SECRET = "a prompt that only the worker may read"


def fenced(*neighbours: NodeId) -> type[InferenceNode]:
    """Nodes whose network layer connects to these alone, in both directions, gossip and streams. The core
    knows of no fence: it hears, asks and serves everybody."""

    class Fenced(InferenceNode):
        async def _bind(self, reach: str, allow: Sequence[NodeId] | None) -> None:
            await super()._bind(reach, neighbours)

    return Fenced


@dataclass
class Chain:
    client: InferenceNode
    middle: InferenceNode
    worker: InferenceNode
    heard: dict[NodeId, list[events.GossipReceived]]

    def packets(self, node: InferenceNode) -> list[events.GossipReceived]:
        return [event for event in self.heard[node.node_id] if event.data[2] == Kind.PACKET]


def overhear(node: InferenceNode, heard: list[events.GossipReceived]) -> None:
    handle = node._core.handle

    def listening(event: events.Event, now: events.Now) -> list[effects.Effect]:
        if isinstance(event, events.GossipReceived):
            heard.append(event)
        return handle(event, now)

    node._core.handle = listening  # type: ignore[method-assign]


def neighbours(node: InferenceNode) -> set[NodeId]:
    assert node._transport is not None
    return set(node._transport.neighbors())


def knows(node: InferenceNode, other: InferenceNode) -> bool:
    return other.node_id.hex() in {peer.node_id for peer in node.peers()}


@pytest.fixture
async def chain(dirs: Directories) -> AsyncIterator[Chain]:
    middle = await InferenceNode.spawn("middle", dirs=dirs)
    ends = fenced(middle.node_id)
    worker = await ends.spawn("worker", dirs=dirs, engine=load_engine("scripted:delay_ms=5"))
    client = await ends.spawn("client", dirs=dirs)
    nodes = (client, middle, worker)
    chained = Chain(client, middle, worker, {node.node_id: [] for node in nodes})
    try:
        for node in nodes:
            overhear(node, chained.heard[node.node_id])
            await node.join()
        await eventually(lambda: knows(client, worker) and knows(middle, worker), "both see the worker")
        yield chained
    finally:
        await asyncio.gather(*(node.shutdown() for node in nodes))


async def test_an_answer_crosses_a_node_that_cannot_read_it(chain: Chain) -> None:
    client, middle, worker = chain.client, chain.middle, chain.worker
    with pytest.raises(NoWorkers, match="does not admit this node"):  # the fence holds
        await client.complete(SECRET, worker=worker.node_id, delivery="direct", deadline_s=60)
    answer = await client.complete(SECRET, max_tokens=40, seed=3, worker=worker.node_id, delivery="gossip")
    assert (answer.delivery, answer.worker, answer.verified) == ("gossip", worker.node_id.hex(), True)
    assert neighbours(client) == neighbours(worker) == {middle.node_id}
    for end in (client, worker):
        assert chain.packets(end)
        assert {event.delivered_from for event in chain.packets(end)} == {middle.node_id}
    crossing = chain.packets(middle)
    assert {event.delivered_from for event in crossing} == {client.node_id, worker.node_id}
    packets = [decode_envelope(split_envelope(event.data, MAX_TOPIC_BYTES)) for event in crossing]
    assert all(isinstance(packet, Packet) and packet.seal is not None for packet in packets)
    words = [SECRET.encode(), *(word.encode() for word in answer.text.split() if len(word) > 3)]
    assert not any(word in event.data for event in crossing for word in words)
    assert middle.stats()["packets_of_others"] == len(crossing)
    assert middle.stats().get("packets_opened", 0) == 0
    alone = await middle.complete(SECRET, max_tokens=40, seed=3)
    assert (alone.delivery, alone.text) == ("direct", answer.text)


async def test_answers_side_by_side_and_a_cancel_cross_it_too(chain: Chain) -> None:
    client, worker = chain.client, chain.worker
    options = {"worker": worker.node_id, "delivery": "gossip"}
    endless = client.generate("Hello", max_tokens=5_000, **options)  # type: ignore[arg-type]
    first = await anext(aiter(endless))
    assert first.index == 0
    together = await asyncio.gather(
        *(client.complete(f"Prompt {n}", seed=n, max_tokens=20, **options) for n in range(3))
    )
    await endless.aclose()
    await eventually(lambda: worker.stats().get("jobs_cancelled", 0) == 1, "the job is cancelled")
    alone = [await chain.middle.complete(f"Prompt {n}", seed=n, max_tokens=20) for n in range(3)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert {answer.delivery for answer in together} == {"gossip"}
    assert worker.stats().get("leases_lapsed", 0) == 0
