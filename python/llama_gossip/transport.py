"""Transport: the asyncio face of the native node, and the only module that imports `_native`.

It turns native events into the core's events, operation ids into futures, and native errors into this
package's own. It decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llama_gossip import _native
from llama_gossip.errors import ConfigError, LlamaGossipError, TicketError, TransportError
from llama_gossip.protocol import events
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.streams import StreamCode

BIND_OPERATION = 0  # the operation every native node starts with
DRAIN_EVENTS = 256  # a wake-up: enough to amortise the crossing, few enough to keep the loop responsive
NOT_ALLOWED = "(code 403)"  # how the native layer names the close frame of a peer's allowlist
LINGER_S = 300.0  # a finished answer waits so long for a reader that is slow: the default deadline
CLOSE_MS = 2_000  # the native side's own bound for a graceful goodbye
CLOSE_GRACE_S = 1.0  # on top of it, before the loop gives up waiting

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lagged:
    """Gossip that this process was too slow to take."""

    dropped: int


@dataclass(frozen=True, slots=True)
class PeerFound:
    """A node of this user on this host, from the rendezvous directory."""

    node_id: NodeId
    addresses: tuple[str, ...]


TransportEvent: TypeAlias = events.Event | Lagged | PeerFound
Handler: TypeAlias = Callable[[TransportEvent], None]
Address: TypeAlias = tuple[NodeId, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket carries: whoever holds it can join."""

    secret: bytes = field(repr=False)  # no log shows it
    peers: tuple[Address, ...]
    network: str


_TICKET_HINTS = {
    "truncated": "a part is missing: copy the whole line, from lg1 to its end",
    "checksum": "a character is wrong: copy it again",
    "wrong_kind": "a llama-gossip ticket begins with lg1; `llama-gossip ticket` prints one",
    "newer_version": "it was made by a newer version: update llama-gossip",
    "malformed": "ask its owner for a new one: `llama-gossip ticket` prints it",
}


def encode_ticket(ticket: Ticket) -> str:
    """One line `lg1…`. Raises TicketError when the content does not fit a ticket."""
    peers = [(bytes(node_id), list(addresses)) for node_id, addresses in ticket.peers]
    try:
        return _native.encode_ticket(ticket.secret, peers, ticket.network)
    except _native.NativeError as error:
        raise TicketError(f"no ticket can be made: {error}", hint="shorten the network's name") from error


def decode_ticket(text: str) -> Ticket:
    """Raises TicketError, code ticket_truncated, …_checksum, …_wrong_kind, …_newer_version or …_malformed."""
    try:
        secret, peers, network = _native.decode_ticket(text)
    except _native.TicketError as error:
        hint = _TICKET_HINTS.get(error.code, _TICKET_HINTS["malformed"])
        raise TicketError(
            f"the ticket cannot be read: {error}", hint=hint, code=f"ticket_{error.code}"
        ) from error
    return Ticket(secret, tuple((NodeId(bytes(i)), tuple(a)) for i, a in peers), network)


def native_versions() -> dict[str, str]:
    """Versions of the extension and of the iroh crates in it, and its build profile."""
    return _native.versions()


_HINTS = {
    "forked": "start the node in the new process, by spawn or exec",
    "config": "see `llama-gossip worker --help` for the ranges",
    "bind": "is UDP on 127.0.0.1 allowed for this process?",
}


@contextlib.contextmanager
def _native_errors() -> Iterator[None]:
    """Turns what the native layer raises into this package's own errors."""
    try:
        yield
    except _native.NativeError as error:
        kind: type[LlamaGossipError] = ConfigError if error.code == "config" else TransportError
        raise kind(
            f"the network layer refused: {error}", hint=_HINTS.get(error.code, ""), code=error.code
        ) from error


