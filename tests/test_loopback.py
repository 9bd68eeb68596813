"""Loopback: a node's streams to its own worker behave like the network's."""

from __future__ import annotations

from llama_gossip.loopback import Loopback
from llama_gossip.protocol import events
from llama_gossip.protocol.messages import NodeId

ME = NodeId(b"m" * 32)


def opened() -> tuple[Loopback, list[events.Event], int, int]:
    seen: list[events.Event] = []
    loop = Loopback(ME, seen.append)
    loop.open(7)
    accepted, ready = seen
    assert isinstance(accepted, events.StreamAccepted)
    assert isinstance(ready, events.StreamOpened)
    seen.clear()
    return loop, seen, ready.stream, accepted.stream


def test_the_worker_side_is_accepted_from_the_own_id_before_the_dial_ends() -> None:
    seen: list[events.Event] = []
    Loopback(ME, seen.append).open(3)
    assert seen == [events.StreamAccepted(-2, ME), events.StreamOpened(3, -1)]


def test_bytes_written_on_one_side_arrive_on_the_other() -> None:
    loop, seen, near, far = opened()
    loop.write(near, b"ask")
    loop.write(far, b"answer")
    assert seen == [events.StreamData(far, b"ask"), events.StreamData(near, b"answer")]


def test_a_finished_side_sends_nothing_more_and_the_other_still_can() -> None:
    loop, seen, near, far = opened()
    loop.finish(far)
    loop.write(far, b"late")
    loop.write(near, b"still open")
    assert seen == [events.StreamFinished(near), events.StreamData(far, b"still open")]


def test_a_reset_ends_both_directions_for_the_other_side() -> None:
    loop, seen, near, far = opened()
    loop.reset(near, 1)
    loop.write(far, b"late")
    assert seen == [events.StreamReset(far, 1), events.StreamStopped(far, 1)]


def test_a_reset_after_both_sides_finished_says_nothing() -> None:
    loop, seen, near, far = opened()
    loop.finish(near)
    loop.finish(far)
    seen.clear()
    loop.reset(near, 0)
    assert seen == []


def test_stream_ids_never_meet_those_of_the_network() -> None:
    loop, _, near, far = opened()
    assert near < 0
    assert far < 0
    assert loop.owns(near)
    assert not loop.owns(1)
