"""Faults of whole processes: killed, restarted with the same key, stopped, and let go on."""

from __future__ import annotations

import os
import signal
import time

import pytest
from helpers import Script, full_mesh, until

from llama_gossip import _native as native

MEMBER = """
secret, *contacts = sys.argv[1:]
contacts = [(bytes.fromhex(item.split("@")[0]), [item.split("@")[1]]) for item in contacts]
peer = Peer(secret_key=bytes.fromhex(secret), address_book=contacts, gossip_per_s=500).bind().join(contacts)
say(peer.id.hex() + "@" + peer.node.addresses[0])
number = 0
while True:
    peer.pump(0.05)
    for event in peer.events:
        if event[0] == native.EVENT_STREAM_DATA:
            peer.node.write(event[1], event[2])
    peer.events.clear()
    try:
        peer.node.broadcast(b"%d:%d" % (os.getpid(), number))
        number += 1
    except native.NativeError:
        pass
"""


def contact(peer) -> str:
    return f"{peer.id.hex()}@{peer.node.addresses[0]}"


def parse(line: str) -> tuple[bytes, list[str]]:
    node_id, address = line.split("@")
    return bytes.fromhex(node_id), [address]


def is_member(node_id: bytes, child: Script, peers) -> bool:
    """Everybody has it as neighbour and hears it, and it hears them: it speaks only with neighbours."""
    prefix = b"%d:" % child.process.pid
    return all(
        node_id in peer.node.neighbors() and any(data.startswith(prefix) for data in peer.gossip()[-400:])
        for peer in peers
    )


@pytest.fixture
def members():
    children: list[Script] = []

    def start(secret: bytes, peers) -> Script:
        child = Script(MEMBER, secret.hex(), *[contact(peer) for peer in peers])
        children.append(child)
        return child

    yield start
    for child in children:
        child.process.send_signal(signal.SIGCONT)
        child.kill()


def test_a_node_killed_and_restarted_with_the_same_key_is_a_member_again_twice(mesh, members):
    peers = mesh(3)
    secret = os.urandom(32)
    child = members(secret, peers)
    node_id, _ = parse(child.line())
    until(lambda: is_member(node_id, child, peers), *peers)
    for _ in range(2):
        child.kill()
        child = members(secret, peers)
        came = parse(child.line())
        began = time.monotonic()
        for peer in peers:
            peer.node.add_addresses(*came)
        until(lambda again=child: is_member(node_id, again, peers), *peers)
        print(f"a member again after {time.monotonic() - began:.1f} s")
    # Both directions: what the others say reaches the restarted node only over a live link.
    until(lambda: all(len(peer.node.neighbors()) == 3 for peer in peers), *peers)


def test_a_node_killed_and_restarted_with_the_same_key_can_be_dialled_again(mesh, members):
    """Its gossip flows, over a connection that it opened itself; a stream must find the way too."""
    peers = mesh(2)
    asker = peers[0]
    secret = os.urandom(32)
    child = members(secret, peers)
    came = parse(child.line())
    node_id = came[0]
    for restart in range(3):
        for peer in peers:
            peer.node.add_addresses(*came)
        until(lambda again=child: is_member(node_id, again, peers), *peers)
        asker.node.renew(node_id)
        began = time.monotonic()
        stream = asker.done(asker.node.open(node_id, 8000))
        asker.node.write(stream, b"echo this")
        assert asker.event(native.EVENT_STREAM_DATA, stream)[2] == b"echo this"
        print(f"restart {restart}: a stream after {time.monotonic() - began:.2f} s")
        child.kill()
        child = members(secret, peers)
        came = parse(child.line())


@pytest.mark.slow
def test_a_stopped_peer_does_not_hold_the_others_and_comes_back(mesh, members):
    peers = mesh(3)
    child = members(os.urandom(32), peers)
    came = parse(child.line())
    node_id = came[0]
    for peer in peers:
        peer.node.add_addresses(*came)
    until(lambda: is_member(node_id, child, peers), *peers)
    child.process.send_signal(signal.SIGSTOP)
    # 50 messages a second of 4 kB fill the stopped peer's windows; the topic must go on nevertheless.
    began, sent, slowest = time.monotonic(), 0, 0.0
    heard_at_last = began
    while time.monotonic() - began < 15:
        try:
            peers[0].node.broadcast(b"%6d" % sent + bytes(4096))
            sent += 1
        except native.RateLimitedError:
            pass
        before = len(peers[1].gossip())
        for peer in peers:
            peer.pump(0.005)
        now = time.monotonic()
        if len(peers[1].gossip()) > before:
            slowest = max(slowest, now - heard_at_last)
            heard_at_last = now

    def own() -> int:
        return sum(len(data) > 4096 for data in peers[1].gossip())

    print(f"sent {sent}, heard {own()}, longest silence {slowest:.1f} s")
    assert slowest < 12, "the topic stood still nearly all the time"
    until(lambda: own() > sent * 0.9, *peers)
    until(lambda: all(node_id not in peer.node.neighbors() for peer in peers), *peers)
    child.process.send_signal(signal.SIGCONT)
    for peer in peers:
        peer.events.clear()
    until(lambda: is_member(node_id, child, peers), *peers)


def test_nodes_that_start_at_once_and_know_each_other_become_a_mesh(make):
    peers = [make() for _ in range(3)]
    began = time.monotonic()
    ops = [
        (peer, peer.node.join(bytes(32), [other.contact for other in peers if other is not peer]))
        for peer in peers
    ]
    for peer, op in ops:
        peer.done(op)
    full_mesh(*peers)
    print(f"a mesh after {time.monotonic() - began:.1f} s")
