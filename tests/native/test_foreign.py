"""A client that speaks iroh but none of our code: the official `iroh` package."""

from __future__ import annotations

import asyncio
import os
import time

import iroh
import pytest
from helpers import DEADLINE_S, DIAL_MS

from llama_gossip import _native as native

ALPN = b"/llama-gossip/1"
GOSSIP_ALPN = b"/iroh-gossip/1"


async def aio_until(condition, *peers, deadline_s: float = DEADLINE_S):
    """`until` for a loop that the foreign client needs too."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, [peer.named()[-10:] for peer in peers]
        for peer in peers:
            peer.pump()
        await asyncio.sleep(0.01)
    return value


async def quiet(peer):
    """Return when nothing has come in for 50 ms: the node has taken what it takes."""
    last = -1
    while (received := peer.node.stats()["stream_bytes_received"]) != last:
        last = received
        await asyncio.sleep(0.05)


@pytest.fixture
async def foreign():
    options = iroh.EndpointOptions(
        preset=iroh.preset_minimal(), bind_addr="127.0.0.1:0", relay_mode=iroh.RelayMode.disabled(), alpns=[]
    )
    endpoint = await iroh.Endpoint.bind(options)
    yield endpoint
    await endpoint.close()


def address(peer):
    return iroh.EndpointAddr(iroh.EndpointId.from_bytes(peer.id), None, peer.node.addresses)


async def test_a_foreign_client_talks_to_a_node(make, foreign):
    peer = make()
    connection = await foreign.connect(address(peer), ALPN)
    stream = await connection.open_bi()
    await stream.send().write_all(b"question")
    await stream.send().finish()
    await aio_until(lambda: peer.of(native.EVENT_STREAM_FINISHED), peer)
    accepted = peer.of(native.EVENT_STREAM_ACCEPTED)[0]
    assert accepted[2] == foreign.id().to_bytes()
    assert bytes(peer.data[accepted[1]]) == b"question"
    peer.node.write(accepted[1], b"answer")
    peer.node.finish(accepted[1])
    assert await stream.recv().read_to_end(100) == b"answer"


async def test_a_wrong_alpn_is_refused_and_leaves_no_trace(make, foreign):
    peer = make()
    with pytest.raises(iroh.IrohError):
        await foreign.connect(address(peer), b"/other/1")
    await aio_until(lambda: peer.node.stats()["connections"] == 0, peer)
    assert [event[0] for event in peer.events] == [native.EVENT_OP_OK]


async def test_junk_on_the_gossip_alpn_harms_nobody(mesh, foreign):
    left, right = mesh(2)
    for number in range(12):
        connection = await foreign.connect(address(left), GOSSIP_ALPN)
        junk = await connection.open_uni()
        try:
            for _ in range(number + 1):
                await junk.write_all(os.urandom(3000))
            # A length that promises four gigabytes, and a topic of zeros.
            other = await connection.open_uni()
            await other.write_all(bytes(32) + b"\xff" * 64)
            await other.finish()
            both = await connection.open_bi()
            await both.send().write_all(os.urandom(100))
        except iroh.IrohError:
            pass  # the node has thrown us out: well done
    for number in range(20):
        left.node.broadcast(b"left %d" % number)
        right.node.broadcast(b"right %d" % number)
    await aio_until(lambda: len(left.gossip()) == len(right.gossip()) == 20, left, right)
    assert left.node.neighbors() == [right.id]
    # A peer keeps at most a few gossip connections.
    await aio_until(lambda: left.node.stats()["connections"] <= 8, left, right)


async def test_streams_that_end_without_a_byte_are_never_announced(make, foreign):
    peer = make()
    connection = await foreign.connect(address(peer), ALPN)
    for number in range(40):
        stream = await connection.open_bi()
        if number % 2:
            await stream.send().finish()
        else:
            await stream.send().reset(7)
            await stream.recv().stop(7)
    last = await connection.open_bi()
    await last.send().write_all(b"x")
    await aio_until(lambda: peer.of(native.EVENT_STREAM_ACCEPTED), peer)
    await aio_until(lambda: peer.node.stats()["streams_open"] == 1, peer)
    assert len(peer.of(native.EVENT_STREAM_ACCEPTED)) == 1


@pytest.mark.slow
async def test_half_open_streams_are_stopped_after_ten_seconds(make, foreign):
    peer = make()
    connection = await foreign.connect(address(peer), ALPN)
    silent = [await connection.open_bi() for _ in range(7)]
    # QUIC opens all lower-numbered streams with the first frame of this one.
    speaking = await connection.open_bi()
    began = time.monotonic()
    await speaking.send().write_all(b"x")
    codes = asyncio.gather(*(stream.send().stopped() for stream in silent))
    await aio_until(codes.done, peer)
    assert set(await codes) == {3}
    assert time.monotonic() - began > 9
    assert len(peer.of(native.EVENT_STREAM_ACCEPTED)) == 1


async def test_strangers_cannot_fill_the_memory_of_a_node_that_does_not_read(make, foreign):
    peer = make()
    writes = []
    for _ in range(12):
        connection = await foreign.connect(address(peer), ALPN)
        for _ in range(8):
            stream = await connection.open_bi()
            writes.append(asyncio.ensure_future(stream.send().write_all(bytes(96 * 1024))))
    # 9 MiB are offered. What does not fit stays with the stranger.
    await aio_until(lambda: peer.node.stats()["queue_bytes"] > 0)
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 1.5:
        held = peer.node.stats()["queue_bytes"]
        if held != last:
            last, since = held, time.monotonic()
        await asyncio.sleep(0.05)
    print(f"held {last / 2**20:.1f} MiB")
    assert 0 < last <= 6 << 20
    # Others are served all the same: their own dials are no strangers.
    other = make()
    peer.node.add_addresses(*other.contact)
    op = peer.node.open(other.id, DIAL_MS)
    await aio_until(lambda: any(e[:2] == (native.EVENT_OP_OK, op) for e in peer.events), peer, other)
    for write in writes:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)


async def test_strangers_that_come_and_go_get_no_more_than_those_that_stay(make, foreign):
    peer = make()
    for _ in range(60):
        try:
            connection = await foreign.connect(address(peer), ALPN)
            for _ in range(7):  # one below the limit, so that nothing else holds them up
                stream = await connection.open_bi()
                await stream.send().write_all(bytes(30 * 1024))
        except iroh.IrohError:
            break  # refused: well done
        await quiet(peer)
        connection.close(9, b"bye")
    held = peer.node.stats()["queue_bytes"]
    print(f"held {held / 2**20:.1f} MiB")
    assert 0 < held <= 6 << 20
    # Once the application has taken it, there is room for strangers again.
    await aio_until(lambda: peer.node.stats()["queue_items"] == 0, peer)
    await aio_until(lambda: peer.node.stats()["connections"] == 0, peer)
    known = len(peer.of(native.EVENT_STREAM_ACCEPTED))
    connection = await foreign.connect(address(peer), ALPN)
    stream = await connection.open_bi()
    await stream.send().write_all(b"x")
    await aio_until(lambda: len(peer.of(native.EVENT_STREAM_ACCEPTED)) > known, peer)


async def test_a_foreign_client_that_vanishes_loses_its_streams(make, foreign):
    peer = make()
    connection = await foreign.connect(address(peer), ALPN)
    stream = await connection.open_bi()
    await stream.send().write_all(b"x")
    await aio_until(lambda: peer.of(native.EVENT_STREAM_ACCEPTED), peer)
    connection.close(9, b"bye")
    await aio_until(lambda: peer.of(native.EVENT_STREAM_LOST), peer)
    assert "bye" in peer.of(native.EVENT_STREAM_LOST)[0][2]
    await aio_until(lambda: peer.node.stats()["streams_open"] == 0, peer)
