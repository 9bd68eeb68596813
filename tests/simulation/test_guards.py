"""Oracles whose evidence is inside a core: what changes nothing, what stays small, what comes back."""

from __future__ import annotations

import random
from hashlib import blake2b

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.effects import Broadcast
from llama_gossip.protocol.messages import GenerationConfig, NodeId, RawPrompt, RequestId
from llama_gossip.simulation import guards
from llama_gossip.simulation.clock import WALL_ORIGIN_MS
from llama_gossip.simulation.signing import HashSigner, verify_hash

NOW = ev.Now(1_000, WALL_ORIGIN_MS + 1_000)
NET_ID = bytes(32)


def core(name: bytes) -> Core:
    signer = HashSigner(blake2b(name, digest_size=32).digest())
    made = Core(signer=signer, net_id=NET_ID, boot=1, node_name="n", rng=random.Random(1), verify=verify_hash)
    made.handle(ev.Tick(), NOW)  # it knows what time it is
    return made


def announce_of(other: Core) -> bytes:
    (data,) = [e.data for e in other.handle(ev.Joined(()), NOW) if isinstance(e, Broadcast)]
    return data


def heard(data: bytes) -> ev.GossipReceived:
    return ev.GossipReceived(NodeId(b"n" * 32), data)


def test_a_message_that_is_taken_changes_the_fingerprint_and_its_replay_does_not() -> None:
    node, data = core(b"a"), announce_of(core(b"b"))
    before = guards.fingerprint(node, NOW.mono_ms)
    node.handle(heard(data), NOW)
    after = guards.fingerprint(node, NOW.mono_ms)
    assert before != after
    node.handle(heard(data), NOW)
    assert guards.fingerprint(node, NOW.mono_ms) == after


def test_a_forged_message_does_not_change_the_fingerprint() -> None:
    node, data = core(b"a"), bytearray(announce_of(core(b"b")))
    data[-1] ^= 1
    before = guards.fingerprint(node, NOW.mono_ms)
    node.handle(heard(bytes(data)), NOW)
    assert guards.fingerprint(node, NOW.mono_ms) == before


def test_what_a_queue_of_the_core_holds_shows_in_the_fingerprint() -> None:
    node = core(b"a")
    before = guards.fingerprint(node, NOW.mono_ms)
    node._presence._health._mute._heard.append(NOW.mono_ms)
    assert guards.fingerprint(node, NOW.mono_ms) != before


def test_a_moved_window_and_a_draw_of_chance_both_show_in_the_fingerprint() -> None:
    node, other = core(b"a"), NodeId(b"o" * 32)
    before = guards.fingerprint(node, NOW.mono_ms)
    node._receiver._windows.commit(other, 1, 1, neighbour=other, known=False, mono_ms=1_000)
    moved = guards.fingerprint(node, NOW.mono_ms)
    node._desk.rng.random()
    assert len({before, moved, guards.fingerprint(node, NOW.mono_ms)}) == 3


def test_a_table_over_its_cap_is_found() -> None:
    node = core(b"a")
    assert guards.overfull(node) == ""
    for number in range(100):
        node._desk.after(("request", bytes([number]), "deadline"), 1)
    assert "timers" in guards.overfull(node)


def test_a_request_that_is_still_held_is_found() -> None:
    node = core(b"a")
    submit = ev.Submit(RequestId(bytes(16)), "m", RawPrompt("p"), GenerationConfig(), "2026-11-24")
    node.handle(submit, NOW)
    assert "requests" in guards.unfinished(node)


def test_what_a_node_sends_comes_back_as_it_went_and_what_it_does_not_send_is_found() -> None:
    data = announce_of(core(b"b"))
    assert guards.reencodes(data) == ""
    assert guards.reencodes(data[:-1]) != ""
    assert guards.reencodes(b"\x93\x08\xc4\x01\x90" + b"\xc4\x40" + bytes(64)) != ""
