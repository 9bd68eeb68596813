"""Connection: one HTTP connection, uvicorn's, with the limits that it lacks. The law: nobody holds one for
nothing. A request that does not become whole in time ends its connection, and so do a client that reads
nothing for long and connections beyond the limit; who has gone is heard of at once, whatever it sent before;
what is no HTTP is answered in the shape of every other error.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import secrets
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 60.0  # for a whole request from its first byte: 4 MiB at half a megabit a second
# Somebody who looks at a stream page by page is in no hurry; a worker's place is held meanwhile.
UNREAD_S = 300.0
# Of a next request, read while an answer runs: without reading no end is heard of.
MAX_EARLY_BYTES = 64 * 1024
READ_BYTES = 16 * 1024  # at once: of nothing but tiny chunks they hold up the loop for some 30 ms
MAX_HEAD_BYTES = 64 * 1024  # browsers send loopback the cookies of every program that ever served there
MAX_CONNECTIONS = 768  # 256 requests may wait, many may run, dashboards look on
POLITE_CONNECTIONS = 64  # beyond the limit, told why
OWN_FILES = 192  # descriptors that the node itself may need

_log = logging.getLogger(__name__)
_log.setLevel(logging.ERROR)  # of uvicorn's words those about our failures, not those about a client's

NO_HTTP = "this is no valid HTTP/1.1 request, or its head is larger than 64 KiB"
TOO_MANY = "this gateway has too many connections"


def max_connections() -> int:
    """As many as are wanted, or as the limit of open files leaves."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, files - OWN_FILES - POLITE_CONNECTIONS))


class Connection(H11Protocol):
    request_s = REQUEST_S
    unread_s = UNREAD_S
    limit = MAX_CONNECTIONS

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.logger = _log
        self._clock: asyncio.TimerHandle | None = None
        self._unread_clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # asyncio's own is 256 KiB
        if len(self.connections) > self.limit + POLITE_CONNECTIONS:
            transport.abort()
        elif len(self.connections) > self.limit:
            self.app = _too_many
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._listen_on()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._stop_unread_clock()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread_clock is None:
            self._unread_clock = self.loop.call_later(self.unread_s, self.abort)

    def resume_writing(self) -> None:
        self._stop_unread_clock()
        super().resume_writing()

    def abort(self) -> None:
        """Cuts it; a running answer hears that its client has gone."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        body = _error_body(NO_HTTP, "invalid_request_error")
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers = [*_headers(body), (b"x-should-retry", b"false")]
            head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            self.transport.write(self.conn.send(head) or b"")
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
            self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # this was its reply: what the app still sends is not for the wire
            self.cycle.message_event.set()
        self.transport.close()

    def _listen_on(self) -> None:
        """uvicorn stops reading at the first byte behind a request, and would not hear its client go."""
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            return
        early, _ = self.conn.trailing_data
        if len(early) <= MAX_EARLY_BYTES:
            self.flow.resume_reading()

    # --- the clocks ---

    def _watch(self) -> None:
        """It runs from the first byte of a request, or from the beginning, until the request is whole."""
        if self.transport.is_closing() or not self._owes():
            self._stop_clock()
        elif self._clock is None:
            self._clock = self.loop.call_later(self.request_s, self.abort)

    def _owes(self) -> bool:
        """The client has to send more. Between two requests uvicorn's own clock runs."""
        if self.cycle is None or self.cycle.more_body:
            return True
        return self.cycle.response_complete and self.timeout_keep_alive_task is None

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _stop_unread_clock(self) -> None:
        if self._unread_clock is not None:
            self._unread_clock.cancel()
            self._unread_clock = None


def _error_body(message: str, kind: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()


def _headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"cache-control", b"no-cache"),
        (b"x-request-id", f"req_{secrets.token_hex(16)}".encode()),
    ]


async def _too_many(_scope: Any, _receive: Any, send: Any) -> None:
    body = _error_body(TOO_MANY, "server_error")
    headers = [*_headers(body), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
