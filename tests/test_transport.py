"""Transport: native nodes behind futures and events, on real endpoints of the loopback interface."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from llama_gossip import _native
from llama_gossip import transport as transport_module
from llama_gossip.errors import ConfigError, TransportError
from llama_gossip.protocol import events
from llama_gossip.protocol.messages import NodeId
from llama_gossip.transport import Transport, TransportEvent

from .live.conftest import SEEN_S, eventually

pytestmark = pytest.mark.live

TOPIC = bytes(range(32))
STREAM_CREDIT, CHUNK = 262_144, 65_536  # of the native layer
DIAL_MS = 60_000  # only a failure waits so long


class Side:
    """A bound transport and what its handler was given."""

    def __init__(self) -> None:
        self.transport: Transport
        self.seed = os.urandom(32)
        self.node_id = NodeId(_native.public_key(self.seed))
        self.seen: list[TransportEvent] = []
        self.refuses: type[object] | None = None  # the handler raises for these events

    def handle(self, event: TransportEvent) -> None:
        self.seen.append(event)
        if self.refuses is not None and isinstance(event, self.refuses):
            raise LookupError("the handler does not like it")

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def first(self, kind: type[Any]) -> Any:
        await eventually(lambda: bool(self.of(kind)), f"{kind.__name__} comes")
        return self.of(kind)[0]

    async def open(self, dial: int, other: Side) -> int:
        self.transport.add_addresses(other.node_id, other.transport.addresses)
        self.transport.open(dial, other.node_id, DIAL_MS)
        opened: events.StreamOpened = await self.first(events.StreamOpened)
        return opened.stream


Bind = Callable[..., Awaitable[Side]]


@pytest.fixture
async def bind() -> AsyncIterator[Bind]:
    sides: list[Side] = []

    async def bound(**options: Any) -> Side:
        side = Side()
        side.transport = await Transport.bind(
            side.handle, seed=side.seed, **{"reach": "host", "rendezvous_dir": None, **options}
        )
        sides.append(side)
        return side

    yield bound
    await asyncio.gather(*(side.transport.close() for side in sides))


# --- beginning ---


async def test_a_value_out_of_its_range_is_a_config_error_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="reach") as caught:
        await Transport.bind(Side().handle, seed=os.urandom(32), reach="moon", rendezvous_dir=None)
    assert (caught.value.code, caught.value.exit_code) == ("config", 3)
    assert caught.value.hint


async def test_a_cancelled_bind_leaves_no_reader_behind() -> None:
    before = _readers()
    task = asyncio.create_task(
        Transport.bind(Side().handle, seed=os.urandom(32), reach="host", rendezvous_dir=None)
    )
    await asyncio.sleep(0)  # its first step: up to the wait for the endpoint
    assert _readers() == before + 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _readers() == before


def _readers() -> int:
    loop = asyncio.get_running_loop()
    return len(loop._selector.get_map())  # type: ignore[attr-defined]


async def test_a_second_join_is_refused_in_this_packages_own_words(bind: Bind) -> None:
    side = await bind()
    await side.transport.join(TOPIC, [])
    with pytest.raises(ConfigError, match="joined one already"):
        await side.transport.join(TOPIC, [])


async def test_what_is_said_before_the_join_is_not_sent_and_no_error(bind: Bind) -> None:
    side = await bind()
    assert side.transport.broadcast(b"early", urgent=False) is False


# --- dials ---


async def test_a_dial_to_an_unknown_node_fails_under_its_number(bind: Bind) -> None:
    side = await bind()
    side.transport.open(7, Side().node_id, DIAL_MS)
    failed: events.DialFailed = await side.first(events.DialFailed)
    assert (failed.dial, failed.refused) == (7, False)
    assert failed.reason.startswith("no_address")


async def test_a_dial_to_somebody_who_does_not_answer_fails_within_its_time(bind: Bind) -> None:
    side = await bind()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        stranger = Side().node_id
        side.transport.add_addresses(stranger, [f"127.0.0.1:{deaf.getsockname()[1]}"])
        side.transport.open(1, stranger, 200)
        failed: events.DialFailed = await side.first(events.DialFailed)
    assert failed.reason.startswith("timeout")


async def test_a_dial_on_a_closed_node_fails_instead_of_raising(bind: Bind) -> None:
    side = await bind()
    await side.transport.close()
    side.transport.open(2, Side().node_id, DIAL_MS)
    failed: events.DialFailed = await side.first(events.DialFailed)
    assert failed.dial == 2


async def test_a_stream_of_an_abandoned_dial_is_ended_and_never_told(bind: Bind) -> None:
    near, far = await bind(), await bind()
    near.transport.add_addresses(far.node_id, far.transport.addresses)
    near.transport.open(1, far.node_id, DIAL_MS)
    near.transport.abandon(1)
    await eventually(lambda: near.transport.stats()["connections"] > 0, "the dial connects")
    await eventually(lambda: near.transport.stats()["streams_open"] == 0, "its stream is ended")
    await near.open(2, far)  # a later dial is not mistaken for it
    assert [opened.dial for opened in near.of(events.StreamOpened)] == [2]
    await eventually(lambda: not near.transport._abandoned, "the abandoned dial is over")
    assert near.transport._dials == {}


async def test_whom_the_allowlist_shuts_out_learns_that_it_is_refused(bind: Bind) -> None:
    near, far = await bind(), await bind(allowlist=[])
    near.transport.add_addresses(far.node_id, far.transport.addresses)
    near.transport.open(1, far.node_id, DIAL_MS)

    def refused() -> bool:
        for opened in near.of(events.StreamOpened):
            near.transport.write(opened.stream, b"may I?")
        return any(event.refused for event in near.of(events.DialFailed) + near.of(events.StreamLost))

    await eventually(refused, "the refusal is heard")


# --- streams ---


async def test_a_stream_is_accepted_before_its_data_and_finished_after_it(bind: Bind) -> None:
    near, far = await bind(), await bind()
    stream = await near.open(1, far)
    near.transport.write(stream, b"hello")
    near.transport.finish(stream)
    await far.first(events.StreamFinished)
    accepted = far.of(events.StreamAccepted)[0]
    assert accepted.remote == near.node_id
    of_streams = [e for e in far.seen if hasattr(e, "stream")]
    assert of_streams == [
        accepted,
        events.StreamData(accepted.stream, b"hello"),
        events.StreamFinished(accepted.stream),
    ]


async def test_a_reset_reaches_the_other_side_with_its_code(bind: Bind) -> None:
    near, far = await bind(), await bind()
    stream = await near.open(1, far)
    near.transport.write(stream, b"hello")
    await far.first(events.StreamData)
    near.transport.reset(stream, 2)
    assert (await far.first(events.StreamReset)).code == 2
    assert (await far.first(events.StreamStopped)).code == 2


async def test_a_write_to_a_stream_that_has_ended_is_ignored(bind: Bind) -> None:
    near, far = await bind(), await bind()
    stream = await near.open(1, far)
    near.transport.reset(stream, 0)
    near.transport.write(stream, b"late")
    near.transport.write(4_711, b"nobody's")
    assert near.of(events.StreamLost) == []


async def test_data_flows_on_far_beyond_the_credit_because_it_is_given_back(bind: Bind) -> None:
    near, far = await bind(), await bind()
    stream = await near.open(1, far)
    for _ in range(4):
        near.transport.write(stream, bytes(500_000))
    await eventually(lambda: sum(len(e.data) for e in far.of(events.StreamData)) == 2_000_000, "all came")


async def test_a_reader_that_does_not_read_loses_its_stream_and_only_that(bind: Bind) -> None:
    near, far = await bind(), await bind()
    slow = await near.open(1, far)
    near.transport.open(2, far.node_id, DIAL_MS)
    await eventually(lambda: len(near.of(events.StreamOpened)) == 2, "a second stream")
    other = near.of(events.StreamOpened)[1].stream
    # No await from here to the loss: nobody can read meanwhile, so the bound is surely met.
    while not near.of(events.StreamLost):
        near.transport.write(slow, bytes(_native.MAX_WRITE_BYTES))
    near.transport.write(slow, b"late")
    near.transport.write(other, b"still here")
    (lost,) = near.of(events.StreamLost)
    assert lost.stream == slow
    assert "too slow" in lost.reason
    await eventually(lambda: b"still here" in [e.data for e in far.of(events.StreamData)], "the other flows")


async def test_a_paused_stream_stands_still_within_its_credit_and_no_other_does(bind: Bind) -> None:
    near, far = await bind(), await bind()
    slow = await near.open(1, far)
    near.transport.open(2, far.node_id, DIAL_MS)
    await eventually(lambda: len(near.of(events.StreamOpened)) == 2, "a second stream")
    near.transport.write(slow, b"begin")
    await far.first(events.StreamData)
    paused = far.of(events.StreamAccepted)[0].stream

    def came(other: bool = False) -> int:
        return sum(len(e.data) for e in far.of(events.StreamData) if (e.stream != paused) is other)

    far.transport.trust(paused)  # the window of a stranger's connection is no larger than a stream's
    far.transport.pause(paused)
    far.transport.pause(paused)  # twice is once
    near.transport.write(slow, bytes(1_000_000))
    for n in range(8):  # behind each of them the slow one has had its turns
        near.transport.write(near.of(events.StreamOpened)[1].stream, bytes(500_000))
        await eventually(lambda n=n: came(other=True) == (n + 1) * 500_000, "the other stream flows")
    assert came() <= STREAM_CREDIT + CHUNK
    assert events.StreamFull(slow) in near.seen
    assert events.StreamWritable(slow) not in near.seen
    far.transport.resume(paused)
    await eventually(lambda: came() == 1_000_005, "all of it came")
    await eventually(lambda: events.StreamWritable(slow) in near.seen, "its writer hears that it is read")


async def test_what_was_finished_is_read_to_its_end_though_the_stream_is_let_go(
    bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = await bind(), await bind()
    stream = await near.open(1, far)
    near.transport.write(stream, b"begin")
    await far.first(events.StreamData)
    far.transport.pause(stream_of := far.of(events.StreamAccepted)[0].stream)
    near.transport.write(stream, bytes(1_000_000))
    near.transport.finish(stream)
    near.transport.reset(stream, 0)
    await far.first(events.StreamStopped)
    far.transport.resume(stream_of)
    await far.first(events.StreamFinished)
    assert sum(len(e.data) for e in far.of(events.StreamData)) == 1_000_005
    assert far.of(events.StreamReset) == []
    near.transport.reset(stream, 0)  # its end is long known here too: no trace is left of it
    assert not near.transport._finished


async def test_nobody_waits_for_ever_for_a_finished_stream_to_be_read(
    bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "LINGER_S", 0.0)
    near, far = await bind(), await bind()
    stream = await near.open(1, far)
    near.transport.write(stream, b"begin")
    await far.first(events.StreamData)
    far.transport.pause(far.of(events.StreamAccepted)[0].stream)
    near.transport.write(stream, bytes(1_000_000))
    near.transport.finish(stream)
    near.transport.reset(stream, 3)
    assert (await far.first(events.StreamReset)).code == 3


async def test_a_handler_that_raises_costs_one_event_and_is_reported(bind: Bind) -> None:
    near, far = await bind(), await bind()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    far.refuses = events.StreamAccepted
    stream = await near.open(1, far)
    near.transport.write(stream, b"hello")
    near.transport.finish(stream)
    await far.first(events.StreamFinished)
    assert [type(context["exception"]) for context in reported] == [LookupError]
    assert far.transport.stats()["queue_bytes"] == 0


# --- gossip ---


async def test_gossip_reaches_a_neighbour_and_names_who_delivered_it(bind: Bind) -> None:
    near, far = await bind(), await bind()
    await near.transport.join(TOPIC, [])
    await far.transport.join(TOPIC, [(near.node_id, near.transport.addresses)])
    await far.first(events.NeighborUp)
    await near.first(events.NeighborUp)
    assert near.transport.broadcast(b"news", urgent=True)
    assert await far.first(events.GossipReceived) == events.GossipReceived(near.node_id, b"news")
    assert far.transport.neighbors() == (near.node_id,)
    await near.transport.close()
    assert (await far.first(events.NeighborDown)).node_id == near.node_id


# --- ending ---


async def test_close_is_idempotent_and_may_be_called_twice_at_once(bind: Bind) -> None:
    side = await bind()
    async with asyncio.timeout(SEEN_S):
        await asyncio.gather(side.transport.close(), side.transport.close())
        await side.transport.close()


async def test_close_ends_what_waits_with_a_typed_error(bind: Bind) -> None:
    side = await bind()
    never = asyncio.create_task(side.transport._operation(999))
    await asyncio.sleep(0)
    await side.transport.close()
    with pytest.raises(TransportError) as caught:
        await never
    assert caught.value.code == "closed"


async def test_a_failed_operation_raises_its_code(bind: Bind) -> None:
    side = await bind()
    waiting = asyncio.create_task(side.transport._operation(999))
    await asyncio.sleep(0)
    side.transport._dispatch((_native.EVENT_OP_FAILED, 999, "bind", "no such device"))
    with pytest.raises(TransportError, match="no such device") as caught:
        await waiting
    assert (caught.value.code, bool(caught.value.hint)) == ("bind", True)


async def test_close_loses_the_streams_of_the_other_side(bind: Bind) -> None:
    near, far = await bind(), await bind()
    stream = await near.open(1, far)
    near.transport.write(stream, b"hello")
    await far.first(events.StreamData)
    await near.transport.close()
    await eventually(
        lambda: bool(far.of(events.StreamLost) + far.of(events.StreamReset)), "the other side hears of it"
    )


async def test_abort_waits_for_nothing_and_leaves_no_reader(bind: Bind) -> None:
    before = _readers()
    side = await bind()
    side.transport.abort()
    assert _readers() == before
    async with asyncio.timeout(SEEN_S):
        await side.transport.close()


async def test_a_closed_node_answers_what_is_asked_about_it(bind: Bind) -> None:
    side = await bind()
    await side.transport.close()
    assert side.transport.broadcast(b"late", urgent=True) is False
    assert side.transport.neighbors() == ()
    assert side.transport.remote_info(Side().node_id) is None
    assert side.transport.stats()["streams_open"] == 0
    with pytest.raises(TransportError):
        side.transport.rebuild_gossip()


async def test_a_network_layer_that_ends_by_itself_ends_what_waits_and_is_logged(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    before = _readers()
    side = await bind()
    waiting = asyncio.create_task(side.transport._operation(999))
    await asyncio.sleep(0)
    side.transport._native.close(1_000)  # nobody asked the transport
    with pytest.raises(TransportError):
        await waiting
    assert "ended by itself" in caplog.text
    assert _readers() == before
