"""Loopback: a node's streams to its own worker behave like the network's."""

from __future__ import annotations

from collections.abc import Callable

from llama_gossip.loopback import MAX_HELD_BYTES, Loopback
from llama_gossip.protocol import events
from llama_gossip.protocol.limits import MAX_UNWRITTEN_BYTES
from llama_gossip.protocol.messages import NodeId

ME = NodeId(b"m" * 32)


def at_once(step: Callable[[int], None], stream: int) -> None:
    step(stream)


def opened() -> tuple[Loopback, list[events.Event], int, int]:
    seen: list[events.Event] = []
    loop = Loopback(ME, seen.append, at_once)
    loop.open(7)
    accepted, ready = seen
    assert isinstance(accepted, events.StreamAccepted)
    assert isinstance(ready, events.StreamOpened)
    seen.clear()
    return loop, seen, ready.stream, accepted.stream


def test_the_worker_side_is_accepted_from_the_own_id_before_the_dial_ends() -> None:
    seen: list[events.Event] = []
    Loopback(ME, seen.append, at_once).open(3)
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


def test_a_paused_side_gets_nothing_and_then_all_of_it_in_order() -> None:
    loop, seen, near, far = opened()
    loop.pause(near)
    loop.write(far, b"one")
    loop.write(far, b"two")
    loop.finish(far)
    loop.write(near, b"the other way is free")
    assert seen == [events.StreamData(far, b"the other way is free")]
    seen.clear()
    loop.resume(near)
    loop.write(far, b"late")
    assert seen == [
        events.StreamData(near, b"one"),
        events.StreamData(near, b"two"),
        events.StreamFinished(near),
    ]


def test_a_side_that_pauses_again_while_it_reads_up_gets_no_more() -> None:
    later: list[Callable[[], None]] = []
    seen: list[events.Event] = []
    loop = Loopback(ME, seen.append, lambda step, stream: later.append(lambda: step(stream)))
    loop.open(7)
    loop.pause(-1)
    for data in (b"one", b"two", b"three"):
        loop.write(-2, data)
    seen.clear()
    loop.resume(-1)
    later.pop()()
    loop.pause(-1)
    loop.resume(-1)
    loop.pause(-1)
    while later:
        later.pop()()
    assert seen == [events.StreamData(-1, b"one")]
    loop.resume(-1)
    loop.write(-2, b"four")
    while later:
        later.pop()()
    assert [event.data for event in seen if isinstance(event, events.StreamData)] == [
        b"one", b"two", b"three", b"four",
    ]  # fmt: skip


def test_a_writer_whose_reader_is_paused_for_megabytes_is_told_and_the_reader_after_all_else() -> None:
    loop, seen, near, far = opened()
    loop.pause(near)
    loop.write(far, bytes(MAX_HELD_BYTES))
    assert seen == [events.StreamFull(far)]
    seen.clear()
    loop.write(far, b"x")
    assert seen == [events.StreamLost(far, "its reader is too slow")]
    seen.clear()
    loop.resume(near)
    assert [type(event) for event in seen] == [
        events.StreamData, events.StreamReset, events.StreamStopped,
    ]  # fmt: skip


def test_a_writer_is_told_once_that_its_reader_is_behind_and_once_that_it_reads() -> None:
    loop, seen, near, far = opened()
    loop.pause(near)
    half = bytes(MAX_UNWRITTEN_BYTES // 2)
    loop.write(far, half)
    loop.write(far, half)
    assert seen == []
    for _ in range(2):
        loop.write(far, b"more")
    assert seen == [events.StreamFull(far)]
    seen.clear()
    loop.resume(near)
    told = [type(event) for event in seen]
    assert told == [events.StreamData, events.StreamData, events.StreamWritable, *[events.StreamData] * 2]
    assert seen[2] == events.StreamWritable(far)


def test_what_waits_for_a_side_that_is_reset_is_forgotten() -> None:
    loop, seen, near, far = opened()
    loop.pause(near)
    loop.write(far, b"one")
    loop.reset(near, 1)
    loop.resume(near)
    assert [type(event) for event in seen] == [events.StreamReset, events.StreamStopped]
    loop.pause(near)
    assert not loop._held
