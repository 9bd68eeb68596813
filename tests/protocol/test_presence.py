"""Presence: when a node announces itself, what it says, and what it makes of the others."""

from __future__ import annotations

import itertools
from typing import Any

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import decode_envelope, sign_envelope, split_envelope
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import (
    Announce,
    EnvelopeMessage,
    Head,
    Leave,
    NodeState,
    Request,
    RequestId,
)
from tests.protocol.fakewire import NET_ID, WALL_MS, FakeNet
from tests.protocol.hand import OWN_BOOT, Clocked, HandClient, announce, done, key
from tests.protocol.scripted_model import ScriptedModel


def said(effects: list[ef.Effect]) -> list[EnvelopeMessage]:
    broadcasts = [effect for effect in effects if isinstance(effect, ef.Broadcast)]
    return [decode_envelope(split_envelope(effect.data, MAX_TOPIC_BYTES)) for effect in broadcasts]


def node(model: ScriptedModel | None = None, **options: Any) -> Clocked:
    clocked = Clocked(FakeNet(5).add("node", boot=OWN_BOOT, **options).core)
    if model is not None:
        clocked.feed(ev.EngineChanged(model.capacity()))
    return clocked


def hear(at: Clocked, name: str, seq: int = 1, *, late_ms: int = 0, **changes: Any) -> list[ef.Effect]:
    """late_ms: how far the signer's clock is behind."""
    signer = key(name)
    message = announce(head=Head(OWN_BOOT, seq, WALL_MS + at.now_ms - late_ms), **changes)
    return at.feed(ev.GossipReceived(signer.node_id, sign_envelope(message, signer, NET_ID)))


def test_nothing_is_said_before_joining_and_an_announce_with_it() -> None:
    worker = node(ScriptedModel())
    assert said(worker.wait(120_000)) == []
    (first,) = said(worker.feed(ev.Joined(("127.0.0.1:7",))))
    assert isinstance(first, Announce)
    assert (first.state, first.ttl_ms, first.addresses) == (NodeState.READY, 45_000, ("127.0.0.1:7",))
    assert first.features == ("role/worker", "v/0.1.0")


def test_a_worker_announces_every_15_seconds_plus_minus_a_fifth() -> None:
    worker = node(ScriptedModel())
    worker.feed(ev.Joined(()))
    times = []
    for _ in range(60):
        start_ms = worker.now_ms
        while not said(worker.wait(1)):
            pass
        times.append(worker.now_ms - start_ms)
    assert all(12_000 <= span <= 18_000 for span in times)
    assert max(times) - min(times) > 3_000


def test_a_client_announces_every_minute_and_lives_three() -> None:
    client = node()
    (first,) = said(client.feed(ev.Joined(())))
    assert isinstance(first, Announce)
    assert (first.state, first.ttl_ms, first.capacity.models) == (NodeState.CLIENT, 180_000, ())
    assert said(client.wait(47_000)) == []
    assert len(said(client.wait(25_000))) == 1


def test_a_change_of_load_is_announced_at_once_but_two_seconds_apart() -> None:
    client = HandClient()
    client.worker.wait(3_000)
    (first,) = said(client.ask(request_id=client.other(1)).effects)
    assert isinstance(first, Announce)
    assert first.capacity.current_load == 1
    assert said(client.ask(request_id=client.other(2)).effects) == []
    assert said(client.worker.wait(1_999)) == []
    (second,) = said(client.worker.wait(1))
    assert isinstance(second, Announce)
    assert second.capacity.current_load == 2


def test_a_load_that_came_and_went_is_not_announced() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(done(asked.job, "", 0))
    client.worker.feed(ev.StreamFinished(asked.stream))
    assert said(client.worker.wait(3_000)) == []


def test_ready_after_loading_is_announced_within_half_a_second() -> None:
    worker = node()
    worker.feed(ev.EngineChanged(None, loading=True))
    (first,) = said(worker.feed(ev.Joined(())))
    assert isinstance(first, Announce)
    assert first.state is NodeState.LOADING
    effects = worker.feed(ev.EngineChanged(ScriptedModel().capacity()))
    (second,) = said(effects + worker.wait(500))
    assert isinstance(second, Announce)
    assert second.state is NodeState.READY


def test_a_new_neighbour_is_greeted_at_once() -> None:
    worker = node(ScriptedModel())
    worker.feed(ev.Joined(()))
    worker.wait(1_000)
    assert len(said(worker.feed(ev.NeighborUp(key("n").node_id)))) == 1
    assert said(worker.feed(ev.NeighborUp(key("m").node_id))) == [], "half a second apart"
    assert len(said(worker.wait(500))) == 1


