"""Bi-streams: order, credit, the ends of each side, and what a peer may not do."""

from __future__ import annotations

import os
import time

import pytest
from helpers import DIAL_MS, OpFailed, Peer, rss_kib, until

from llama_gossip import _native as native

KIB = 1024
HELD_BACK_S = 5.0  # a byte that has not come by then does not come


@pytest.fixture
def pair(make):
    """(opener, acceptor, the opener's stream, the acceptor's stream), one byte having travelled."""

    def build(trusted: bool = True, **options):
        acceptor, opener = make(**options), make(**options)
        opener.node.add_addresses(*acceptor.contact)
        ours, theirs = open_stream(opener, acceptor)
        if trusted:
            acceptor.node.trust(theirs)
        return opener, acceptor, ours, theirs

    return build


def open_stream(opener: Peer, acceptor: Peer, first: bytes = b"!") -> tuple[int, int]:
    known = len(acceptor.of(native.EVENT_STREAM_ACCEPTED))
    ours = opener.done(opener.node.open(acceptor.id, DIAL_MS))
    opener.node.write(ours, first)
    until(lambda: len(acceptor.of(native.EVENT_STREAM_ACCEPTED)) > known, opener, acceptor)
    accepted = acceptor.of(native.EVENT_STREAM_ACCEPTED)[-1]
    assert accepted[2] == opener.id
    return ours, accepted[1]


def refusal(opener: Peer, acceptor: Peer) -> str:
    """How an open ends that the other side does not want: its consent comes after the handshake."""
    try:
        stream = opener.done(opener.node.open(acceptor.id, DIAL_MS))
    except OpFailed as failed:
        return failed.code
    return opener.event(native.EVENT_STREAM_LOST, stream)[2].removeprefix("closed by peer: ")


def test_both_directions_carry_bytes_in_order_and_finish(pair):
    opener, acceptor, ours, theirs = pair()
    request, answer = os.urandom(700 * KIB), os.urandom(900 * KIB)
    opener.node.write(ours, request)
    opener.node.finish(ours)
    for start in range(0, len(answer), 10_000):
        acceptor.node.write(theirs, answer[start : start + 10_000])
    acceptor.node.finish(theirs)
    until(
        lambda: opener.of(native.EVENT_STREAM_FINISHED) and acceptor.of(native.EVENT_STREAM_FINISHED),
        opener,
        acceptor,
    )
    assert bytes(acceptor.data[theirs]) == b"!" + request
    assert bytes(opener.data[ours]) == answer
    until(lambda: opener.node.stats()["streams_open"] == acceptor.node.stats()["streams_open"] == 0, opener)


def test_a_stream_is_announced_before_its_first_data(pair):
    _, acceptor, _, theirs = pair()
    acceptor.event(native.EVENT_STREAM_DATA)
    kinds = [event[0] for event in acceptor.events if event[1:2] == (theirs,)]
    assert kinds[:2] == [native.EVENT_STREAM_ACCEPTED, native.EVENT_STREAM_DATA]


def test_a_reader_that_stops_reading_holds_the_writer_and_leaves_other_streams_alone(pair):
    opener, acceptor, ours, theirs = pair()
    acceptor.auto_consume = False
    before = rss_kib()
    chunk = bytes(64 * KIB)
    writes = 1
    while opener.node.write(ours, chunk):
        writes += 1
        assert writes < 64, "the writer was never told to wait"
        opener.pump(0.01)
    until(lambda: len(acceptor.data.get(theirs, b"")) >= 256 * KIB, opener, acceptor)

    def write_in_spite_of_false():
        nonlocal writes
        for _ in range(100):
            opener.node.write(ours, chunk)
            writes += 1

    with pytest.raises(native.OversizeError):
        write_in_spite_of_false()
    # Another stream of the same connection goes on, far beyond one stream's credit.
    held = len(acceptor.data[theirs])
    acceptor.auto_consume = True
    other, others = open_stream(opener, acceptor)
    for number in range(1, 31):
        opener.node.write(other, chunk)
        until(lambda total=number: len(acceptor.data[others]) == 1 + total * 64 * KIB, opener, acceptor)
    assert held == len(acceptor.data[theirs]) <= 320 * KIB
    assert rss_kib() - before < 40 * KIB
    # With credit again the held stream delivers everything.
    acceptor.node.consumed(theirs, held)
    until(lambda: len(acceptor.data[theirs]) == 1 + writes * 64 * KIB, opener, acceptor)
    opener.event(native.EVENT_STREAM_WRITABLE, ours)