class Transport:
    """One native node on the running event loop. Make it with `bind`, end it with `close`."""

    def __init__(self, native: _native.Node, handler: Handler) -> None:
        self._native = native
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._operations: dict[int, asyncio.Future[Any]] = {}
        self._dials: dict[int, int] = {}  # operation -> the core's dial number
        self._abandoned: set[int] = set()  # dial numbers nobody waits for any more
        self._paused: dict[int, int] = {}  # stream -> bytes whose credit its writer gets when it is resumed
        self._finished: set[int] = set()  # streams whose own side is, and whose peer's is not yet
        self._closed = self._loop.create_future()
        self._closing = False
        self._fd = native.fileno()
        self._operations[BIND_OPERATION] = self._loop.create_future()
        self._loop.add_reader(self._fd, self._drain)

    @classmethod
    async def bind(
        cls,
        handler: Handler,
        *,
        seed: bytes,
        reach: str,
        rendezvous_dir: str | None,
        address_book: Sequence[Address] = (),
        allowlist: Sequence[NodeId] | None = None,
    ) -> Transport:
        """Binds an endpoint. `handler` gets every event, on the loop. Raises TransportError, ConfigError."""
        with _native_errors():
            native = _native.Node(
                secret_key=seed,
                reach=reach,
                rendezvous_dir=rendezvous_dir,
                address_book=[(bytes(i), list(a)) for i, a in address_book],
                allowlist=None if allowlist is None else [bytes(i) for i in allowlist],
            )
        transport = cls(native, handler)
        try:
            await transport._operations[BIND_OPERATION]
        except BaseException:  # also a cancelled task: the loop would keep the reader, the reader the node
            transport.abort()
            raise
        return transport

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._native.addresses)

    async def join(self, topic: bytes, bootstrap: Sequence[Address]) -> None:
        """Subscribes to the topic; the native maintainer keeps it joined. Once a node.

        Raises TransportError, ConfigError."""
        with _native_errors():
            operation = self._native.join(topic, [(bytes(i), list(a)) for i, a in bootstrap])
        await self._operation(operation)

    def broadcast(self, data: bytes, *, urgent: bool) -> bool:
        """False: the outbound budget is spent or the topic not joined yet. The core sends its news again."""
        try:
            self._native.broadcast(data, urgent)
        except (_native.RateLimitedError, _native.NotJoinedError, _native.NodeClosedError):
            return False
        return True

    def neighbors(self) -> tuple[NodeId, ...]:
        return tuple(NodeId(bytes(i)) for i in self._native.neighbors())

    def add_addresses(self, node_id: NodeId, addresses: Sequence[str]) -> None:
        with _native_errors():
            self._native.add_addresses(node_id, list(addresses))

    def forget(self, node_id: NodeId) -> None:
        with _native_errors():
            self._native.forget(node_id)

    def renew(self, node_id: NodeId) -> None:
        """The node was restarted: its streams end as lost, and the next one is dialled anew."""
        with _native_errors():
            self._native.renew(node_id)

    def rebuild_gossip(self) -> None:
        """Raises TransportError when the node closes."""
        with _native_errors():
            self._native.rebuild_gossip()

    def open(self, dial: int, node_id: NodeId, timeout_ms: int) -> None:
        """Ends as StreamOpened or DialFailed with this dial number."""
        try:
            self._dials[self._native.open(node_id, timeout_ms)] = dial
        except _native.NativeError as error:
            self._loop.call_soon(self._handler, events.DialFailed(dial, str(error)))

    def abandon(self, dial: int) -> None:
        if dial in self._dials.values():
            self._abandoned.add(dial)

    def write(self, stream: int, data: bytes) -> None:
        """Streams that have ended meanwhile are ignored: their end is an event of its own. One whose peer
        does not read while megabytes wait is given up, and only that one: it ends as StreamLost."""
        try:
            if not self._native.write(stream, data):  # said of every write until it is writable again
                self._handler(events.StreamFull(stream))
        except (_native.UnknownStreamError, _native.NodeClosedError):
            return
        except _native.OversizeError as error:
            self.reset(stream, StreamCode.BUSY)
            self._handler(events.StreamLost(stream, f"its reader is too slow: {error}"))

    def finish(self, stream: int) -> None:
        self._finished.add(stream)
        self._native.finish(stream)

    def reset(self, stream: int, code: int) -> None:
        """Abandons both directions. A side that was finished is still read to its end, for LINGER_S."""
        self._paused.pop(stream, None)
        self._native.stop(stream, code)
        if stream in self._finished:
            self._finished.remove(stream)
            self._loop.call_later(LINGER_S, self._abandon, stream, code)
        else:
            self._native.reset(stream, code)

    def _abandon(self, stream: int, code: int) -> None:
        if self._fd >= 0:
            self._native.reset(stream, code)

    def pause(self, stream: int) -> None:
        """No more credit for its writer: behind credit and window (256 KiB each) nothing moves."""
        self._paused.setdefault(stream, 0)

    def resume(self, stream: int) -> None:
        self._consumed(stream, self._paused.pop(stream, 0))

    def _consumed(self, stream: int, count: int) -> None:
        if stream in self._paused:
            self._paused[stream] += count
        else:
            self._native.consumed(stream, count)

    def trust(self, stream: int) -> None:
        self._native.trust(stream)

    def stats(self) -> dict[str, int]:
        return self._native.stats()

    def remote_info(self, node_id: NodeId) -> tuple[str, float] | None:
        """(path, round trip in ms) of a live connection."""
        return self._native.remote_info(node_id)

    async def close(self) -> None:
        """Leaves gracefully, within three seconds in the worst case. Idempotent."""
        if self._fd < 0:
            return
        self._closing = True
        try:
            self._native.close(CLOSE_MS)
            await asyncio.wait_for(asyncio.shield(self._closed), CLOSE_MS / 1000 + CLOSE_GRACE_S)
        except (TimeoutError, _native.NativeError):
            pass  # the native side has its own bound and frees everything when it is dropped
        finally:
            self._detach()

    def abort(self) -> None:
        """Ends it without a wait; the native side leaves on its own. Also when the loop is closed."""
        with contextlib.suppress(_native.NativeError):
            self._native.close(CLOSE_MS)
        self._detach()

    def _detach(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0 or self._loop.is_closed():
            return
        self._loop.remove_reader(fd)
        if not self._closed.done():
            self._closed.set_result(None)
        for future in self._operations.values():
            if not future.done():
                future.set_exception(TransportError("the node was closed", code="closed"))
                future.exception()  # a caller that went away must not leave a warning
        self._operations.clear()

    async def _operation(self, number: int) -> Any:
        future = self._operations.setdefault(number, self._loop.create_future())
        return await future

    def _drain(self) -> None:
        for event in self._native.drain(DRAIN_EVENTS):
            try:
                self._dispatch(event)
            except Exception as error:  # noqa: BLE001  one event's trouble must not cost those behind it
                message = "llama-gossip: an event of the network could not be handled"
                self._loop.call_exception_handler({"message": message, "exception": error})

    def _dispatch(self, event: tuple[Any, ...]) -> None:
        kind = event[0]
        if kind in (_native.EVENT_OP_OK, _native.EVENT_OP_FAILED):
            self._operation_ended(event)
        elif kind == _native.EVENT_CLOSED:
            self._ended(event[1])
        elif kind == _native.EVENT_STREAM_DATA:
            try:
                self._handler(events.StreamData(event[1], event[2]))
            finally:
                self._consumed(event[1], len(event[2]))
        elif (make := _MAKERS.get(kind)) is not None:
            if kind in _LAST_OF_A_STREAM:
                self._finished.discard(event[1])
            self._handler(make(event))

    def _ended(self, reason: str) -> None:
        """The native node's last event, asked for or not."""
        if not self._closing:
            log.error("the network layer has ended by itself: %s", reason)
        self._detach()

    def _operation_ended(self, event: tuple[Any, ...]) -> None:
        succeeded, number = event[0] == _native.EVENT_OP_OK, event[1]
        dial = self._dials.pop(number, None)
        if dial is not None:
            self._dial_ended(dial, event, succeeded=succeeded)
            return
        future = self._operations.pop(number, None)
        if future is None or future.done():
            return
        if succeeded:
            future.set_result(event[2])
        else:
            hint = _HINTS.get(event[2], "")
            error = TransportError(f"the network layer failed: {event[3]}", hint=hint, code=event[2])
            future.set_exception(error)

    def _dial_ended(self, dial: int, event: tuple[Any, ...], *, succeeded: bool) -> None:
        if dial in self._abandoned:
            self._abandoned.discard(dial)
            if succeeded:
                self.reset(event[2], 0)
        elif succeeded:
            self._handler(events.StreamOpened(dial, event[2]))
        else:
            reason = f"{event[2]}: {event[3]}"
            refused = event[2] == "not_allowed" or NOT_ALLOWED in reason
            self._handler(events.DialFailed(dial, reason, refused))


_LAST_OF_A_STREAM = (_native.EVENT_STREAM_FINISHED, _native.EVENT_STREAM_RESET, _native.EVENT_STREAM_LOST)
_MAKERS: dict[int, Callable[[tuple[Any, ...]], TransportEvent]] = {
    _native.EVENT_GOSSIP: lambda e: events.GossipReceived(NodeId(e[1]), e[2]),
    _native.EVENT_LAG: lambda e: Lagged(e[1]),
    _native.EVENT_NEIGHBOR_UP: lambda e: events.NeighborUp(NodeId(e[1])),
    _native.EVENT_NEIGHBOR_DOWN: lambda e: events.NeighborDown(NodeId(e[1])),
    _native.EVENT_STREAM_ACCEPTED: lambda e: events.StreamAccepted(e[1], NodeId(e[2])),
    _native.EVENT_STREAM_FINISHED: lambda e: events.StreamFinished(e[1]),
    _native.EVENT_STREAM_RESET: lambda e: events.StreamReset(e[1], e[2]),
    _native.EVENT_STREAM_STOPPED: lambda e: events.StreamStopped(e[1], e[2]),
    _native.EVENT_STREAM_LOST: lambda e: events.StreamLost(e[1], e[2], NOT_ALLOWED in e[2]),
    _native.EVENT_STREAM_WRITABLE: lambda e: events.StreamWritable(e[1]),
    _native.EVENT_PEER_FOUND: lambda e: PeerFound(NodeId(e[1]), tuple(e[2])),
}
