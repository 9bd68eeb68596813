"""The topic: who hears whom, and what the guard refuses."""

from __future__ import annotations

import time

import pytest
from helpers import TOPIC, full_mesh, told_in_time, until

from llama_gossip import _native as native


def test_two_nodes_hear_each_other(mesh):
    left, right = mesh(2)
    left.node.broadcast(b"from left")
    right.node.broadcast(b"from right", urgent=True)
    until(lambda: right.gossip() == [b"from left"] and left.gossip() == [b"from right"], left, right)
    assert right.of(native.EVENT_GOSSIP)[0][1] == left.id


@pytest.mark.parametrize("_again", range(4))  # half-joined neighbours come from races: seen once in ten
def test_five_nodes_form_a_full_mesh_and_everybody_hears_everybody(mesh, _again):
    peers = mesh(5)
    for index, peer in enumerate(peers):
        for number in range(5):
            peer.node.broadcast(b"%d/%d" % (index, number))
    until(lambda: all(len(peer.gossip()) == 20 for peer in peers), *peers)
    assert all(len(set(peer.gossip())) == 20 for peer in peers)


def test_five_nodes_that_know_only_the_first_become_a_full_mesh(make):
    first = make().join()
    others = [make().join([first.contact]) for _ in range(4)]
    peers = [first, *others]
    for peer in peers:
        for other in peers:
            peer.node.add_addresses(*other.contact)
    full_mesh(*peers)


def test_an_oversize_broadcast_raises_and_harms_nothing(mesh):
    left, right = mesh(2)
    with pytest.raises(native.OversizeError) as caught:
        left.node.broadcast(bytes(native.MAX_GOSSIP_BYTES + 1))
    assert caught.value.code == "oversize"
    largest = bytes(native.MAX_GOSSIP_BYTES - 1) + b"x"
    left.node.broadcast(largest)
    left.node.broadcast(b"after")
    until(lambda: sorted(right.gossip(), key=len) == [b"after", largest], left, right)


def test_a_broadcast_before_anybody_listens_raises(make):
    lonely = make()
    with pytest.raises(native.NotJoinedError):
        lonely.node.broadcast(b"nobody is there")
    lonely.join()
    with pytest.raises(native.NotJoinedError) as caught:
        lonely.node.broadcast(b"still nobody")
    assert caught.value.code == "not_joined"


def test_the_rate_budget_keeps_a_reserve_for_urgent_messages(mesh):
    left, right = mesh(2, gossip_per_s=10)
    sent, began = 0, time.monotonic()

    def spend():
        nonlocal sent
        for number in range(100):
            left.node.broadcast(b"%d" % number)
            sent += 1

    with pytest.raises(native.RateLimitedError) as caught:
        spend()
    assert caught.value.code == "rate_limited"
    assert sent <= 10 * (1 + time.monotonic() - began)  # the budget refills meanwhile
    left.node.broadcast(b"urgent", urgent=True)
    until(lambda: b"urgent" in right.gossip() and len(right.gossip()) == sent + 1, left, right)
    assert left.node.stats()["rate_limited"] == 1


def test_a_node_joins_one_topic_only(make):
    peer = make().join()
    with pytest.raises(native.ConfigError):
        peer.node.join(TOPIC, [])


def test_a_closed_node_is_reported_down_at_once(make):
    right = make().join()

    def goodbye_s() -> float:
        left = make().join([right.contact])
        until(lambda: left.id in right.node.neighbors(), left, right)
        left.close()
        closed = time.monotonic()
        right.event(native.EVENT_NEIGHBOR_DOWN, left.id)
        return time.monotonic() - closed

    told_in_time(goodbye_s)


def test_rebuilt_gossip_delivers_in_both_directions(mesh):
    left, right = mesh(2)
    left.node.rebuild_gossip()
    left.event(native.EVENT_NEIGHBOR_DOWN, right.id)
    full_mesh(left, right)
    until(lambda: left.node.stats()["rejoins"] >= 1, left, right)
    left.node.broadcast(b"from left")
    right.node.broadcast(b"from right")
    until(lambda: b"from left" in right.gossip() and b"from right" in left.gossip(), left, right)


@pytest.mark.slow
def test_a_reader_stopped_for_ten_seconds_blocks_nobody_and_counts_what_it_lost(mesh):
    sender, reader, sleeper = mesh(3, gossip_per_s=500, queue_items=500)
    began = time.monotonic()
    sent = 0
    while time.monotonic() - began < 10:
        try:
            sender.node.broadcast(b"%d" % sent)
            sent += 1
        except native.RateLimitedError:
            pass
        sender.pump()
        reader.pump(0.002)  # the sleeper is not pumped: its process does not drain
    until(lambda: len(reader.gossip()) == sent, sender, reader)
    assert sleeper.node.stats()["queue_items"] <= 510
    until(
        lambda: len(sleeper.gossip()) + sum(event[1] for event in sleeper.of(native.EVENT_LAG)) == sent,
        sleeper,
    )
    assert sleeper.of(native.EVENT_LAG)
    assert sleeper.gossip()[-1] == reader.gossip()[-1], "the newest are kept"
