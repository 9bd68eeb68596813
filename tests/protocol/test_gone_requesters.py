"""A requester's Leave, or its Announce under a newer boot, ends what its process had asked for (ADR 011)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.messages import Announce, Head, Leave, NodeState
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.fakewire import NET_ID, WALL_MS, network
from tests.protocol.gossip_hand import GossipHand
from tests.protocol.hand import HandClient, announce, done, ended, key, running, tokens
from tests.protocol.scripted_model import ScriptedModel

BOOT, SEQ = 5, 10  # of the Assigns


def leave(boot: int = BOOT, seq: int = SEQ + 1) -> Leave:
    return Leave(Head(boot, seq, WALL_MS), "the end")


def alive(boot: int = BOOT, seq: int = SEQ + 1) -> Announce:
    return announce(boot=boot, seq=seq, state=NodeState.CLIENT)


def asking(client: HandClient | None = None) -> HandClient:
    client = client or HandClient()
    client.worker.feed(said(client, alive(seq=1)))
    return client


def said(client: HandClient, message: Announce | Leave, name: str = "") -> ev.GossipReceived:
    signer = key(name) if name else client.signer
    return ev.GossipReceived(signer.node_id, sign_envelope(message, signer, NET_ID))


def stopped(effects: list[ef.Effect]) -> list[int]:
    return [effect.job for effect in effects if isinstance(effect, ef.CancelJob)]


ENDS: dict[str, Callable[[], Announce | Leave]] = {
    "its Leave": leave,
    "its Announce under a newer boot": lambda: alive(boot=BOOT + 1, seq=1),
    "the Leave of a newer boot": lambda: leave(boot=BOOT + 1, seq=1),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_a_process_had_asked_for_ends_with_it(end: str) -> None:
    client = asking()
    asked = client.ask(head=Head(BOOT, SEQ, WALL_MS))
    client.worker.feed(tokens(asked.job, 0, "a"))
    effects = client.worker.feed(said(client, ENDS[end]()))
    assert stopped(effects) == [asked.job]
    assert asked.resets() == [StreamCode.CANCELLED]
    gone = client.worker.feed(ended(asked.job))
    assert [effect.reason for effect in gone if isinstance(effect, ef.JobEnded)] == ["requester_gone"]
    assert running(client) == 0


@pytest.mark.parametrize("end", ENDS)
def test_what_waits_for_a_slot_never_gets_one(end: str) -> None:
    client = asking(HandClient(ScriptedModel(slots=1)))
    other = client.ask(key("another client"), request_id=client.other(1))
    client.ask(request_id=client.other(2), head=Head(BOOT, SEQ, WALL_MS))
    client.worker.feed(said(client, ENDS[end]()))
    effects = client.worker.feed(done(other.job, "", 0))
    assert not [effect for effect in effects if isinstance(effect, ef.StartJob)]
    assert len(client.worker.core._worker.jobs) == 1, "the other's, until its stream is closed"


GOES_ON: dict[str, Callable[[HandClient], ev.GossipReceived]] = {
    "its next Announce": lambda client: said(client, alive()),
    "a Leave from before the Assign": lambda client: said(client, leave(seq=SEQ - 1)),
    "the Leave of an earlier boot": lambda client: said(client, leave(boot=BOOT - 1)),
    "another's Leave": lambda client: said(client, leave(), "another client"),
    "another's Announce": lambda client: said(client, alive(boot=BOOT + 1), "another client"),
}


@pytest.mark.parametrize("word", GOES_ON)
def test_nothing_else_that_is_said_ends_it(word: str) -> None:
    client = HandClient()
    asked = client.ask(head=Head(BOOT, SEQ, WALL_MS))
    effects = client.worker.feed(GOES_ON[word](client))
    assert stopped(effects) == []
    assert asked.resets() == []
    assert running(client) == 1


def test_an_answer_that_has_ended_is_left_to_its_stream() -> None:
    client = asking()
    asked = client.ask(head=Head(BOOT, SEQ, WALL_MS))
    client.worker.feed(done(asked.job, "", 0))
    client.worker.feed(said(client, leave()))
    assert asked.resets() == []


@pytest.mark.parametrize("end", ENDS)
def test_over_gossip_no_lease_is_waited_for(end: str) -> None:
    hand = GossipHand(HandClient(), head=Head(BOOT, SEQ, WALL_MS))
    hand.ask()
    assert hand.running == 1
    effects = hand.raw(sign_envelope(ENDS[end](), hand.signer, NET_ID))
    assert len(stopped(effects)) == 1


def test_a_node_that_ends_stops_all_its_work_though_its_cancels_have_no_time_to_go() -> None:
    """Thirty Packets a second of a node: a goodbye to many attempts at once takes longer than it has."""
    net, client, (worker,) = network(1, ScriptedModel(token_ms=400, slots=40))
    net.unreachable.add(worker.node_id)
    asked = [client.ask(max_tokens=100) for _ in range(40)]
    net.run_until(lambda: all(client.told(request_id, ef.DeliverTokens) for request_id in asked))
    client.feed(ev.Goodbye("the end"))
    net.run_for(200)
    net.kill(client)
    took_ms = net.run_until(lambda: worker.core._worker.jobs.queue.running == 0)
    assert took_ms < 1_000