def test_credit_resumes_a_held_stream_without_losing_a_byte(pair):
    opener, acceptor, ours, theirs = pair(stream_credit=64 * KIB)
    acceptor.auto_consume = False
    payload = os.urandom(1024 * KIB)
    opener.node.write(ours, payload)
    opener.node.finish(ours)
    until(lambda: len(acceptor.data.get(theirs, b"")) >= 64 * KIB, opener, acceptor)
    given = 0
    while not acceptor.of(native.EVENT_STREAM_FINISHED):
        have = len(acceptor.data[theirs])
        assert have - given <= 128 * KIB, "credit is an upper bound"
        acceptor.node.consumed(theirs, have - given)
        given = have
        until(
            lambda had=have: len(acceptor.data[theirs]) > had or acceptor.of(native.EVENT_STREAM_FINISHED),
            opener,
            acceptor,
        )
    assert bytes(acceptor.data[theirs]) == b"!" + payload


def test_a_reset_reaches_a_peer_that_has_no_credit_left(pair):
    opener, acceptor, ours, theirs = pair(stream_credit=16 * KIB)
    acceptor.auto_consume = False
    opener.node.write(ours, bytes(512 * KIB))
    until(lambda: len(acceptor.data.get(theirs, b"")) >= 16 * KIB, opener, acceptor)
    opener.node.reset(ours, 2)
    assert acceptor.event(native.EVENT_STREAM_RESET, theirs)[2] == 2


def test_reset_and_stop_carry_their_codes_and_end_writes(pair):
    opener, acceptor, ours, theirs = pair()
    acceptor.node.stop(theirs, 1)
    assert opener.event(native.EVENT_STREAM_STOPPED, ours)[2] == 1
    with pytest.raises(native.UnknownStreamError) as caught:
        opener.node.write(ours, b"more")
    assert caught.value.code == "unknown_stream"
    acceptor.node.reset(theirs, 3)
    assert opener.event(native.EVENT_STREAM_RESET, ours)[2] == 3
    until(lambda: opener.node.stats()["streams_open"] == acceptor.node.stats()["streams_open"] == 0, opener)


def test_no_data_comes_after_stop(pair):
    opener, acceptor, ours, theirs = pair()
    opener.node.write(ours, bytes(200 * KIB))
    until(lambda: acceptor.node.stats()["queue_bytes"] > 0, opener)
    seen = len(acceptor.events)
    acceptor.node.stop(theirs, 0)
    opener.event(native.EVENT_STREAM_STOPPED, ours)
    acceptor.pump()
    assert not [event for event in acceptor.events[seen:] if event[0] == native.EVENT_STREAM_DATA]


def test_stop_silences_a_stream_that_has_ended_on_both_sides(pair):
    opener, acceptor, ours, theirs = pair()
    size = 100 * KIB
    acceptor.node.write(theirs, bytes(size))
    acceptor.node.finish(theirs)
    opener.node.finish(ours)
    acceptor.event(native.EVENT_STREAM_FINISHED)
    # All is here, and nothing has been taken: the opener is not pumped.
    acceptor.until(lambda: opener.node.stats()["stream_bytes_received"] == size)
    acceptor.until(lambda: acceptor.node.stats()["streams_open"] == 0)
    acceptor.pump(0.05)  # the last acknowledgement
    opener.node.stop(ours, 1)
    opener.pump()
    opener.until(lambda: opener.node.stats()["streams_open"] == 0)
    assert not [e for e in opener.events if e[0] in (native.EVENT_STREAM_DATA, native.EVENT_STREAM_FINISHED)]


def test_single_bytes_fill_no_more_memory_than_large_writes(pair):
    opener, acceptor, ours, _ = pair()
    received = acceptor.node.stats()["stream_bytes_received"]
    # Each byte travels alone; the acceptor does not drain. 256 KiB of credit are 1 024 such events.
    for number in range(1, 2001):
        opener.node.write(ours, b"x")
        deadline = time.monotonic() + HELD_BACK_S
        while acceptor.node.stats()["stream_bytes_received"] < received + number:
            opener.pump()
            if time.monotonic() > deadline:
                break
        else:
            continue
        break
    held = acceptor.node.stats()["queue_items"]
    print(f"{held} events wait")
    assert 500 < held <= 1030
    # The bytes that were held back arrive once the application reads.
    until(lambda: len(acceptor.data[acceptor.of(native.EVENT_STREAM_ACCEPTED)[0][1]]) == 1 + number, acceptor)