def test_an_unknown_signer_is_greeted_once_within_the_jitter() -> None:
    worker = node(ScriptedModel())
    worker.feed(ev.Joined(()))
    worker.wait(1_000)
    effects = hear(worker, "stranger", state=NodeState.CLIENT)
    assert len(said(effects + worker.wait(200))) == 1
    worker.wait(1_000)
    assert said(hear(worker, "stranger", seq=2) + worker.wait(200)) == []


def test_a_request_of_an_unknown_signer_is_greeted_and_a_client_greets_nobody() -> None:
    signer = key("asker")
    for model, greetings in ((ScriptedModel(), 1), (None, 0)):
        at = node(model)
        at.feed(ev.Joined(()))
        at.wait(1_000)
        head = Head(OWN_BOOT, 1, WALL_MS + at.now_ms)
        request = Request(head, RequestId(bytes(16)), "tiny", 8, 50, 5, 1_000, signer.node_id)
        data = sign_envelope(request, signer, NET_ID)
        effects = at.feed(ev.GossipReceived(signer.node_id, data)) + at.wait(200)
        assert [type(message) for message in said(effects)].count(Announce) == greetings


def test_a_peer_is_told_up_once_a_boot_and_down_when_it_leaves_or_lapses() -> None:
    at = node()
    effects = hear(at, "peer", state=NodeState.LOADING)
    assert not [e for e in effects if isinstance(e, ef.PeerUp)]
    assert [e for e in effects if isinstance(e, ef.AddressHint)]
    effects = hear(at, "peer", seq=2)
    assert [e for e in effects if isinstance(e, ef.PeerUp)] == [ef.PeerUp(key("peer").node_id, OWN_BOOT)]
    assert not [e for e in hear(at, "peer", seq=3) if isinstance(e, ef.PeerUp | ef.AddressHint)]
    downs = [e for e in at.wait(45_000) if isinstance(e, ef.PeerDown)]
    assert [e.node_id for e in downs] == [key("peer").node_id]
    hear(at, "peer", seq=4)
    leave = sign_envelope(Leave(Head(OWN_BOOT, 5, WALL_MS + at.now_ms), "bye"), key("peer"), NET_ID)
    effects = at.feed(ev.GossipReceived(key("peer").node_id, leave))
    assert ef.PeerDown(key("peer").node_id, "bye") in effects


def test_goodbye_says_leave_and_then_nothing_more() -> None:
    worker = node(ScriptedModel())
    worker.feed(ev.Joined(()))
    (last,) = said(worker.feed(ev.Goodbye("off")))
    assert isinstance(last, Leave)
    assert last.reason == "off"
    assert said(worker.wait(120_000)) == []


def test_draining_is_announced() -> None:
    worker = node(ScriptedModel())
    worker.feed(ev.Joined(()))
    worker.wait(1_000)
    (told,) = said(worker.feed(ev.Drain("update")) + worker.wait(1))
    assert isinstance(told, Announce)
    assert told.state is NodeState.DRAINING


def test_the_announce_names_three_of_those_it_hears() -> None:
    worker = node(ScriptedModel())
    for number in range(5):
        hear(worker, f"peer {number}", seq=40 + number)
    (told,) = said(worker.feed(ev.Joined(())))
    assert isinstance(told, Announce)
    known = {(key(f"peer {n}").node_id[:8], 40 + n) for n in range(5)}
    assert len(set(told.heard)) == 3
    assert set(told.heard) <= known


# --- how seldom -------------------------------------------------------------------------------------


def test_a_crowd_of_newcomers_is_greeted_at_most_twice_a_second() -> None:
    worker = node(ScriptedModel())
    worker.feed(ev.Joined(()))
    start_ms = worker.now_ms
    times = []
    for number in range(100):
        effects = hear(worker, f"newcomer {number}", state=NodeState.CLIENT)
        effects += worker.feed(ev.NeighborUp(key(f"newcomer {number}").node_id))
        times += [worker.now_ms for _ in said(effects)]
        for _ in range(30):
            times += [worker.now_ms for _ in said(worker.wait(1))]
    assert len(times) >= 4
    assert all(later - earlier >= 500 for earlier, later in itertools.pairwise([start_ms, *times]))


def test_a_state_that_flaps_is_announced_at_most_twice_a_second() -> None:
    worker = node()
    worker.feed(ev.Joined(()))
    times = [worker.now_ms]
    for number in range(200):
        capacity = ScriptedModel().capacity() if number % 2 else None
        times += [
            worker.now_ms for _ in said(worker.feed(ev.EngineChanged(capacity, loading=not number % 2)))
        ]
        for _ in range(17):
            times += [worker.now_ms for _ in said(worker.wait(1))]
    assert len(times) >= 4
    assert all(later - earlier >= 500 for earlier, later in itertools.pairwise(times))
