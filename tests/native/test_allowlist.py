"""The allowlist holds at the handshake, in both directions, and when it changes."""

from __future__ import annotations

import os

import pytest
from helpers import DIAL_MS, OpFailed, until

from llama_gossip import _native as native


def key() -> tuple[bytes, bytes]:
    secret = os.urandom(32)
    return secret, native.public_key(secret)


def test_a_node_outside_the_list_cannot_connect(make):
    friend_key, friend_id = key()
    host = make(allowlist=[friend_id]).join()
    friend = make(secret_key=friend_key)
    friend.node.add_addresses(*host.contact)
    friend.done(friend.node.open(host.id, DIAL_MS))
    stranger = make()
    stranger.node.add_addresses(*host.contact)
    # "Opened" is not yet consent: the refusal comes after the handshake, sooner or later.
    try:
        stream = stranger.done(stranger.node.open(host.id, DIAL_MS))
    except OpFailed as failed:
        refusal = failed.code
    else:
        refusal = stranger.event(native.EVENT_STREAM_LOST, stream)[2]
    assert refusal == "refused" or "not allowed" in refusal
    stranger.join([host.contact])
    friend.join([host.contact])
    until(lambda: host.node.neighbors() == [friend.id], host, friend, stranger)
    assert host.node.stats()["connections_refused"] >= 1
    assert not host.of(native.EVENT_STREAM_ACCEPTED)
    assert stranger.node.neighbors() == []


def test_a_node_outside_the_list_is_not_dialled(make):
    other = make()
    node = make(allowlist=[], address_book=[other.contact])
    with pytest.raises(OpFailed) as caught:
        node.done(node.node.open(other.id))
    assert caught.value.code == "not_allowed"
    assert other.node.stats()["connections"] == 0


def test_a_changed_list_closes_what_it_no_longer_covers(mesh):
    left, right = mesh(2)
    stream = left.done(left.node.open(right.id, DIAL_MS))
    left.node.write(stream, b"hello")
    right.event(native.EVENT_STREAM_ACCEPTED)
    right.node.set_allowlist([])
    left.event(native.EVENT_STREAM_LOST, stream)
    until(lambda: left.node.neighbors() == right.node.neighbors() == [], left, right)
    right.node.set_allowlist(None)
    until(lambda: left.node.neighbors() and right.node.neighbors(), left, right)