def test_a_peer_that_closes_loses_its_streams_once(pair):
    opener, acceptor, ours, _ = pair()
    acceptor.close()
    opener.event(native.EVENT_STREAM_LOST, ours)
    with pytest.raises(native.UnknownStreamError):
        opener.node.write(ours, b"gone")
    assert len(opener.of(native.EVENT_STREAM_LOST)) == 1


def test_what_was_not_finished_never_looks_complete(pair):
    opener, acceptor, ours, theirs = pair()
    acceptor.node.write(theirs, b"half an ans")
    until(lambda: opener.data.get(ours) == b"half an ans", opener, acceptor)
    acceptor.close()
    assert "node closed" in opener.event(native.EVENT_STREAM_LOST, ours)[2]
    assert not opener.of(native.EVENT_STREAM_FINISHED)


def test_what_was_finished_before_close_still_arrives(pair):
    opener, acceptor, ours, theirs = pair()
    answer = os.urandom(512 * KIB)
    acceptor.node.write(theirs, answer)
    acceptor.node.finish(theirs)
    acceptor.node.close()
    until(lambda: opener.of(native.EVENT_STREAM_FINISHED), opener, acceptor)
    assert bytes(opener.data[ours]) == answer


def test_a_dial_fails_with_a_code(make):
    peer, other = make(), make()
    with pytest.raises(OpFailed) as caught:
        peer.done(peer.node.open(peer.id))
    assert caught.value.code == "self_dial"
    with pytest.raises(OpFailed) as caught:
        peer.done(peer.node.open(other.id))
    assert caught.value.code == "no_address"
    peer.node.add_addresses(other.id, ["127.0.0.1:9"])
    with pytest.raises(OpFailed) as caught:
        peer.done(peer.node.open(other.id, timeout_ms=500))
    assert caught.value.code in ("timeout", "lost")


def test_addresses_outside_the_reach_are_ignored(make):
    peer, other = make(), make()
    peer.node.add_addresses(other.id, ["192.0.2.1:4433", "not an address", "[2001:db8::1]:1", "127.0.0.1:0"])
    with pytest.raises(OpFailed) as caught:
        peer.done(peer.node.open(other.id))
    assert caught.value.code == "no_address"


def test_a_stranger_has_eight_streams_and_a_trusted_peer_many(pair):
    opener, acceptor, _, theirs = pair(trusted=False)
    for _ in range(7):
        open_stream(opener, acceptor)
    ninth = opener.node.open(acceptor.id, timeout_ms=300)
    with pytest.raises(OpFailed) as caught:
        opener.done(ninth)
    assert caught.value.code == "timeout"
    acceptor.node.trust(theirs)
    for _ in range(100):
        open_stream(opener, acceptor)
    assert acceptor.node.stats()["streams_open"] == 108


def test_the_thirty_third_stranger_is_refused_while_the_others_hold_streams(make):
    acceptor = make()
    strangers = []
    for _ in range(32):
        stranger = make()
        stranger.node.add_addresses(*acceptor.contact)
        open_stream(stranger, acceptor)
        strangers.append(stranger)
    late = make()
    late.node.add_addresses(*acceptor.contact)
    assert refusal(late, acceptor) in ("refused", "busy (code 429)")
    assert acceptor.node.stats()["connections_refused"] >= 1  # `open` may have dialled twice
    # One of the first becomes trusted: its place among the strangers is free.
    acceptor.node.trust(acceptor.of(native.EVENT_STREAM_ACCEPTED)[0][1])
    open_stream(late, acceptor)


def test_remote_info_tells_path_and_round_trip_time(pair):
    opener, acceptor, _, _ = pair()
    path, rtt_ms = opener.node.remote_info(acceptor.id)
    assert path == "direct"
    assert 0 < rtt_ms < DIAL_MS


def test_a_hostile_count_of_consumed_bytes_buys_nothing(pair):
    opener, acceptor, ours, theirs = pair(stream_credit=64 * KIB, connection_credit=64 * KIB)
    acceptor.auto_consume = False
    acceptor.node.consumed(theirs, 2**64 - 1)
    acceptor.node.consumed(theirs + 1, 2**64 - 1)
    opener.node.write(ours, bytes(512 * KIB))
    until(lambda: len(acceptor.data.get(theirs, b"")) >= 64 * KIB, opener, acceptor)
    held = len(acceptor.data[theirs])
    for _ in range(50):
        acceptor.pump(0.005)
    assert len(acceptor.data[theirs]) == held <= 128 * KIB
    with pytest.raises(OverflowError):
        acceptor.node.consumed(theirs, -1)
